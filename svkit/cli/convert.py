"""`svkit convert`."""

from pathlib import Path
from typing import Annotated

import typer

from svkit.cli import console, options

Source = Annotated[
    Path, typer.Argument(metavar="SOURCE", help="Published .pth checkpoint or transformers directory.")
]
Target = Annotated[Path, typer.Argument(metavar="OUT", help="Checkpoint directory to write.")]
EncoderConfig = Annotated[
    Path | None,
    typer.Option("--config", metavar="JSON", help="Encoder configuration of a published checkpoint."),
]


def convert(
    source: Source, out: Target, config: EncoderConfig = None, overwrite: options.Overwrite = False
) -> None:
    """Turn a published checkpoint or a transformers directory into an svkit checkpoint.

    Example: svkit convert model.pth checkpoints/published --config encoder.json
    """
    from svkit.tools.convert import run

    with console.progress() as progress:
        run(source, out, config, overwrite, progress)
    console.result(out)
