"""bf16 where the hardware multiplies it natively, else fp32."""

import pytest
import torch

from svkit.nn.precision import resolve_precision, set_gpu_arithmetic


class Arithmetic:
    """Torch's switches of arithmetic on GPUs, which are there without one."""

    def get(self) -> tuple[bool, ...]:
        cuda = torch.backends.cuda
        return cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, cuda.cudnn_sdp_enabled()

    def set(self, is_rounded: bool, has_cudnn: bool) -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_rounded
        torch.backends.cuda.enable_cudnn_sdp(has_cudnn)


@pytest.fixture
def arithmetic():
    found = Arithmetic()
    matmul, cudnn, has_cudnn = found.get()
    yield found
    found.set(matmul, has_cudnn)
    torch.backends.cudnn.allow_tf32 = cudnn


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_what_is_asked_for_is_taken(precision):
    assert resolve_precision(precision, torch.device("cpu")) == precision
    assert resolve_precision("fp32-precise", torch.device("cpu")) == "fp32"


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "expected"), [(False, False, "fp32"), (True, False, "bf16"), (False, True, "bf16")]
)
def test_auto_on_a_cpu(monkeypatch, amx, avx512_bf16, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    assert resolve_precision("auto", torch.device("cpu")) == expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_on_a_gpu(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", torch.device("cuda")) == expected


@pytest.mark.parametrize(
    ("precision", "capability", "is_rounded"),
    [
        ("fp32", (8, 0), True),
        ("fp32-precise", (8, 0), False),
        ("bf16", (8, 0), False),  # what is left in fp32 needs the bits
        ("auto", (8, 0), False),
        ("auto", (7, 5), True),  # which has no TF32
    ],
)
def test_fp32_on_a_gpu_is_tf32_unless_it_is_to_be_precise(
    monkeypatch, arithmetic, precision, capability, is_rounded
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    arithmetic.set(not is_rounded, True)
    set_gpu_arithmetic(precision, torch.device("cpu"))
    assert arithmetic.get() == (not is_rounded, not is_rounded, True)
    set_gpu_arithmetic(precision, torch.device("cuda"))
    assert arithmetic.get() == (is_rounded, is_rounded, False)


def test_auto_elsewhere_is_fp32():
    assert resolve_precision("auto", torch.device("meta")) == "fp32"
