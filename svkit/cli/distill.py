"""`svkit distill`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from svkit.cli import console, options

Student = Annotated[
    Path | None, typer.Option("--student", metavar="CKPT", help="Pruned checkpoint [default: exp/prune].")
]
Teacher = Annotated[
    Path | None, typer.Option("--teacher", metavar="CKPT", help="Dense model [default: exp/finetune/joint].")
]


def distill(
    student: Student = None,
    teacher: Teacher = None,
    out: options.Out = None,
    manifest: options.Manifest = None,
    audio_root: options.AudioRoot = None,
    overwrite: options.Overwrite = False,
    keep_finished: options.KeepFinished = False,
    exp: options.Exp = Path("exp"),
    preset: options.Preset = None,
    config: options.Config = None,
    overrides: options.Overrides = None,
    print_config: options.PrintConfig = False,
    json: options.Json = False,
) -> None:
    """Distill the teacher into the pruned model, and put the teacher's head back.

    Example: svkit distill --set distill.epochs=10
    """
    recipe = options.open_recipe(exp, preset, config, overrides, ["distill"])
    if print_config:
        options.print_recipe(recipe)
        return
    from svkit.stages.distill import DistillRequest, run

    request = DistillRequest(
        exp=exp,
        recipe=recipe,
        student=student,
        teacher=teacher,
        out=out,
        manifest=manifest,
        audio_root=audio_root,
        overwrite=overwrite,
        keep_finished=keep_finished,
    )
    with console.progress() as progress:
        done = run(request, progress)
    console.result(asdict(done) if json else done.checkpoint, as_json=json)
