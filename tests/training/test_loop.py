"""The loop: clipping per module, steps that are skipped, stopping, and runs that repeat bit for bit."""

import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from svkit.config.schema import OptimConfig
from svkit.errors import TrainingError
from svkit.training.loop import MAX_SKIPPED_STEPS, Interrupted, LoopPlan, make_optimizer, run_loop, seed_step
from svkit.training.tasks import Task
from tests.training.conftest import Recorder

OPTIM = OptimConfig(lr=1e-2, schedule="constant")
Batches = list[tuple[Tensor, Tensor]]


class ToyTask(Task):
    """Two modules with dropout and a batch norm; the loss of step n is multiplied by `scales[n]`."""

    def __init__(self, scales: dict[int, float] | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.norm, self.second = nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)
        self.scales = scales or {}
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, waveforms: Tensor, labels: Tensor, step: int, part: int = 0) -> dict[str, Tensor]:
        hidden = self.norm(self.first(waveforms * self.scales.get(step, 1.0)))
        logits = self.second(nn.functional.dropout(hidden, 0.3, self.training))
        return {"loss": nn.functional.cross_entropy(logits, labels) * self.scales.get(step, 1.0)}

    def parameter_groups(self, optim: OptimConfig) -> list[dict]:
        slow = [*self.second.parameters()]
        fast = [*self.first.parameters(), *self.norm.parameters()]
        return [{"params": fast, "lr_factor": 1.0, "weight_decay": 0.0}, {"params": slow, "lr_factor": 0.5}]

    def clip_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"model": [*self.first.parameters()], "classifier": [*self.second.parameters()], "none": []}


def batches(num_steps: int, start: int = 0) -> Batches:
    made = []
    for step in range(start, num_steps):
        generator = torch.Generator().manual_seed(100 + step)
        made.append(
            (torch.randn((5, 4), generator=generator), torch.randint(0, 2, (5,), generator=generator))
        )
    return made


def plan(num_steps: int, **changes) -> LoopPlan:
    facts = {
        "steps_per_epoch": 4,
        "seed": 3,
        "optim": OPTIM,
        "validate_after": (),
        "save_every": 1000,
        "log_every": 1,
    }
    return LoopPlan(num_steps=num_steps, **{**facts, **changes})


def trained(accelerator, num_steps: int, task: ToyTask | None = None, **changes) -> tuple[ToyTask, Recorder]:
    task, recorder = task or ToyTask(), Recorder()
    run_loop(
        task,
        make_optimizer(task, OPTIM),
        batches(num_steps),
        plan(num_steps, **changes),
        accelerator,
        recorder,
    )
    return task, recorder


def equal_states(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def test_two_runs_with_a_seed_are_identical_and_another_seed_differs(accelerator):
    (first, a), (second, b) = trained(accelerator, 6), trained(accelerator, 6)
    assert a.column("loss") == b.column("loss") and equal_states(first, second)
    _, other = trained(accelerator, 6, seed=4)
    assert other.column("loss")[0] != a.column("loss")[0]  # the dropout of the first step


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(accelerator):
    whole, record = trained(accelerator, 7)
    task, recorder = ToyTask(), Recorder(stop_after=3)
    optimizer = make_optimizer(task, OPTIM)
    with pytest.raises(Interrupted):
        run_loop(task, optimizer, batches(7), plan(7), accelerator, recorder)
    assert recorder.saved == [3] and recorder.column("loss") == record.column("loss")[:3]
    torch.manual_seed(12345)  # whatever happens between the two processes
    resumed = ToyTask()
    resumed.load_state_dict(task.state_dict())
    fresh, again = make_optimizer(resumed, OPTIM), Recorder()
    fresh.load_state_dict(optimizer.state_dict())
    run_loop(resumed, fresh, batches(7, start=3), plan(7, start=3), accelerator, again)
    assert again.column("loss") == record.column("loss")[3:] and again.column("step") == [4, 5, 6, 7]
    assert equal_states(whole, resumed)


def test_a_stop_after_the_last_step_is_not_forgotten(accelerator):
    """The stage after this one must not begin; the saved state ends at once when the run goes on."""
    task, recorder = ToyTask(), Recorder(stop_after=3)
    with pytest.raises(Interrupted):
        run_loop(task, make_optimizer(task, OPTIM), batches(3), plan(3), accelerator, recorder)
    assert recorder.column("step") == [1, 2, 3] and recorder.saved == [3]
    run_loop(task, make_optimizer(task, OPTIM), [], plan(3, start=3), accelerator, Recorder())


def test_saves_follow_steps_and_time(accelerator):
    _, recorder = trained(accelerator, 5, save_every=2)
    assert recorder.saved == [2, 4]
    _, recorder = trained(accelerator, 5, save_every=2, save_every_seconds=0.0)
    assert recorder.saved == [1, 2, 3, 4, 5]
    _, recorder = trained(accelerator, 5, save_every_seconds=3600.0)
    assert recorder.saved == []


def test_gradients_are_clipped_for_each_module_on_its_own(accelerator, monkeypatch):
    clipped: list[tuple[int, float]] = []
    original = nn.utils.clip_grad_norm_

    def watched(parameters, limit):
        norm = original(parameters, limit)
        after = torch.cat([p.grad.flatten() for p in parameters]).norm()
        clipped.append((len(parameters), float(after)))
        assert float(after) == pytest.approx(min(float(norm), limit), rel=1e-4)
        return norm

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", watched)
    _, recorder = trained(accelerator, 1, ToyTask({0: 50.0}))
    assert [count for count, _ in clipped] == [2, 2]
    assert all(norm == pytest.approx(1.0, rel=1e-4) for _, norm in clipped)
    # What is logged is the norm before it was clipped.
    assert recorder.column("grad_norm_model")[0] > 1 and recorder.column("grad_norm_classifier")[0] > 1


def test_groups_have_their_own_rates(accelerator):
    task = ToyTask()
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    trained(accelerator, 1, task)
    # The first step of Adam moves every weight by its rate.
    moved = {name: float((p.detach() - before[name]).abs().max()) for name, p in task.named_parameters()}
    assert moved["first.weight"] == pytest.approx(1e-2, rel=0.05)
    assert moved["second.bias"] == pytest.approx(0.5e-2, rel=0.05)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_step_is_skipped_without_a_trace(accelerator, value):
    clean, broken = ToyTask(), ToyTask({2: value})
    optimizer, recorder = make_optimizer(broken, OPTIM), Recorder()
    assert run_loop(broken, optimizer, batches(3), plan(3), accelerator, recorder) == 1
    run_loop(clean, make_optimizer(clean, OPTIM), batches(2), plan(2), accelerator, Recorder())
    assert equal_states(clean, broken)  # weights and running statistics
    assert bool(torch.isfinite(broken.norm.running_mean).all())
    assert recorder.column("step") == [1, 2]  # nothing to log for the skipped one
    run_loop(broken, optimizer, batches(5, start=3), plan(5, start=3), accelerator, recorder)
    assert recorder.column("step") == [1, 2, 4, 5]


def test_too_many_non_finite_steps_in_a_row_end_training(accelerator):
    task = ToyTask({step: float("nan") for step in range(3, 40)})
    kept, recorder = ToyTask(), Recorder()
    with pytest.raises(
        TrainingError, match=rf"step {2 + MAX_SKIPPED_STEPS}: .* not finite in 20 steps in a row"
    ):
        run_loop(task, make_optimizer(task, OPTIM), batches(40), plan(40), accelerator, recorder)
    assert recorder.saved == [3]  # to go on from when the cause is mended
    run_loop(kept, make_optimizer(kept, OPTIM), batches(3), plan(3), accelerator, Recorder())
    assert equal_states(kept, task)
    # A good step in between starts the count again.
    task = ToyTask({step: float("nan") for step in range(40) if step % 20})
    assert run_loop(task, make_optimizer(task, OPTIM), batches(40), plan(40), accelerator, Recorder()) == 38


def test_records_are_means_since_the_last_record(accelerator):
    _, single = trained(accelerator, 6)
    _, grouped = trained(accelerator, 6, log_every=4)
    assert grouped.column("step") == [4, 6] and grouped.column("epoch") == [1.0, 1.5]
    losses = single.column("loss")
    assert grouped.column("loss") == pytest.approx([sum(losses[:4]) / 4, sum(losses[4:]) / 2])
    assert grouped.records[0]["kind"] == "train" and grouped.column("examples_per_second")[0] > 0


def test_the_rate_counts_steps_before_a_validation_and_not_the_validation(accelerator):
    def slowly(made: Batches) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in made:
            time.sleep(0.05)
            yield batch

    task, recorder = ToyTask(), Recorder(validate=lambda: time.sleep(1))
    changed = plan(4, log_every=4, validate_after=(2,))
    run_loop(task, make_optimizer(task, OPTIM), slowly(batches(4)), changed, accelerator, recorder)
    (rate,) = recorder.column("examples_per_second")
    assert 20 / 1.2 < rate < 20 / 0.2  # 20 examples in 0.2 s or a little more


def test_validation_runs_in_evaluation_mode_and_changes_nothing(accelerator):
    plain, _ = trained(accelerator, 6)
    task, recorder = ToyTask(), Recorder()
    modes: list[bool] = []

    def validate() -> None:
        modes.append(task.training)
        task(torch.randn(5, 4), torch.zeros(5, dtype=torch.int64), 0)
        torch.rand(3)

    recorder.validate = validate
    run_loop(
        task, make_optimizer(task, OPTIM), batches(6), plan(6, validate_after=(2, 6)), accelerator, recorder
    )
    assert modes == [False, False] and recorder.validated == [2, 6] == recorder.saved
    assert task.training and equal_states(plain, task)


def test_states_are_saved_every_so_often(accelerator):
    _, recorder = trained(accelerator, 7, save_every=3)
    assert recorder.saved == [3, 6]


def test_a_parameter_in_no_group_or_in_two_is_a_bug():
    class Forgetful(ToyTask):
        def parameter_groups(self, optim: OptimConfig) -> list[dict]:
            return super().parameter_groups(optim)[:1]

    with pytest.raises(AssertionError):
        make_optimizer(Forgetful(), OPTIM)


def test_steps_and_processes_have_different_randomness():
    def draw(*where: int) -> float:
        seed_step(*where)
        return float(torch.rand(()))

    values = [draw(*where) for where in ((1, 0, 0), (1, 1, 0), (1, 0, 1), (2, 0, 0))]
    assert len(set(values)) == 4 and draw(1, 0, 0) == values[0]


def test_the_loader_may_be_any_iterable(accelerator):
    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        yield from batches(4)

    task = ToyTask()
    assert run_loop(task, make_optimizer(task, OPTIM), endless(), plan(4), accelerator, Recorder()) == 0
