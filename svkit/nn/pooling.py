"""Pooling the aggregated multi-layer features (MFA) over time: attentive (Okabe et al. 2018) or plain statistics."""

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn import functional as differentiable
from torch.nn import functional

from svkit.audio.features import is_padding

VARIANCE_FLOOR = 1e-5


def world_size() -> int:
    """Return how many processes train together."""
    is_shared = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if is_shared else 1


class SynchronisedBatchNorm(nn.BatchNorm1d):
    """Batch norm over the batches of all processes while training; torch's own needs a GPU.

    The sums are exchanged by an all-reduce whose gradient is an all-reduce too, so n processes with batches of B take
    the same step as one process with a batch of n B.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [N, K] per channel."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        sums = differentiable.all_reduce(torch.cat([input.sum(0), input.new_tensor([len(input)])]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = input - mean
        variance = differentiable.all_reduce(centred.square().sum(0)) / count
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            assert self.num_batches_tracked is not None and self.momentum is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            # As in torch, the batch is normalised by the biased variance, and the unbiased one is remembered.
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        return centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias


def weighted_statistics(features_BTK: Tensor, weights: Tensor) -> Tensor:
    """Return mean and standard deviation over time by weights [B, T, K or 1] that sum to 1: [B, 2 K] float32."""
    features = features_BTK.float()
    weighted = weights * features
    mean = weighted.sum(1)
    variance = (weighted * features).sum(1) - mean.square()
    return torch.cat([mean, variance.clamp(min=VARIANCE_FLOOR).sqrt()], dim=1)


class StatisticsPooling(nn.Module):
    """[B, T, K] -> [B, 2 K]: mean and standard deviation over the real frames (Snyder et al. 2017)."""

    def forward(self, features_BTK: Tensor, num_frames_B: Tensor | None = None) -> Tensor:
        """Pool; frames from `num_frames_B` on (None: no padding) get no weight."""
        batch, frames, _ = features_BTK.shape
        logits = features_BTK.new_zeros((batch, frames, 1), dtype=torch.float32)
        return weighted_statistics(features_BTK, _shares(logits, num_frames_B))


class AttentiveStatisticsPooling(nn.Module):
    """[B, T, K] -> [B, 2 K]: mean and standard deviation over time, weighted per channel by attention.

    Attention: Linear - ReLU - BatchNorm - Linear - softmax over the real frames. Batch norm, softmax and statistics run
    in float32, because a variance computed as a difference needs the precision. With fewer weights than channels, each
    weight serves a group of neighbouring channels.
    """

    def __init__(self, channels: int, attention_dim: int, num_weights: int) -> None:
        super().__init__()
        self.attention_in = nn.Linear(channels, attention_dim)
        self.batch_norm = SynchronisedBatchNorm(attention_dim)
        self.attention_out = nn.Linear(attention_dim, num_weights)
        self.group_size = channels // num_weights

    def forward(self, features_BTK: Tensor, num_frames_B: Tensor | None = None) -> Tensor:
        """Pool the concatenated adapter outputs over time.

        Frames from `num_frames_B` on (None: no padding) get no weight. But they would enter the batch norm's
        statistics, so training takes batches without padding.
        """
        batch, frames, _ = features_BTK.shape
        hidden = functional.relu(self.attention_in(features_BTK))
        hidden = self.batch_norm(hidden.reshape(batch * frames, -1).float()).view(batch, frames, -1)
        weights = _shares(self.attention_out(hidden.to(features_BTK.dtype)).float(), num_frames_B)
        if self.group_size > 1:
            weights = weights.repeat_interleave(self.group_size, dim=2)
        return weighted_statistics(features_BTK, weights)


def _shares(logits_BTW: Tensor, num_frames_B: Tensor | None) -> Tensor:
    """Return the softmax over the real frames."""
    if num_frames_B is not None:
        padded = is_padding(num_frames_B, logits_BTW.shape[1])
        logits_BTW = logits_BTW.masked_fill(padded[..., None], float("-inf"))
    return torch.softmax(logits_BTW, dim=1)
