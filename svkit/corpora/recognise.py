"""Guessing from names alone which corpus a directory holds, for messages about a wrong tree."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from svkit.corpora.walk import is_audio_name
from svkit.errors import DataError, first_five, printable

_MAX_DEPTH, _MAX_ENTRIES = 5, 40
"""How deep a guess looks, and at how many directories of a level, whatever the size of the corpus."""
_SPEAKER, _VOXBLINK2_SPEAKER = re.compile(r"id\d{5}"), re.compile(r"id\d{6}")
CNCELEB_FILE = re.compile(r"(?:id\d{5}-)?(?P<genre>[a-z_]+)-(?P<session>\d+)-\d+")
"""`GENRE-SESSION-NUMBER`; in `eval/test`, the speaker comes first."""
LIBRISPEECH_SUBSET = re.compile(r"(train|dev|test)-(clean|other)(-\d+)?")


def corpus_root(root: Path, command: str, layout: str) -> Path:
    """Return the absolute directory of a corpus (DataError: there is no such directory)."""
    root = root.resolve()
    if not root.is_dir():
        raise wrong_tree(root, command, "not a directory", layout)
    return root


def wrong_tree(root: Path, command: str, problem: str, layout: str) -> DataError:
    """Return the error for a root with a `problem`: it lacks the `layout` that `svkit prepare COMMAND` expects."""
    if not root.exists():
        return DataError(f"{root}: no such directory; {layout}")
    found = "a file"
    if root.is_dir():
        with os.scandir(root) as entries:
            names = sorted(printable(entry.name) for entry in entries)
        found = first_five(names) if names else "an empty directory"
    return DataError(f"{root}: {problem}; {layout}; found {found}{looks_like(root, command)}")


def looks_like(root: Path, command: str) -> str:
    """Return the end of a message that suggests another command for a tree; empty if there is no other."""
    guess = guess_corpus(root)
    return f"; this looks like {guess}: svkit prepare {guess} {root}" if guess not in (None, command) else ""


def guess_corpus(root: Path) -> str | None:
    """Return the `svkit prepare` command that fits what lies at `root`, or None."""
    if root.is_file():
        return "csv" if root.suffix.lower() in (".csv", ".tsv") else None
    has_speaker_audio = False
    # Names that only one corpus has are looked for first; what is left with audio one level down is a plain folder.
    for depth, directory, directories, files in _look(root):
        names = {*directories, *files}
        if "wav.scp" in files:
            return "kaldi"
        if {"dev.lst", "spk.lst", "enroll.map"} & names or any(
            CNCELEB_FILE.match(name) and is_audio_name(name) for name in files
        ):
            return "cnceleb"
        if any(LIBRISPEECH_SUBSET.fullmatch(name) for name in directories):
            return "librispeech"
        if {"music", "noise", "speech"} <= names:
            return "musan"
        if {"simulated_rirs", "smallroom", "real_rirs_isotropic_noises"} & names:
            return "rirs"
        if any(_VOXBLINK2_SPEAKER.fullmatch(name) for name in directories):
            return "voxblink2"
        speakers = [name for name in directories if _SPEAKER.fullmatch(name)]
        if speakers:
            # Speakers have the same names in CN-Celeb and VoxCeleb, but only CN-Celeb has files directly below them.
            below = next(iter(_look(directory / speakers[0])), (0, directory, [], []))[3]
            return "cnceleb" if any(CNCELEB_FILE.match(name) for name in below) else "voxceleb"
        has_speaker_audio |= depth > 0 and any(is_audio_name(name) for name in files)
    return "folder" if has_speaker_audio else None


def _look(root: Path) -> Iterator[tuple[int, Path, list[str], list[str]]]:
    """Yield depth, path, directories and files of a few directories, upper levels first."""
    level = [root]
    for depth in range(_MAX_DEPTH):
        below: list[Path] = []
        for directory in level[:_MAX_ENTRIES]:
            directories: list[str] = []
            files: list[str] = []
            try:
                with os.scandir(directory) as entries:
                    for _, entry in zip(range(10 * _MAX_ENTRIES), entries, strict=False):
                        if not entry.name.startswith("."):
                            (directories if entry.is_dir() else files).append(entry.name)
            except OSError:
                continue
            yield depth, directory, sorted(directories), sorted(files)
            below += [directory / name for name in sorted(directories)[:3]]
        level = below
