"""The loop on two processes (gloo): a number that is not finite in one of them makes both skip the step."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import distributed, multiprocessing

from svkit.errors import TrainingError
from svkit.training.loop import MAX_SKIPPED_STEPS, make_optimizer, run_loop
from tests.processes import leave
from tests.training.conftest import Recorder
from tests.training.test_loop import OPTIM, ToyTask, batches, plan

BAD = float("nan")


def _process(rank: int, folder: str, bad_steps: dict[int, tuple[int, ...]], num_steps: int) -> None:
    """Train the toy; `bad_steps` of this process give NaN. Writes what happened."""
    # Accelerate asks for the address, although the processes have met already.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    AcceleratorState._reset_state(True)
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    assert accelerator.num_processes == 2
    task, recorder = ToyTask(dict.fromkeys(bad_steps[rank], BAD)), Recorder()
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
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    leave()


def _train(folder: Path, bad_steps: dict[int, tuple[int, ...]], num_steps: int) -> list[dict[str, Any]]:
    folder.mkdir()
    arguments = (str(folder), bad_steps, num_steps)
    multiprocessing.start_processes(_process, arguments, nprocs=2, start_method="spawn")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_both_skip_what_is_not_finite_in_one_and_stay_equal(tmp_path: Path) -> None:
    found = _train(tmp_path / "bad", {0: (4,), 1: (1,)}, 6)
    for one in found:
        assert one["skipped"] == 2 and one["steps"] == [1, 3, 4, 6]
    assert found[0]["weights"] == found[1]["weights"]
    numbers = torch.cat([torch.tensor(values).flatten() for values in found[0]["weights"].values()])
    assert bool(numbers.isfinite().all())


@pytest.mark.parametrize("bad", [(0, 1), (1, 0)])
def test_both_give_up_at_the_same_step_with_the_state_before(tmp_path: Path, bad: tuple[int, int]) -> None:
    """A step that is bad in either of them counts for both."""
    steps = range(3, 3 + MAX_SKIPPED_STEPS)
    turns = {rank: tuple(step for step in steps if step % 2 == bad[rank]) for rank in range(2)}
    found = _train(tmp_path / "bad", turns, 40)
    for one in found:
        assert f"step {steps[-1]}: " in one["error"] and "20 steps in a row" in one["error"]
        assert one["saved"] == [3] and one["steps"] == [1, 2, 3]
    assert found[0]["weights"] == found[1]["weights"]
