"""Manifests: one row per utterance, with its speaker, the place of its audio and its length."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from svkit.errors import DataError, first_five
from svkit.store.audio_bytes import TarMember
from svkit.store.audio_file import Channel
from svkit.store.block_cache import BlockCache
from svkit.store.remote_file import URL, is_url, require_backend
from svkit.store.tables import integers, read_table, write_table

COLUMNS = ("utterance_id", "speaker_id", "path", "sample_rate_hz", "num_samples", "session_id")
SHARD_COLUMNS = ("shard_offset", "shard_size")
"""Only in lists whose audio is in tar files: first byte and number of bytes of the recording in the file `path`."""
CHANNEL_COLUMN = "channel"
"""The channel to read of a recording with several: a number from 0 on, or `mix`; 0 if there is no such column."""
CLIMBS = r"(?:^|[/\\])\.\.(?:[/\\]|$)"
"""Ids with the part `..`. Conversions and other tools use ids as file names, which must not lead out of a directory."""
_HIGHEST_RATE_HZ = 768_000


@dataclass(frozen=True)
class Manifest:
    """A checked manifest; extra columns (`category`, `gender`) stay in `table` as text."""

    source: Path
    """The file it was read from."""
    root: Path | str
    """Relative paths are below this directory, or this URL."""
    table: pd.DataFrame
    """All columns as text, in the order of the file."""
    cache: BlockCache | None = None
    """Cache for the pieces of tar files that have been read; None: none are kept."""

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self.table)

    def column(self, name: str) -> npt.NDArray[np.object_]:
        """Return a text column as an object array (DataError: there is no such column)."""
        if name not in self.table.columns:
            raise DataError(f"{self.source}: no column {name!r}; found {', '.join(self.table.columns)}")
        return np.asarray(self.table[name], dtype=object)

    def text(self, name: str, row: int) -> str:
        """Return one cell; unlike `column`, this creates no objects for the others."""
        return str(self._cells[name][row])

    @cached_property
    def utterance_ids(self) -> npt.NDArray[np.object_]:
        """Unique ids, [N] str."""
        return self.column("utterance_id")

    @cached_property
    def speaker_ids(self) -> npt.NDArray[np.object_]:
        """Speakers, [N] str."""
        return self.column("speaker_id")

    @property
    def known_speakers(self) -> dict[str, str]:
        """Utterance -> speaker, for utterances that have one."""
        return {
            name: speaker
            for name, speaker in zip(self.utterance_ids, self.speaker_ids, strict=True)
            if speaker
        }

    @cached_property
    def sample_rates_hz(self) -> npt.NDArray[np.int64]:
        """Sample rates of the files, [N]."""
        return integers(self.table["sample_rate_hz"])

    @cached_property
    def num_samples(self) -> npt.NDArray[np.int64]:
        """Number of samples per channel at the file's own rate, [N]."""
        return integers(self.table["num_samples"])

    @cached_property
    def durations_seconds(self) -> npt.NDArray[np.float64]:
        """Durations, [N]."""
        return self.num_samples / self.sample_rates_hz

    @cached_property
    def _cells(self) -> dict[str, Any]:
        return {str(name): self.table[name].array for name in self.table.columns}

    @cached_property
    def _members(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
        """First byte and size of the audio in its tar file, [N] each; None: all rows are files."""
        if SHARD_COLUMNS[0] not in self.table.columns:
            return None
        offsets, sizes = (integers(self.table[name].replace("", "0")) for name in SHARD_COLUMNS)
        return offsets, sizes

    def audio_path(self, row: int) -> Path:
        """Return the file that holds the audio of a row: absolute paths as they are, others below `root`."""
        return Path(self._location(row))

    def audio(self, row: int) -> Path | TarMember:
        """Return where the audio of a row is: a file, or its place in a tar file."""
        if self._members is None or not self._members[1][row]:
            return self.audio_path(row)
        offset, size = int(self._members[0][row]), int(self._members[1][row])
        return TarMember(self._location(row), offset, size, self.cache)

    def _location(self, row: int) -> Path | str:
        path = str(self._cells["path"][row])
        if is_url(path):
            return path
        if isinstance(self.root, Path):
            return self.root / path
        return Path(path) if path.startswith("/") else f"{self.root.rstrip('/')}/{path}"

    def channel(self, row: int) -> Channel:
        """Return which channel of the audio of a row is read."""
        return channel_of(str(self._cells[CHANNEL_COLUMN][row])) if CHANNEL_COLUMN in self._cells else 0

    def index(self) -> None:
        """Compute what `audio` and the numbers need; if this is done before loader processes start, they share it."""
        _ = (self._cells, self._members, self.sample_rates_hz, self.num_samples)


def channel_of(text: str) -> Channel:
    """Return the channel that a cell of the column `channel` means."""
    return "mix" if text == "mix" else int(text or 0)


_NO_LINE = r"[\x00\t\n\r]"
_LEAVES = r"^(?:[^/].*/)?\.\.(?:/|$)"
"""Relative paths that lead out of their root."""
_FORMATS = (
    ("sample_rate_hz", "0*[1-9][0-9]{0,14}", "a positive integer"),
    ("num_samples", "0*[1-9][0-9]{0,14}", "a positive integer"),
    ("shard_offset", "|0|[1-9][0-9]{0,17}", "a number of bytes, or nothing for a file of its own"),
    ("shard_size", "|0|[1-9][0-9]{0,17}", "a number of bytes, or nothing for a file of its own"),
    (CHANNEL_COLUMN, "|mix|[0-9]{1,4}", "a number from 0 on, mix, or nothing (0)"),
)
"""Columns of a fixed form: the pattern of a whole cell, and the form in words."""


def read_manifest(
    path: Path,
    audio_root: Path | str | None = None,
    *,
    needs_speakers: bool = True,
    cache: BlockCache | None = None,
) -> Manifest:
    """Read and check a manifest (`.tsv`, or `.parquet` with the same columns); paths are below `audio_root`.

    Without `audio_root`, they are below the manifest's own directory. Tar files may be at URLs or below one, and are
    read through `cache`. `speaker_id` may be empty for unknown speakers, unless `needs_speakers` is set.

    Raises:
        ConfigError: the package that reads this kind of URL is not installed.
        DataError: the file or a column is missing, there are no rows, ids are empty, repeated or have the part `..`, or
            rates or lengths are not positive integers; the first five lines are named.
    """
    table = read_table(path, COLUMNS)
    if not len(table):
        raise DataError(f"{path}: no utterances; expected at least one row below the header")

    def refuse(name: str, bad: Any, expected: str) -> None:
        rows = np.flatnonzero(np.asarray(bad, dtype=bool))
        if len(rows):
            cells = [f"{table[name].iloc[row]!r} (line {row + 2})" for row in rows]
            found = first_five([cell.replace("''", "nothing", 1) for cell in cells])
            raise DataError(f"{path}:{rows[0] + 2}: {name}: expected {expected}, found {found}")

    ids, paths = table["utterance_id"], table["path"]
    for name in ("utterance_id", *(["speaker_id"] if needs_speakers else []), "path"):
        refuse(name, table[name].eq(""), "text")
    refuse("utterance_id", ids.str.contains(_NO_LINE), "an id of one line without NUL")
    # The plain search is quick, and hardly any list needs the pattern after it.
    if ids.str.contains("..", regex=False).any():
        refuse("utterance_id", ids.str.contains(CLIMBS), "an id without the part `..`")
    if paths.str.contains("..", regex=False).any():
        below = "a path below the root (or --audio-root DIR), or an absolute one"
        refuse("path", paths.str.contains(_LEAVES), below)
    # Lists are written sorted, and comparing neighbours needs no table of all ids.
    if not _ascends(ids) and pc.count_distinct(pa.array(ids)).as_py() < len(ids):
        refuse("utterance_id", ids.duplicated(), "unique ids")
    for name, form, expected in _FORMATS:
        if name in table.columns:
            refuse(name, ~table[name].str.fullmatch(form), expected)
    shards = [name for name in SHARD_COLUMNS if name in table.columns]
    if len(shards) == 1:
        raise DataError(
            f"{path}:1: expected both or neither of the columns {', '.join(SHARD_COLUMNS)}, found "
            f"{shards[0]} alone"
        )
    if shards:
        unlike = table["shard_offset"].eq("") != table["shard_size"].isin(["", "0"])
        refuse("shard_size", unlike, "a number above 0 if there is an offset, and only then")
    root = path.parent if audio_root is None else audio_root if is_url(audio_root) else Path(audio_root)
    is_remote = _at_urls(paths, root)
    is_file = table["shard_size"].isin(["", "0"]) if shards else True
    refuse(
        "path",
        is_remote & is_file,
        "a local file: at URLs, only tar files by `svkit prepare shards` are read",
    )
    manifest = Manifest(path, root, table, cache)
    too_high = manifest.sample_rates_hz > _HIGHEST_RATE_HZ
    refuse("sample_rate_hz", too_high, f"at most {_HIGHEST_RATE_HZ} Hz")
    return manifest


def _at_urls(paths: "pd.Series[str]", root: Path | str) -> "pd.Series[bool]":
    """Say whether each path is a URL or below one (ConfigError: a package that reads one is not installed)."""
    is_remote = paths.str.match(URL)
    urls = list(paths[is_remote].unique())
    if isinstance(root, str):
        urls.append(root)
        is_remote |= ~paths.str.startswith("/")
    for url in {url.partition(":")[0]: url for url in urls}.values():
        require_backend(url)
    return is_remote


def _ascends(ids: pd.Series) -> bool:
    """Say whether ids are in strictly ascending order."""
    array = pa.array(ids)
    return bool(pc.all(pc.less(array[:-1], array[1:]), min_count=0).as_py())


def write_manifest(path: Path, table: pd.DataFrame, *, is_sorted: bool = True) -> None:
    """Write a manifest (`.tsv` or `.parquet`), sorted by utterance; extra columns come after those of the contract."""
    extra = [name for name in table.columns if name not in COLUMNS]
    table = table[[*COLUMNS, *extra]]
    if CHANNEL_COLUMN in extra:  # may be missing in some rows of merged tables
        channels = table[CHANNEL_COLUMN].fillna("0").replace("", "0")
        table = table.drop(columns=CHANNEL_COLUMN)
        if channels.ne("0").any():
            table = table.assign(**{CHANNEL_COLUMN: channels})
    if path.suffix == ".parquet":  # the format has types
        numbers = {name: integers(table[name].astype(str)) for name in ("sample_rate_hz", "num_samples")}
        table = table.assign(**numbers)
    if is_sorted and not _ascends(table["utterance_id"]):  # sorting copies all columns
        table = table.sort_values("utterance_id", kind="stable")
    write_table(path, table)
