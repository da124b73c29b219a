"""Hard-concrete gates: the distribution, its expectation, and one draw a forward pass."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svkit.config.architecture import EncoderArchitecture
from svkit.config.schema import PruneConfig
from svkit.pruning.gates import EncoderGates, HardConcrete
from tests.random_models import SEEDS, watch_draws

TEMPERATURE = 2 / 3
SMALL = EncoderArchitecture.uniform(num_layers=2, hidden_size=12, num_heads=3, ffn_dim=20, feature_dim=8)


def group(log_alpha: torch.Tensor) -> HardConcrete:
    made = HardConcrete(len(log_alpha), 0.5, TEMPERATURE, torch.Generator())
    made.log_alpha.data = log_alpha
    return made


def test_samples_are_open_as_often_as_expected():
    log_alpha = torch.tensor([-3.0, -1.07, 0.0, 1.0, 3.0])
    gates = group(log_alpha.repeat_interleave(20_000))
    torch.manual_seed(0)
    opened = (gates.sample() > 0).view(5, -1).float().mean(1)
    expected = gates.expected().detach().view(5, -1)[:, 0]
    assert torch.allclose(opened, expected, atol=0.012)
    assert torch.allclose(expected, torch.sigmoid(log_alpha - TEMPERATURE * math.log(0.1 / 1.1)))


def test_samples_have_mass_at_both_ends_and_a_gradient_between():
    gates = group(torch.zeros(4000))
    torch.manual_seed(0)
    values = gates.sample()
    assert (
        0.05 < float((values == 0).float().mean()) < 0.4 and 0.05 < float((values == 1).float().mean()) < 0.4
    )
    values.sum().backward()
    between = (values > 0) & (values < 1)
    assert torch.equal(gates.log_alpha.grad != 0, between)


@given(log_alpha=st.lists(st.floats(-30, 30), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_the_deterministic_mask_keeps_the_expected_number_of_the_largest(log_alpha):
    gates = group(torch.tensor(log_alpha)).eval()
    with torch.no_grad():
        mask, chances = gates(), gates.expected()
    soft = torch.sigmoid(0.8 * gates.log_alpha.detach() / TEMPERATURE)
    num_closed = max(0, round(len(log_alpha) - float(chances.sum())))
    # A soft value may itself underflow to 0; nothing else closes a gate.
    assert int((mask == 0).sum()) >= num_closed and int((mask == 0).sum()) <= num_closed + int(
        (soft == 0).sum()
    )
    kept = mask > 0
    assert torch.allclose(mask[kept], soft[kept])
    if kept.any() and (~kept).any():
        assert float(soft[kept].min()) >= float(soft[~kept].max())


def test_initial_drop_rates_are_the_published_ones():
    gates = EncoderGates(SMALL.with_widths({**SMALL.widths(), "ffn1_dim": [5000] * 2}), PruneConfig(), 1)
    means = {kind: float(group.log_alpha.detach().mean()) for kind, group in gates.layers[0].items()}
    assert means["ffn1"] == pytest.approx(0.0, abs=1e-3)
    assert means["heads"] == means["conv"] or abs(means["heads"] - math.log(99)) < 0.03
    assert means["conv"] == pytest.approx(math.log(99), abs=0.02)
    assert float(gates.layers[0]["ffn1"].log_alpha.detach().std()) == pytest.approx(0.01, rel=0.05)


def test_each_group_is_drawn_once_for_all_gates_of_a_pass(monkeypatch):
    calls = watch_draws(monkeypatch)
    gates = EncoderGates(SMALL, PruneConfig(), 1)
    values = gates()
    assert len(calls) == len(set(calls)) == 2 * 4
    assert [value.shape for value in values[0]] == [(3,), (20,), (20,), (12,)]


@given(seed=SEEDS)
@settings(max_examples=5, deadline=None)
def test_gates_depend_on_their_seed_alone(seed):
    first, second = (EncoderGates(SMALL, PruneConfig(), seed).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_evaluation_draws_nothing():
    gates = EncoderGates(SMALL, PruneConfig(), 1).eval()
    state = torch.get_rng_state()
    first, second = gates(), gates()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(
        torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_an_absent_branch_has_no_gates():
    absent = SMALL.with_widths({**SMALL.widths(), "num_heads": [3, 0], "conv_dim": [0, 12]})
    gates = EncoderGates(absent, PruneConfig(), 1)
    assert [sorted(layer) for layer in gates.layers] == [["ffn1", "ffn2", "heads"], ["conv", "ffn1", "ffn2"]]
    assert gates()[1].heads is None
