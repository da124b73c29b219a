"""`svkit finetune`: lora (or head), joint, lmft, each a checkpoint of its own (arXiv 2510.04213).

Between the stages LoRA is merged and, for LMFT, the classifier is cut to the speakers at their own speed. Every stage
starts from the checkpoint before it, on disk, so any of them can be run or resumed alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from svkit.config.architecture import ModelArchitecture
from svkit.config.schema import TINY_ENCODER, Recipe, StageConfig
from svkit.data.dataset import CropDataset
from svkit.errors import ArtifactError
from svkit.models.load import load_encoder, load_model, new_network
from svkit.nn import lora
from svkit.nn.margin import make_classifier
from svkit.nn.speaker import SpeakerNetwork
from svkit.progress import Progress
from svkit.scoring.lineage import skipped_stages
from svkit.store import checkpoint
from svkit.store.output import Output
from svkit.store.provenance import refuse_unfinished
from svkit.store.request import RunRequest
from svkit.training.resume import load_trained
from svkit.training.stage import Stage, decisive, run_stages, training_inputs
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


def run(request: FinetuneRequest, progress: Progress) -> list[Path]:
    """Run the requested stages and return their checkpoints. Raises what `svkit.training.stage.run_stages` raises."""
    source, recipe = request.source, request.recipe
    is_pruned = source is not None and checkpoint.read_architecture(source).is_pruned
    part = recipe.pruned if is_pruned else recipe.dense
    first = "head" if is_pruned else part.first
    root = request.exp / ("finetune-pruned" if is_pruned else "finetune")
    stages: list[FinetuneStage] = []
    for name in [request.stage] if request.stage else [first, "joint", "lmft"]:
        # A stage starts from the one before it in this run, else from `--from`; else the first from an encoder, and
        # others from the checkpoint that an earlier run left.
        encoder, previous = None, stages[-1].output.path if stages else source
        if previous is None and (name in FROZEN_ENCODER or request.encoder is not None):
            encoder = request.encoder or recipe.encoder
        elif previous is None:
            previous = root / {"joint": part.first, "lmft": "joint"}[name]
            if not previous.exists():
                raise ArtifactError(
                    f"{previous}: does not exist; run the stage before {name} first, or pass --from"
                )
            refuse_unfinished(previous)
        if not stages and previous is not None and (skipped := skipped_stages(name, previous)):
            progress.note(
                f"{name} starts from {previous} and leaves out {' and '.join(skipped)}; to go on from"
                f" {skipped[-1]}: --from {root / skipped[-1]}"
            )
        config: StageConfig = getattr(part, name)
        if not request.augment:
            config = replace(config, augment=None)
        out = request.out if request.stage and request.out else (request.out or root) / name
        output = _output(request, out, name, config, encoder, previous)
        stages.append(
            FinetuneStage(
                request=request,
                output=output,
                config=config,
                validations=config.validations,
                validate_every_steps=config.validate_every_steps,
                name=name,
                encoder=encoder,
            )
        )
    run_stages(stages, progress)
    return [stage.output.path for stage in stages]


def _output(
    request: FinetuneRequest,
    out: Path,
    name: str,
    config: StageConfig,
    encoder: str | None,
    previous: Path | None,
) -> Output:
    """Return the output of a stage that starts from an encoder by name, or else from a checkpoint."""
    recipe, inputs = request.recipe, training_inputs(request, with_trials=True)
    if config.augment is not None:
        inputs |= {name: path for name, path in (("noise", request.noise), ("rirs", request.rirs)) if path}
    if previous is not None:
        inputs["checkpoint"] = previous
    elif encoder is not None and encoder != TINY_ENCODER and Path(encoder).is_dir():
        inputs["encoder"] = Path(encoder)
    # A checkpoint brings its encoder and head: there these settings of the recipe change nothing, and a run that
    # differs in them alone can still be resumed.
    record = decisive(
        request,
        stage=name,
        stage_config=config,
        encoder=encoder,
        encoder_overrides=recipe.encoder_overrides if encoder else {},
        head=recipe.head if encoder else None,
        lora=recipe.lora if name == "lora" else None,
    )
    return request.output(out, "finetune", record, inputs)


@dataclass(kw_only=True)
class FinetuneStage(Stage):
    """Classification of the training speakers; the state that does best on held-out ones is kept, too."""

    config: StageConfig
    task: ClassificationTask = field(init=False)
    name: str
    encoder: str | None
    """Name of the encoder that the stage starts from; None: it starts from the checkpoint among its inputs."""

    @property
    def label(self) -> str:
        """Name beside the progress bar."""
        return f"finetune {self.name}"

    def read(self, dataset: CropDataset, progress: Progress) -> None:
        """Read what the stage starts from: an encoder, or network and class weights of the previous checkpoint."""
        inputs, recipe = self.output.inputs, self.request.recipe
        self.validator = Validator(inputs["valid"], inputs["valid_trials"]) if "valid" in inputs else None
        # Speed perturbation makes new speakers of the training speakers: class = speaker at a speed.
        speeds = self.config.data.speeds
        self.speakers = [speaker for _ in speeds for speaker in dataset.speakers]
        self.speeds = [speed for speed in speeds for _ in dataset.speakers]
        self.network: SpeakerNetwork
        self.known_weight: Tensor | None = None
        if self.encoder is not None:
            architecture, state = load_encoder(self.encoder, recipe)
            self.network = new_network(
                ModelArchitecture(encoder=architecture, head=recipe.head), state, recipe.seed
            )
        else:
            previous = inputs["checkpoint"]
            self.network, known = load_model(previous, mapped=False), checkpoint.read_classifier(previous)
            self.known_weight = None if known is None else rows_for(known, self.speakers, self.speeds)
            if known is not None and self.known_weight is None:
                progress.note(
                    f"{self.name}: the training speakers are not those of {previous}; starting a new classifier"
                )

    def make_task(self, accelerator: Accelerator, batch_size: int, num_steps: int) -> ClassificationTask:
        """Make the task, with the class weights of the previous checkpoint if the classes are the same."""
        task = make_task(
            self.network, self.name, self.request.recipe, self.config, len(self.speakers), batch_size
        )
        if self.known_weight is not None:
            with torch.no_grad():
                task.classifier.weight.copy_(self.known_weight)
        return task

    def validate(self, accelerator: Accelerator) -> dict[str, float] | None:
        """Measure EER and minDCF."""
        if self.validator is None:
            return None
        return self.validator.measure(self.network, self.request.recipe.extract, accelerator)

    def after_validation(self, num_done: int, metrics: Mapping[str, float], progress: Progress) -> None:
        """Keep the state if it is the best so far; of equally good ones, the latest."""
        assert self.validator is not None, "these are its metrics"
        progress.note(
            f"{self.name}: step {num_done}: validation EER {100 * metrics['eer']:.2f} %, over"
            f" {int(self.validator.labels.sum()):,} target trials of speakers held out of training"
        )
        best = self.facts.get("best")
        if best is None or metrics["eer"] <= best["eer"]:
            self.facts["best"] = {"step": num_done, **metrics}
            path = checkpoint.best_path(self.output.path, num_done)
            checkpoint.write_tensors(path, self.task.trained_state())
        self.facts["last"] = {"step": num_done, **metrics}

    def write(self, accelerator: Accelerator) -> dict[str, object]:
        """Write the best or the last state, as the recipe says; if they differ, the other goes to a subdirectory."""
        out, facts = self.output.path, self.facts
        if facts and facts["best"]["step"] != facts["last"]["step"]:
            # The task holds the last state, which is therefore written before the best one is loaded into it.
            keeps_best = self.config.keep == "best"
            self._write_checkpoint(out / checkpoint.LAST_NAME if keeps_best else out)
            best = checkpoint.best_path(out, int(facts["best"]["step"]))
            load_trained(self.task, checkpoint.read_tensors(best), str(best))
            self._write_checkpoint(out if keeps_best else out / checkpoint.BEST_NAME)
        else:
            self._write_checkpoint(out)
        lora.detach(self.network.encoder)  # parameters are counted without LoRA
        return {
            "validation": facts,
            "num_parameters": sum(parameter.numel() for parameter in self.network.parameters()),
        }

    def _write_checkpoint(self, directory: Path) -> None:
        network = self.network
        classifier = checkpoint.Classifier(
            weight=self.task.classifier.weight, speakers=self.speakers, speeds=self.speeds
        )
        checkpoint.write_classifier(directory, classifier)
        if self.name == "lora":
            # Stored beside its encoder, not merged: loading the checkpoint merges it.
            config = lora.adapter_config(self.request.recipe.lora)
            checkpoint.write_adapter(directory, config, lora.adapter_state(network.encoder))
        checkpoint.write_model(directory, network.architecture, lora.base_state(network))


def make_task(
    network: SpeakerNetwork, name: str, recipe: Recipe, config: StageConfig, num_classes: int, batch_size: int
) -> ClassificationTask:
    """Make the task of the stage `name`, with a new classifier, and freeze what the stage does not train (in place).

    `num_classes` is the number of speakers times speeds, `batch_size` that of a step over all processes.
    """
    network.requires_grad_(True)
    # Separate random draws, so that a resumed run, or one with another classifier, begins with the same weights.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if name == "lora":
            lora.attach(network.encoder, recipe.lora)
        torch.manual_seed(recipe.seed + 1)
        classifier = make_classifier(
            network.architecture.head.embedding_dim,
            num_classes,
            config.margin,
            batch_size=batch_size,
            seed=recipe.seed,
        )
    if name == "head":
        network.encoder.requires_grad_(False)
    for layer in network.encoder.encoder.layers[network.architecture.states[-1] :]:
        layer.requires_grad_(False)  # never computed: processes would wait for its gradients
    # A frozen encoder runs without dropout, as published.
    network.encoder.set_conv_dropout(0.0 if name in FROZEN_ENCODER else config.conv_dropout)
    network.encoder.checkpoint_layers = recipe.gradient_checkpointing
    if recipe.compile_layers:
        network.encoder.compile_layers()
    return ClassificationTask(network, classifier, config.margin, config.augment)


def rows_for(known: checkpoint.Classifier, speakers: list[str], speeds: list[float]) -> Tensor | None:
    """Class weights of these (speaker, speed) classes (for LMFT only speed 1), in order; None when any is unknown."""
    rows = {key: row for row, key in enumerate(zip(known.speakers, known.speeds, strict=True))}
    wanted = list(zip(speakers, speeds, strict=True))
    if not all(key in rows for key in wanted):
        return None
    return known.weight[[rows[key] for key in wanted]]
