"""The linear layer of encoder and head: torch's, with its fp32 products on a CPU made by oneDNN.

torch multiplies fp32 matrices by MKL, and bf16 ones by oneDNN. On AMD processors oneDNN is the faster one in fp32 too
(`benchmarks/training_speed.py`, "of the limit"); on others it was not measured. A model that is not trained is packed
besides: `svkit.nn.inference`.
"""

from typing import Any

import torch
from torch import Tensor, nn


class Linear(nn.Linear):
    """[..., K] -> [..., N]; parameters, names and numbers of `nn.Linear`, up to the order of sums."""

    def forward(self, input: Tensor) -> Tensor:
        """Multiply and add the bias."""
        if not _takes_onednn(input, self.weight):
            return super().forward(input)
        output: Tensor = _Product.apply(input, self.weight, self.bias)
        return output


def has_onednn(device: torch.device) -> bool:
    """Whether oneDNN multiplies matrices on this device: an x86 processor with AVX2 or more."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def _takes_onednn(input: Tensor, weight: Tensor) -> bool:
    if torch.compiler.is_compiling() or not (torch.backends.mkldnn.enabled and has_onednn(input.device)):
        return False
    is_fp32 = input.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return is_fp32 and input.numel() > 0


def _multiply(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


class _Product(torch.autograd.Function):
    """input @ weight.T + bias."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(input, weight)
        return _multiply(input, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (gradient,) = gradients
        input, weight = ctx.saved_tensors
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        return (
            _multiply(gradient, weight.T) if needs_input else None,
            _multiply(rows.T, input.reshape(-1, input.shape[-1]).T) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )
