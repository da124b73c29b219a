"""A state is read by one process of two (gloo) and reaches both as it was saved."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import distributed

from svkit.errors import ArtifactError
from svkit.models import session
from svkit.models.session import make_accelerator
from svkit.store.checkpoint import ResumeState
from svkit.training.resume import read_shared
from tests.processes import leave, run_in_two

STATE = ResumeState(
    num_done=7,
    batch_size=8,
    task={
        "weight": torch.arange(6.0).view(2, 3),
        "half": torch.arange(4, dtype=torch.bfloat16),
        "num_batches_tracked": torch.tensor(5),
    },
    optimizer={"0.step": torch.tensor(7.0), "0.exp_avg": torch.full((2, 3), 0.5)},
    facts={"best": {"step": 3}},
    best_step=3,
)


def _process(rank: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    accelerator = make_accelerator("fp32")
    read: list[str] = []

    def good() -> ResumeState:
        read.append("good")
        return STATE

    def bad() -> ResumeState:
        raise ArtifactError("state.json: corrupt")

    state = read_shared(good, accelerator)
    assert state is not None and read_shared(lambda: None, accelerator) is None
    found = {
        "read": read,
        "rest": [state.num_done, state.batch_size, state.facts, state.best_step],
        "equal": [
            torch.equal(mine[name], tensor) and mine[name].dtype == tensor.dtype
            for mine, theirs in ((state.task, STATE.task), (state.optimizer, STATE.optimizer))
            for name, tensor in theirs.items()
        ],
    }
    with pytest.raises(ArtifactError, match="corrupt"):
        read_shared(bad, accelerator)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    leave()


@pytest.mark.slow
def test_one_process_reads_and_both_have_the_state(tmp_path: Path) -> None:
    run_in_two(_process, str(tmp_path))
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [one["read"] for one in found] == [["good"], []]
    for one in found:
        assert one["rest"] == [7, 8, {"best": {"step": 3}}, 3]
        assert one["equal"] == [True] * 5


def test_processes_wait_for_one_that_validates_or_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL would give up after 10 minutes; the group is made by Accelerate with the time it is told."""
    told: list[object] = []
    original = session.Accelerator

    def watched(**options: object) -> object:
        told.extend(options["kwargs_handlers"])  # type: ignore[call-overload]
        return original(**options)  # type: ignore[arg-type]

    monkeypatch.setattr(session, "Accelerator", watched)
    make_accelerator("fp32")
    (timeout,) = [handler.timeout for handler in told if hasattr(handler, "timeout")]
    assert timeout.total_seconds() >= 3600
