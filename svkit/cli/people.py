"""`svkit people`: who is in a gallery."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from svkit.cli import console, options

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="List and remove the people of a gallery."
)


@app.command("list")
def list_people(
    gallery: options.Gallery = None, exp: options.Exp = Path("exp"), json: options.Json = False
) -> None:
    """List the people of a gallery: recordings, seconds, day of the last enrolment.

    Example: svkit people list --gallery people
    """
    from svkit.store.gallery import read_gallery

    directory = gallery or exp / "gallery"
    found = read_gallery(directory)
    people = [
        {
            "name": name,
            "recordings": int(count),
            "seconds": round(float(seconds), 3),
            "enrolled": datetime.fromtimestamp(int(when), timezone.utc).isoformat(),
        }
        for name, count, seconds, when in zip(
            found.names, found.counts, found.seconds, found.enrolled, strict=True
        )
    ]
    model = {"path": found.model.path, "sha256": found.model.sha256}
    if json:
        return console.result({"gallery": directory, "model": model, "people": people}, as_json=True)
    from svkit.reports.tables import Table

    rows = [
        [str(one["name"]), str(one["recordings"]), f"{one['seconds']:.1f}", str(one["enrolled"])[:10]]
        for one in people
    ]
    headings = ["name", "recordings", "seconds", "last enrolled"]
    notes = [f"Embeddings of {model['path']} (sha256 {model['sha256'][:12]}); no audio."]
    title = f"{directory}: {len(people):,} people"
    return console.table(Table(title=title, headings=headings, rows=rows, notes=notes))


@app.command("remove")
def remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Who is removed.")],
    gallery: options.Gallery = None,
    exp: options.Exp = Path("exp"),
    json: options.Json = False,
) -> None:
    """Remove people from a gallery, with all that is stored of them.

    Example: svkit people remove alice --gallery people
    """
    from svkit.store.gallery import remove_people

    directory = gallery or exp / "gallery"
    left = remove_people(directory, names)
    if json:
        return console.result(
            {"gallery": directory, "removed": names, "people": len(left.names)}, as_json=True
        )
    return console.result(f"{directory}: removed {', '.join(names)}; people: {len(left.names):,}")
