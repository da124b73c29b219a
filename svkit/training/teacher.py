"""What pruning and distillation share: a student encoder that follows a teacher's hidden states."""

from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator

from svkit.config.architecture import EncoderArchitecture, ModelArchitecture
from svkit.config.schema import DistillConfig, Recipe
from svkit.data.dataset import CropDataset
from svkit.errors import ArtifactError
from svkit.models.load import SpeakerModel, load_model
from svkit.nn.encoder import Encoder
from svkit.nn.precision import product_dtype
from svkit.progress import Progress
from svkit.store import checkpoint
from svkit.store.provenance import refuse_unfinished
from svkit.training.stage import Stage
from svkit.training.tasks import DistillationTask
from svkit.training.validation import DistanceMeter


@dataclass(kw_only=True)
class TeacherStage(Stage):
    """A stage whose student follows the teacher among its inputs; its result has the teacher's head."""

    config: DistillConfig
    validations: int = 4
    task: DistillationTask = field(init=False)

    def read(self, dataset: CropDataset, progress: Progress) -> None:
        """Read the teacher, and the held-out crops if there are any."""
        inputs = self.output.inputs
        self.teacher = load_model(inputs["teacher"], mapped=False)
        data, seed = self.config.data, self.request.recipe.seed
        self.meter = DistanceMeter(inputs["valid"], data, seed) if "valid" in inputs else None

    def prepare(self, task: DistillationTask, accelerator: Accelerator) -> DistillationTask:
        """Make the task's student trainable as the recipe says; cast or pack the teacher's layers on their device."""
        train_student(task.student, self.config, self.request.recipe)
        task.to(accelerator.device)
        task.prepare_teacher(product_dtype(accelerator.mixed_precision))
        return task

    def validate(self, accelerator: Accelerator) -> dict[str, float] | None:
        """Measure the distance to the teacher."""
        return None if self.meter is None else self.meter.measure(self.task, accelerator)


def train_student(student: Encoder, config: DistillConfig, recipe: Recipe) -> None:
    """Make an encoder trainable as the recipe says."""
    student.requires_grad_(True)
    student.set_conv_dropout(config.conv_dropout)
    student.checkpoint_layers = recipe.gradient_checkpointing
    if recipe.compile_layers:
        student.compile_layers()


def checked(path: Path, role: str, command: str) -> Path:
    """Return the path of a checkpoint; ArtifactError when it does not exist or is not finished."""
    if not path.exists():
        raise ArtifactError(
            f"{path}: no such {role} checkpoint; run `svkit {command}` first, or pass --{role}"
        )
    refuse_unfinished(path)
    return path


def write_pruned(
    out: Path, teacher_path: Path, teacher: SpeakerModel, student: Encoder, dense: EncoderArchitecture
) -> None:
    """Write the cut student with the teacher's head and classifier, and the widths of `dense` that it was cut from."""
    architecture = ModelArchitecture(
        encoder=student.architecture,
        head=teacher.architecture.head,
        dense_widths={name: tuple(widths) for name, widths in dense.widths().items()},
    )
    tensors = student.state_dict(prefix="encoder.") | teacher.head.state_dict(prefix="head.")
    checkpoint.write_model(out, architecture, tensors)
    classifier = checkpoint.read_classifier(teacher_path)
    if classifier is not None:
        checkpoint.write_classifier(out, classifier)
