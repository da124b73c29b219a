"""Finds the audio files of a tree and reads their headers (or all of their samples) in parallel."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from svkit.errors import DataError, first_five
from svkit.progress import Progress
from svkit.store.audio_file import AudioError, AudioInfo, examine, probe
from svkit.store.manifest import COLUMNS

READABLE_SUFFIXES = frozenset(
    {
        *(".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
        *(".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".sph", ".nist", ".voc"),
    }
)
"""What libsndfile is asked to read."""
CONVERTIBLE_SUFFIXES = frozenset(
    {".m4a", ".aac", ".mp4", ".wma", ".amr", ".webm", ".mka", ".ape", ".wv", ".spx"}
)
"""Audio that libsndfile cannot read: reported, never passed over in silence."""
_CHUNK_FILES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An audio file and what its place says about it."""

    utterance_id: str
    speaker_id: str
    session_id: str
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BadFile:
    """A file that cannot be used."""

    utterance_id: str
    reason: str
    """The kind of fault, for counting: unreadable, empty, too short, truncated, non-finite, duplicate, ..."""
    detail: str
    """The cause in words."""
    path: str


class BadFilesError(DataError):
    """The corpus has bad files and nobody said to leave them out."""

    def __init__(self, message: str, bad_files: Sequence[BadFile]) -> None:
        """Keep the list beside the message, for a table."""
        super().__init__(message)
        self.bad_files = tuple(bad_files)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanOptions:
    """How files are examined."""

    min_seconds: float = 0.5
    """Shorter files are bad."""
    reads_samples: bool = True
    """Decode every file (finds truncated, non-finite and duplicate ones) instead of its header only."""
    num_workers: int | None = None
    """Threads; None: by the number of cores. libsndfile works outside the interpreter's lock."""
    skip_bad: bool = False


def find_audio(root: Path) -> Iterator[str]:
    """Yield the POSIX paths below `root` of all audio files, in sorted order.

    Dot files and files of other kinds are passed over; links to directories are followed, each directory by one link
    only, so that loops end and links to each other do not multiply.

    Raises:
        DataError: `root` is no directory, or a directory cannot be listed.
    """
    if not root.is_dir():
        raise DataError(f"{root}: {'is not a directory' if root.exists() else 'does not exist'}")
    yield from _walk(root, "", (), set())


def _walk(
    directory: Path, prefix: str, ancestors: tuple[tuple[int, int], ...], linked: set[tuple[int, int]]
) -> Iterator[str]:
    try:
        status = directory.stat()
        here = (status.st_dev, status.st_ino)
        if here in ancestors:
            return
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{directory}: cannot be listed: {error.strerror}") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _is_directory(entry):
            if entry.is_symlink():
                status = entry.stat()
                target = (status.st_dev, status.st_ino)
                if target in linked:
                    continue
                linked.add(target)
            yield from _walk(directory / entry.name, f"{prefix}{entry.name}/", (*ancestors, here), linked)
        elif is_audio_name(entry.name):
            yield prefix + entry.name


def _is_directory(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_audio_name(name: str) -> bool:
    """Say whether a file of this name is meant to be audio."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a million names: no Path objects)
    return suffix in READABLE_SUFFIXES or suffix in CONVERTIBLE_SUFFIXES


def scan_files(
    candidates: Sequence[Candidate],
    options: ScanOptions,
    progress: Progress,
    description: str = "reading audio",
) -> tuple[pd.DataFrame, list[BadFile]]:
    """Examine files in parallel.

    Args:
        candidates: the files; of files with equal content, the first is kept.
        options: what makes a file bad, and how many threads.
        progress: counts files.
        description: of the task.

    Returns:
        The rows of a manifest in the order of `candidates`, and the bad files.
    """
    chunks = [candidates[start : start + _CHUNK_FILES] for start in range(0, len(candidates), _CHUNK_FILES)]
    workers = options.num_workers or min(16, max(4, os.cpu_count() or 1))
    rows: list[tuple[Candidate, AudioInfo]] = []
    bad: list[BadFile] = []
    first_with: dict[str, str] = {}
    with progress.task(description, len(candidates)) as task, ThreadPoolExecutor(workers) as executor:
        try:
            for chunk in executor.map(lambda chunk: [_examine(file, options) for file in chunk], chunks):
                for candidate, outcome, digest in chunk:
                    if isinstance(outcome, BadFile):
                        bad.append(outcome)
                    elif digest and (first := first_with.setdefault(digest, candidate.utterance_id)) != (
                        candidate.utterance_id
                    ):
                        bad.append(make_bad(candidate, "duplicate", f"the same samples as {first}"))
                    else:
                        rows.append((candidate, outcome))
                task.advance(len(chunk))
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
    return _make_table(rows), bad


def make_bad(candidate: Candidate, reason: str, detail: str) -> BadFile:
    """Return a candidate as a bad file."""
    return BadFile(utterance_id=candidate.utterance_id, reason=reason, detail=detail, path=candidate.path)


def _examine(candidate: Candidate, options: ScanOptions) -> tuple[Candidate, AudioInfo | BadFile, str]:
    path = Path(candidate.path)
    fault = _name_fault(candidate.utterance_id)
    if fault:
        return candidate, make_bad(candidate, "unusable name", fault), ""
    if path.suffix.lower() in CONVERTIBLE_SUFFIXES:
        detail = (
            f"{path.suffix} is not read by libsndfile; convert it to wav or flac, for example with ffmpeg"
        )
        return candidate, make_bad(candidate, "unreadable", detail), ""
    try:
        info, digest = examine(path) if options.reads_samples else (probe(path), "")
    except AudioError as error:
        return candidate, make_bad(candidate, error.reason, error.detail), ""
    seconds = info.num_samples / info.sample_rate_hz
    if seconds < options.min_seconds:
        detail = f"{seconds:.3g} s, shorter than {options.min_seconds:g} s"
        return candidate, make_bad(candidate, "too short", detail), ""
    return candidate, info, digest


def _name_fault(name: str) -> str:
    if any(mark in name for mark in "\t\n\r"):
        return "the name holds a tab or a line end; rename it"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "the name is not valid UTF-8; rename it"
    return ""


def _make_table(rows: list[tuple[Candidate, AudioInfo]]) -> pd.DataFrame:
    columns = {
        "utterance_id": [file.utterance_id for file, _ in rows],
        "speaker_id": [file.speaker_id for file, _ in rows],
        "path": [file.path for file, _ in rows],
        "sample_rate_hz": [info.sample_rate_hz for _, info in rows],
        "num_samples": [info.num_samples for _, info in rows],
        "session_id": [file.session_id for file, _ in rows],
    }
    assert tuple(columns) == COLUMNS
    return pd.DataFrame(columns)


def refuse_bad(bad: Sequence[BadFile], options: ScanOptions, num_files: int) -> None:
    """Raise unless bad files are to be left out.

    Raises:
        BadFilesError: names the first five, counts the reasons, and says what to do.
    """
    if not bad or options.skip_bad:
        return
    counts = ", ".join(
        f"{count} {reason}" for reason, count in Counter(file.reason for file in bad).most_common()
    )
    shown = first_five([f"{printable(file.utterance_id)} ({printable(file.detail)})" for file in bad])
    raise BadFilesError(
        f"{len(bad)} of {num_files} audio files cannot be used ({counts}): {shown}; mend them,"
        " or leave them out with --skip-bad",
        bad,
    )


def printable(text: str) -> str:
    """Return text that any terminal and any file can take: what cannot be shown becomes an escape."""
    escaped = text.encode("utf-8", "backslashreplace").decode()
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in escaped)
