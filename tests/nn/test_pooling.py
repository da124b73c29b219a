"""Attentive statistics pooling against its definition, written out by hand."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svkit.nn.head import LayerAdapter
from svkit.nn.pooling import VARIANCE_FLOOR, AttentiveStatisticsPooling
from tests.random_models import SEEDS, draw_weights, relative_error


def pool_by_hand(pooling: AttentiveStatisticsPooling, frames: list[list[float]]) -> list[float]:
    """Pool one utterance with plain Python numbers, float64."""
    state = {name: tensor.double() for name, tensor in pooling.state_dict().items()}
    logits = []
    for frame in frames:
        hidden = (
            state["attention_in.weight"] @ torch.tensor(frame).double() + state["attention_in.bias"]
        ).clamp(min=0)
        centred = (hidden - state["batch_norm.running_mean"]) / (
            state["batch_norm.running_var"] + 1e-5
        ).sqrt()
        normed = centred * state["batch_norm.weight"] + state["batch_norm.bias"]
        logits.append((state["attention_out.weight"] @ normed + state["attention_out.bias"]).tolist())
    means, deviations = [], []
    for channel in range(len(frames[0])):
        exponentials = [math.exp(logit[channel]) for logit in logits]
        weights = [value / sum(exponentials) for value in exponentials]
        column = [frame[channel] for frame in frames]
        mean = sum(w * x for w, x in zip(weights, column, strict=True))
        variance = sum(w * (x - mean) ** 2 for w, x in zip(weights, column, strict=True))
        means.append(mean)
        deviations.append(math.sqrt(max(variance, VARIANCE_FLOOR)))
    return means + deviations


@given(seed=SEEDS, lengths=st.lists(st.integers(1, 12), min_size=1, max_size=3))
@settings(max_examples=20, deadline=None)
def test_pooling_equals_its_definition_with_padding(seed, lengths):
    pooling = AttentiveStatisticsPooling(5, 4, 5).eval()
    draw_weights(pooling, seed)
    features = torch.randn((len(lengths), max(lengths), 5), generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        found = pooling(features, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        expected = torch.tensor(pool_by_hand(pooling, features[row, :length].tolist()))
        assert relative_error(found[row], expected) <= 1e-4


def test_a_constant_signal_has_the_floor_as_variance_and_finite_gradients():
    pooling = AttentiveStatisticsPooling(5, 4, 5).eval()
    features = torch.full((1, 7, 5), 0.3, requires_grad=True)
    pooled = pooling(features)
    assert torch.allclose(pooled[0, 5:], torch.full((5,), math.sqrt(VARIANCE_FLOOR)))
    pooled.sum().backward()
    assert bool(torch.isfinite(features.grad).all())


def test_pooling_is_done_in_float32_under_autocast():
    pooling = AttentiveStatisticsPooling(5, 4, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pooling(torch.randn(2, 9, 5).bfloat16()).dtype == torch.float32


def test_layer_adapter_is_linear_norm_relu_linear():
    adapter = LayerAdapter(6, 3)
    draw_weights(adapter, 1)
    hidden = torch.randn(2, 4, 6)
    down = hidden @ adapter.down.weight.T + adapter.down.bias
    centred = down - down.mean(-1, keepdim=True)
    normed = centred / (down.var(-1, keepdim=True, correction=0) + 1e-5).sqrt() * adapter.norm.weight
    expected = (normed + adapter.norm.bias).clamp(min=0) @ adapter.out.weight.T + adapter.out.bias
    assert relative_error(adapter(hidden), expected) <= 1e-5
