"""Train the gates alone, without an encoder, for short and long runs, to see whether they reach their target.

    python benchmarks/gate_convergence.py [--steps 6 144] [--out docs/results/gate_convergence.json]

The task, its constraint, optimiser and schedule are those of `svkit prune`. Only the distance to the teacher is
replaced. Every gate has a worth, drawn once (log-normal, in proportion to the parameters of the unit). The loss of a
step is the worth of the units that are closed in its draw, with noise like that between the batches of a real run. All
units together are worth 1, which is about as much as distillation can lose. The published run has 170,620 steps: 20
epochs of VoxCeleb2's 1,092,009 utterances, 16 on each of 8 GPUs.

Columns: `expected` is the sparsity by the gates' expectation after the last step. `farthest` is its largest distance
from the target in the last fifth of the steps. `counted` is the sparsity of the deterministic mask. `undecided` is the
share of the gates that are open with a probability between 0.1 and 0.9.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from measuring import save, start, table
from torch import Tensor

from svkit.config.architecture import EncoderArchitecture
from svkit.config.load import load_recipe
from svkit.config.schema import OptimConfig, PruneConfig
from svkit.nn.encoder import Encoder
from svkit.pruning.counting import unit_costs
from svkit.pruning.gates import EncoderGates
from svkit.training.loop import make_optimizer
from svkit.training.schedule import paced
from svkit.training.tasks import Losses, PruningTask

STEPS = {"w2v-bert-2.0": (656, 10_000, 30_000, 170_620), "tiny": (6, 20, 144, 656, 2_000, 10_000)}
GATES = EncoderArchitecture.uniform(num_layers=2, hidden_size=64, num_heads=4, ffn_dim=256)
NOISE = 3.0
"""Standard deviation of a gate's worth between steps, relative to its worth."""


class GatesAlone(PruningTask):
    """Pruning whose loss is the worth of the units that are closed in a draw."""

    def __init__(self, config: PruneConfig, warmup_steps: int) -> None:
        encoder = Encoder(GATES).requires_grad_(False)
        super().__init__(encoder, encoder, EncoderGates(GATES, config, 0), config, warmup_steps)
        generator = torch.Generator().manual_seed(1)
        costs = [
            torch.full((len(group.log_alpha),), float(unit_costs(GATES)[kind].unit))
            for layer in self.gates.groups()
            for kind, group in layer.items()
        ]
        worth = torch.cat(costs) * torch.exp(1.5 * torch.randn(sum(map(len, costs)), generator=generator))
        self.worth = worth / worth.sum()

    def distance(self, waveforms_BN: Tensor, part: int = 0) -> Losses:
        """Return the worth of the closed units, with this step's noise."""
        values = torch.cat([gate for layer in self.draw_gates() for gate in layer if gate is not None])
        noise = 1 + NOISE * torch.randn_like(values)
        return {"loss": (self.worth * noise * (1 - values)).sum()}


def run(config: PruneConfig, num_steps: int) -> dict[str, Any]:
    """Train the gates for a number of steps; say where they end and how near the target they stay."""
    config = paced(config, num_steps)
    torch.manual_seed(24)
    task = GatesAlone(config, config.sparsity_warmup_steps).train()
    optim = OptimConfig(lr=config.optim.lr, schedule="constant", weight_decay=0.0)
    optimizer = make_optimizer(task, optim)
    for group in optimizer.param_groups:
        group["lr"] = optim.lr * group["lr_factor"]
    started, expected, counted = time.process_time(), [], []
    for step in range(num_steps):
        losses = task(torch.empty(0), torch.empty(0), step)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        for parameters in task.clip_groups().values():
            if parameters:
                torch.nn.utils.clip_grad_norm_(parameters, optim.clip_norm)
        optimizer.step()
        expected.append(losses["sparsity"])
        counted.append(losses["counted_sparsity"])
    last_fifth = torch.stack(expected)[-max(1, num_steps // 5) :]
    chances = torch.cat(
        [group.expected().detach() for layer in task.gates.groups() for group in layer.values()]
    )
    return {
        "steps": num_steps,
        "warmup_steps": config.sparsity_warmup_steps,
        "gate_lr": config.gate_lr,
        "expected": float(task.expected_sparsity().detach()),
        "farthest_in_last_fifth": float((last_fifth - config.sparsity).abs().max()),
        "counted": float(counted[-1]),
        "undecided": float(((chances > 0.1) & (chances < 0.9)).float().mean()),
        "cpu_seconds": round(time.process_time() - started, 1),
    }


HEADINGS = {
    "preset": "preset", "constraint": "constraint", "steps": "steps", "warmup_steps": "warm-up", "gate_lr": "rate",
    "expected": "expected", "farthest_in_last_fifth": "farthest", "counted": "counted", "undecided": "undecided",
}  # fmt: skip


def main() -> None:
    """Train with the published preset and with `tiny`, in short and long runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--steps", type=int, nargs="+", help="numbers of steps, for both presets (default: see STEPS)"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start(1)
    rows = []
    for preset, own in STEPS.items():
        config = load_recipe(preset).prune
        for steps in options.steps or own:
            rows.append({"preset": preset, "constraint": config.constraint, **run(config, steps)})
            print(json.dumps(rows[-1]), flush=True)
    print(table(list(HEADINGS.values()), [[row[key] for key in HEADINGS] for row in rows]))
    save(options.out, 1, rows=rows)


if __name__ == "__main__":
    main()
