"""The multipliers push the expected sparsity to its target from both sides; the target is a function of the step."""

import pytest
import torch

from svkit.config.architecture import EncoderArchitecture
from svkit.config.schema import PruneConfig
from svkit.pruning.counting import encoder_parameters, expected_parameters
from svkit.pruning.gates import EncoderGates
from svkit.pruning.lagrangian import SparsityConstraint, target_sparsity

SMALL = EncoderArchitecture.uniform(num_layers=2, hidden_size=12, num_heads=3, ffn_dim=20, feature_dim=8)


@pytest.mark.parametrize("drop", [0.05, 0.999])
def test_sparsity_is_pushed_to_the_target_from_below_and_above(drop):
    rates = {f"initial_drop_{kind}": drop for kind in ("ffn", "heads", "conv")}
    gates, constraint = EncoderGates(SMALL, PruneConfig(**rates), 0), SparsityConstraint()
    optimizer = torch.optim.AdamW(
        [{"params": gates.parameters()}, {"params": constraint.parameters(), "maximize": True}],
        lr=0.05,
        weight_decay=0,
    )

    def expected_sparsity() -> torch.Tensor:
        return 1 - expected_parameters(SMALL, gates.expected_widths()) / encoder_parameters(SMALL)

    start, target = float(expected_sparsity().detach()), 0.6
    assert (start < target) == (drop == 0.05)
    for _ in range(600):
        optimizer.zero_grad()
        constraint(expected_sparsity(), target).backward()
        optimizer.step()
    assert float(expected_sparsity().detach()) == pytest.approx(target, abs=0.005)
    assert constraint.lambda2.item() > 0


def test_the_penalty_is_that_of_the_paper():
    constraint = SparsityConstraint()
    assert float(constraint(torch.tensor(0.3), 0.5).detach()) == 0.0  # the multipliers start at 0
    constraint.lambda1.data.fill_(2.0)
    constraint.lambda2.data.fill_(3.0)
    assert float(constraint(torch.tensor(0.3), 0.5).detach()) == pytest.approx(2 * -0.2 + 3 * 0.04)


def test_the_target_rises_linearly_and_stays():
    assert [target_sparsity(step, 0.8, 4) for step in range(6)] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.8])
    assert target_sparsity(7, 0.8, 4) == target_sparsity(7, 0.8, 4)
    assert target_sparsity(0, 0.8, 0) == 0 and target_sparsity(1, 0.8, 0) == 0.8
