"""Steps on tensors without values: whatever asked for one would have to wait for a GPU, and fails here.

Fake tensors have shapes, types and devices only. What this cannot show: how long kernels take, and their results.
"""

import contextlib
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from svkit.config.schema import AugmentConfig, OptimConfig, PruneConfig
from svkit.training import loop
from svkit.training.tasks import DistillationTask, Task
from tests.training.conftest import Recorder
from tests.training.test_tasks import classification, pruning

pytestmark = pytest.mark.slow


class OneProcess:
    """What the loop asks of Accelerate."""

    device = torch.device("cpu")
    num_processes, process_index = 1, 0

    def unwrap_model(self, task: Task) -> Task:
        return task

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def no_sync(self, task: Task) -> Any:
        return contextlib.nullcontext()


def distillation() -> DistillationTask:
    task = pruning()
    return DistillationTask(task.student, task._teacher[0], task.config)


STAGES: dict[str, Any] = {
    "finetune": lambda: classification(AugmentConfig(spec_time_masks=2, spec_frequency_masks=2)),
    "prune, projection": lambda: pruning(PruneConfig(constraint="projection")),
    "prune, Lagrangian": pruning,
    "distill": distillation,
}


@pytest.fixture
def without_values(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a task tensors without values."""
    monkeypatch.setattr(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True)
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def convert(task: Task, device: str) -> FakeTensorMode:
        with mode:
            task._apply(lambda tensor: mode.from_tensor(tensor).to(device))
        return mode

    return convert


@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("stage", STAGES)
def test_the_host_waits_once_a_logging_interval(
    monkeypatch: pytest.MonkeyPatch, without_values: Any, stage: str, micro_batch: int | None
) -> None:
    waits: list[int] = []

    def record(meter: Any, accelerator: Any, counts: torch.Tensor) -> Any:
        torch.cat([torch.stack([*meter.sums.values()]), counts])  # what would be read
        waits.append(1)
        return {"step": 0}, (0, 0)

    monkeypatch.setattr(loop._Meter, "record", record)
    task, optim, recorder = STAGES[stage](), OptimConfig(schedule="constant"), Recorder()
    plan = loop.LoopPlan(
        num_steps=4, steps_per_epoch=4, seed=1, optim=optim, validate_after=(), save_every=99, log_every=2,
        ask_every=2, micro_batch=micro_batch,
    )  # fmt: skip
    with without_values(task, "cpu"):
        batches = [(torch.zeros(4, 6400), torch.zeros(4, dtype=torch.int64)) for _ in range(4)]
        optimizer = loop.make_optimizer(task, optim)
        loop.run_loop(task, optimizer, batches, plan, OneProcess(), recorder)  # type: ignore[arg-type]
    assert len(waits) == len(recorder.records) == 2


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_stays_on_the_gpu(without_values: Any, stage: str) -> None:
    """Nothing is made on the host and mixed in, from features to AdamW: fake tensors of two devices do not mix.

    The backward pass alone is left out, which torch refuses for a device that is not there.
    """
    task, optim, recorder = STAGES[stage](), OptimConfig(schedule="constant"), Recorder()
    plan = loop.LoopPlan(
        num_steps=2, steps_per_epoch=2, seed=1, optim=optim, validate_after=(), save_every=99, log_every=9,
        ask_every=9,
    )  # fmt: skip
    lost: list[torch.Tensor] = []

    class OnGPU(OneProcess):
        device = torch.device("cuda")

        def backward(self, loss: torch.Tensor) -> None:
            lost.append(loss)
            for parameter in task.parameters():
                parameter.grad = torch.zeros_like(parameter)

    with without_values(task, "cuda"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Meter, "record", lambda *_: (None, (0, 0)))
        batches = [(torch.zeros(4, 6400), torch.zeros(4, dtype=torch.int64)) for _ in range(2)]
        optimizer = loop.make_optimizer(task, optim)
        loop.run_loop(task, optimizer, batches, plan, OnGPU(), recorder)  # type: ignore[arg-type]
    assert len(lost) == 2
    moments = [value for state in optimizer.state.values() for value in state.values()]
    assert moments and {tensor.device.type for tensor in [*lost, *moments, *task.parameters()]} == {"cuda"}
