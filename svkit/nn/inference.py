"""A model or encoder that is not trained: its linear layers cast or quantised once, and packed on a CPU.

Packed: in the blocked layout of oneDNN, swish fused into the product. torch multiplies fp32 matrices by MKL, which is
slower than oneDNN on AMD processors, and oneDNN would reorder plain weights in every call. What it brings:
`benchmarks/pruned_speed.py`. Packed weights have no gradient, no other device and no state to save.

int8: the weights of the encoder's layers have one scale a row, their inputs one scale and zero point a batch, found as
it comes; products are summed in int32; all else stays float32.
"""

import torch
from torch import Tensor, nn

from svkit.errors import ConfigError
from svkit.nn.encoder import ConformerLayer, FeedForward, replace_children

_TYPICAL_ROWS = 512
"""Frames of a batch that the layout is chosen for; any other number works."""


class PackedLinear(nn.Module):
    """[..., K] -> [..., N], as the `nn.Linear` it is made from, its input, weights and output rounded to `dtype`."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, activation: str = "none") -> None:
        super().__init__()
        weight = linear.weight.detach().to(dtype)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        self.dtype, self.activation = dtype, activation

    def forward(self, input: Tensor) -> Tensor:
        """Multiply, add the bias, apply the activation (oneDNN's name of it)."""
        return torch.ops.mkldnn._linear_pointwise(
            input.to(self.dtype), self.weight, self.bias, self.activation, [], ""
        )


class QuantisedLinear(nn.Module):
    """[..., K] -> [..., N] float32, as the `nn.Linear` it is made from, with int8 weights and activations."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        largest = torch.maximum(weight.amax(dim=1), -weight.amin(dim=1))
        scales = (largest.double() / 127).clamp(min=torch.finfo(torch.float32).tiny)
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        quantised = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        engine = torch.backends.quantized.engine
        torch.backends.quantized.engine = "onednn"
        try:
            bias = None if linear.bias is None else linear.bias.detach()
            self.weight = torch.ops.quantized.linear_prepack(quantised, bias)
        finally:
            torch.backends.quantized.engine = engine
        # Without VNNI instructions, pairs of products are summed in 16 bits: activations of 7 bits cannot overflow.
        self.reduce_range = not torch.cpu._is_vnni_supported()

    def forward(self, input: Tensor) -> Tensor:
        """Quantise the input, multiply, add the bias."""
        return torch.ops.quantized.linear_dynamic(input, self.weight, self.reduce_range)


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies packed matrices of `dtype` (float32, bfloat16, int8) on this device."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False
    if dtype == torch.int8:
        return "onednn" in torch.backends.quantized.supported_engines
    return dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def prepare(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast or quantise the linear layers of a model (in place), and pack them where its device allows.

    Autocast would cast in every batch; other layers keep float32 and are left to it.

    Raises:
        ConfigError: the device has no int8 products.
    """
    device = next(model.parameters()).device
    if can_pack(device, dtype):
        if dtype == torch.int8:
            for layer in [module for module in model.modules() if isinstance(module, ConformerLayer)]:
                replace_children(layer, nn.Linear, QuantisedLinear)
            dtype = torch.float32
        for branch in [module for module in model.modules() if isinstance(module, FeedForward)]:
            if isinstance(branch.intermediate_dense, nn.Linear):
                branch.intermediate_dense = PackedLinear(branch.intermediate_dense, dtype, "swish")
                branch.activation = nn.Identity()
        replace_children(model, nn.Linear, lambda linear: PackedLinear(linear, dtype))
    elif dtype == torch.int8:
        raise ConfigError(f"int8: expected an x86 processor, found {device}; use float32 or bfloat16")
    else:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.to(dtype)
