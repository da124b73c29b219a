"""Layer norm over the channels whose gates are open."""

from typing import Any

import torch
from torch import Tensor, nn


def gate_aware_layer_norm(hidden_BTC: Tensor, norm: nn.LayerNorm, gate: Tensor) -> Tensor:
    """Layer norm whose statistics run over the channels with gate [C] > 0; dead channels must be 0 and give 0."""
    alive = (gate > 0).to(torch.float32)
    if torch.compiler.is_compiling():
        # A compiler decides itself what to keep; and torch 2.11's gave the function below gradients of zero.
        return _normalise(hidden_BTC, norm.weight, norm.bias, alive, norm.eps)[0]
    normalised: Tensor = _GateAwareLayerNorm.apply(hidden_BTC, norm.weight, norm.bias, alive, norm.eps)
    return normalised


def _normalise(
    hidden_BTC: Tensor, weight: Tensor, bias: Tensor, alive: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the output, the number of live channels, the means, and the inverse deviations."""
    count = alive.sum().clamp(min=1)
    hidden = hidden_BTC.to(torch.float32)
    mean = hidden.sum(-1, keepdim=True) / count
    centred = (hidden - mean) * alive
    inverse_deviation = torch.rsqrt(centred.square().sum(-1, keepdim=True) / count + eps)
    normalised = centred * inverse_deviation * weight + bias * alive
    return normalised.to(hidden_BTC.dtype), count, mean, inverse_deviation


class _GateAwareLayerNorm(torch.autograd.Function):
    """Keeps only its input for the gradient, as torch's layer norm does; autograd would keep two more activations."""

    @staticmethod
    def forward(
        ctx: Any, hidden_BTC: Tensor, weight: Tensor, bias: Tensor, alive: Tensor, eps: float
    ) -> Tensor:
        normalised, *statistics = _normalise(hidden_BTC, weight, bias, alive, eps)
        ctx.save_for_backward(hidden_BTC, weight, alive, *statistics)
        return normalised

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        hidden_BTC, weight, alive, count, mean, inverse_deviation = ctx.saved_tensors
        gradient = gradients[0].to(torch.float32)
        normalised = (hidden_BTC.to(torch.float32) - mean).mul_(alive).mul_(inverse_deviation)
        leading = tuple(range(gradient.ndim - 1))
        product = gradient * normalised
        of_weight, of_bias = product.sum(leading), gradient.sum(leading) * alive
        live_weight = weight * alive
        # The gradients through mean and deviation: by these, every channel of a frame depends on every other.
        along = (product @ live_weight)[..., None] / count
        level = (gradient @ live_weight)[..., None] / count
        del product
        of_hidden = gradient * live_weight
        of_hidden.sub_(level).sub_(normalised.mul_(along)).mul_(inverse_deviation)
        return of_hidden.to(hidden_BTC.dtype), of_weight, of_bias, None, None
