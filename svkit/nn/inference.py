"""Prepares a model for inference: casts or quantises its linear layers once, and packs them on a CPU.

Packed weights are in oneDNN's blocked layout, with swish fused into the product. torch multiplies fp32 matrices with
MKL, which is slower than oneDNN on AMD processors, and oneDNN would reorder plain weights in every call.
`benchmarks/pruned_speed.py` measures the gain. Packed weights have no gradient, cannot move to another device, and
cannot be saved.

int8: the weights of the encoder's layers have one scale per row. Their inputs have one scale and zero point per batch,
computed from the batch. Products are summed in int32; everything else stays float32.
"""

import torch
from torch import Tensor, nn

from svkit.errors import ConfigError
from svkit.nn.encoder import ConformerLayer, FeedForward, replace_children

_TYPICAL_ROWS = 512
"""Number of frames in a batch for which the layout is chosen; any other number works too."""


class PackedLinear(nn.Module):
    """[..., K] -> [..., N], like the `nn.Linear` it is made from, with input, weights and output rounded to `dtype`."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, activation: str = "none") -> None:
        super().__init__()
        weight = linear.weight.detach().to(dtype)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        self.dtype, self.activation = dtype, activation

    def forward(self, input: Tensor) -> Tensor:
        """Multiply, add the bias, apply the activation (named as in oneDNN)."""
        return torch.ops.mkldnn._linear_pointwise(
            input.to(self.dtype), self.weight, self.bias, self.activation, [], ""
        )


class QuantisedLinear(nn.Module):
    """[..., K] -> [..., N] float32, like the `nn.Linear` it is made from, with int8 weights and activations."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        largest = torch.maximum(weight.amax(dim=1), -weight.amin(dim=1))
        # A row of zeros would have the scale 0, and be divided by it.
        scales = (largest.double() / 127).clamp(min=torch.finfo(torch.float32).tiny)
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        quantised = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        # Packing follows the engine that is set for the whole process.
        engine = torch.backends.quantized.engine
        torch.backends.quantized.engine = "onednn"
        try:
            bias = None if linear.bias is None else linear.bias.detach()
            self.weight = torch.ops.quantized.linear_prepack(quantised, bias)
        finally:
            torch.backends.quantized.engine = engine
        # Without VNNI instructions, pairs of products are summed in 16 bits; only 7-bit activations cannot overflow.
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

    Autocast would cast them in every batch. It still handles the other layers, which keep float32. ConfigError if the
    device cannot multiply int8 matrices.
    """
    device = next(model.parameters()).device
    if can_pack(device, dtype):
        if dtype == torch.int8:
            for layer in [module for module in model.modules() if isinstance(module, ConformerLayer)]:
                replace_children(layer, nn.Linear, QuantisedLinear)
            dtype = torch.float32
        for branch in [module for module in model.modules() if isinstance(module, FeedForward)]:
            # After quantisation it is a QuantisedLinear, which has no swish in its product.
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
