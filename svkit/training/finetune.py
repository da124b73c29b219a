"""`svkit finetune`: lora (or head), joint, lmft, each a checkpoint of its own (paper, section 4.2).

Between the stages LoRA is merged and, for LMFT, the classifier is cut to the speakers at their own speed. Every stage
starts from the checkpoint before it, on disk, so any of them can be run or resumed alone.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from svkit.config.architecture import ModelArchitecture
from svkit.config.schema import FinetuneConfig, Recipe, StageConfig
from svkit.data.dataset import CropDataset
from svkit.errors import ArtifactError
from svkit.models.load import TINY_ENCODER, load_encoder, load_into, load_model, new_network
from svkit.models.session import StageOutput, make_accelerator
from svkit.nn import lora
from svkit.nn.margin import ArcFaceClassifier, make_classifier
from svkit.nn.speaker import SpeakerNetwork
from svkit.progress import Progress
from svkit.reports.card import write_card
from svkit.store import checkpoint as store
from svkit.store.manifest import Manifest, read_manifest
from svkit.store.output import Output, continue_parts
from svkit.store.provenance import plain
from svkit.store.request import RunRequest
from svkit.training.stage import Fit, batch_of_process, fit_task
from svkit.training.tasks import ClassificationTask
from svkit.training.validation import Validator

FROZEN_ENCODER = ("lora", "head")
"""Stages that leave the encoder's own weights alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneRequest(RunRequest):
    """One or all stages; `out` is the directory of the stages (or of the one stage)."""

    encoder: str | None = None
    stage: str | None = None
    """One stage; None: the three in order."""
    source: Path | None = None
    """Checkpoint to start from instead of an encoder."""
    noise: Path | None = None
    rirs: Path | None = None
    augment: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """One stage, resolved."""

    stage: str
    config: StageConfig
    recipe: Recipe
    encoder: str | None
    """Encoder name when the stage starts from one, else None."""
    previous: Path | None
    out: Path
    inputs: dict[str, Path]

    def record(self) -> dict[str, Any]:
        """What decides the result, for the output protocol."""
        recipe = self.recipe
        return plain(
            {
                "stage": self.stage,
                "stage_config": self.config,
                "encoder": self.encoder,
                "encoder_overrides": recipe.encoder_overrides if self.encoder else {},
                "head": recipe.head if self.encoder else None,
                "lora": recipe.lora if self.stage == "lora" else None,
                "precision": recipe.precision,
                "preset": recipe.name,
                "seed": recipe.seed,
            }
        )


def run(request: FinetuneRequest, progress: Progress) -> list[Path]:
    """Run the stages that are asked for; return their checkpoints in order.

    Raises:
        ConfigError: all of them are finished already, or material for augmentation is missing.
        DataError, ArtifactError, TrainingError: as their names say.
    """
    plans = _plans(request)
    outputs = [
        Output(
            plan.out,
            command="finetune",
            config=plan.record(),
            inputs=plan.inputs,
            overwrite=request.overwrite,
            keep_finished=request.keep_finished,
            experiment=request.exp,
        )
        for plan in plans
    ]
    continue_parts(outputs)
    accelerator: Accelerator | None = None
    for plan, output in zip(plans, outputs, strict=True):
        if not output.is_kept(progress):
            accelerator = accelerator or make_accelerator(request.recipe.precision)
            _run_stage(plan, output, request, accelerator, progress)
    return [plan.out for plan in plans]


def _plans(request: FinetuneRequest) -> list[_Plan]:
    source = request.source
    is_pruned = source is not None and store.read_architecture(source).is_pruned
    recipe_part: FinetuneConfig = request.recipe.pruned if is_pruned else request.recipe.dense
    first = "head" if is_pruned else recipe_part.first
    stages = [request.stage] if request.stage else [first, "joint", "lmft"]
    root = request.exp / ("finetune-pruned" if is_pruned else "finetune")
    plans: list[_Plan] = []
    for stage in stages:
        previous = plans[-1].out if plans else source
        if previous is None and stage not in FROZEN_ENCODER and request.encoder is None:
            previous = root / {"joint": recipe_part.first, "lmft": "joint"}[stage]
            if not previous.exists():
                raise ArtifactError(
                    f"{previous}: does not exist; run the stage before {stage} first, or pass --from"
                )
        out = request.out or root
        if request.stage is None:
            out = out / stage
        elif request.out is None:
            out = root / stage
        config: StageConfig = getattr(recipe_part, stage)
        if not request.augment:
            config = replace(config, augment=None)
        encoder = None if previous is not None else (request.encoder or request.recipe.encoder)
        plans.append(
            _Plan(
                stage=stage,
                config=config,
                recipe=request.recipe,
                encoder=encoder,
                previous=previous,
                out=out,
                inputs=_inputs(request, config, previous, encoder),
            )
        )
    return plans


def _inputs(
    request: FinetuneRequest, config: StageConfig, previous: Path | None, encoder: str | None
) -> dict[str, Path]:
    data = request.exp / "data"
    inputs = {"train": request.manifest or data / "train.tsv"}
    if (data / "valid.tsv").exists():
        inputs |= {"valid": data / "valid.tsv", "valid_trials": data / "valid_trials.txt"}
    if config.augment is not None:
        inputs |= {name: path for name, path in (("noise", request.noise), ("rirs", request.rirs)) if path}
    if previous is not None:
        inputs["checkpoint"] = previous
    elif encoder is not None and encoder != TINY_ENCODER and Path(encoder).is_dir():
        inputs["encoder"] = Path(encoder)
    return inputs


def _run_stage(
    plan: _Plan, planned: Output, request: FinetuneRequest, accelerator: Accelerator, progress: Progress
) -> None:
    recipe, config = plan.recipe, plan.config
    train = read_manifest(plan.inputs["train"], request.audio_root)
    dataset = CropDataset(
        train,
        config.data,
        config.augment,
        seed=recipe.seed,
        noise=_list(plan.inputs.get("noise")),
        rirs=_list(plan.inputs.get("rirs")),
    )
    validator = None
    if "valid" in plan.inputs:
        validator = Validator.open(plan.inputs["valid"], plan.inputs["valid_trials"])
    network, known = _load_network(plan)
    with StageOutput(accelerator, planned) as output:
        data = batch_of_process(output, config.data)
        batch_size = data.batch_size * accelerator.num_processes
        classifier = _make_classifier(plan, network, known, dataset, batch_size, progress)
        _freeze(network, plan)
        network.encoder.checkpoint_layers = recipe.gradient_checkpointing
        task = ClassificationTask(network, classifier, config.margin, config.augment)
        fit = Fit(
            accelerator=accelerator,
            output=output,
            task=task,
            dataset=dataset,
            data=data,
            optim=config.optim,
            save=recipe.save,
            epochs=config.epochs,
            validations=config.validations if validator else 1,
            seed=recipe.seed,
            label=f"finetune {plan.stage}",
        )
        if validator is not None:
            keeper = _Keeper(plan, validator, accelerator, dataset, progress)
            fit.validate, fit.after_validation = keeper.validate, keeper.after_validation
        trained = fit_task(fit, progress)
        assert isinstance(trained, ClassificationTask)
        if accelerator.is_main_process:
            _write_result(plan, fit, trained, dataset)
        output.finish(
            {
                "device": str(accelerator.device),
                "validation": fit.facts,
                "num_parameters": sum(p.numel() for p in trained.network.parameters()),
            }
        )
        if accelerator.is_main_process:
            write_card(plan.out)


def _list(path: Path | None) -> Manifest | None:
    return None if path is None else read_manifest(path)


def _load_network(plan: _Plan) -> tuple[SpeakerNetwork, store.Classifier | None]:
    """Network and class weights the stage starts from; read before the output is opened."""
    recipe = plan.recipe
    if plan.previous is None:
        assert plan.encoder is not None
        encoder, state = load_encoder(plan.encoder, recipe)
        network = new_network(ModelArchitecture(encoder=encoder, head=recipe.head), state, recipe.seed)
        known = None
    else:
        network = load_model(plan.previous)
        known = store.read_classifier(plan.previous)
    network.requires_grad_(True)
    if plan.stage == "lora":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            lora.attach(network.encoder, recipe.lora)
    return network, known


def _make_classifier(
    plan: _Plan,
    network: SpeakerNetwork,
    known: store.Classifier | None,
    dataset: CropDataset,
    batch_size: int,
    progress: Progress,
) -> ArcFaceClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.recipe.seed + 1)
        classifier = make_classifier(
            network.architecture.head.embedding_dim,
            dataset.num_classes,
            class_fraction=plan.config.margin.class_fraction,
            batch_size=batch_size,
            seed=plan.recipe.seed,
        )
    if known is not None:
        weight = rows_for(known, *_classes(dataset, plan.config))
        if weight is None:
            progress.note(
                f"{plan.stage}: the training speakers are not those of {plan.previous}: new classifier"
            )
        else:
            with torch.no_grad():
                classifier.weight.copy_(weight)
    return classifier


def _classes(dataset: CropDataset, config: StageConfig) -> tuple[list[str], list[float]]:
    """Speaker and speed of every class."""
    speeds = config.data.speeds
    speakers = [speaker for _ in speeds for speaker in dataset.speakers]
    return speakers, [speed for speed in speeds for _ in dataset.speakers]


def rows_for(known: store.Classifier, speakers: list[str], speeds: list[float]) -> Tensor | None:
    """Class weights of these (speaker, speed) classes, in this order; None when any is unknown.

    For LMFT this cuts the classifier to the rows at speed 1.
    """
    rows = {key: row for row, key in enumerate(zip(known.speakers, known.speeds, strict=True))}
    wanted = list(zip(speakers, speeds, strict=True))
    if not all(key in rows for key in wanted):
        return None
    return known.weight[[rows[key] for key in wanted]]


def _freeze(network: SpeakerNetwork, plan: _Plan) -> None:
    """Freeze what the stage does not train; a frozen encoder runs without dropout, as published."""
    if plan.stage == "head":
        network.encoder.requires_grad_(False)
    network.encoder.set_conv_dropout(0.0 if plan.stage in FROZEN_ENCODER else plan.config.conv_dropout)


@dataclass
class _Keeper:
    """Validates and keeps the best state beside the resume state."""

    plan: _Plan
    validator: Validator
    accelerator: Accelerator
    dataset: CropDataset
    progress: Progress

    def validate(self, task: nn.Module, num_done: int) -> dict[str, float]:
        assert isinstance(task, ClassificationTask)
        return self.validator.measure(task.network, self.plan.recipe.extract, self.accelerator)

    def after_validation(
        self, task: nn.Module, num_done: int, metrics: dict[str, float], facts: dict[str, Any]
    ) -> None:
        self.progress.note(
            f"{self.plan.stage}: step {num_done}: EER on held-out speakers {100 * metrics['eer']:.2f} %"
        )
        best = facts.get("best")
        if best is None or metrics["eer"] <= best["eer"]:
            facts["best"] = {"step": num_done, **metrics}
            store.write_tensors(store.best_path(self.plan.out, num_done), task.state_dict())
        facts["last"] = {"step": num_done, **metrics}


def _write_result(plan: _Plan, fit: Fit, task: ClassificationTask, dataset: CropDataset) -> None:
    """Write best or last state as the recipe says; where they differ, the other one is a checkpoint below it."""
    out, facts = plan.out, fit.facts
    if facts and facts["best"]["step"] != facts["last"]["step"]:
        keeps_best = plan.config.keep == "best"
        _write_checkpoint(out / store.LAST_NAME if keeps_best else out, plan, task, dataset)
        best = store.best_path(out, facts["best"]["step"])
        load_into(task, store.read_tensors(best), str(best))
        _write_checkpoint(out if keeps_best else out / store.BEST_NAME, plan, task, dataset)
    else:
        _write_checkpoint(out, plan, task, dataset)
    lora.detach(task.network.encoder)


def _write_checkpoint(directory: Path, plan: _Plan, task: ClassificationTask, dataset: CropDataset) -> None:
    speakers, speeds = _classes(dataset, plan.config)
    store.write_classifier(
        directory, store.Classifier(weight=task.classifier.weight, speakers=speakers, speeds=speeds)
    )
    if plan.stage == "lora":
        state = lora.adapter_state(task.network.encoder)
        store.write_adapter(directory, lora.adapter_config(plan.recipe.lora), state)
    store.write_model(directory, task.network.architecture, lora.base_state(task.network))
