"""Which arithmetic the device is fast at."""

import torch


def product_dtype(mixed_precision: str) -> torch.dtype:
    """Return the dtype of products in linear layers under a precision of Accelerate: `bf16` or `no`."""
    return torch.bfloat16 if mixed_precision == "bf16" else torch.float32


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return `bf16` or `fp32`.

    Args:
        precision: `auto` takes bf16 where the hardware multiplies it natively: GPUs from Ampere on, CPUs with AMX or
            AVX512-BF16. Decided from the hardware's features alone, so that a resumed run decides alike.
        device: where the model runs.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp32"
    if device.type == "cpu":
        is_fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        return "bf16" if is_fast else "fp32"
    return "fp32"


def is_emulated(precision: str, device: torch.device) -> bool:
    """Say whether `precision` asks for bf16 of a device without instructions for it: far slower than fp32."""
    return precision == "bf16" and resolve_precision("auto", device) == "fp32"
