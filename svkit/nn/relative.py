"""Relative-key positions: scores per distance, skewed into scores per query and key (Shaw et al. 2018)."""

import torch
from torch import Tensor


def relative_bias(scores_BHTP: Tensor, left: int, right: int) -> Tensor:
    """Spread scores per distance over query and key positions.

    Args:
        scores_BHTP: product of the queries with the distance embeddings, P = left + right + 1.
        left: distances below -left share the first embedding.
        right: distances above right share the last one.

    Returns:
        [B, H, T, T] view with out[.., l, r] = scores[.., l, clamp(r - l, -left, right) + left].
    """
    if torch.compiler.is_exporting():
        return _relative_bias_of_any_length(scores_BHTP, left)
    batch, heads, frames, _ = scores_BHTP.shape
    reach = frames - 1
    middle = scores_BHTP[..., max(left - reach, 0) : left + min(right, reach) + 1]
    parts = [middle]
    if reach > left:
        parts.insert(0, scores_BHTP[..., :1].expand(-1, -1, -1, reach - left))
    if reach > right:
        parts.append(scores_BHTP[..., -1:].expand(-1, -1, -1, reach - right))
    band = torch.cat(parts, dim=-1) if len(parts) > 1 else middle.contiguous()
    # Row l of the band holds the distances -reach..reach, 2 T - 1 of them. Read with a row length one shorter, from
    # the start of distance 0 of row 0 on, each row begins one distance further left: key 0 of query l.
    if frames == 1:
        return band
    flat = band.reshape(batch, heads, frames * (2 * reach + 1))
    return flat[..., reach : reach + frames * 2 * reach].view(batch, heads, frames, 2 * reach)[..., :frames]


def _relative_bias_of_any_length(scores_BHTP: Tensor, left: int) -> Tensor:
    """Compute `relative_bias` without a decision on T: an exported graph takes any length, at one copy more."""
    batch, heads, frames, _ = scores_BHTP.shape
    first = scores_BHTP[..., :1].expand(-1, -1, -1, frames)
    last = scores_BHTP[..., -1:].expand(-1, -1, -1, frames - 1)
    # Columns are the distances -T..T - 1. Read with rows of 2 T - 1 from the second T on, they are skewed as above.
    band = torch.cat([first, scores_BHTP, last], dim=-1)[..., left : left + 2 * frames]
    skewed = band.reshape(batch, heads, 2 * frames, frames)[:, :, 1:]
    return skewed.reshape(batch, heads, frames, 2 * frames - 1)[..., :frames]
