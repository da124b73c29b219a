"""`svkit enroll`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svkit.cli import console, options
from svkit.cli.option_groups import takes_groups
from svkit.errors import ConfigError, DataError

if TYPE_CHECKING:
    from svkit.scoring.enroll import Enrolled


@takes_groups
def enroll(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FOLDER|TSV",
            help="Name of the person; or a folder or manifest with many people.",
        ),
    ],
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE|FOLDER...", help="Recordings of this person, or a folder of them."),
    ] = None,
    gallery: options.Gallery = None,
    skip_bad: options.SkipBad = False,
    speaker_regex: options.PersonRegex = None,
    *,
    given: options.HearingOptions,
) -> None:
    """Add recordings of a person to a gallery, as embeddings; no audio is kept.

    Enrolling a name again adds recordings. `svkit people` lists and removes people.

    To enroll everyone in a folder with a directory for each person: svkit enroll recordings

    Example: svkit enroll alice monday.wav tuesday.wav
    """
    _refuse_slips(name, files, has_scan_options=skip_bad or speaker_regex is not None)
    own = _recordings(name, files or [])
    from svkit.corpora.scan import ScanOptions
    from svkit.scoring.enroll import EnrollRequest, run
    from svkit.store.audio_file import Channel, Place
    from svkit.store.gallery import refuse_other_files
    from svkit.tools.people import list_people

    home = gallery or given.exp / "gallery"
    refuse_other_files(home)  # before all recordings are read
    with console.progress() as progress:
        if own:
            people, channels = {name: tuple[Place, ...](own)}, dict[Place, Channel]()
        else:
            channel = options.parse_channel(given.channel)
            scan = ScanOptions(channel=channel, skip_bad=skip_bad, allow_cut=given.allow_cut)
            people, channels = list_people(Path(name), scan, progress, speaker_regex=speaker_regex)
        request = given.hearing(EnrollRequest, gallery=home, people=people, channels=channels)
        done = run(request, progress)
        for text in _remarks(done):
            progress.note(text)
    now, total = [{**asdict(one), "is_trusted": one.is_trusted} for one in done], done[-1].people
    if given.json:
        every = {"gallery": request.gallery, "people": total, "enrolled": now}
        return console.result(now[0] if files else every, as_json=True)
    who = done[0].name if len(done) == 1 else f"{len(done):,} people"
    added, known = sum(len(one.added) for one in done), sum(one.recordings for one in done)
    new = f"{added:,} new recording{'' if added == 1 else 's'}"
    recordings = f"{new}, {known:,} in all, {sum(one.seconds for one in done):,.1f} s"
    return console.result(f"{request.gallery}: {who}: {recordings}; people in the gallery: {total:,}")


def _refuse_slips(name: str, files: list[Path] | None, *, has_scan_options: bool) -> None:
    """Raise ConfigError unless a person with files, a folder of people or a manifest is given."""
    path = Path(name)
    if files and path.is_file():
        raise ConfigError(f"{name}: is a file, expected the name of a person: svkit enroll NAME FILE...")
    if files and has_scan_options:
        raise ConfigError(
            "enroll: --skip-bad and --speaker-regex are only for a folder of people; leave them out"
        )
    is_list = path.suffix in (".tsv", ".parquet") and path.is_file()
    if not files and not path.is_dir() and not is_list:
        missing = "" if path.exists() else f"; there is no folder {name!r}"
        raise ConfigError(
            f"enroll: expected recordings after {name!r} (svkit enroll NAME FILE...), or only a folder "
            f"with a directory for each person, or a manifest (.tsv, .parquet){missing}"
        )
    if (
        not files
        and path.is_dir()
        and not has_scan_options
        and not any(one.is_dir() for one in path.iterdir())
    ):
        raise ConfigError(
            f"{name}: expected a directory for each person in it, found none; to enroll one person:"
            f" svkit enroll NAME {name}"
        )
    if is_list and has_scan_options:
        raise ConfigError(
            f"{name}: is a manifest, but --skip-bad and --speaker-regex are only for a folder; leave them out"
        )


def _recordings(name: str, files: list[Path]) -> list[Path]:
    """Return the files of a person, with the recordings of each folder in its place.

    Raises:
        ConfigError: a folder has recordings in directories below it, which may be other people's.
        DataError: there are no recordings in a folder.
    """
    from svkit.corpora.walk import expand

    found = list[Path]()
    for path in files:
        if not (inside := expand(path)):
            raise DataError(f"{path}: no audio files in it")
        if any(path not in (one, one.parent) for one in inside):
            raise ConfigError(
                f"{path}: has directories with recordings; expected only those of {name}, directly in it. To enroll"
                f" everybody (a directory for each person): svkit enroll {path}"
            )
        found += inside
    return found


def _remarks(done: "tuple[Enrolled, ...]") -> list[str]:
    """Return the warnings and notes; of several people, the first five of each kind (--json has all)."""
    from svkit.scoring.enroll import KNOWN

    warnings = [f"warning: {text}" for one in done for text in one.warnings]
    notes = [text for one in done for text in one.notes]
    notes.sort(key=lambda text: text.endswith(KNOWN))  # what is no news comes last
    if len(done) == 1:
        return [*warnings, *notes]
    found = list[str]()
    for kind, texts in (("warning", warnings), ("note", notes)):
        found += texts[:5]
        if (left := len(texts) - 5) > 0:
            found.append(f"{left:,} more {kind}{'s' * (left > 1)}: --json shows all")
    return found
