"""What every training stage shares: processes and precision, output directory, resume, log, interruption.

A stage opens a `Session`, builds its task from inputs and configuration alone, and hands both to `fit`. Only the main
process writes; the others wait for it where the output is opened and where it is finished.
"""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, broadcast_object_list
from torch import Tensor, nn

from svkit.config.schema import DataConfig, OptimConfig, SaveConfig
from svkit.data.dataset import CropDataset
from svkit.data.loader import build_loader
from svkit.data.sampler import EpochBatches, TrainSampler
from svkit.errors import ArtifactError, ConfigError, SvkitError, TrainingError
from svkit.progress import Progress, Task
from svkit.store import checkpoint as store
from svkit.store.atomic import one_line
from svkit.store.output import Output, open_output
from svkit.train.allocator import keep_freed_memory
from svkit.train.loop import Interrupted, LoopPlan, Record, make_optimizer, run_loop
from svkit.train.precision import resolve_precision
from svkit.train.schedule import validation_steps

_KINDS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
"""One process, or whole copies of the model in each of several."""
_LOADER_LOST = "DataLoader worker (pid"
"""How torch begins to say that a loader process has died; it does so within whatever is running."""
DOUBLE_SIGNAL_SECONDS = 1.0
"""Launchers and terminals may deliver one request to stop twice (process group and process) within this time."""


def make_accelerator(precision: str) -> Accelerator:
    """Processes, device and autocast (Hugging Face Accelerate: one process, torchrun, several machines).

    Raises:
        ConfigError: `accelerate launch` asks for FSDP, DeepSpeed or the like.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    resolved = resolve_precision(precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    if not torch.distributed.is_initialized():
        # Accelerate keeps the first precision of a Python process for good; another stage may want another one.
        AcceleratorState._reset_state(reset_partial_state=True)
    # Gradients as views of the buckets they are exchanged in: one copy of them instead of two.
    exchange = DistributedDataParallelKwargs(find_unused_parameters=False, gradient_as_bucket_view=True)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if resolved == "bf16" else "no",
        kwargs_handlers=[exchange],
    )
    if accelerator.distributed_type not in _KINDS:
        raise ConfigError(
            f"{accelerator.distributed_type.value}: not supported, it would shard what svkit saves and clips as a "
            "whole; start the processes with torchrun, and see gradient_checkpointing for small GPUs"
        )
    return accelerator


def on_main(accelerator: Accelerator, action: Callable[[], Any]) -> Any:
    """Run `action` on the main process and return its result everywhere; its error ends every process."""
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = action()
        except (SvkitError, OSError) as error:
            outcome[1] = error
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome, from_process=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def exit_code(number: int) -> int:
    """Return the exit code of a command that a signal has stopped: a dropped terminal (SIGHUP) terminates too."""
    return 130 if number == signal.SIGINT else 143


@dataclass
class StopSignal:
    """Turns SIGINT, SIGTERM and SIGHUP into a request to save and stop; a second one stops at once."""

    received: int | None = None
    _since: float = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.received is None:
            self.received, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > DOUBLE_SIGNAL_SECONDS:
            sys.exit(exit_code(number))

    @contextlib.contextmanager
    def installed(self) -> Iterator["StopSignal"]:
        """Handle the signals inside the block (main thread only); what is ignored, as under nohup, stays ignored."""
        previous = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    previous[number] = signal.signal(number, self)
        except ValueError:  # not the main thread: leave the signals alone
            pass
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


class StageOutput:
    """The output directory of a stage as every process sees it; the main one holds the lock."""

    def __init__(
        self, accelerator: Accelerator, directory: Path, output: Output | None, is_resumed: bool
    ) -> None:
        self.accelerator = accelerator
        self.path = directory
        self.is_resumed = is_resumed
        self._output = output

    def input_hash(self, name: str) -> str:
        """Return the sha256 that an input had when the stage began (main process)."""
        assert self._output is not None
        return next(entry["sha256"] for entry in self._output.inputs if entry["name"] == name)

    def recorded(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record as it is written here (main process); see `svkit.store.places`."""
        assert self._output is not None
        return self._output.recorded(record)

    def finish(self, extra: Mapping[str, Any]) -> None:
        """Write the provenance (main process), then wait for each other."""

        def action() -> None:
            assert self._output is not None
            # In this order: killed in between, the output is finished, not without result and state.
            self._output.finish({"num_processes": self.accelerator.num_processes, **extra})
            store.remove_resume(self.path)

        on_main(self.accelerator, action)

    def __enter__(self) -> "StageOutput":
        """Return the output."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        if self._output is not None:
            self._output.close()


def open_stage(
    accelerator: Accelerator,
    directory: Path,
    *,
    command: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Path],
    overwrite: bool,
    experiment: Path,
) -> StageOutput:
    """Open the output of a stage; see `svkit.store.provenance.open_output`."""
    held: list[Output] = []

    def action() -> bool:
        held.append(
            open_output(
                directory,
                command=command,
                config=config,
                inputs=inputs,
                overwrite=overwrite,
                experiment=experiment,
            )
        )
        return held[0].is_resumed

    is_resumed = on_main(accelerator, action)
    return StageOutput(accelerator, directory, held[0] if held else None, is_resumed)


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
