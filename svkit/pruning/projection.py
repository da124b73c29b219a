"""The sparsity constraint as a projection: after every step the gates' expected sparsity is the target, exactly.

A Lagrangian reaches its target only when its multipliers have had time to grow, and until then it closes whatever is
cheapest to close. A projection needs no time: one offset, the same for every gate, is added to all log_alpha so that
the expectation meets the target of the step. Training decides only the differences between gates, so gates compete: the
exact gradient of the projected loss is the gradient of the loss minus the mean price of a parameter times what the gate
costs (`Projection.offset`). The final choice of units (`svkit.pruning.selection`) adds an offset too, but the gates
already meet its target.
"""

import torch
from torch import Tensor

from svkit.config.architecture import EncoderArchitecture
from svkit.pruning.counting import encoder_parameters, expected_parameters, unit_costs
from svkit.pruning.gates import SATURATION, EncoderGates

_BISECTIONS = 60
_TOLERANCE = 1e-6
"""Fraction of the dense count. Gates this near the target are left alone, so that a second projection does nothing."""


class Projection:
    """Keeps the gates of an encoder at a given expected sparsity."""

    def __init__(self, gates: EncoderGates, dense: EncoderArchitecture) -> None:
        self.gates, self.dense = gates, dense
        self.total = encoder_parameters(dense)
        self.costs = {kind: cost.unit for kind, cost in unit_costs(dense).items()}

    def offset(self) -> Tensor:
        """Return 0 with the gradient of the projection; add it to all log_alpha to give it to them.

        The offset c keeps the expected count N constant, so dc / dlog_alpha = - (dN / dlog_alpha) / (dN / dc).
        """
        expected = expected_parameters(self.dense, self.gates.expected_widths())
        slope = sum(
            self.costs[kind] * (chance * (1 - chance)).sum()
            for layer in self.gates.groups()
            for kind, chance in ((kind, group.expected().detach()) for kind, group in layer.items())
        )
        # If every gate is saturated, no offset moves the count, and gates have nothing to compete for.
        return (expected.detach() - expected) / torch.as_tensor(slope).clamp(min=1e-6)

    @torch.no_grad()
    def project(self, target: float) -> None:
        """Shift all log_alpha so that the expected sparsity is `target`, as nearly as the gates can meet it."""
        groups = [(self.costs[kind], group) for layer in self.gates.groups() for kind, group in layer.items()]
        # Bisection in double precision. The number of halvings is fixed, so that no value is read from the device.
        chances = torch.cat([group.log_alpha - group.expected_shift for _, group in groups]).double()
        costs = torch.cat([torch.full_like(group.log_alpha, cost) for cost, group in groups]).double()
        wanted = (1 - target) * self.total - expected_parameters(self.dense, self.gates.no_widths())
        is_met = ((costs * torch.sigmoid(chances)).sum() - wanted).abs() <= _TOLERANCE * self.total
        # At the ends of the bracket all gates are closed, or open, for good. A target out of reach leaves them there.
        low, high = -SATURATION - chances.max(), SATURATION - chances.min()
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            is_below = (costs * torch.sigmoid(chances + middle)).sum() < wanted
            low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
        for _, group in groups:
            group.log_alpha.add_(torch.where(is_met, 0.0, low))
