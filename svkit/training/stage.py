"""A training stage and its run: inputs, task, loop, log, validation, resume states, interruption, result.

A stage (`finetune`, `prune`, `distill`) says what decides its result and how its task is made, validated and written;
`run_stages` does the rest, in the same way for every stage.
"""

import contextlib
import copy
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from svkit.config.schema import DataConfig, DistillConfig, StageConfig
from svkit.cores import available_cores
from svkit.data.dataset import CropDataset
from svkit.data.loader import LoaderLost, build_loader
from svkit.data.sampler import EpochBatches
from svkit.errors import ArtifactError, ConfigError, DataError, TrainingError
from svkit.models.session import StopSignal, finish, make_accelerator, on_main, opened, unfinished
from svkit.nn.precision import is_emulated
from svkit.progress import Progress
from svkit.progress import Task as Bar
from svkit.reports.card import write_card
from svkit.store import checkpoint
from svkit.store.atomic import one_line
from svkit.store.block_cache import BlockCache
from svkit.store.manifest import Manifest, read_manifest
from svkit.store.output import Output
from svkit.store.request import RunRequest
from svkit.training.loop import (
    LOG_EVERY,
    Interrupted,
    LoopPlan,
    Record,
    make_optimizer,
    pace_batch_norms,
    run_loop,
)
from svkit.training.resume import load_optimizer, load_trained, on_host, optimizer_tensors, read_shared
from svkit.training.schedule import validation_steps
from svkit.training.tasks import Task


@dataclass(kw_only=True)
class Stage:
    """What decides the result of a training stage, and how its task is made, validated and written.

    The methods are called in the order they stand here; a stage keeps what it has read and made.
    """

    request: RunRequest
    output: Output
    config: StageConfig | DistillConfig
    validations: int | None
    """Number of even spans of the run; `validate` is called and the state saved after each. None: after every epoch."""
    validate_every_steps: int | None = None
    """Validate also after each this many steps within an epoch."""
    facts: checkpoint.Validations = field(default_factory=dict)
    """Survives a resume (main process); empty if the stage keeps no best state."""
    task: Task = field(init=False)
    """The result of `make_task`."""

    @property
    def label(self) -> str:
        """Name beside the progress bar."""
        return self.output.command

    def read(self, dataset: CropDataset, progress: Progress) -> None:
        """Read what the task is made from.

        The output is not open yet, so a missing or corrupt input leaves no unfinished output behind, which would stop
        the corrected command.
        """
        raise NotImplementedError

    def make_task(self, accelerator: Accelerator, batch_size: int, num_steps: int) -> Task:
        """Make the task for a run of `num_steps` steps, each with `batch_size` examples over all processes."""
        raise NotImplementedError

    def validate(self, accelerator: Accelerator) -> dict[str, float] | None:
        """Measure the task on held-out speakers, each process its share; None if there are no such speakers."""
        raise NotImplementedError

    def after_validation(self, num_done: int, metrics: Mapping[str, float], progress: Progress) -> None:
        """Act on the metrics after `num_done` steps (main process); may write files and change `facts`."""

    def write(self, accelerator: Accelerator) -> dict[str, object]:
        """Write the result of the trained task (main process); returns further facts for the provenance."""
        raise NotImplementedError


def decisive(request: RunRequest, **own: object) -> dict[str, object]:
    """Return the settings that decide a stage's result, its own and those of the recipe; they identify a run."""
    recipe = request.recipe
    return {**own, "precision": recipe.precision, "preset": recipe.name, "seed": recipe.seed}


def training_inputs(request: RunRequest, *, with_trials: bool = False) -> dict[str, Path]:
    """Return the training list (DataError: none), and that of held-out speakers (and its trials) if there is one."""
    data = request.exp / "data"
    inputs = {"train": request.manifest or data / "train.tsv"}
    if request.manifest is None and not inputs["train"].exists():
        if (data / "eval.tsv").exists():
            raise DataError(
                f"{inputs['train']}: does not exist: {data} was prepared for evaluation only "
                "(`--eval-speakers all`); give another list with --manifest, or prepare again with "
                "--eval-speakers N"
            )
        raise DataError(f"{inputs['train']}: does not exist; run `svkit prepare` first, or give --manifest")
    if os.path.lexists(data / "valid.tsv"):  # a link to a place that is gone is an error
        inputs["valid"] = data / "valid.tsv"
        if with_trials:
            inputs["valid_trials"] = data / "valid_trials.txt"
    return inputs


def run_stages(stages: Sequence[Stage], progress: Progress) -> None:
    """Run stages one after the other; finished ones are kept, replaced or refused, as the request says.

    Raises:
        SystemExit: 130 after SIGINT, 143 after SIGTERM or SIGHUP; the state is saved.
        ConfigError: a stage is finished already, a list for augmentation is missing, or the processes cannot share the
            batch.
        DataError: a list or recording is missing or bad.
        ArtifactError: a checkpoint is missing or corrupt, or the output belongs to another run.
        TrainingError: training diverged, or its target cannot be met.
    """
    precision = stages[0].request.recipe.precision
    accelerator = make_accelerator(precision)
    if is_emulated(precision, accelerator.device):
        progress.note(
            f"caution: precision = bf16, but this {accelerator.device.type} has no bf16 instructions: a step may take"
            " ten times as long as in fp32; precision = auto chooses what is fast"
        )
    for number in unfinished([stage.output for stage in stages], accelerator, progress):
        _run(stages[number], accelerator, progress)


def _run(stage: Stage, accelerator: Accelerator, progress: Progress) -> None:
    request, config, output = stage.request, stage.config, stage.output

    directory = config.data.cache_dir
    cache = BlockCache.make(Path(directory), config.data.cache_gb) if directory else None

    def listed(name: str) -> Manifest | None:
        return read_manifest(output.inputs[name], cache=cache) if name in output.inputs else None

    dataset = CropDataset(
        read_manifest(output.inputs["train"], request.audio_root, cache=cache),
        config.data,
        config.augment,
        seed=request.recipe.seed,
        noise=listed("noise"),
        rirs=listed("rirs"),
    )
    stage.read(dataset, progress)

    def write() -> None:
        finish(output, accelerator, stage.write(accelerator))
        write_card(output.path)

    with opened(output, accelerator):
        fit = _Fit(stage, dataset, accelerator, progress)
        try:
            fit.train()
            on_main(accelerator, write)
        except BaseException as reason:
            is_signal = not isinstance(reason, Exception)
            if is_signal and fit.has_ended and output.finished() is None:
                again = "run the same command again to finish it"
                progress.note(f"{stage.label}: stopped after the last step; {again}")
            raise


def batch_of_process(output: Output, data: DataConfig, num_processes: int) -> DataConfig:
    """Return `data` with the batch size of each process; ConfigError when the batch cannot be divided evenly.

    A run keeps the total batch that it began with, so that steps, learning rates and the order of the examples stay the
    same. Resumed with another number of processes, each takes its part of that batch.
    """
    begun = checkpoint.read_resume_batch(output.path) if output.is_resumed else None
    if begun is None:
        return data
    if begun % num_processes:
        raise ConfigError(
            f"{output.path}: the interrupted run took {begun} examples a step, which cannot be divided "
            f"among {num_processes} processes; continue with a number of processes that divides it, or "
            "use --overwrite"
        )
    return replace(data, batch_size=begun // num_processes)


class _Fit:
    """Runs a stage's task, and implements the hooks of the loop (`svkit.training.loop.Hooks`)."""

    def __init__(
        self, stage: Stage, dataset: CropDataset, accelerator: Accelerator, progress: Progress
    ) -> None:
        self.stage, self.dataset, self.accelerator, self.progress = stage, dataset, accelerator, progress
        self.directory, self.recipe = stage.output.path, stage.request.recipe
        rank, num_processes = accelerator.process_index, accelerator.num_processes
        data = batch_of_process(stage.output, stage.config.data, num_processes)
        self.batches = EpochBatches(
            len(dataset), data, self.recipe.seed, rank=rank, num_processes=num_processes
        )
        self.num_steps = self.batches.count_steps(stage.config.epochs)
        self.batch_size = data.batch_size * num_processes
        self.task = stage.task = stage.make_task(accelerator, self.batch_size, self.num_steps)
        pace_batch_norms(self.task, math.ceil(data.batch_size / (data.micro_batch or data.batch_size)))
        # Before the optimiser: it loads its state to where the parameters are.
        self.task.to(accelerator.device)
        self.optimizer = make_optimizer(self.task, stage.config.optim)
        self.start = self.num_logged = self.num_saved = self._resume()
        self.saver = ThreadPoolExecutor(1)
        self.saving: tuple[Future[None], int] | None = None
        self.stop = StopSignal()
        self.has_ended = False
        self.bar: Bar
        self.events: Any = None

    def _resume(self) -> int:
        """Load the newest state of an interrupted run; returns how many steps were done."""
        stage, state = self.stage, None
        read = partial(checkpoint.read_resume, self.directory, self.num_steps, self.progress.note)
        if stage.output.is_resumed:
            state = read_shared(read, self.accelerator)
        num_done = 0 if state is None else state.num_done
        if self.accelerator.is_main_process:
            # A killed run has logged steps after its last state; they are trained and logged again.
            checkpoint.truncate_log(self.directory, num_done)
        if state is not None:
            load_trained(self.task, state.task, f"{self.directory}/{checkpoint.RESUME_NAME}")
            load_optimizer(self.optimizer, state.optimizer)
            stage.facts.update(state.facts)
            self.progress.note(f"{stage.label}: resuming after step {num_done}")
        return num_done

    def train(self) -> None:
        """Train to the end, or save the state and exit when a signal asks to stop."""
        accelerator, save = self.accelerator, self.recipe.save
        on_gpu = accelerator.device.type == "cuda"
        if accelerator.num_processes > 1 and on_gpu:
            # The pooling synchronises its batch norm itself; this is torch's faster module, which needs GPUs.
            # It takes over the same parameters and buffers, so the optimiser and the loaded state stay valid.
            nn.SyncBatchNorm.convert_sync_batchnorm(self.task)
        wrapped = accelerator.prepare_model(self.task)
        loader = build_loader(
            self.dataset,
            map(self.batches.batch, range(self.start, self.num_steps)),
            num_workers=loader_workers(self.stage.config.data.num_workers),
            pin_memory=on_gpu,
        )
        plan = LoopPlan(
            num_steps=self.num_steps,
            steps_per_epoch=self.batches.steps_per_epoch,
            seed=self.recipe.seed,
            optim=self.stage.config.optim,
            validate_after=validation_steps(
                self.num_steps,
                self.batches.steps_per_epoch,
                self.stage.validations,
                self.stage.validate_every_steps,
            ),
            save_every=save.every_steps,
            save_every_seconds=60 * save.every_minutes,
            start=self.start,
            ask_every=LOG_EVERY if on_gpu else 1,
            micro_batch=self.stage.config.data.micro_batch,
        )
        label = self.stage.label
        with self.stop.installed(), self.progress.task(label, self.num_steps, self.start) as self.bar:
            self._open_events()
            try:
                skipped = run_loop(wrapped, self.optimizer, loader, plan, accelerator, self)
                on_main(accelerator, self._await_saved)
                self.has_ended = True
            except BaseException as reason:
                # A thread may still be writing the last state. All processes are interrupted at one step and can wait
                # for each other; an error may have met this one alone, and the others would never answer.
                if isinstance(reason, Interrupted):
                    on_main(accelerator, self._await_saved)
                elif isinstance(reason, Exception):
                    with contextlib.suppress(ArtifactError):  # report the first error, not this one
                        self._await_saved()
                with contextlib.suppress(ArtifactError):  # a full disk has been reported
                    self._close_events()
                if isinstance(reason, Interrupted):
                    self.bar.advance(
                        max(0, self.num_saved - self.num_logged)
                    )  # or it would end at an earlier step
                    self.stop.leave(self.stage.output, self.progress)
                if isinstance(reason, LoaderLost):
                    raise TrainingError(
                        f"{label}: {reason}; the system kills processes when memory runs out, and a smaller "
                        f"data.num_workers needs less; {self._what_is_kept()}"
                    ) from reason
                raise
            self._close_events()
        if skipped:
            self.progress.note(f"{label}: skipped {skipped} steps whose loss or gradient was not finite")

    def on_log(self, record: Record) -> None:
        self._write(record)
        shown = {name: record[name] for name in ("loss", "accuracy", "sparsity") if name in record}
        self.bar.advance(record["step"] - self.num_logged, **shown)
        self.num_logged = record["step"]

    def on_validate(self, num_done: int) -> None:
        metrics = self.stage.validate(self.accelerator)
        if metrics is None:
            return

        def action() -> None:
            self._await_saved()  # writing a state removes best states that it does not mention
            self.stage.after_validation(num_done, metrics, self.progress)
            self._write({"kind": "valid", "step": num_done, **metrics})

        on_main(self.accelerator, action)

    def on_save(self, num_done: int) -> None:
        """Have the state written by a thread, from a copy on the host, while training goes on."""

        def action() -> None:
            self._await_saved()  # one copy at a time: training waits for a slower disk
            facts = self.stage.facts
            best = facts.get("best")
            state = checkpoint.ResumeState(
                num_done=num_done,
                batch_size=self.batch_size,
                task=on_host(self.task.trained_state()),
                optimizer=on_host(optimizer_tensors(self.optimizer)),
                facts=copy.deepcopy(facts),
                best_step=None if best is None else int(best["step"]),
            )
            write = partial(checkpoint.write_resume, self.directory, state, self.recipe.save.keep_last)
            self.saving = self.saver.submit(write), num_done

        on_main(self.accelerator, action)

    def _await_saved(self) -> None:
        """Wait until the last state is written (main process); raises what went wrong."""
        if self.saving is None:
            return
        (written, num_done), self.saving = self.saving, None
        try:
            written.result()
        except ArtifactError as error:
            raise ArtifactError(f"{error}; {self._what_is_kept()}") from error
        self.num_saved = num_done

    def should_stop(self) -> bool:
        return self.stop.received is not None

    def _what_is_kept(self) -> str:
        kept = f"the state after step {self.num_saved} is" if self.num_saved else "no state is"
        return f"{kept} kept; run the same command again to resume"

    def _open_events(self) -> None:
        if self.accelerator.is_main_process:
            from torch.utils.tensorboard import SummaryWriter

            directory = self.directory / checkpoint.TENSORBOARD_NAME
            with one_line(directory):
                # Steps that a killed run logged beyond its last state are logged again.
                self.events = SummaryWriter(str(directory), purge_step=self.start + 1)

    def _write(self, record: Record) -> None:
        if self.events is None:
            return
        checkpoint.append_log(self.directory, record)
        with one_line(self.directory / checkpoint.TENSORBOARD_NAME):
            for name, value in record.items():
                if isinstance(value, int | float) and name != "step":
                    self.events.add_scalar(f"{record['kind']}/{name}", value, record["step"])

    def _close_events(self) -> None:
        if self.events is not None:
            with one_line(self.directory / checkpoint.TENSORBOARD_NAME):
                self.events.close()


def loader_workers(wanted: int) -> int:
    """Return how many loader processes a training process starts: `wanted`, but at most its share of the cores."""
    # torchrun counts in LOCAL_WORLD_SIZE the processes that share the cores of this machine.
    return min(wanted, max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
