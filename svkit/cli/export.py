"""`svkit export`."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from svkit.cli import console, options


class Precision(str, Enum):
    """Arithmetic of an exported model."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


Checkpoint = Annotated[
    Path | None, typer.Argument(metavar="CKPT", help="[default: final pruned, else final dense]")
]
Precisions = Annotated[
    list[Precision] | None, typer.Option("--precision", help="Repeatable [default: all three].")
]


def export(
    checkpoint: Checkpoint = None,
    precisions: Precisions = None,
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    keep_finished: options.KeepFinished = False,
    exp: options.Exp = Path("exp"),
    json: options.Json = False,
) -> None:
    """Write a checkpoint as ONNX, waveform in and embedding out; check it against torch and time both.

    Example: svkit export exp/finetune-pruned/lmft --precision fp32 --precision int8
    """
    from svkit.store.exported import read_facts
    from svkit.tools.export import ExportRequest, run, summary

    request = ExportRequest(
        exp=exp,
        checkpoint=checkpoint,
        out=out,
        precisions=tuple(precision.value for precision in precisions or ()),
        overwrite=overwrite,
        keep_finished=keep_finished,
    )
    with console.progress() as progress:
        directory = run(request, progress)
    facts = read_facts(directory)
    if json:
        return console.result({"directory": directory.as_posix(), **facts}, as_json=True)
    console.table(summary(facts))
    return console.result(directory)
