"""Depthwise convolution whose gradients on a CPU are convolutions as well."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def depthwise_conv(input_BCN: Tensor, weight_C1K: Tensor) -> Tensor:
    """Convolve each channel with its own K weights: [B, C, N] -> [B, C, N - K + 1]."""
    is_trained_on_cpu = (
        torch.is_grad_enabled() and input_BCN.device.type == "cpu" and input_BCN.dtype == torch.float32
    )
    if is_trained_on_cpu and not torch.compiler.is_compiling():
        output: Tensor = _DepthwiseConv.apply(input_BCN, weight_C1K)
        return output
    return functional.conv1d(input_BCN, weight_C1K, groups=len(weight_C1K))


class _DepthwiseConv(torch.autograd.Function):
    """The same function as `conv1d`, with gradients in a sixth of the time or less.

    oneDNN's own gradient of the weights takes ten times as long as the convolution itself (torch 2.11, fp32, AVX2 and
    AVX-512). Written as a convolution of the input with the output's gradient, it takes as long as the convolution.
    """

    @staticmethod
    def forward(ctx: Any, input_BCN: Tensor, weight_C1K: Tensor) -> Tensor:
        ctx.save_for_backward(input_BCN, weight_C1K)
        return functional.conv1d(input_BCN, weight_C1K, groups=len(weight_C1K))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient_BCT,) = gradients
        input_BCN, weight_C1K = ctx.saved_tensors
        channels, _, kernel_size = weight_C1K.shape
        of_input = of_weight = None
        if ctx.needs_input_grad[0]:
            padded = functional.pad(gradient_BCT, (kernel_size - 1, kernel_size - 1))
            of_input = functional.conv1d(padded, weight_C1K.flip(2), groups=channels)
        if ctx.needs_input_grad[1]:
            # Every channel of every crop is a group of its own: its input is convolved with its gradient.
            inputs, kernels = input_BCN.reshape(1, -1, input_BCN.shape[2]), gradient_BCT.flatten(0, 1)
            by_crop = functional.conv1d(inputs, kernels[:, None], groups=len(kernels))
            of_weight = by_crop.view(-1, channels, kernel_size).sum(0)[:, None]
        return of_input, of_weight
