"""Which arithmetic the device is fast at."""

import torch

_PRECISE = "-precise"


def product_dtype(mixed_precision: str) -> torch.dtype:
    """Return the dtype of products in linear layers under a precision of Accelerate: `bf16` or `no`."""
    return torch.bfloat16 if mixed_precision == "bf16" else torch.float32


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return `bf16` or `fp32`.

    Args:
        precision: of a recipe; `auto` takes bf16 where the hardware multiplies it natively: GPUs from Ampere on, CPUs
            with AMX or AVX512-BF16. Decided from the hardware's features alone, so that a resumed run decides alike.
        device: where the model runs.
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
    """Let products in fp32 be made in TF32 where a recipe's precision allows it; on other devices nothing happens.

    Under bf16, what is left in fp32 is there because it needs the bits.
    """
    if device.type != "cuda":
        return
    is_rounded = resolve_precision(precision, device) == "fp32" and not precision.endswith(_PRECISE)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_rounded
    # torch 2.11 prefers it on Hopper, and it has no gradient for a bias; its gradients under a mask may be NaN
    # (pytorch issue 196678). The memory-efficient kernel is taken instead.
    torch.backends.cuda.enable_cudnn_sdp(False)


def is_emulated(precision: str, device: torch.device) -> bool:
    """Say whether `precision` asks for bf16 of a device without instructions for it: far slower than fp32."""
    return precision == "bf16" and resolve_precision("auto", device) == "fp32"
