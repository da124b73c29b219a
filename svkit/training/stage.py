"""The run of one training stage: its loop, log, validation, resume states and interruption."""

import contextlib
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from svkit.config.schema import DataConfig, OptimConfig, SaveConfig
from svkit.data.dataset import CropDataset
from svkit.data.loader import build_loader
from svkit.data.sampler import EpochBatches, TrainSampler
from svkit.errors import ArtifactError, ConfigError, TrainingError
from svkit.models.session import StageOutput, StopSignal, exit_code, on_main
from svkit.progress import Progress, Task
from svkit.store import checkpoint as store
from svkit.store.atomic import one_line
from svkit.training.loop import Interrupted, LoopPlan, Record, make_optimizer, run_loop
from svkit.training.schedule import validation_steps

_LOADER_LOST = "DataLoader worker (pid"
"""How torch begins to say that a loader process has died; it does so within whatever is running."""


@dataclass(kw_only=True)
class Fit:
    """One training run of a stage."""

    accelerator: Accelerator
    output: StageOutput
    task: nn.Module
    dataset: CropDataset
    data: DataConfig
    optim: OptimConfig
    save: SaveConfig
    epochs: float
    validations: int
    seed: int
    label: str
    """Shown beside the progress bar."""
    validate: Callable[[nn.Module, int], Record] | None = None
    """(task, steps done) -> metrics; called by every process."""
    after_validation: Callable[[nn.Module, int, Record, dict[str, Any]], None] | None = None
    """(task, steps done, metrics, facts): main process; may write files and change the facts."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Small JSON facts that survive a resume."""
    state_of: Callable[[nn.Module], dict[str, Tensor]] = lambda task: dict(task.state_dict())


def batch_of_process(output: StageOutput, data: DataConfig) -> DataConfig:
    """Settle how many examples each process takes in a step.

    A run keeps the batch over all processes that it began with, so that steps, learning rates and the order of the
    examples stay what they are: resumed with another number of processes, each takes its part of that batch.

    Returns:
        `data` with the batch size of each process.

    Raises:
        ConfigError: the batch of the interrupted run cannot be shared out evenly.
    """
    begun = store.read_resume_batch(output.path) if output.is_resumed else None
    if begun is None:
        return data
    num_processes = output.accelerator.num_processes
    if begun % num_processes:
        raise ConfigError(
            f"{output.path}: the interrupted run took {begun} examples a step, which {num_processes} processes "
            "cannot share evenly; go on with a number of processes that divides it, or use --overwrite"
        )
    return replace(data, batch_size=begun // num_processes)


def count_steps(dataset_size: int, data: DataConfig, epochs: float, num_processes: int) -> tuple[int, int]:
    """Steps of an epoch and of the whole run."""
    batches = EpochBatches(dataset_size, data, 0, num_processes=num_processes)
    return batches.steps_per_epoch, max(1, round(epochs * batches.steps_per_epoch))


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{index}.{name}": value
        for index, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class _StageHooks:
    def __init__(
        self,
        fit: Fit,
        wrapped: nn.Module,
        optimizer: torch.optim.Optimizer,
        start: int,
        bar: Task,
        stop: StopSignal,
    ):
        self.fit, self.wrapped, self.optimizer, self.bar, self.stop = fit, wrapped, optimizer, bar, stop
        self.num_logged = self.num_saved = start
        self.writer: Any = None
        if fit.accelerator.is_main_process:
            from torch.utils.tensorboard import SummaryWriter

            self.events = fit.output.path / store.TENSORBOARD_NAME
            with one_line(self.events):
                # What a killed run has drawn beyond its last state is drawn again.
                self.writer = SummaryWriter(str(self.events), purge_step=start + 1)

    @property
    def task(self) -> nn.Module:
        return self.fit.accelerator.unwrap_model(self.wrapped)

    def _write(self, record: Record) -> None:
        if self.writer is None:
            return
        store.append_log(self.fit.output.path, record)
        with one_line(self.events):
            for name, value in record.items():
                if isinstance(value, int | float) and name != "step":
                    self.writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])

    def close(self) -> None:
        """Write what TensorBoard still holds."""
        if self.writer is not None:
            with one_line(self.events):
                self.writer.close()

    def on_log(self, record: Record) -> None:
        self._write(record)
        shown = {name: record[name] for name in ("loss", "accuracy", "sparsity") if name in record}
        self.bar.advance(record["step"] - self.num_logged, **shown)
        self.num_logged = record["step"]

    def on_validate(self, num_done: int) -> None:
        fit = self.fit
        if fit.validate is None:
            return
        metrics = fit.validate(self.task, num_done)

        def action() -> dict[str, Any]:
            if fit.after_validation is not None:
                fit.after_validation(self.task, num_done, metrics, fit.facts)
            self._write({"kind": "valid", "step": num_done, **metrics})
            return fit.facts

        fit.facts.update(on_main(fit.accelerator, action))

    def on_save(self, num_done: int) -> None:
        fit = self.fit

        def action() -> None:
            state = store.ResumeState(
                num_done=num_done,
                batch_size=fit.data.batch_size * fit.accelerator.num_processes,
                task=fit.state_of(self.task),
                optimizer=_optimizer_tensors(self.optimizer),
                facts=fit.facts,
                best_step=fit.facts.get("best", {}).get("step"),
            )
            try:
                store.write_resume(fit.output.path, state, fit.save.keep_last)
            except ArtifactError as error:
                raise ArtifactError(f"{error}; {self.what_is_kept()}") from error

        on_main(fit.accelerator, action)
        self.num_saved = num_done

    def what_is_kept(self) -> str:
        """Say from where the same command goes on."""
        kept = f"the state after step {self.num_saved} is" if self.num_saved else "no state is"
        return f"{kept} kept, the same command goes on"

    def should_stop(self) -> bool:
        return self.stop.received is not None


def fit_task(fit: Fit, progress: Progress) -> nn.Module:
    """Train the task of a stage, resuming where an interrupted run left off.

    Returns:
        The task with its final state.

    Raises:
        SystemExit: 130 after SIGINT, 143 after SIGTERM or SIGHUP, the state saved.
        TrainingError: training diverged.
    """
    accelerator = fit.accelerator
    per_epoch, num_steps = count_steps(len(fit.dataset), fit.data, fit.epochs, accelerator.num_processes)
    optimizer = make_optimizer(cast(Any, fit.task), fit.optim)
    start = _resume(fit, optimizer, num_steps, progress)
    fit.task.to(accelerator.device)
    _move_optimizer(optimizer, accelerator.device)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        fit.task = nn.SyncBatchNorm.convert_sync_batchnorm(fit.task)
    wrapped = accelerator.prepare_model(fit.task)
    batches = EpochBatches(
        len(fit.dataset),
        fit.data,
        fit.seed,
        rank=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    loader = build_loader(
        fit.dataset,
        TrainSampler(batches, start, num_steps - start),
        num_workers=fit.data.num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    plan = LoopPlan(
        num_steps=num_steps,
        steps_per_epoch=per_epoch,
        seed=fit.seed,
        optim=fit.optim,
        validate_after=validation_steps(num_steps, fit.validations),
        save_every=fit.save.every_steps,
        save_every_seconds=60 * fit.save.every_minutes,
        start=start,
    )
    stop = StopSignal()
    with stop.installed(), progress.task(fit.label, num_steps) as bar:
        bar.advance(start)
        hooks = _StageHooks(fit, wrapped, optimizer, start, bar, stop)
        try:
            skipped = run_loop(wrapped, optimizer, loader, plan, accelerator, hooks)
            if skipped:
                progress.note(
                    f"{fit.label}: {skipped} steps were skipped, their loss or gradient was not finite"
                )
        except BaseException as reason:
            with contextlib.suppress(ArtifactError):  # a full disk has been reported
                hooks.close()
            if isinstance(reason, RuntimeError) and str(reason).startswith(_LOADER_LOST):
                raise TrainingError(
                    f"{fit.label}: {str(reason).splitlines()[0].strip()} The system ends processes when memory runs"
                    f" out: a smaller data.num_workers takes less; {hooks.what_is_kept()}"
                ) from reason
            if not isinstance(reason, Interrupted):
                raise
            progress.note(
                f"interrupted: the state is saved in {fit.output.path}; the same command goes on from there"
            )
            fit.output.__exit__()
            sys.exit(exit_code(stop.received or signal.SIGINT))
        hooks.close()
    return accelerator.unwrap_model(wrapped)


def _resume(fit: Fit, optimizer: torch.optim.Optimizer, num_steps: int, progress: Progress) -> int:
    state = store.read_resume(fit.output.path, num_steps, progress.note) if fit.output.is_resumed else None
    if fit.accelerator.is_main_process:
        store.truncate_log(fit.output.path, 0 if state is None else state.num_done)
    if state is None:
        return 0
    expected = fit.state_of(fit.task)
    store.check_keys(list(state.task), list(expected), f"{fit.output.path}/{store.RESUME_NAME}")
    fit.task.load_state_dict(state.task, strict=False)
    _load_optimizer(optimizer, state.optimizer)
    fit.facts.update(state.facts)
    progress.note(f"{fit.label}: going on after step {state.num_done}")
    return state.num_done


def _move_optimizer(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    for entry in optimizer.state.values():
        for name, value in entry.items():
            if isinstance(value, Tensor):
                entry[name] = value.to(device)
