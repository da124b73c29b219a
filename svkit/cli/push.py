"""`svkit push`."""

from pathlib import Path
from typing import Annotated

import typer

from svkit.cli import console, options
from svkit.errors import ConfigError


def push(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="Checkpoint, or a name on the hub.")],
    name: Annotated[
        str,
        typer.Argument(
            metavar="ORG/NAME", help="Repository on the hub; add @BRANCH for a branch other than main."
        ),
    ],
    file: options.HubFile = None,
    dry_run: Annotated[
        bool, options.option("--dry-run", "Write the folder that would be pushed, without pushing it.")
    ] = False,
    out: Annotated[
        Path | None,
        options.option("--out", "With --dry-run: the folder [default: hub/NAME in --exp].", "DIR"),
    ] = None,
    overwrite: Annotated[
        bool, options.option("--overwrite", "With --dry-run: replace an existing folder.")
    ] = False,
    licence: Annotated[
        str | None,
        options.option("--license", "Licence, as the hub names it [default: that of the base model].", "ID"),
    ] = None,
    private: Annotated[
        bool, options.option("--private", "Make a new repository visible to its owners only.")
    ] = False,
    message: Annotated[
        str | None, options.option("--message", "Commit message [default: the sha256 of the model].", "TEXT")
    ] = None,
    exp: options.Exp = Path("exp"),
    json: options.Json = False,
) -> None:
    """Upload a checkpoint to the Hugging Face hub, with its calibration and a card with its figures.

    Needs a token with write access (hf auth login, or HF_TOKEN). Others load it as hub:ORG/NAME.

    Example: svkit push exp/finetune-pruned/lmft me/my-model --dry-run
    """
    from svkit.models import hub
    from svkit.tools import push as tool

    if not dry_run and (out is not None or overwrite):
        raise ConfigError(f"{'--overwrite' if out is None else '--out'}: is only for --dry-run")
    wanted = hub.parse(f"hub:{name.removeprefix('hub:')}")
    assert wanted is not None
    request = tool.PushRequest(
        exp=exp,
        overwrite=overwrite,
        checkpoint=options.on_disk(checkpoint, file) or checkpoint,
        name=wanted,
        licence=licence,
    )
    with console.progress() as progress:
        folder = tool.gather(request, progress)
    # No progress receiver here: the hub's client draws bars of its own.
    done = (
        tool.write(request, folder, out)
        if dry_run
        else f"hub:{tool.send(request, folder, message, is_private=private)}"
    )
    if json:
        facts = {"licence": folder.licence, "scores": folder.scores, "files": list(folder.contents)}
        return console.result({("directory" if dry_run else "name"): done, **facts}, as_json=True)
    return console.result(done)
