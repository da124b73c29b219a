"""`svkit prune`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from svkit.cli import console, options

Teacher = Annotated[
    Path | None, typer.Option("--teacher", metavar="CKPT", help="Dense model [default: exp/finetune/joint].")
]
Sparsity = Annotated[
    float | None,
    typer.Option(
        "--sparsity", min=0.01, max=0.99, help="Part of the encoder's parameters to remove [recipe: 0.8]."
    ),
]
Budget = Annotated[
    str | None, typer.Option("--budget", help="Instead of --sparsity, such as macs=6.3G for 1 s.")
]
RoundTo = Annotated[
    int | None,
    typer.Option("--round-to", min=1, help="Round widths to multiples of this within the same budget."),
]


def prune(
    teacher: Teacher = None,
    sparsity: Sparsity = None,
    budget: Budget = None,
    round_to: RoundTo = None,
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
    """Prune the encoder's structure under distillation from the teacher, and cut it.

    Example: svkit prune --sparsity 0.8
    """
    recipe = options.open_recipe(exp, preset, config, overrides, ["prune"])
    if print_config:
        options.print_recipe(recipe)
        return
    from svkit.stages.prune import PruneRequest, run

    request = PruneRequest(
        exp=exp,
        recipe=recipe,
        teacher=teacher,
        out=out,
        sparsity=sparsity,
        budget=budget,
        round_to=round_to,
        manifest=manifest,
        audio_root=audio_root,
        overwrite=overwrite,
        keep_finished=keep_finished,
    )
    with console.progress() as progress:
        done = run(request, progress)
    console.result(asdict(done) if json else done.checkpoint, as_json=json)
