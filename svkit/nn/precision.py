"""Chooses the arithmetic at which a device is fast."""

import torch

_PRECISE = "-precise"


def product_dtype(mixed_precision: str) -> torch.dtype:
    """Return the dtype of products in linear layers under a precision of Accelerate: `bf16` or `no`."""
    return torch.bfloat16 if mixed_precision == "bf16" else torch.float32


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return `bf16` or `fp32` for a recipe's precision on a device.

    `auto` takes bf16 where the hardware multiplies it natively: GPUs from Ampere on, CPUs with AMX or AVX512-BF16. Only
    the hardware's features decide, so that a resumed run decides alike.
    """
    if precision != "auto":
        return precision.removesuffix(_PRECISE)
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp32"
    if device.type == "cpu":
        is_fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        return "bf16" if is_fast else "fp32"
    return "fp32"


def set_gpu_arithmetic(precision: str, device: torch.device) -> None:
    """Let a GPU compute fp32 products in TF32 if a recipe's precision allows it; on other devices, do nothing.

    Under bf16 this is off: what is left in fp32 needs the precision.
    """
    if device.type != "cuda":
        return
    is_rounded = resolve_precision(precision, device) == "fp32" and not precision.endswith(_PRECISE)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_rounded
    # torch 2.11 prefers cuDNN's attention on Hopper, but that has no gradient for a bias, and its gradients under a
    # mask may be NaN (pytorch issue 196678). Without it, torch takes the memory-efficient kernel.
    torch.backends.cuda.enable_cudnn_sdp(False)


def is_emulated(precision: str, device: torch.device) -> bool:
    """Say whether `precision` asks for bf16 on a device without bf16 instructions, where it is far slower than fp32."""
    return precision == "bf16" and resolve_precision("auto", device) == "fp32"
