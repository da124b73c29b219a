"""`svkit convert`."""

from pathlib import Path
from typing import Annotated

import typer

from svkit.cli import console, options

Source = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE", help="Published .pth, its name on the hub, or a transformers directory."
    ),
]
Target = Annotated[Path, typer.Argument(metavar="OUT", help="Checkpoint directory to write.")]
EncoderConfig = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="JSON",
        help="Encoder configuration for a .pth [default: inferred from the shapes of its weights].",
    ),
]


def convert(
    source: Source,
    out: Target,
    config: EncoderConfig = None,
    file: options.HubFile = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Make a checkpoint of svkit: from a published one, or from a transformers directory.

    Example: svkit convert model_lmft_0.14.pth checkpoints/published
    """
    from svkit.tools import convert as tool

    with console.progress() as progress:
        tool.convert(source, out, config, overwrite, file, progress)
    console.result(out)
