"""Layers that give torch their own gradients: equal to what torch finds by itself for the plain formula."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from svkit.nn.encoder import CausalDepthwiseConv
from svkit.nn.norm import gate_aware_layer_norm
from svkit.nn.relative import relative_bias
from tests.random_models import relative_error

TOLERANCE = 1e-5


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def gradients_of(output: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a sum of the output with weights that differ from entry to entry."""
    return torch.autograd.grad((output * draw(*output.shape, seed=9).detach()).sum(), inputs)


def assert_equal(
    found: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float = TOLERANCE
) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert relative_error(one, other) <= tolerance


@given(frames=st.integers(1, 30), left=st.integers(0, 40), right=st.integers(0, 40), heads=st.integers(1, 2))
@settings(max_examples=100, deadline=None)
def test_relative_bias_is_a_look_up_of_clipped_distances(frames, left, right, heads):
    scores = draw(2, heads, frames, left + right + 1)
    positions = torch.arange(frames)
    distances = (positions[None, :] - positions[:, None]).clamp(-left, right) + left
    expected = scores.gather(3, distances.expand(2, heads, frames, frames))
    found = relative_bias(scores, left, right)
    assert torch.equal(found, expected)
    assert_equal(gradients_of(found, scores), gradients_of(expected, scores))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [6, 17, 32])
@pytest.mark.parametrize(("kernel_size", "frames"), [(1, 1), (1, 20), (2, 3), (7, 1), (31, 20), (31, 61)])
def test_the_depthwise_convolution_is_torchs_in_one_dimension(kernel_size, frames, channels, dtype):
    layer = CausalDepthwiseConv(channels, kernel_size)
    hidden = draw(2, frames, channels).detach().to(dtype).requires_grad_(True)
    padded = functional.pad(hidden.transpose(1, 2), (kernel_size - 1, 0))
    expected = functional.conv1d(padded, layer.weight.to(dtype), groups=channels).transpose(1, 2)
    found = layer(hidden)
    assert found.dtype == dtype
    tolerance = TOLERANCE if dtype == torch.float32 else 0.01
    assert_equal((found,), (expected,), tolerance)
    inputs = (hidden, layer.weight)
    assert_equal(gradients_of(found, *inputs), gradients_of(expected, *inputs), tolerance)


@pytest.mark.parametrize("gate", [[1.0, 0.0, 0.3, 0.0, 1.0, 0.6], [1.0] * 6, [0.0] * 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gate_aware_norm_has_the_gradients_of_its_formula(gate, dtype):
    gates = torch.tensor(gate)
    alive = (gates > 0).float()
    norm = nn.LayerNorm(6)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 7.0))
        norm.bias.copy_(torch.arange(-3.0, 3.0))
    hidden = (draw(2, 5, 6).detach() * alive).to(dtype).requires_grad_(True)

    count = alive.sum().clamp(min=1)
    mean = hidden.float().sum(-1, keepdim=True) / count
    centred = (hidden.float() - mean) * alive
    deviation = (centred.square().sum(-1, keepdim=True) / count + norm.eps).sqrt()
    expected = (centred / deviation * norm.weight + norm.bias * alive).to(dtype)
    found = gate_aware_layer_norm(hidden, norm, gates)

    tolerance = TOLERANCE if dtype == torch.float32 else 0.01
    assert found.dtype == dtype
    pairs = zip(
        (found, *gradients_of(found, hidden, norm.weight, norm.bias)),
        (expected, *gradients_of(expected, hidden, norm.weight, norm.bias)),
        strict=True,
    )
    for one, other in pairs:
        assert one.dtype == other.dtype
        assert bool(torch.isfinite(one).all())
        assert (one - other).float().norm() <= tolerance * other.float().norm() + 1e-30


def test_the_gate_aware_norm_keeps_one_activation():
    """As torch's layer norm does: the memory of a pruning step is that of the published way."""
    kept = []
    hidden, gate = draw(4, 50, 6), torch.tensor([1.0, 0.0, 0.3, 0.0, 1.0, 0.6])
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()), lambda _: None):
        gate_aware_layer_norm(hidden, nn.LayerNorm(6), gate)
    assert sum(size == hidden.numel() for size in kept) == 1
