"""Two recordings to try a model on, for a command that can be pasted."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from svkit.errors import SvkitError
from svkit.store.manifest import Manifest, read_manifest

_SPEAKERS = 20
"""Speakers whose files are looked for, before the audio counts as moved."""
_ROWS = 100
"""Recordings of a speaker that are looked for."""
_MAX_SECONDS = 60
"""Longer ones are heard in part."""


def two_recordings(lists: Iterable[Path]) -> tuple[Path, Path] | None:
    """Return two recordings of one speaker, long ones of different sessions if there are; None: no list has any.

    The lists are manifests; of one that cannot be read, the next is taken. Paths are as short as they can be from the
    current directory.
    """
    for path in lists:
        try:
            manifest = read_manifest(path, needs_speakers=False)
            if (found := _of_one_speaker(manifest)) is not None:
                return found
        except (SvkitError, OSError):  # this is only an example
            continue
    return None


def _of_one_speaker(manifest: Manifest) -> tuple[Path, Path] | None:
    seconds, speakers, sessions = (
        manifest.durations_seconds,
        manifest.speaker_ids,
        manifest.column("session_id"),
    )
    for speaker in [name for name in pd.unique(speakers) if name][:_SPEAKERS]:
        rows = np.flatnonzero(speakers == speaker)
        rows = rows[np.argsort(-np.minimum(seconds[rows], _MAX_SECONDS), kind="stable")]
        found = [row for row in rows[:_ROWS].tolist() if _is_plain_file(manifest, row)]
        if len(found) > 1:
            others = [row for row in found if sessions[row] != sessions[found[0]]] or found[1:]
            return _short(manifest.audio_path(found[0])), _short(manifest.audio_path(others[0]))
    return None


def _is_plain_file(manifest: Manifest, row: int) -> bool:
    """Say whether a recording is there and is a file of its own, whose first channel is used."""
    place = manifest.audio(row)
    return isinstance(place, Path) and place.is_file() and not manifest.channel(row)


def _short(path: Path) -> Path:
    """Return the path from the current directory if it leads to the same file and is shorter, else the absolute one."""
    whole, below = path.absolute(), Path(os.path.relpath(path))
    is_same = below.exists() and below.samefile(path)
    return below if is_same and len(str(below)) < len(str(whole)) else whole
