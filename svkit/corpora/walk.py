"""Finds the audio files and speaker directories of a tree without opening any file."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from svkit.corpora.scan import Candidate
from svkit.errors import DataError
from svkit.progress import Progress
from svkit.store.audio_file import CONVERTIBLE_SUFFIXES

_SUFFIXES = "wav wave w64 rf64 flac ogg oga opus mp3 aiff aif aifc au snd caf sph nist voc"
READABLE_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
"""Files that are read by libsndfile."""


def list_speakers(root: Path, name: re.Pattern[str], max_depth: int, progress: Progress) -> Iterator[Path]:
    """Yield the directories whose names match, in sorted order at each level (DataError: one cannot be listed).

    Matches are not searched further. At most `max_depth` directories lie between `root` and a speaker's directory.
    """
    directories = list(_find_speakers(root, name, max_depth))
    with progress.task("listing speakers", len(directories)) as task:
        for directory in directories:
            yield directory
            task.advance()


def _find_speakers(root: Path, name: re.Pattern[str], max_depth: int) -> Iterator[Path]:
    for directory in list_directories(root):
        if name.fullmatch(directory):
            yield root / directory
        elif max_depth:
            yield from _find_speakers(root / directory, name, max_depth - 1)


def list_directories(root: Path) -> list[str]:
    """Return the names of the directories in `root`, sorted, without hidden ones (DataError: it cannot be listed)."""
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if entry.name[0] != "." and _is_directory(entry))
    except OSError as error:
        raise DataError(f"{root}: cannot be listed: {error.strerror}") from error


def speaker_files(directory: Path) -> Iterator[Candidate]:
    """Yield the audio files of a speaker's directory; each directory inside it is a session."""
    for name in find_audio(directory):
        session = name.rpartition("/")[0]
        yield Candidate(
            f"{directory.name}/{name}",
            directory.name,
            f"{directory.name}/{session}" if session else "",
            f"{directory.as_posix()}/{name}",
        )


def expand(path: Path) -> list[Path]:
    """Return the recordings below a folder, or the file that was given instead of one (DataError: as `find_audio`)."""
    return [path / name for name in find_audio(path)] if path.is_dir() else [path]


def find_audio(root: Path) -> Iterator[str]:
    """Yield the POSIX paths below `root` of all audio files, in sorted order.

    Dot files and other kinds of files are skipped. Links to directories are followed, but only one link to each
    directory, so that loops end and links to each other do not multiply.

    Raises:
        DataError: `root` is not a directory, or a directory cannot be listed.
    """
    if not root.is_dir():
        raise DataError(f"{root}: {'is not a directory' if root.exists() else 'does not exist'}")
    yield from _walk(root, "", (), set())


def _walk(
    directory: Path, prefix: str, ancestors: tuple[tuple[int, int], ...], linked: set[tuple[int, int]]
) -> Iterator[str]:
    try:
        here = _identity(directory)
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
                target = _identity(entry)
                if target in linked:
                    continue
                linked.add(target)
            yield from _walk(directory / entry.name, f"{prefix}{entry.name}/", (*ancestors, here), linked)
        elif is_audio_name(entry.name):
            yield prefix + entry.name


def _identity(place: "Path | os.DirEntry[str]") -> tuple[int, int]:
    status = place.stat()
    return status.st_dev, status.st_ino


def _is_directory(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_audio_name(name: str) -> bool:
    """Say whether the name of a file has the suffix of audio."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a million names: no Path objects)
    return suffix in READABLE_SUFFIXES or suffix in CONVERTIBLE_SUFFIXES
