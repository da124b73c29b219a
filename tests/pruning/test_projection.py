"""Projected gates meet any target exactly, keep their order, and compete by what a parameter is worth."""

import pytest
import torch

from svkit.config.architecture import EncoderArchitecture
from svkit.config.schema import PruneConfig
from svkit.pruning.counting import encoder_parameters, expected_parameters
from svkit.pruning.gates import EncoderGates
from svkit.pruning.projection import Projection

SMALL = EncoderArchitecture.uniform(num_layers=2, hidden_size=12, num_heads=3, ffn_dim=20, feature_dim=8)


def spread_gates(spread: float = 2.0) -> EncoderGates:
    gates = EncoderGates(SMALL, PruneConfig(), 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in gates.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return gates


def log_alphas(gates: EncoderGates) -> torch.Tensor:
    return torch.cat([parameter.detach() for parameter in gates.parameters()])


def expected_sparsity(gates: EncoderGates) -> float:
    expected = expected_parameters(SMALL, gates.expected_widths()).detach()
    return 1 - float(expected) / encoder_parameters(SMALL)


@pytest.mark.parametrize("target", [0.0, 0.1, 0.5, 0.7])
@pytest.mark.parametrize("spread", [0.0, 2.0, 30.0])
def test_the_expectation_is_the_target_and_the_order_stays(target, spread):
    gates = spread_gates(spread)
    before = log_alphas(gates)
    Projection(gates, SMALL).project(target)
    shift = log_alphas(gates) - before
    assert expected_sparsity(gates) == pytest.approx(target, abs=1e-5)
    assert torch.allclose(shift, shift.mean().expand_as(shift), atol=1e-4)


def test_projecting_twice_is_projecting_once():
    gates = spread_gates()
    projection = Projection(gates, SMALL)
    projection.project(0.6)
    once = log_alphas(gates)
    projection.project(0.6)
    assert torch.equal(log_alphas(gates), once)


def test_a_target_beyond_all_gates_closes_them():
    gates = spread_gates()
    Projection(gates, SMALL).project(0.999)
    assert all(float(width.detach()) < 1e-6 for layer in gates.expected_widths() for width in layer.values())


def test_a_target_out_of_reach_leaves_gates_where_they_are_step_after_step():
    gates = spread_gates()
    for target in [0.999] * 9 + [0.5]:
        Projection(gates, SMALL).project(target)
        assert log_alphas(gates).abs().max() < 60
    assert expected_sparsity(gates) == pytest.approx(0.5, abs=1e-5), "nor is there no way back"


def test_the_gradient_is_that_of_the_projected_loss():
    gates = spread_gates()
    projection = Projection(gates, SMALL)
    projection.project(0.5)
    weights = torch.randn(len(log_alphas(gates)), dtype=torch.float64)

    def loss(offset: torch.Tensor | float) -> torch.Tensor:
        return (torch.cat([parameter + offset for parameter in gates.parameters()]).double() * weights).sum()

    offset = projection.offset()
    assert float(offset.detach()) == 0
    start = loss(offset)
    start.backward()
    for index, parameter in enumerate(gates.parameters()):
        gradient, kept = float(parameter.grad[0]), [other.detach().clone() for other in gates.parameters()]
        with torch.no_grad():
            parameter[0] += 0.01
            projection.project(0.5)
            slope = (float(loss(0.0)) - float(start.detach())) / 0.01
            for other, value in zip(gates.parameters(), kept, strict=True):
                other.copy_(value)
        assert slope == pytest.approx(gradient, abs=0.05), index


def test_units_that_are_worth_the_same_per_parameter_stay_where_they_are():
    """A loss that falls in proportion to the parameters that are open cannot tell one gate from another."""
    gates = spread_gates()
    projection = Projection(gates, SMALL)
    projection.project(0.5)
    offset = projection.offset()
    for layer in gates.groups():
        for kind, group in layer.items():
            chance = torch.sigmoid(group.log_alpha + offset - group.expected_shift)
            (-projection.costs[kind] * chance.sum()).backward(retain_graph=True)
    largest = max(float(parameter.grad.abs().max()) for parameter in gates.parameters())
    assert largest < 1e-3 * max(projection.costs.values())
