"""`svkit extract`."""

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from svkit.cli import console, options


class Dtype(str, Enum):
    """Arithmetic of the model."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


Models = Annotated[
    list[Path] | None,
    typer.Option("--model", metavar="CKPT", help="Repeatable [default: final dense and final pruned model]."),
]
Precision = Annotated[
    Dtype, typer.Option("--dtype", help="auto: bfloat16 where the device is fast at it, float32 otherwise.")
]


def extract(
    models: Models = None,
    manifest: options.Manifest = None,
    out: options.Out = None,
    audio_root: options.AudioRoot = None,
    dtype: Precision = Dtype.AUTO,
    overwrite: options.Overwrite = False,
    keep_finished: options.KeepFinished = False,
    exp: options.Exp = Path("exp"),
    preset: options.Preset = None,
    config: options.Config = None,
    overrides: options.Overrides = None,
    print_config: options.PrintConfig = False,
    json: options.Json = False,
) -> None:
    """Compute the embedding of every utterance of a manifest.

    Example: svkit extract --model exp/finetune/lmft --manifest mine.tsv --out exp/embeddings/mine
    """
    recipe = options.open_recipe(exp, preset, config, overrides, ["extract"])
    if print_config:
        options.print_recipe(recipe)
        return
    from svkit.stages.extract import ExtractRequest, run

    request = ExtractRequest(
        exp=exp,
        recipe=recipe,
        models=tuple(models or ()),
        manifest=manifest,
        out=out,
        audio_root=audio_root,
        dtype=dtype.value,
        overwrite=overwrite,
        keep_finished=keep_finished,
    )
    with console.progress() as progress:
        done = run(request, progress)
    console.result(asdict(done) if json else done.embeddings, as_json=json)
