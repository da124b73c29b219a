"""The loop on two processes (gloo): a number that is not finite in one of them makes both skip the step."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import distributed

from svkit.errors import TrainingError
from svkit.training.loop import MAX_SKIPPED_STEPS, make_optimizer, run_loop
from tests.processes import leave, run_in_two
from tests.training.conftest import Recorder
from tests.training.test_loop import OPTIM, ToyTask, batches, plan

pytestmark = pytest.mark.slow

BAD = float("nan")
LAST = 2 + MAX_SKIPPED_STEPS
"""Steps 3 to this one are bad in one process or the other: as many in a row as end a training."""
SCENARIOS: dict[str, tuple[int, dict[int, tuple[int, ...]]]] = {
    "some": (6, {0: (4,), 1: (1,)}),
    "odd, even": (
        40,
        {rank: tuple(step for step in range(3, LAST + 1) if step % 2 != rank) for rank in (0, 1)},
    ),
    "even, odd": (
        40,
        {rank: tuple(step for step in range(3, LAST + 1) if step % 2 == rank) for rank in (0, 1)},
    ),
}
"""Number of steps, and the steps at which each process gives NaN."""


def _process(rank: int, folder: str) -> None:
    """Train the toy in every scenario; write what happened."""
    # Accelerate asks for the address, although the processes have met already.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = {name: _train(rank, bad[rank], num_steps) for name, (num_steps, bad) in SCENARIOS.items()}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    leave()


def _train(rank: int, bad_steps: tuple[int, ...], num_steps: int) -> dict[str, Any]:
    AcceleratorState._reset_state(True)
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    assert accelerator.num_processes == 2
    task, recorder = ToyTask(dict.fromkeys(bad_steps, BAD)), Recorder()
    optimizer = make_optimizer(task, OPTIM)
    wrapped = accelerator.prepare_model(task)
    found: dict[str, Any] = {}
    try:
        found["skipped"] = run_loop(
            wrapped, optimizer, batches(num_steps), plan(num_steps), accelerator, recorder
        )
    except TrainingError as error:
        found["error"] = str(error)
    found |= {"steps": recorder.column("step"), "saved": recorder.saved, "rank": rank}
    found["weights"] = {
        name: tensor.tolist() for name, tensor in task.state_dict().items() if "norm" not in name
    }
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What happened in both processes, by scenario; they start once for all of them."""
    folder = tmp_path_factory.mktemp("processes")
    run_in_two(_process, str(folder))
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    return {name: [found[name] for found in ranks] for name in SCENARIOS}


def test_both_skip_what_is_not_finite_in_one_and_stay_equal(trained: dict[str, Any]) -> None:
    found = trained["some"]
    for one in found:
        assert one["skipped"] == 2 and one["steps"] == [1, 3, 4, 6]
    assert found[0]["weights"] == found[1]["weights"]
    numbers = torch.cat([torch.tensor(values).flatten() for values in found[0]["weights"].values()])
    assert bool(numbers.isfinite().all())


@pytest.mark.parametrize("turns", ["odd, even", "even, odd"])
def test_both_give_up_at_the_same_step_with_the_state_before(trained: dict[str, Any], turns: str) -> None:
    """A step that is bad in either of them counts for both."""
    found = trained[turns]
    for one in found:
        assert f"step {LAST}: " in one["error"] and "20 steps in a row" in one["error"]
        assert one["saved"] == [3] and one["steps"] == [1, 2, 3]
    assert found[0]["weights"] == found[1]["weights"]
