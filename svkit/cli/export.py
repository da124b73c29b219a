"""`svkit export`."""

import shlex
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from svkit.cli import console, options
from svkit.cli.option_groups import takes_groups


class Precision(str, Enum):
    """Arithmetic of an exported model."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


Checkpoint = Annotated[
    Path | None, typer.Argument(metavar="CKPT", help="Checkpoint, or a name on the hub [default: final pruned, else final dense].")
]
Precisions = Annotated[
    list[Precision] | None, typer.Option("--precision", help="Graph to write; repeatable [default: all three].")
]


@takes_groups
def export(
    *,
    checkpoint: Checkpoint = None,
    file: options.HubFile = None,
    precisions: Precisions = None,
    calibration: options.Calibration = None,
    out: options.Out = None,
    common: options.OutputOptions,
) -> None:
    """Write a checkpoint as ONNX, from waveform to embedding; check it against torch and time both.

    Also writes the calibration and decide.py, which compares two recordings without svkit.

    Example: svkit export exp/finetune-pruned/lmft --precision fp32 --precision int8
    """
    from svkit.store.exported import DECIDE_NAME, FORMAT, VERSION, read_export
    from svkit.store.metrics import plain_record
    from svkit.tools.export import ExportRequest, run, summary

    checkpoint = options.on_disk(checkpoint, file)
    request = common.request(
        ExportRequest, checkpoint=checkpoint, out=out, precisions=precisions, calibration=calibration
    )
    with console.progress() as progress:
        directory = run(request, progress)
    facts = read_export(directory)
    if not common.json:
        console.table(summary(facts))
    heading = {"directory": directory.as_posix(), "format": FORMAT, "format_version": VERSION}
    common.show({**heading, **plain_record(facts)}, directory)
    script = shlex.quote(str(directory / DECIDE_NAME))
    console.note(f"without svkit or torch: python {script} A.wav B.wav")
