"""Relative-key positions: scores per distance, skewed into scores per query and key (Shaw et al. 2018)."""

from typing import Any

import torch
from torch import Tensor


def relative_bias(scores_BHTP: Tensor, left: int, right: int) -> Tensor:
    """Spread scores per distance, P = left + right + 1, over query and key positions.

    Returns:
        [B, H, T, T] view with out[.., l, r] = scores[.., l, clamp(r - l, -left, right) + left]: distances below -left
        share the first score, those above right the last one.
    """
    if torch.compiler.is_exporting():
        return _relative_bias_of_any_length(scores_BHTP, left)
    bias: Tensor = _RelativeBias.apply(scores_BHTP, left, right)
    return bias


class _RelativeBias(torch.autograd.Function):
    """The bias as a view of a band; its gradient needs memory for one band, autograd's own for three."""

    @staticmethod
    def forward(ctx: Any, scores_BHTP: Tensor, left: int, right: int) -> Tensor:
        ctx.left, ctx.right = left, right
        frames = scores_BHTP.shape[2]
        reach = frames - 1
        parts = [scores_BHTP[..., max(left - reach, 0) : left + min(right, reach) + 1]]
        if reach > left:
            parts.insert(0, scores_BHTP[..., :1].expand(-1, -1, -1, reach - left))
        if reach > right:
            parts.append(scores_BHTP[..., -1:].expand(-1, -1, -1, reach - right))
        return _skewed(torch.cat(parts, dim=-1), frames)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient_BHTT,) = gradients
        left, right = ctx.left, ctx.right
        batch, heads, frames, _ = gradient_BHTT.shape
        reach = frames - 1
        band = gradient_BHTT.new_zeros(batch, heads, frames, 2 * reach + 1)
        _skewed(band, frames).copy_(gradient_BHTT)
        scores = gradient_BHTT.new_zeros(batch, heads, frames, left + right + 1)
        first, last = max(reach - left, 0), reach + min(right, reach) + 1
        near = slice(max(left - reach, 0), left + min(right, reach) + 1)
        scores[..., near] = band[..., first:last]
        scores[..., 0] += band[..., :first].sum(-1)
        scores[..., -1] += band[..., last:].sum(-1)
        return scores, None, None


def _skewed(band: Tensor, frames: int) -> Tensor:
    """View a band [B, H, T, 2 T - 1] of the distances -(T - 1)..T - 1 as [B, H, T, T], query by key.

    The band is read from distance 0 of row 0 on, with rows one element shorter. Each row then begins one distance
    further left, which is key 0 of its query.
    """
    if frames == 1:
        return band
    reach = frames - 1
    flat = band.flatten(2)[..., reach : reach + frames * 2 * reach]
    return flat.unflatten(2, (frames, 2 * reach))[..., :frames]


def _relative_bias_of_any_length(scores_BHTP: Tensor, left: int) -> Tensor:
    """Compute `relative_bias` without branching on T, so that an exported graph takes any length; costs one copy."""
    batch, heads, frames, _ = scores_BHTP.shape
    first = scores_BHTP[..., :1].expand(-1, -1, -1, frames)
    last = scores_BHTP[..., -1:].expand(-1, -1, -1, frames - 1)
    # Columns are the distances -T..T - 1. Read with rows of 2 T - 1 from the second T on, they are skewed as above.
    band = torch.cat([first, scores_BHTP, last], dim=-1)[..., left : left + 2 * frames]
    skewed = band.reshape(batch, heads, 2 * frames, frames)[:, :, 1:]
    return skewed.reshape(batch, heads, frames, 2 * frames - 1)[..., :frames]
