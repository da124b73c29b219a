"""`svkit distill`: trains the cut student on the teacher's hidden states, then gives it the teacher's head."""

from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from svkit.data.dataset import CropDataset
from svkit.errors import ArtifactError
from svkit.models.load import load_model
from svkit.progress import Progress
from svkit.store.request import RunRequest
from svkit.training.stage import decisive, run_stages, training_inputs
from svkit.training.tasks import DistillationTask
from svkit.training.teacher import TeacherStage, checked, write_pruned


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillRequest(RunRequest):
    """A pruned student and its teacher."""

    student: Path | None = None
    teacher: Path | None = None


def run(request: DistillRequest, progress: Progress) -> Path:
    """Distil and return the checkpoint. Raises what `svkit.training.stage.run_stages` raises."""
    config = request.recipe.distill
    teacher = checked(request.teacher or request.exp / "finetune" / "joint", "teacher", "finetune")
    student = checked(request.student or request.exp / "prune", "student", "prune")
    output = request.output(
        request.out or request.exp / "distill",
        "distill",
        decisive(request, distill=config),
        {**training_inputs(request), "student": student, "teacher": teacher},
    )
    run_stages([DistillStage(request=request, output=output, config=config)], progress)
    return output.path


@dataclass(kw_only=True)
class DistillStage(TeacherStage):
    """Distillation of a student that has been cut."""

    def read(self, dataset: CropDataset, progress: Progress) -> None:
        """Read teacher and student; ArtifactError when their hidden states differ in size or number."""
        super().read(dataset, progress)
        path = self.output.inputs["student"]
        self.student = load_model(path, mapped=False)
        expected, sizes = (
            (model.architecture.encoder.hidden_size, model.architecture.encoder.num_layers)
            for model in (self.teacher, self.student)
        )
        if sizes != expected:
            raise ArtifactError(
                f"{path}: expected the teacher's hidden size and number of layers {expected}, found {sizes}"
            )

    def make_task(self, accelerator: Accelerator, batch_size: int, num_steps: int) -> DistillationTask:
        """Make the task from the student and the teacher that were read."""
        task = DistillationTask(self.student.encoder, self.teacher.encoder, self.config)
        return self.prepare(task, accelerator)

    def write(self, accelerator: Accelerator) -> dict[str, object]:
        """Write the student with the teacher's head."""
        dense = self.student.architecture.dense_encoder()
        write_pruned(self.output.path, self.output.inputs["teacher"], self.teacher, self.task.student, dense)
        return {}
