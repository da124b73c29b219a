"""The cut changes nothing: hidden states of the cut encoder equal those of the masked one."""

from unittest import mock

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from svkit.config.architecture import EncoderArchitecture
from svkit.nn import encoder as encoder_module
from svkit.nn.encoder import Encoder, LayerGates
from svkit.nn.norm import gate_aware_layer_norm
from svkit.pruning import cut as cut_module
from svkit.pruning.counting import encoder_parameters
from svkit.pruning.cut import cut_architecture, cut_encoder
from tests.random_models import SEEDS, architectures, random_encoder, random_gates, relative_error

KINDS = ("heads", "ffn1", "ffn2", "conv")
TOLERANCE = 1e-5
SMALL = EncoderArchitecture.uniform(
    num_layers=2, hidden_size=12, num_heads=3, ffn_dim=20, feature_dim=8, conv_kernel_size=5, left_positions=6,
    right_positions=3,
)  # fmt: skip


@torch.inference_mode()
def cut_error(encoder: Encoder, gates: list[LayerGates], seed: int = 0) -> float:
    """Largest relative difference of a hidden state between the cut and the masked encoder, with padding."""
    features = torch.randn(
        (2, 17, encoder.architecture.feature_dim), generator=torch.Generator().manual_seed(seed)
    )
    lengths = torch.tensor([17, 9])
    masked = encoder(features, lengths, gates)
    cut = cut_encoder(encoder, gates).eval()(features, lengths)
    real = torch.arange(17)[None, :] < lengths[:, None]
    return max(relative_error(a[real], b[real]) for a, b in zip(cut, masked, strict=True))


@given(
    architecture=architectures(with_absent=True),
    kinds=st.sets(st.sampled_from(KINDS)),
    drop=st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]),
    seed=SEEDS,
    fused_on=st.sampled_from(((), ("cpu",))),
)
@example(architecture=SMALL, kinds={"heads"}, drop=0.5, seed=1, fused_on=())
@example(architecture=SMALL, kinds={"ffn1", "ffn2"}, drop=0.5, seed=1, fused_on=())
@example(architecture=SMALL, kinds={"conv"}, drop=0.5, seed=1, fused_on=())
@example(architecture=SMALL, kinds=set(KINDS), drop=0.5, seed=1, fused_on=())
@example(architecture=SMALL, kinds=set(KINDS), drop=0.5, seed=1, fused_on=("cpu",))
@example(architecture=SMALL, kinds=set(KINDS), drop=1.0, seed=1, fused_on=())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_cut_equals_masked_for_any_gates(architecture, kinds, drop, seed, fused_on):
    """Attention written out, or by torch's kernel as on a GPU."""
    encoder = random_encoder(architecture, seed)
    gates = random_gates(architecture, kinds, drop, seed)
    with mock.patch.object(encoder_module, "FUSED_ON", fused_on):
        assert cut_error(encoder, gates) <= TOLERANCE


@given(architecture=architectures(with_absent=True), drop=st.floats(0, 1), seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_the_widths_and_the_count_are_those_of_the_open_gates(architecture, drop, seed):
    gates = random_gates(architecture, set(KINDS), drop, seed)
    smaller = cut_encoder(random_encoder(architecture, seed), gates)
    assert smaller.architecture == cut_architecture(architecture, gates)
    assert sum(p.numel() for p in smaller.parameters()) == encoder_parameters(smaller.architecture)
    for index, layer in enumerate(gates):
        kept = 0 if layer.conv is None else int((layer.conv > 0).sum())
        assert smaller.architecture.conv_dim[index] == kept
        assert (smaller.encoder.layers[index].conv_module is None) == (kept == 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_branch_whose_gates_are_closed_disappears_with_its_norm_and_bias(kind):
    encoder = random_encoder(SMALL, 3)
    gates = random_gates(SMALL, {kind}, 1.0, 0)
    smaller = cut_encoder(encoder, gates)
    width = {"heads": "num_heads", "ffn1": "ffn1_dim", "ffn2": "ffn2_dim", "conv": "conv_dim"}[kind]
    assert getattr(smaller.architecture, width) == (0, 0)
    names = {"heads": "self_attn", "conv": "conv_module"}.get(kind, kind)
    assert not [name for name in smaller.state_dict() if f".{names}" in name]
    assert cut_error(encoder, gates) <= TOLERANCE


def test_open_gates_change_nothing_at_all():
    encoder = random_encoder(SMALL, 3)
    opened = [
        LayerGates(heads=torch.ones(3), ffn1=torch.ones(20), ffn2=torch.ones(20), conv=torch.ones(12))
        for _ in range(2)
    ]
    before, after = encoder.state_dict(), cut_encoder(encoder, opened).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    features = torch.randn((1, 9, 8), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        masked, plain = encoder(features, gates=opened), encoder(features)
    assert max(relative_error(a, b) for a, b in zip(masked, plain, strict=True)) <= 1e-6


def test_statistics_of_the_gate_aware_norm_run_over_live_channels():
    norm = nn.LayerNorm(6)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 7.0))
        norm.bias.fill_(0.5)
    gate = torch.tensor([1.0, 0.0, 0.2, 0.0, 0.7, 1.0])
    alive = gate > 0
    hidden = torch.randn((2, 3, 6), generator=torch.Generator().manual_seed(0)) * alive
    found = gate_aware_layer_norm(hidden, norm, gate)
    live = hidden[..., alive]
    mean, variance = live.mean(-1, keepdim=True), live.var(-1, keepdim=True, correction=0)
    expected = (live - mean) / (variance + norm.eps).sqrt() * norm.weight[alive] + 0.5
    assert torch.allclose(found[..., alive], expected, atol=1e-6)
    assert bool((found[..., ~alive] == 0).all())


def plain_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Average over dead channels too, as before the cut of the published code."""

    def over_all_channels(hidden: Tensor, norm: nn.LayerNorm, gate: Tensor) -> Tensor:
        return nn.functional.layer_norm(hidden, hidden.shape[-1:], norm.weight, norm.bias, norm.eps)

    monkeypatch.setattr(encoder_module, "gate_aware_layer_norm", over_all_channels)


def value_half_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the GLU with the kept indices twice: value rows in place of the gate rows."""
    original = cut_module._cut_conv

    def wrong(state: dict[str, Tensor], gate: Tensor) -> None:
        weight = state["conv_module.pointwise_conv1.weight"]
        half = len(weight) // 2
        state["conv_module.pointwise_conv1.weight"] = weight[:half].repeat(2, 1)
        original(state, gate)

    monkeypatch.setattr(cut_module, "_cut_conv", wrong)


def unfolded_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the soft values out of the convolution."""
    original = cut_module._cut_conv
    monkeypatch.setattr(cut_module, "_cut_conv", lambda state, gate: original(state, (gate > 0).float()))


@pytest.mark.parametrize("mutate", [plain_norm, value_half_twice, unfolded_convolution])
def test_the_published_defects_are_caught(mutate, monkeypatch):
    encoder = random_encoder(SMALL, 3)
    gates = random_gates(SMALL, {"conv"}, 0.5, 2)
    assert cut_error(encoder, gates) <= TOLERANCE
    mutate(monkeypatch)
    assert cut_error(encoder, gates) > 1e-2
