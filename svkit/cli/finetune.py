"""`svkit finetune`."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from svkit.cli import console, options


class Stage(str, Enum):
    """The stages of fine-tuning."""

    LORA = "lora"
    HEAD = "head"
    JOINT = "joint"
    LMFT = "lmft"


Source = Annotated[
    Path | None, typer.Option("--from", metavar="CKPT", help="Checkpoint to start from, such as exp/distill.")
]
OneStage = Annotated[
    Stage | None, typer.Option("--stage", help="Run one stage only [default: the recipe's three in order].")
]


def finetune(
    source: Source = None,
    stage: OneStage = None,
    encoder: options.Encoder = None,
    out: options.Out = None,
    manifest: options.Manifest = None,
    audio_root: options.AudioRoot = None,
    noise: options.Noise = None,
    rirs: options.Rirs = None,
    augment: options.Augment = True,
    overwrite: options.Overwrite = False,
    keep_finished: options.KeepFinished = False,
    exp: options.Exp = Path("exp"),
    preset: options.Preset = None,
    config: options.Config = None,
    overrides: options.Overrides = None,
    print_config: options.PrintConfig = False,
    json: options.Json = False,
) -> None:
    """Fine-tune encoder and speaker head: lora (or head), joint, lmft.

    Example: svkit finetune --stage joint --set joint.optim.lr=2e-5
    """
    names = [stage.value] if stage else [item.value for item in Stage]
    sections = [f"{model}.{name}" for model in ("dense", "pruned") for name in names]
    recipe = options.open_recipe(exp, preset, config, overrides, sections, encoder)
    if print_config:
        options.print_recipe(recipe)
        return
    from svkit.stages.finetune import FinetuneRequest, run

    noise, rirs = options.material(exp, noise, rirs)
    request = FinetuneRequest(
        exp=exp,
        recipe=recipe,
        encoder=encoder,
        stage=stage.value if stage else None,
        source=source,
        out=out,
        manifest=manifest,
        audio_root=audio_root,
        noise=noise,
        rirs=rirs,
        augment=augment,
        overwrite=overwrite,
        keep_finished=keep_finished,
    )
    with console.progress() as progress:
        done = run(request, progress)
    console.result({"checkpoints": done.checkpoints} if json else done.checkpoints, as_json=json)
