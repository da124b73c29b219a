"""`svkit prepare folder`: any tree of recordings; the first directory or a regex tells the speaker."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import regex

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
from svkit.corpora.walk import find_audio
from svkit.errors import ConfigError, DataError, printable
from svkit.progress import Progress

LAYOUT = "expected a folder with one directory a speaker"
MATCH_SECONDS = 1.0
"""Longest search for the speaker in one path: some expressions take twice as long for every further character."""


def run(request: CorpusRequest, progress: Progress, *, speaker_regex: str | None = None) -> CorpusResult:
    """Prepare a folder.

    An utterance's id is its POSIX path below the root; its session is its directory where that lies deeper
    than the speaker's (`speaker/session`), else unknown. Evaluation speakers are those asked for, else those
    of the given trials, else a tenth; everyone else trains.

    `speaker_regex` is searched in the POSIX path below the root; its first group is the speaker.

    Raises:
        ConfigError: an expression that cannot be used.
        DataError: no such directory; see also `prepare`.
    """
    root = corpus_root(request.root, "folder", LAYOUT)
    pattern = None if speaker_regex is None else _compile(speaker_regex)

    def find(data: Path) -> Found:
        guess = guess_corpus(root)
        if guess not in (None, "folder"):
            progress.note(f"{root} looks like {guess}, for which there is a command: svkit prepare {guess}")
        bad: list[BadFile] = []
        return Found(groups=[CandidateTable(_list_files(root, pattern, bad))], bad=bad)

    return prepare(request, progress, "folder", find, {"speaker_regex": speaker_regex})


def list_recordings(
    root: Path, scan: ScanOptions, progress: Progress, *, speaker_regex: str | None = None
) -> pd.DataFrame:
    """Return the rows of a manifest of all recordings of a folder, without any split.

    Raises:
        ConfigError: an expression that cannot be used.
        DataError: no such directory, no audio, or bad files that are not left out.
    """
    root = corpus_root(root, "folder", LAYOUT)
    bad: list[BadFile] = []
    found = CandidateTable(_list_files(root, None if speaker_regex is None else _compile(speaker_regex), bad))
    table, unusable = scan_files(found, scan, progress)
    num_files = len(found) + len(bad)
    if not num_files:
        raise DataError(f"{root}: no audio files below it")
    bad += unusable
    refuse_bad(bad, scan, num_files)
    if bad:
        progress.note(f"left out: {describe_bad(bad, num_files)}")
    return table


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


def _list_files(root: Path, pattern: regex.Pattern[str] | None, bad: list[BadFile]) -> Iterator[Candidate]:
    """Yield the files that have a speaker, and add the others to `bad`."""
    for name in find_audio(root):
        directory = name.rpartition("/")[0]
        if pattern is None:
            speaker, cause = directory.partition("/")[0], "the file lies in no speaker's directory"
        else:
            speaker, cause = _search(pattern, name), "--speaker-regex finds no speaker"
        path = f"{root.as_posix()}/{name}"
        if speaker:
            yield Candidate(name, speaker, directory if "/" in directory else "", path)
        else:
            bad.append(BadFile(name, "no speaker", cause, path))


def _search(pattern: regex.Pattern[str], name: str) -> str:
    try:
        found = pattern.search(name, timeout=MATCH_SECONDS)
    except TimeoutError as error:
        raise ConfigError(
            f"--speaker-regex {pattern.pattern}: takes more than {MATCH_SECONDS:g} s for {printable(name)};"
            " rewrite it without nested repetitions"
        ) from error
    return (found.group(1) or "") if found else ""
