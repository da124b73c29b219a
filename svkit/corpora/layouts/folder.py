"""`svkit prepare folder`: any tree of recordings; the first directory or a regex tells the speaker."""

from collections.abc import Iterator
from pathlib import Path

import regex

from svkit.corpora.corpus import DataDirectory, identity, split_and_write
from svkit.corpora.recognise import guess_corpus
from svkit.corpora.request import CorpusRequest, CorpusResult
from svkit.corpora.scan import BadFile, Candidate, CandidateTable, make_bad, printable, scan_files
from svkit.corpora.walk import find_audio
from svkit.errors import ConfigError, DataError
from svkit.progress import Progress

MATCH_SECONDS = 1.0
"""Longest search for the speaker in one path: some expressions take twice as long for every further character."""


def run(request: CorpusRequest, progress: Progress, *, speaker_regex: str | None = None) -> CorpusResult:
    """Prepare a folder.

    An utterance's id is its POSIX path below the root; its session is its directory where that lies deeper
    than the speaker's (`speaker/session`), else unknown. Evaluation speakers are those asked for, else those
    of the given trials, else a tenth; everyone else trains.

    Args:
        request: with `root`.
        progress: counts files.
        speaker_regex: searched in the POSIX path below the root; its first group is the speaker.

    Raises:
        DataError: see the files of this package.
    """
    if request.root is None or not request.root.is_dir():
        raise DataError(f"{request.root}: no such directory; expected a folder with one directory a speaker")
    root = request.root.resolve()
    pattern = _compile(speaker_regex)
    config = {**identity(request), "speaker_regex": speaker_regex}
    with DataDirectory(request, progress, "folder", config) as data:
        if data.finished is not None:
            return data.finished
        guess = guess_corpus(root)
        if guess not in (None, "folder"):
            progress.note(f"{root} looks like {guess}, for which there is a command: svkit prepare {guess}")
        bad: list[BadFile] = []
        candidates = CandidateTable(_list_files(root, pattern, bad))
        table, unusable = scan_files(candidates, request.scan, progress)
        bad.extend(unusable)
        data.accept(bad, len(table) + len(bad))
        return split_and_write(data, table, bad, request, "folder", progress)


def _compile(expression: str | None) -> regex.Pattern[str] | None:
    if expression is None:
        return None
    try:
        pattern = regex.compile(expression)
    except (regex.error, RecursionError) as error:
        raise ConfigError(f"--speaker-regex {expression}: {error}") from error
    if pattern.groups < 1:
        raise ConfigError(
            f"--speaker-regex {expression}: expected a group in parentheses, which is the speaker"
        )
    return pattern


def _find_speaker(pattern: regex.Pattern[str] | None, name: str) -> str:
    if pattern is None:
        first, _, below = name.partition("/")
        return first if below else ""
    try:
        found = pattern.search(name, timeout=MATCH_SECONDS)
    except TimeoutError as error:
        raise ConfigError(
            f"--speaker-regex {pattern.pattern}: takes more than {MATCH_SECONDS:g} s for {printable(name)};"
            " write it without repetitions inside repetitions"
        ) from error
    return (found.group(1) or "") if found else ""


def _list_files(
    root: Path, pattern: regex.Pattern[str] | None, without_speaker: list[BadFile]
) -> Iterator[Candidate]:
    for name in find_audio(root):
        directory = name.rpartition("/")[0]
        speaker = _find_speaker(pattern, name)
        candidate = Candidate(
            utterance_id=name,
            speaker_id=speaker,
            session_id=directory if "/" in directory else "",
            path=f"{root.as_posix()}/{name}",
        )
        if speaker:
            yield candidate
        else:
            cause = (
                "the file lies in no speaker's directory"
                if pattern is None
                else "--speaker-regex finds no speaker"
            )
            without_speaker.append(make_bad(candidate, "no speaker", cause))
