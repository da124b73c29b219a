"""Counts are exact: the published figures, the sum of numel, and a counter of what torch multiplies."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from svkit.config.architecture import W2V_BERT_2, ModelArchitecture
from svkit.config.schema import HeadConfig, PruneConfig
from svkit.nn.encoder import Encoder
from svkit.nn.speaker import SpeakerNetwork
from svkit.pruning.counting import encoder_parameters, expected_parameters, head_parameters, macs, sparsity
from svkit.pruning.gates import EncoderGates
from tests.pruning.published import PRUNED
from tests.random_models import SEEDS, architectures, random_encoder

DENSE_MODEL = ModelArchitecture(encoder=W2V_BERT_2, head=HeadConfig())


def test_published_figures():
    assert encoder_parameters(W2V_BERT_2) == 580_492_096
    assert head_parameters(DENSE_MODEL) == 6_160_640
    assert encoder_parameters(PRUNED) == 124_307_464
    assert sparsity(PRUNED, W2V_BERT_2) == pytest.approx(0.786, abs=5e-4)  # the "80 %" model
    dense, pruned = macs(DENSE_MODEL), macs(replace(DENSE_MODEL, encoder=PRUNED))
    assert round(dense.total / 1e9, 3) == 28.748 and round(pruned.total / 1e9, 3) == 6.325
    assert dense.total / 1e9 == pytest.approx(28.75, abs=0.01)
    assert pruned.total / 1e9 == pytest.approx(6.31, rel=0.005)
    # About two operations a MAC: the published FLOPs.
    assert 2 * dense.total / 1e9 == pytest.approx(57.72, rel=0.01)


def test_the_full_size_modules_have_these_parameters():
    with torch.device("meta"):
        dense, pruned, model = Encoder(W2V_BERT_2), Encoder(PRUNED), SpeakerNetwork(DENSE_MODEL)
    assert sum(p.numel() for p in dense.parameters()) == 580_492_096
    assert sum(p.numel() for p in pruned.parameters()) == 124_307_464
    assert sum(p.numel() for p in model.head.parameters()) == 6_160_640


@given(architecture=architectures(with_absent=True))
@settings(max_examples=40, deadline=None)
def test_the_count_is_the_sum_of_numel(architecture):
    assert encoder_parameters(architecture) == sum(p.numel() for p in Encoder(architecture).parameters())


@given(architecture=architectures(with_absent=True), seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_expected_count_with_open_gates_is_the_dense_count(architecture, seed):
    gates = EncoderGates(architecture, PruneConfig(), seed)
    with torch.no_grad():
        for parameter in gates.parameters():
            parameter.fill_(1e3)
    if not any(True for _ in gates.parameters()):
        return
    assert expected_parameters(architecture, gates.expected_widths()).item() == encoder_parameters(
        architecture
    )


@given(architecture=architectures(), seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_expected_count_is_linear_in_the_chances(architecture, seed):
    """With every width at n gates of chance 1 / 2 the expected count is that of half the widths, branches present."""
    doubled = architecture.with_widths(
        {name: [2 * width for width in widths] for name, widths in architecture.widths().items()}
    )
    gates = EncoderGates(doubled, PruneConfig(), seed)
    with torch.no_grad():
        for layer in gates.layers:
            for group in layer.values():
                group.log_alpha.fill_(group.expected_shift)  # sigmoid(0)
    expected = float(expected_parameters(doubled, gates.expected_widths()).detach())
    assert expected == pytest.approx(encoder_parameters(architecture), rel=1e-5)


def test_expected_count_has_a_gradient_at_every_gate():
    gates = EncoderGates(W2V_BERT_2, PruneConfig(), 0)
    expected_parameters(W2V_BERT_2, gates.expected_widths()).backward()
    assert all(float(parameter.grad.min()) > 0 for parameter in gates.parameters())


@given(architecture=architectures(with_absent=True), frames=st.integers(1, 20), seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_macs_are_what_torch_multiplies(architecture, frames, seed):
    """An independent counter of matrix products and convolutions; it counts the positional product too."""
    model = ModelArchitecture(
        encoder=architecture, head=HeadConfig(adapter_dim=3, attention_dim=4, embedding_dim=5)
    )
    network = SpeakerNetwork(model).eval()
    features = torch.randn(1, frames, architecture.feature_dim)
    with FlopCounterMode(display=False) as counter:
        network.embed_features(features)
    assert counter.get_total_flops() == 2 * (macs(model, frames).total + macs(model, frames).positional)


def test_a_cut_branch_costs_nothing():
    empty = PRUNED.with_widths({name: [0] * 24 for name in PRUNED.widths()})
    assert encoder_parameters(empty) == sum(p.numel() for p in random_encoder(empty, 0).parameters())
    assert macs(replace(DENSE_MODEL, encoder=empty)).encoder == 49 * 160 * 1024
