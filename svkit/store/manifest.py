"""Manifests: one row an utterance, with who speaks, where the audio is and how long it is."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from svkit.errors import DataError, first_five
from svkit.store.tables import read_table, write_table

COLUMNS = ("utterance_id", "speaker_id", "path", "sample_rate_hz", "num_samples", "session_id")
_HIGHEST_RATE_HZ = 768_000


@dataclass(frozen=True)
class Manifest:
    """A checked manifest; extra columns (`category`, `gender`) stay in `table` as text."""

    source: Path
    """The file it was read from."""
    root: Path
    """Relative paths are below this directory."""
    table: pd.DataFrame
    """All columns as text, in the order of the file."""

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self.table)

    def column(self, name: str) -> npt.NDArray[np.object_]:
        """Return a text column as an object array.

        Raises:
            DataError: there is no such column.
        """
        if name not in self.table.columns:
            raise DataError(f"{self.source}: no column {name!r}; found {', '.join(self.table.columns)}")
        return np.asarray(self.table[name], dtype=object)

    @cached_property
    def utterance_ids(self) -> npt.NDArray[np.object_]:
        """Unique ids, [N] str."""
        return self.column("utterance_id")

    @cached_property
    def speaker_ids(self) -> npt.NDArray[np.object_]:
        """Speakers, [N] str."""
        return self.column("speaker_id")

    @cached_property
    def paths(self) -> npt.NDArray[np.object_]:
        """Paths as written, [N] str."""
        return self.column("path")

    @cached_property
    def session_ids(self) -> npt.NDArray[np.object_]:
        """Sessions, [N] str; empty where unknown."""
        return self.column("session_id")

    @cached_property
    def sample_rates_hz(self) -> npt.NDArray[np.int64]:
        """Rates of the files, [N]."""
        return self.column("sample_rate_hz").astype(np.int64)

    @cached_property
    def num_samples(self) -> npt.NDArray[np.int64]:
        """Samples of one channel at the file's own rate, [N]."""
        return self.column("num_samples").astype(np.int64)

    @cached_property
    def durations_seconds(self) -> npt.NDArray[np.float64]:
        """Durations, [N]."""
        return self.num_samples / self.sample_rates_hz

    def audio_path(self, row: int) -> Path:
        """Return where the audio of a row is: absolute paths as they are, relative ones below `root`."""
        return self.root / str(self.paths[row])


def read_manifest(path: Path, audio_root: Path | None = None) -> Manifest:
    """Read and check a manifest (`.tsv`, or `.parquet` with the same columns).

    Args:
        path: the manifest.
        audio_root: directory that relative paths are below (default: the manifest's own).

    Raises:
        DataError: missing file or column, no rows, empty ids, duplicate utterances, rates or lengths that
            are not positive integers; the first five lines are named.
    """
    table = read_table(path, COLUMNS)
    if not len(table):
        raise DataError(f"{path}: no utterances; expected at least one row below the header")
    for name in ("utterance_id", "speaker_id", "path"):
        _refuse(path, table, name, table[name].eq(""), "text", lambda cell: "nothing")
    if table["path"].str.contains("..", regex=False).any():
        out = table["path"].str.contains(r"^(?!/)(?:.*/)?\.\.(?:/|$)")
        _refuse(
            path, table, "path", out, "a path below the root (or --audio-root DIR), or an absolute one", repr
        )
    _refuse(path, table, "utterance_id", table["utterance_id"].duplicated(), "unique ids", repr)
    for name in ("sample_rate_hz", "num_samples"):
        _refuse(
            path, table, name, ~table[name].str.fullmatch("0*[1-9][0-9]{0,14}"), "a positive integer", repr
        )
    rates = table["sample_rate_hz"].astype("int64")
    _refuse(path, table, "sample_rate_hz", rates > _HIGHEST_RATE_HZ, f"at most {_HIGHEST_RATE_HZ} Hz", repr)
    return Manifest(path, path.parent if audio_root is None else audio_root, table)


def _refuse(
    path: Path, table: pd.DataFrame, name: str, bad: Any, expected: str, show: Callable[[str], str]
) -> None:
    rows = np.flatnonzero(np.asarray(bad, dtype=bool))
    if len(rows):
        found = first_five([f"{show(table[name].iloc[row])} (line {row + 2})" for row in rows])
        raise DataError(f"{path}:{rows[0] + 2}: {name}: expected {expected}, found {found}")


def write_manifest(path: Path, table: pd.DataFrame) -> None:
    """Write a manifest sorted by utterance, the contract's columns first and extra ones after them."""
    extra = [name for name in table.columns if name not in COLUMNS]
    write_table(path, table[[*COLUMNS, *extra]].sort_values("utterance_id", kind="stable"))
