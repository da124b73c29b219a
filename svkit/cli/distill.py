"""`svkit distill`."""

import shlex
from pathlib import Path
from typing import Annotated

from svkit.cli import options
from svkit.cli.option_groups import takes_groups
from svkit.cli.prune import Teacher

Student = Annotated[
    Path | None, options.option("--student", "Pruned checkpoint [default: exp/prune].", "CKPT")
]


@takes_groups
def distill(*, student: Student = None, teacher: Teacher = None, common: options.RunOptions) -> None:
    """Distill the teacher into the pruned model, and attach the teacher's speaker head again.

    Example: svkit distill --set distill.epochs=10
    """
    recipe = common.open_recipe(["distill"], upstream=student or common.exp / "prune")
    from svkit.training.distill import DistillRequest, run

    request = common.request(DistillRequest, recipe=recipe, student=student, teacher=teacher)

    def following(checkpoint: Path) -> str:
        if common.out is not None:
            return f"svkit finetune --from {shlex.quote(str(checkpoint))}"
        return common.following(checkpoint)

    checkpoint = common.run(run, request, following)
    common.show({"checkpoint": checkpoint}, checkpoint)
    common.show_next(lambda: following(checkpoint))
