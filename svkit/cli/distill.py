"""`svkit distill`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from svkit.cli import console, options
from svkit.cli.option_groups import takes_groups

Student = Annotated[
    Path | None, typer.Option("--student", metavar="CKPT", help="Pruned checkpoint [default: exp/prune].")
]
Teacher = Annotated[
    Path | None, typer.Option("--teacher", metavar="CKPT", help="Dense model [default: exp/finetune/joint].")
]


@takes_groups
def distill(
    *,
    student: Student = None,
    teacher: Teacher = None,
    common: options.RunOptions,
) -> None:
    """Distill the teacher into the pruned model, and put the teacher's head back.

    Example: svkit distill --set distill.epochs=10
    """
    recipe = common.open_recipe(["distill"], upstream=student or common.exp / "prune")
    if recipe is None:
        return
    from svkit.training.distill import DistillRequest, run

    request = DistillRequest(
        exp=common.exp,
        recipe=recipe,
        student=student,
        teacher=teacher,
        out=common.out,
        manifest=common.manifest,
        audio_root=common.audio_root,
        overwrite=common.overwrite,
        keep_finished=common.keep_finished,
    )
    with console.progress() as progress:
        done = run(request, progress)
        common.remember(recipe, progress)
    console.result(asdict(done) if common.json else done.checkpoint, as_json=common.json)
