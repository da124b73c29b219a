"""The one training loop, for every stage.

All randomness of a step (dropout, gates, SpecAugment) comes from torch's generator, seeded from (seed, step, rank)
before the step; the data of a step and the learning rate are functions of the step too. So the state of a run is the
step, the tensors of the task and of the optimiser, and a resumed run equals an uninterrupted one bit for bit on a CPU.
"""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from svkit.config.schema import OptimConfig
from svkit.errors import TrainingError
from svkit.training.schedule import learning_rate
from svkit.training.tasks import Task

MAX_SKIPPED_STEPS = 20
"""Consecutive steps with a non-finite loss or gradient before training gives up."""

Batch = tuple[Tensor, Tensor]
Record = dict[str, Any]


class Interrupted(Exception):
    """The user or the system asked to stop; the state is saved."""


class Hooks(Protocol):
    """What the stage does at moments of the loop; every process calls every hook."""

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
    log_every: int = 10
    start: int = 0
    """Steps already done (resume)."""


def make_optimizer(task: Task, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the task's groups; every trainable parameter is in exactly one of them."""
    groups = task.parameter_groups(optim)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    wanted = {id(parameter) for parameter in task.parameters() if parameter.requires_grad}
    assert len(grouped) == len(set(grouped)) and set(grouped) == wanted
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
    count: int = 0
    examples: int = 0
    since: float = field(default_factory=time.perf_counter)

    def add(self, losses: Mapping[str, Tensor], norms: Mapping[str, Tensor], examples: int) -> None:
        values = {**losses, **{f"grad_norm_{name}": norm for name, norm in norms.items()}}
        for name, value in values.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1
        self.examples += examples

    def record(self, accelerator: Accelerator) -> Record:
        names = sorted(self.sums)
        means = torch.stack([self.sums[name].to(accelerator.device) for name in names]) / self.count
        if accelerator.num_processes > 1:
            means = accelerator.reduce(means, "mean")
        elapsed = max(time.perf_counter() - self.since, 1e-9)
        rate = self.examples * accelerator.num_processes / elapsed
        return {**dict(zip(names, means.tolist(), strict=True)), "examples_per_second": round(rate, 2)}


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
    meter, skipped, skipped_in_a_row = _Meter(), 0, 0
    norms = [module for module in task.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    statistics = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
    task.train()
    saved_at = time.monotonic()
    for step, (waveforms, labels) in enumerate(batches, start=plan.start):
        # From here to the optimiser, everything follows from the step and the state: no draw is left over from the
        # step before, so it does not matter whether this process has made that one.
        lr = learning_rate(plan.optim, step, plan.steps_per_epoch, plan.num_steps)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_factor"]
        seed_step(plan.seed, step, accelerator.process_index)
        # A forward pass changes the batch norms' statistics: a step that is skipped must not leave its NaN there.
        before = [buffer.clone() for buffer in statistics]
        losses = task(waveforms.to(accelerator.device), labels.to(accelerator.device), step)
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(losses["loss"])
        # Each group on its own, as published: a large gradient of the classifier would else shrink the encoder's.
        grad_norms = {
            name: torch.nn.utils.clip_grad_norm_(parameters, plan.optim.clip_norm)
            for name, parameters in groups.items()
            if parameters
        }
        finite = torch.stack([losses["loss"].detach(), *grad_norms.values()]).isfinite().all()
        # All or none: the exchanged gradients are alike, but a loss may be bad in one process alone, and the
        # processes would drift apart for good.
        if not _any_process(not bool(finite), accelerator):
            optimizer.step()
            meter.add(losses, grad_norms, len(labels))
            skipped_in_a_row = 0
        else:
            for buffer, value in zip(statistics, before, strict=True):
                buffer.copy_(value)
            skipped, skipped_in_a_row = skipped + 1, skipped_in_a_row + 1
            if skipped_in_a_row >= MAX_SKIPPED_STEPS:
                # Skipped steps leave no trace: this is the state after the last good one.
                hooks.on_save(step + 1 - skipped_in_a_row)
                raise TrainingError(
                    f"step {step}: the loss or its gradient was not finite in {skipped_in_a_row} steps in a row; "
                    "the last good state is kept: lower the learning rate (--set optim.lr=...) or check the audio"
                )
        done = step + 1
        if meter.count and (done % plan.log_every == 0 or done == plan.num_steps):
            epoch = round(done / plan.steps_per_epoch, 4)
            hooks.on_log(
                {"kind": "train", "step": done, "epoch": epoch, "lr": lr, "skipped": skipped}
                | meter.record(accelerator)
            )
            meter = _Meter()
        if done in plan.validate_after:
            task.eval()
            hooks.on_validate(done)
            task.train()
            meter.since = time.perf_counter()
        # Signals and clocks differ between processes: what one wants, all do, at the same step. A stop may arrive
        # between the two questions, so the second asks all again instead of trusting the first.
        is_late = time.monotonic() - saved_at >= plan.save_every_seconds
        must_save = _any_process(hooks.should_stop() or is_late, accelerator)
        must_stop = must_save and _any_process(hooks.should_stop(), accelerator)
        # After a validation too: the best state is named by its step, and the facts that mention it are in the state.
        if must_save or done % plan.save_every == 0 or done in plan.validate_after:
            hooks.on_save(done)
            saved_at = time.monotonic()
        if must_stop:
            raise Interrupted
    return skipped


def _any_process(flag: bool, accelerator: Accelerator) -> bool:
    if accelerator.num_processes == 1:
        return flag
    count = torch.tensor([int(flag)], device=accelerator.device)
    return bool(accelerator.reduce(count, "sum").item())
