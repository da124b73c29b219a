"""`svkit people`: who is in a gallery."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from svkit.cli import console, options
from svkit.errors import ConfigError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List and remove the people of a gallery; `svkit enroll` adds them.",
)


@app.command("list")
def list_people(
    gallery: options.Gallery = None, exp: options.Exp = Path("exp"), json: options.Json = False
) -> None:
    """List the people of a gallery: recordings, seconds, day of the last enrolment.

    Example: svkit people list
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
    from svkit.store.source import shown

    rows = [
        [str(one["name"]), str(one["recordings"]), f"{one['seconds']:.1f}", str(one["enrolled"])[:10]]
        for one in people
    ]
    headings = ["name", "recordings", "seconds", "last enrolled"]
    notes = [f"Embeddings of {shown(model['path'])} (sha256 {model['sha256'][:12]}); no audio."]
    title = f"{directory}: people: {len(people):,}"
    return console.table(Table(title=title, headings=headings, rows=rows, notes=notes))


@app.command("remove")
def remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="People to remove.")],
    recordings: Annotated[
        list[Path] | None,
        options.option(
            "--recording",
            "Remove only this recording of NAME; the file itself is needed; repeatable.",
            "FILE",
        ),
    ] = None,
    gallery: options.Gallery = None,
    model: options.Model = None,
    channel: options.Channel = "0",
    allow_cut: options.AllowCut = False,
    exp: options.Exp = Path("exp"),
    json: options.Json = False,
) -> None:
    """Remove people from a gallery, with everything stored about them; or a single recording.

    Example: svkit people remove alice
    """
    directory = gallery or exp / "gallery"
    if not recordings and (model or allow_cut or channel != "0"):
        raise ConfigError("people remove: --model, --channel and --allow-cut are only for --recording FILE")
    if recordings:
        if len(names) > 1:
            raise ConfigError(
                f"people remove: --recording needs the name of one person, found {len(names)} names"
            )
        from svkit.scoring.enroll import EnrollRequest, take_out

        request = EnrollRequest(
            exp=exp,
            gallery=directory,
            people={names[0]: tuple(recordings)},
            model=options.on_disk(model, None),
            channel=options.parse_channel(channel),
            allow_cut=allow_cut,
        )
        with console.progress() as progress:
            left = take_out(request, progress)
    else:
        from svkit.store.gallery import remove_people

        left = remove_people(directory, names)
    taken = [str(path) for path in recordings or ()]
    if json:
        answer = {"gallery": directory, "removed": names, "people": len(left.names)}
        return console.result(answer | ({"recordings": taken} if taken else {}), as_json=True)
    what = f"{', '.join(taken)} of {names[0]}" if taken else ", ".join(names)
    return console.result(f"{directory}: removed {what}; people: {len(left.names):,}")
