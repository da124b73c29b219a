"""What two processes exchange in a step, counted between two processes on the CPU (gloo).

What this cannot show: how long it takes, and whether NCCL does the same.
"""

import collections
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from svkit.config.schema import OptimConfig, PruneConfig
from svkit.models.session import make_accelerator
from svkit.training.loop import LoopPlan, make_optimizer, run_loop
from tests.processes import leave, run_in_two
from tests.training.conftest import Recorder
from tests.training.test_micro_batch import sampled
from tests.training.test_tasks import LABELS, classification, pruning, waves

pytestmark = pytest.mark.slow

STEPS, PARTS = 3, 2
PLAN = LoopPlan(
    num_steps=STEPS, steps_per_epoch=STEPS, seed=1, optim=OptimConfig(schedule="constant"), validate_after=(),
    save_every=99, log_every=99, ask_every=99,
)  # fmt: skip
TASKS: dict[str, Callable[[], Any]] = {
    "finetune": classification,
    "sampled classes": sampled,
    "prune": lambda: pruning(PruneConfig(constraint="projection")),
}
BATCH_NORM = 2 * 2
"""Sums and squares, forward and backward."""
FINITE, LOGGED = 1, 2
"""Whether the step is good, each step; metrics and requests to stop, each logging interval."""


def _process(rank: int, folder: str) -> None:
    """Train every task, in whole batches and in parts; write how often anything was exchanged."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = {}
    for name, make in TASKS.items():
        for parts in (1, PARTS):
            with warnings.catch_warnings(record=True) as caught, pytest.MonkeyPatch.context() as patch:
                warnings.simplefilter("always")
                found[f"{name}, {parts}"] = _exchanged(make(), len(LABELS) // parts, patch)
            found[f"{name}, {parts}"]["warnings"] = [
                str(warning.message) for warning in caught if "strides" in str(warning.message)
            ]
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    leave()


def _exchanged(task: Any, micro_batch: int, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    counts: collections.Counter[str] = collections.Counter()

    def count(name: str) -> None:
        original = getattr(distributed, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return original(*arguments, **options)

        patch.setattr(distributed, name, counted)

    def exchange(state: None, bucket: distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        counts["buckets"] += 1
        return default_hooks.allreduce_hook(distributed.group.WORLD, bucket)

    for name in ("all_reduce", "all_gather", "broadcast"):
        count(name)
    accelerator = make_accelerator("fp32")
    optimizer = make_optimizer(task, PLAN.optim)
    wrapped = accelerator.prepare_model(task)
    wrapped.register_comm_hook(None, exchange)
    batches = [(waves(step), LABELS) for step in range(STEPS)]
    run_loop(wrapped, optimizer, batches, replace(PLAN, micro_batch=micro_batch), accelerator, Recorder())
    return dict(counts)


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("collectives")
    run_in_two(_process, str(folder))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("parts", [1, PARTS])
@pytest.mark.parametrize(
    ("name", "of_a_part", "gathered"),
    [("finetune", BATCH_NORM, 0), ("sampled classes", BATCH_NORM, 1), ("prune", 0, 0)],
)
def test_what_is_exchanged_in_a_step(
    exchanged: list[dict[str, Any]], name: str, of_a_part: int, gathered: int, parts: int
) -> None:
    """Gradients once, whatever the parts: one bucket, as these models are small."""
    for rank in exchanged:
        found = rank[f"{name}, {parts}"]
        assert found.pop("warnings") == []  # of gradients with other strides than the bucket's
        expected = {
            "buckets": STEPS,
            "all_reduce": STEPS * (1 + FINITE + parts * of_a_part) + LOGGED,
            "all_gather": STEPS * gathered,
        }
        assert found == {kind: count for kind, count in expected.items() if count}
