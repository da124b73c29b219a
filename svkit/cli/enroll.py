"""`svkit enroll`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from svkit.cli import console, options


def enroll(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose recordings they are.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recordings of this person.")],
    gallery: options.Gallery = None,
    model: options.Model = None,
    file: options.HubFile = None,
    channel: options.Channel = "0",
    allow_cut: options.AllowCut = False,
    exp: options.Exp = Path("exp"),
    json: options.Json = False,
) -> None:
    """Add recordings of a person to a gallery, as embeddings: no audio is kept.

    Again for the same name: more recordings of the person. See `svkit people` to list and remove.

    Example: svkit enroll alice monday.wav tuesday.wav --gallery people
    """
    from svkit.scoring.enroll import EnrollRequest, run

    request = EnrollRequest(
        exp=exp,
        gallery=gallery or exp / "gallery",
        name=name,
        files=tuple(files),
        model=options.on_disk(model, file),
        channel=options.parse_channel(channel),
        allow_cut=allow_cut,
    )
    with console.progress() as progress:
        done = run(request, progress)
        for text in (*(f"warning: {warning}" for warning in done.warnings), *done.notes):
            progress.note(text)
    if json:
        return console.result({**asdict(done), "is_trusted": not done.warnings}, as_json=True)
    added = f"{len(done.added)} new, {done.recordings} in all, {done.seconds:.1f} s"
    return console.result(f"{done.gallery}: {done.name}: recordings: {added}; people: {done.people:,}")
