"""`svkit prune`: gates under a Lagrangian, guided by distillation, then the cut (paper, section 3.2).

The checkpoint that is written is already cut: its widths are in `config.json`, its sparsity is counted on it, and the
teacher's head and classifier are in place.
"""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from svkit.config.architecture import EncoderArchitecture, ModelArchitecture
from svkit.config.schema import PruneConfig
from svkit.data.dataset import CropDataset
from svkit.errors import ConfigError, TrainingError
from svkit.models.load import SpeakerModel, load_model
from svkit.models.session import StageOutput, make_accelerator
from svkit.nn.encoder import Encoder
from svkit.progress import Progress
from svkit.pruning.counting import encoder_parameters, macs, sparsity
from svkit.pruning.cut import cut_architecture, cut_encoder
from svkit.pruning.gates import EncoderGates
from svkit.pruning.selection import TOLERANCE, select
from svkit.reports.card import write_card
from svkit.store import checkpoint as store
from svkit.store.manifest import read_manifest
from svkit.store.output import Output
from svkit.store.provenance import plain
from svkit.store.request import RunRequest
from svkit.training.stage import Fit, batch_of_process, count_steps, fit_task
from svkit.training.tasks import DistillationTask, PruningTask
from svkit.training.teacher import DistanceMeter, default_teacher, place, training_inputs


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneRequest(RunRequest):
    """A teacher and what is to be left of it."""

    teacher: Path | None = None
    budget: str | None = None
    """`macs=6.3G`: MACs for 1 s of the whole model, instead of a sparsity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneResult:
    """The cut checkpoint and its exact counts."""

    checkpoint: Path
    sparsity: float
    encoder_parameters: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Target:
    """Limit of the final structure on an exact count."""

    cost: Callable[[EncoderArchitecture], int]
    limit: float
    sparsity: float
    """What the Lagrangian aims at."""


def parse_budget(budget: str) -> int:
    """Read `macs=6.3G` (also M, or a plain number); ConfigError otherwise."""
    match = re.fullmatch(r"macs=([0-9.]+)([GM]?)", budget)
    try:
        value = float(match[1]) * {"G": 1e9, "M": 1e6, "": 1.0}[match[2]] if match else 0.0
    except ValueError:
        value = 0.0
    if not 1 <= value <= 1e18:
        raise ConfigError(
            f"--budget: expected macs=NUMBER with G or M, such as macs=6.3G, found {budget[:80]!r}"
        )
    return int(value)


def _target(teacher: ModelArchitecture, config: PruneConfig, budget: str | None) -> _Target:
    dense = teacher.encoder
    if budget is None:
        limit = (1 - config.sparsity) * encoder_parameters(dense)
        return _Target(cost=encoder_parameters, limit=limit, sparsity=config.sparsity)
    allowed = parse_budget(budget)

    def cost(architecture: EncoderArchitecture) -> int:
        return macs(replace(teacher, encoder=architecture)).total

    # MACs fall nearly in proportion to parameters: aim the gates there, the final choice counts MACs exactly.
    head = macs(teacher).head
    aim = 1 - (allowed - head) / macs(teacher).encoder
    total = macs(teacher).total
    if aim <= 0:
        raise TrainingError(
            f"--budget {budget}: the dense model takes {total / 1e9:.3f} G already: nothing has to be removed"
        )
    if aim >= 1:
        raise TrainingError(
            f"--budget {budget}: cannot be met by pruning the encoder: the head alone takes {head / 1e9:.3f} G of the "
            f"model's {total / 1e9:.3f} G"
        )
    return _Target(cost=cost, limit=allowed, sparsity=aim)


def run(request: PruneRequest, progress: Progress) -> PruneResult:
    """Prune and cut.

    Raises:
        TrainingError: the target cannot be met.
        ConfigError, DataError, ArtifactError: as their names say.
    """
    recipe = request.recipe
    config = recipe.prune
    teacher_path = default_teacher(request.exp, request.teacher)
    out = request.out or request.exp / "prune"
    inputs = {**training_inputs(request.exp, request.manifest), "teacher": teacher_path}
    record = plain(
        {
            "prune": config,
            "budget": request.budget,
            "precision": recipe.precision,
            "preset": recipe.name,
            "seed": recipe.seed,
        }
    )
    planned = Output(
        out,
        command="prune",
        config=record,
        inputs=inputs,
        overwrite=request.overwrite,
        keep_finished=request.keep_finished,
        experiment=request.exp,
    )
    if planned.is_kept(progress):
        return _result(out)
    teacher = load_model(teacher_path)
    target = _target(teacher.architecture, config, request.budget)
    config = replace(config, sparsity=target.sparsity)
    check_reachable(teacher.architecture.encoder, target.cost, target.limit)
    gates = EncoderGates(teacher.architecture.encoder, config, recipe.seed)
    if config.round_to > 1:
        # Blocks too coarse for the target show on fresh gates already: say so before training.
        fresh = select(gates, teacher.architecture.encoder, target.cost, target.limit, config.round_to)
        check_sparsity(cut_architecture(teacher.architecture.encoder, fresh), teacher, request.budget, config)
    accelerator = make_accelerator(recipe.precision)
    dataset = CropDataset(
        read_manifest(inputs["train"], request.audio_root), config.data, config.augment, seed=recipe.seed
    )
    meter = DistanceMeter.open(inputs.get("valid"), config.data, recipe.seed)
    with StageOutput(accelerator, planned) as output:
        data = batch_of_process(output, config.data)
        _, num_steps = count_steps(len(dataset), data, config.epochs, accelerator.num_processes)
        fraction = config.sparsity_warmup_fraction
        warmup = config.sparsity_warmup_steps if fraction is None else max(1, round(fraction * num_steps))
        student = copy.deepcopy(teacher.encoder).requires_grad_(True)
        student.set_conv_dropout(config.conv_dropout)
        student.checkpoint_layers = recipe.gradient_checkpointing
        task = PruningTask(student, teacher.encoder, gates, config, warmup)
        place(task, accelerator)
        fit = Fit(
            accelerator=accelerator,
            output=output,
            task=task,
            dataset=dataset,
            data=data,
            optim=config.optim,
            save=recipe.save,
            epochs=config.epochs,
            validations=4,
            seed=recipe.seed,
            label="prune",
            validate=None if meter is None else lambda task, _: meter.measure(task, accelerator),
        )
        trained = fit_task(fit, progress)
        assert isinstance(trained, PruningTask)
        extra: dict[str, Any] = {"device": str(accelerator.device)}
        if accelerator.is_main_process:
            final = select(
                trained.gates, teacher.architecture.encoder, target.cost, target.limit, config.round_to
            )
            cut = cut_encoder(trained.student, final)
            extra |= _write_result(out, teacher, teacher_path, cut, request.budget, config)
            if meter is not None:
                after = DistillationTask(cut, teacher.encoder, config).to(accelerator.device)
                extra["distance_after_cut"] = meter.measure(after, accelerator)
        output.finish(extra)
        if accelerator.is_main_process:
            write_card(out)
    return _result(out)


def check_reachable(
    dense: EncoderArchitecture, cost: Callable[[EncoderArchitecture], int], limit: float
) -> None:
    """Raise TrainingError before any training when even the empty encoder costs more than the limit."""
    empty = dense.with_widths({name: [0] * dense.num_layers for name in dense.widths()})
    if cost(empty) > limit:
        raise TrainingError(
            f"the target cannot be met: what no gate can remove costs {cost(empty):,}, the target allows {int(limit):,}"
        )


def check_sparsity(
    kept: EncoderArchitecture, teacher: SpeakerModel, budget: str | None, config: PruneConfig
) -> float:
    """Return the counted sparsity; TrainingError when it lies outside of the promised range."""
    reached = sparsity(kept, teacher.architecture.encoder)
    if budget is None and not config.sparsity <= reached <= config.sparsity + TOLERANCE:
        raise TrainingError(
            f"sparsity target missed: expected {config.sparsity:.3f} to {config.sparsity + TOLERANCE:.3f}, "
            f"counted {reached:.4f}; with --round-to {config.round_to} blocks are too coarse for this encoder: use a "
            "smaller one"
        )
    return reached


def _write_result(
    out: Path,
    teacher: SpeakerModel,
    teacher_path: Path,
    cut: Encoder,
    budget: str | None,
    config: PruneConfig,
) -> dict[str, Any]:
    dense = teacher.architecture.dense_encoder()
    reached = check_sparsity(cut.architecture, teacher, budget, config)
    write_pruned(out, teacher, cut, dense)
    classifier = store.read_classifier(teacher_path)
    if classifier is not None:
        store.write_classifier(out, classifier)
    return {"sparsity": reached, "encoder_parameters": encoder_parameters(cut.architecture)}


def write_pruned(out: Path, teacher: SpeakerModel, student: Encoder, dense: EncoderArchitecture) -> None:
    """Write a checkpoint of the student's encoder and the teacher's head."""
    architecture = ModelArchitecture(
        encoder=student.architecture,
        head=teacher.architecture.head,
        dense_widths={name: tuple(widths) for name, widths in dense.widths().items()},
    )
    tensors: dict[str, torch.Tensor] = {
        f"encoder.{name}": tensor for name, tensor in student.state_dict().items()
    } | {f"head.{name}": tensor for name, tensor in teacher.head.state_dict().items()}
    store.write_model(out, architecture, tensors)


def _result(out: Path) -> PruneResult:
    architecture = store.read_architecture(out)
    return PruneResult(
        checkpoint=out,
        sparsity=sparsity(architecture.encoder, architecture.dense_encoder()),
        encoder_parameters=encoder_parameters(architecture.encoder),
    )
