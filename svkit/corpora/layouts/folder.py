"""Any tree of recordings, whose speakers are named by the first directory or found with a regex.

`svkit prepare folder` splits the recordings; `svkit extract` and `svkit calibrate` take them as one list.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import regex

from svkit.corpora.derived import hours
from svkit.corpora.recognise import corpus_root, guess_corpus
from svkit.corpora.request import CorpusRequest, CorpusResult
from svkit.corpora.scan import (
    BadFile,
    Candidate,
    CandidateTable,
    ScanOptions,
    describe_bad,
    refuse_bad,
    scan_files,
)
from svkit.corpora.skeleton import Found, prepare
from svkit.corpora.walk import find_audio, list_directories
from svkit.errors import ConfigError, DataError, first_five, printable
from svkit.progress import Progress
from svkit.reports.tables import shown_hours

LAYOUT = "expected a folder with one directory for each speaker"
MATCH_SECONDS = 1.0
"""Longest search for the speaker in one path: with some expressions, every further character doubles the time."""


def run(request: CorpusRequest, progress: Progress, *, speaker_regex: str | None = None) -> CorpusResult:
    """Prepare a folder.

    An utterance's id is its POSIX path below the root. Its session is its directory if that lies below the speaker's
    (`speaker/session`), else unknown. Evaluation speakers are those asked for, else those of the given trials, else a
    tenth; all others train.

    `speaker_regex` is searched in the POSIX path below the root; its first group is the speaker.

    Raises:
        ConfigError: `speaker_regex` cannot be used.
        DataError: there is no such directory; see also `prepare`.
    """
    root = corpus_root(request.root, "folder", LAYOUT)
    pattern = None if speaker_regex is None else _compile(speaker_regex)

    def find(data: Path) -> Found:
        guess = guess_corpus(root)
        if guess not in (None, "folder"):
            progress.note(f"{root} looks like {guess}, which has a command of its own: svkit prepare {guess}")
        bad: list[BadFile] = []
        found = CandidateTable(_list_files(root, pattern, bad))
        if pattern is None:
            _refuse_flat(str(root), found, bad)
            _say_people([root], found, progress)
        return Found(groups=[found], bad=bad)

    return prepare(request, progress, "folder", find, {"speaker_regex": speaker_regex})


def list_recordings(
    sources: Sequence[Path],
    scan: ScanOptions,
    progress: Progress,
    *,
    speaker_regex: str | None = None,
    needs_speakers: bool = True,
) -> tuple[pd.DataFrame, list[BadFile]]:
    """Return the manifest rows of recordings, given singly or in folders, without any split; and the bad ones.

    An utterance's id is its POSIX path below `root_of(sources)`. Speakers and sessions in each folder are those of
    `prepare folder`. A recording without a speaker is bad with `needs_speakers`, else its `speaker_id` is empty.

    Raises:
        ConfigError: `speaker_regex` cannot be used.
        DataError: a source does not exist, there is no audio, or there are bad files that are not left out.
    """
    pattern = None if speaker_regex is None else _compile(speaker_regex)
    bad: list[BadFile] = []
    found = CandidateTable(_gather(sources, pattern, bad, needs_speakers=needs_speakers))
    num_files, named = len(found) + len(bad), first_five([str(source) for source in sources])
    if not num_files:
        raise DataError(f"{named}: no audio files below it")
    if pattern is None:
        _refuse_flat(named, found, bad)
        _say_people(sources, found, progress, needs_speakers=needs_speakers)
    table, unusable = scan_files(found, scan, progress)
    bad += unusable
    refuse_bad(bad, scan, num_files)
    if bad:
        progress.note(f"left out: {describe_bad(bad, num_files)}")
    if not len(table):
        raise DataError(f"{named}: none of its {num_files} audio files can be used")
    speakers = table["speaker_id"][table["speaker_id"] != ""].nunique()
    who = f"{speakers:,} speakers" if speakers else "no speaker known"
    progress.note(f"{named}: {len(table):,} recordings, {who}, {shown_hours(hours(table))}")
    return table, bad


def _refuse_flat(named: str, found: CandidateTable, bad: Sequence[BadFile]) -> None:
    """Raise DataError if no recording is in a speaker's directory: then the folder is wrong, and not the files."""
    if bad and not len(found):
        raise DataError(
            f"{named}: {LAYOUT}, found {len(bad)} recordings directly in it; put"
            " each speaker's into a directory, or, if these are one speaker's, give the folder above it"
        )


def _say_people(
    sources: Sequence[Path], found: CandidateTable, progress: Progress, *, needs_speakers: bool = True
) -> None:
    """Note whose directories may be people rather than sessions, and, with `needs_speakers`, which are without audio.

    A folder of folders of people looks just like a folder of people with several sessions each.
    """
    sessions = {speaker: names for speaker, names in found.sessions().items() if speaker}
    without_own = [speaker for speaker, names in sessions.items() if names[0]]
    held = [speaker for speaker in without_own if len(sessions[speaker]) > 1]
    doubtful = without_own if len(without_own) == len(sessions) else held
    named = first_five([str(source) for source in sources])
    if doubtful:
        example = Path(sessions[doubtful[0]][0])
        home = sources[0] if len(sources) == 1 else root_of(sources)
        words = (
            f"each of these directories in {named} is one person, and those below it are sessions:"
            f" {first_five(doubtful)}; if {example} is a person, give {home / example.parent} instead of {named}"
        )
        progress.note(printable(words))
    homes = [source for source in sources if source.is_dir()] if needs_speakers else []
    silent = {name for directory in homes for name in list_directories(directory)} - sessions.keys()
    if silent:
        names = printable(first_five(sorted(silent)))
        progress.note(f"directories in {named} without a recording, so nobody is taken from them: {names}")


def list_name(sources: Sequence[Path]) -> str:
    """Return the name of a list of these recordings: that of the folder or recording, or of what holds them all."""
    if len(sources) == 1 and not sources[0].is_dir():
        return sources[0].stem
    return root_of(sources).name or "recordings"


def root_of(sources: Sequence[Path]) -> Path:
    """Return the lowest directory that holds everything: a single folder itself, or the one a recording is in."""
    homes = [place if is_folder else place.parent for place, is_folder in absolute(sources).items()]
    return Path(os.path.commonpath(homes))


def absolute(sources: Sequence[Path]) -> dict[Path, bool]:
    """Return the absolute path of each source -> whether it is a folder; a link to a recording keeps its name."""
    return {
        source.resolve() if source.is_dir() else source.parent.resolve() / source.name: source.is_dir()
        for source in sources
    }


def _gather(
    sources: Sequence[Path], pattern: regex.Pattern[str] | None, bad: list[BadFile], *, needs_speakers: bool
) -> Iterator[Candidate]:
    """Yield the recordings, each only once even if a source lies inside another."""
    for source in sources:
        if not source.exists():
            raise DataError(f"{source}: does not exist; expected a recording or a folder of recordings")
    root, places = root_of(sources), absolute(sources)
    for place, is_folder in places.items():
        if any(places.get(parent) for parent in place.parents):
            continue
        name = "" if place == root else place.relative_to(root).as_posix()
        if is_folder:
            prefix = f"{name}/" if name else ""
            yield from _list_files(place, pattern, bad, prefix, needs_speakers=needs_speakers)
        else:
            yield Candidate(name, "", "", place.as_posix())


def _compile(expression: str) -> regex.Pattern[str]:
    try:
        pattern = regex.compile(expression)
    except (regex.error, RecursionError) as error:
        raise ConfigError(f"--speaker-regex {expression}: {error}") from error
    if pattern.groups < 1:
        raise ConfigError(
            f"--speaker-regex {expression}: expected a group in parentheses, which is the speaker"
        )
    return pattern


def _list_files(
    root: Path,
    pattern: regex.Pattern[str] | None,
    bad: list[BadFile],
    prefix: str = "",
    *,
    needs_speakers: bool = True,
) -> Iterator[Candidate]:
    """Yield the files, ids and sessions after `prefix`; with `needs_speakers`, those without one go to `bad`."""
    for name in find_audio(root):
        directory = name.rpartition("/")[0]
        if pattern is None:
            speaker, cause = directory.partition("/")[0], "the file is not in a speaker's directory"
        else:
            speaker, cause = _search(pattern, name), "--speaker-regex finds no speaker"
        path = f"{root.as_posix()}/{name}"
        if speaker or not needs_speakers:
            yield Candidate(
                f"{prefix}{name}", speaker, f"{prefix}{directory}" if "/" in directory else "", path
            )
        else:
            bad.append(BadFile(f"{prefix}{name}", "no speaker", cause, path))


def _search(pattern: regex.Pattern[str], name: str) -> str:
    try:
        found = pattern.search(name, timeout=MATCH_SECONDS)
    except TimeoutError as error:
        raise ConfigError(
            f"--speaker-regex {pattern.pattern}: takes more than {MATCH_SECONDS:g} s for {printable(name)};"
            " rewrite it without nested repetitions"
        ) from error
    return (found.group(1) or "") if found else ""
