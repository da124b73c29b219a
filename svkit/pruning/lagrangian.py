"""The sparsity constraint as an augmented Lagrangian (Wang et al. 2020): lambda1 (s - t) + lambda2 (s - t)^2.

The multipliers ascend while everything else descends, so the loss presses harder the longer the expected sparsity s
misses the target t.
"""

import torch
from torch import Tensor, nn


class SparsityConstraint(nn.Module):
    """The two multipliers, starting at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.zeros(()))
        self.lambda2 = nn.Parameter(torch.zeros(()))

    def forward(self, expected_sparsity: Tensor, target: float) -> Tensor:
        """Penalty to add to the loss."""
        excess = expected_sparsity - target
        return self.lambda1 * excess + self.lambda2 * excess.square()


def target_sparsity(step: int, final: float, warmup_steps: int) -> float:
    """Target at a step: rises linearly from 0 to `final` over `warmup_steps`, a pure function of the step."""
    return final * min(1.0, step / max(warmup_steps, 1))
