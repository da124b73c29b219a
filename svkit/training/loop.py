"""The one training loop, for every stage.

All randomness of a step (dropout, gates, SpecAugment) comes from torch's generator, seeded from (seed, step, rank)
before the step; the data of a step and the learning rate are functions of the step too. So the state of a run is the
step, the tensors of the task and of the optimiser, and a resumed run equals an uninterrupted one bit for bit on a CPU.
"""

import contextlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from svkit.config.schema import OptimConfig
from svkit.errors import TrainingError
from svkit.training.schedule import learning_rate
from svkit.training.tasks import Losses, Task

MAX_SKIPPED_STEPS = 20
"""Consecutive steps with a non-finite loss or gradient before training gives up."""

LOG_EVERY = 10

Batch = tuple[Tensor, Tensor]
Record = dict[str, Any]


class Interrupted(Exception):
    """The user or the system asked to stop; the state is saved."""


class Hooks(Protocol):
    """Callbacks from the loop to the stage; every process calls every hook."""

    def on_log(self, record: Record) -> None:
        """Receive the metrics of the last steps."""

    def on_validate(self, num_done: int) -> None:
        """Validate after `num_done` steps."""

    def on_save(self, num_done: int) -> None:
        """Save the state after `num_done` steps."""

    def should_stop(self) -> bool:
        """Whether to save and stop now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopPlan:
    """Length and rhythm of a run."""

    num_steps: int
    steps_per_epoch: int
    seed: int
    optim: OptimConfig
    validate_after: tuple[int, ...]
    """Numbers of done steps."""
    save_every: int
    save_every_seconds: float = math.inf
    log_every: int = LOG_EVERY
    start: int = 0
    """Steps already done (resume)."""
    ask_every: int = 1
    """Steps between two reads of values from the device; divides `log_every`. A read waits until a GPU has finished
    all earlier work; on a CPU it is free."""
    micro_batch: int | None = None
    """Examples of a process whose activations are held at once; None: the whole batch."""


def make_optimizer(task: Task, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the task's groups; every trainable parameter is in exactly one of them."""
    groups = task.parameter_groups(optim)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    wanted = {id(parameter) for parameter in task.parameters() if parameter.requires_grad}
    # A parameter that is in no group would silently keep its first value.
    assert len(grouped) == len(set(grouped)) and set(grouped) == wanted
    # Only the fused form can be told on the device to leave out a step (`_Skips.step`).
    optimizer = torch.optim.AdamW(groups, lr=optim.lr, fused=True)
    task.attach(optimizer)
    return optimizer


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's generators for one step of one process."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]) >> 1)


@dataclass(slots=True)
class _Meter:
    """Sums of the metrics since the last record, on the device: reading a value would wait for the GPU."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    examples: int = 0
    since: float = field(default_factory=time.perf_counter)

    def add(self, values: Mapping[str, Tensor], is_good: Tensor, examples: int) -> None:
        """Add the values of a step; unless `is_good`, they count as nothing."""
        for name, value in {**values, _COUNT: is_good}.items():
            # Not a product with `is_good`: 0 times NaN is NaN.
            value = torch.where(is_good, value.detach().float(), 0.0)
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.examples += examples

    def record(self, accelerator: Accelerator, counts: Tensor) -> tuple[Record | None, list[int]]:
        """Read, at once, means over the good steps and all processes (None where no step was good), and `counts`."""
        names = sorted(self.sums)
        sums = torch.stack([self.sums[name] for name in names])
        if accelerator.num_processes > 1:
            sums = accelerator.reduce(sums, "mean")
        values = torch.cat([sums / self.sums[_COUNT], counts]).tolist()
        means = dict(zip(names, values, strict=False))
        counted = [round(value) for value in values[len(names) :]]
        if means.pop(_COUNT) != 1:  # NaN: 0 of 0 steps
            return None, counted
        elapsed = max(time.perf_counter() - self.since, 1e-9)
        rate = self.examples * accelerator.num_processes / elapsed
        return {**means, "examples_per_second": round(rate, 2)}, counted


_COUNT = "count"
"""Key of the number of good steps among the sums of a meter."""


class _Skips:
    """Steps whose loss or gradient is not finite: counted, and undone, on the device."""

    def __init__(self, task: nn.Module, accelerator: Accelerator) -> None:
        norms = [module for module in task.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        self._statistics = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        self._before: list[Tensor] = []
        self.counts = torch.zeros(2, device=accelerator.device)
        """Steps skipped so far, and how many of them in a row just now."""
        self._accelerator = accelerator

    def begin(self) -> None:
        """Remember what a forward pass changes: a step that is skipped must not leave its NaN there."""
        self._before = [buffer.clone() for buffer in self._statistics]

    def step(self, optimizer: torch.optim.AdamW, values: Sequence[Tensor]) -> Tensor:
        """Let the optimiser take its step if these values are finite in all processes; returns whether they are.

        All processes take the step, or none does: the exchanged gradients are equal, but a loss may be bad in one
        process alone, and the processes would then drift apart for good.
        """
        is_bad = ~torch.stack(list(values)).isfinite().all()
        if self._accelerator.num_processes > 1:
            is_bad = self._accelerator.reduce(is_bad.float(), "sum") > 0
        # GradScaler's way to make the fused optimiser skip a step: the kernel reads the flag, so the host never waits.
        optimizer.found_inf = is_bad.float()  # type: ignore[attr-defined]
        optimizer.step()
        for buffer, value in zip(self._statistics, self._before, strict=True):
            buffer.copy_(torch.where(is_bad, value, buffer))
        self.counts = torch.stack([self.counts[0] + is_bad, (self.counts[1] + 1) * is_bad])
        return ~is_bad


def backward(task: nn.Module, batch: Batch, step: int, plan: LoopPlan, accelerator: Accelerator) -> Losses:
    """Add the gradients of a step's loss; returns its losses.

    A batch larger than `plan.micro_batch` is taken in parts whose losses, weighted by their examples, and gradients add
    up to those of the whole; processes exchange gradients once, with the last part. What a step draws once (classes,
    gates) is the same in every part. Batch norm alone sees a part at a time, see `pace_batch_norms`.
    """
    waveforms, labels = (tensor.to(accelerator.device, non_blocking=True) for tensor in batch)
    size = plan.micro_batch or len(labels)
    labels = accelerator.unwrap_model(task).choose(labels, step)
    parts = list(zip(waveforms.split(size), labels.split(size), strict=True))
    total: Losses = {}
    for number, (some_waveforms, some_labels) in enumerate(parts):
        seed_step(plan.seed, step, accelerator.process_index)
        exchange = contextlib.nullcontext() if number == len(parts) - 1 else accelerator.no_sync(task)
        with exchange:
            losses: Losses = task(some_waveforms, some_labels, step, number)
            share = len(some_labels) / len(labels)
            accelerator.backward(share * losses["loss"])
        for name, value in losses.items():
            value = share * value.detach()
            total[name] = total[name] + value if name in total else value
    return total


def pace_batch_norms(task: nn.Module, num_parts: int) -> None:
    """Set momenta so that the parts of a batch together move running statistics as far as the whole batch would."""
    for module in task.modules() if num_parts > 1 else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is not None:
            module.momentum = 1 - (1 - module.momentum) ** (1 / num_parts)


def run_loop(
    task: nn.Module,
    optimizer: torch.optim.AdamW,
    batches: Iterable[Batch],
    plan: LoopPlan,
    accelerator: Accelerator,
    hooks: Hooks,
) -> int:
    """Train a task as prepared by the accelerator, on batches of the steps from `plan.start` on.

    Returns:
        The number of steps that were skipped because of a non-finite loss or gradient.

    Raises:
        TrainingError: too many non-finite steps in a row; the state before them was saved.
        Interrupted: a hook asked to stop; the state was saved.
    """
    groups = accelerator.unwrap_model(task).clip_groups()
    meter, skips, num_skipped, in_a_row = _Meter(), _Skips(task, accelerator), 0, 0
    task.train()
    saved_at = time.monotonic()
    for step, batch in enumerate(batches, start=plan.start):
        # From here to the optimiser, everything follows from the step and the state. No random draw is left over from
        # the previous step, so a resumed process need not have made that one.
        lr = learning_rate(plan.optim, step, plan.steps_per_epoch, plan.num_steps)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]
        skips.begin()
        optimizer.zero_grad(set_to_none=True)
        losses = backward(task, batch, step, plan, accelerator)
        # Each group on its own, as published: a large gradient of the classifier would else shrink the encoder's.
        norms = {
            f"grad_norm_{name}": torch.nn.utils.clip_grad_norm_(parameters, plan.optim.clip_norm)
            for name, parameters in groups.items()
            if parameters
        }
        is_good = skips.step(optimizer, [losses["loss"].detach(), *norms.values()])
        meter.add({**losses, **norms}, is_good, len(batch[1]))
        done = step + 1
        must_log = done % plan.log_every == 0 or done == plan.num_steps
        may_ask = must_log or done % plan.ask_every == 0
        record: Record | None = None
        if must_log:
            record, (num_skipped, in_a_row) = meter.record(accelerator, skips.counts)
            meter = _Meter()
        elif may_ask:
            num_skipped, in_a_row = skips.counts.int().tolist()
        if may_ask and in_a_row >= MAX_SKIPPED_STEPS:
            # Skipped steps leave no trace: this is the state after the last good one.
            hooks.on_save(done - in_a_row)
            raise TrainingError(
                f"step {step}: the loss or its gradient was not finite in {in_a_row} steps in a row; "
                "the last good state is kept; lower the learning rate (--set optim.lr=...) or check the audio"
            )
        if record:
            epoch = round(done / plan.steps_per_epoch, 4)
            hooks.on_log(
                {"kind": "train", "step": done, "epoch": epoch, "lr": lr, "skipped": num_skipped} | record
            )
        if done in plan.validate_after:
            paused = time.perf_counter()
            task.eval()
            hooks.on_validate(done)
            task.train()
            meter.since += time.perf_counter() - paused  # the meter may hold steps from before the validation
        # Signals and clocks differ between processes: if one wants to stop or save, all do, at the same step.
        is_late = time.monotonic() - saved_at >= plan.save_every_seconds
        must_stop, must_save = _any_process([hooks.should_stop(), is_late], may_ask, accelerator)
        # After a validation too: the best state is named by its step, and the facts that mention it are in the state.
        if must_stop or must_save or done % plan.save_every == 0 or done in plan.validate_after:
            hooks.on_save(done)
            saved_at = time.monotonic()
        if must_stop:
            raise Interrupted
    return num_skipped


def _any_process(flags: list[bool], may_ask: bool, accelerator: Accelerator) -> list[bool]:
    """Say which of the flags any process has raised; several processes exchange them only where `may_ask`."""
    if accelerator.num_processes == 1:
        return flags
    if not may_ask:
        return [False] * len(flags)
    counts = torch.tensor(flags, dtype=torch.int64, device=accelerator.device)
    return [count > 0 for count in accelerator.reduce(counts, "sum").tolist()]
