"""`svkit distill`: the cut student follows the teacher's hidden states further; the teacher's head is put back."""

from dataclasses import dataclass
from pathlib import Path

from svkit.data.dataset import CropDataset
from svkit.errors import ArtifactError
from svkit.models.load import load_model
from svkit.models.session import StageOutput, make_accelerator
from svkit.progress import Progress
from svkit.reports.card import write_card
from svkit.store import checkpoint as store
from svkit.store.manifest import read_manifest
from svkit.store.output import Output
from svkit.store.provenance import plain
from svkit.store.request import RunRequest
from svkit.training.prune import write_pruned
from svkit.training.stage import Fit, batch_of_process, fit_task
from svkit.training.tasks import DistillationTask
from svkit.training.teacher import DistanceMeter, default_teacher, place, training_inputs


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillRequest(RunRequest):
    """A pruned student and its teacher."""

    student: Path | None = None
    teacher: Path | None = None


def run(request: DistillRequest, progress: Progress) -> Path:
    """Distil; return the checkpoint.

    Raises:
        ArtifactError: student or teacher missing, or of different hidden sizes.
        ConfigError, DataError, TrainingError: as their names say.
    """
    recipe, config = request.recipe, request.recipe.distill
    teacher_path = default_teacher(request.exp, request.teacher)
    student_path = request.student or request.exp / "prune"
    if not student_path.exists():
        raise ArtifactError(
            f"{student_path}: no such student checkpoint; run `svkit prune` first, or pass --student"
        )
    out = request.out or request.exp / "distill"
    inputs = {
        **training_inputs(request.exp, request.manifest),
        "student": student_path,
        "teacher": teacher_path,
    }
    record = plain(
        {"distill": config, "precision": recipe.precision, "preset": recipe.name, "seed": recipe.seed}
    )
    planned = Output(
        out,
        command="distill",
        config=record,
        inputs=inputs,
        overwrite=request.overwrite,
        keep_finished=request.keep_finished,
        experiment=request.exp,
    )
    if planned.is_kept(progress):
        return out
    teacher, student = load_model(teacher_path), load_model(student_path)
    sizes = [
        (m.architecture.encoder.hidden_size, m.architecture.encoder.num_layers) for m in (student, teacher)
    ]
    if sizes[0] != sizes[1]:
        raise ArtifactError(
            f"{student_path}: expected hidden size and layers of the teacher {sizes[1]}, found {sizes[0]}"
        )
    accelerator = make_accelerator(recipe.precision)
    dataset = CropDataset(
        read_manifest(inputs["train"], request.audio_root), config.data, config.augment, seed=recipe.seed
    )
    meter = DistanceMeter.open(inputs.get("valid"), config.data, recipe.seed)
    with StageOutput(accelerator, planned) as output:
        student.encoder.requires_grad_(True)
        student.encoder.set_conv_dropout(config.conv_dropout)
        student.encoder.checkpoint_layers = recipe.gradient_checkpointing
        task = DistillationTask(student.encoder, teacher.encoder, config)
        place(task, accelerator)
        fit = Fit(
            accelerator=accelerator,
            output=output,
            task=task,
            dataset=dataset,
            data=batch_of_process(output, config.data),
            optim=config.optim,
            save=recipe.save,
            epochs=config.epochs,
            validations=4,
            seed=recipe.seed,
            label="distill",
            validate=None if meter is None else lambda task, _: meter.measure(task, accelerator),
        )
        trained = fit_task(fit, progress)
        assert isinstance(trained, DistillationTask)
        if accelerator.is_main_process:
            write_pruned(out, teacher, trained.student, student.architecture.dense_encoder())
            classifier = store.read_classifier(teacher_path)
            if classifier is not None:
                store.write_classifier(out, classifier)
        output.finish({"device": str(accelerator.device)})
        if accelerator.is_main_process:
            write_card(out)
    return out
