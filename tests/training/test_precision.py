"""bf16 where the hardware multiplies it natively, else fp32."""

import pytest
import torch

from svkit.nn.precision import resolve_precision


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_what_is_asked_for_is_taken(precision):
    assert resolve_precision(precision, torch.device("cpu")) == precision


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


def test_auto_elsewhere_is_fp32():
    assert resolve_precision("auto", torch.device("meta")) == "fp32"
