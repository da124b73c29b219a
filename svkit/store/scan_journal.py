"""What a scan has found out about audio files, so that an interrupted one continues where it was.

A directory of small parquet files, one for a block of neighbouring files. The hash of a path decides where a block
ends: a file that comes or goes changes the block it is in and no other. An entry holds while its file has the size and
the time of change it had.
"""

import contextlib
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pa_parquet

from svkit.errors import ArtifactError
from svkit.store.atomic import remove_unfinished, replacing
from svkit.store.audio_bytes import TarMember
from svkit.store.audio_file import Channel
from svkit.store.files import open_file

Place = Path | TarMember
_MEAN_BLOCK, _LARGEST_BLOCK = 1024, 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one file is."""

    sample_rate_hz: int = 0
    num_samples: int = 0
    digest: str = ""
    """Of the samples (`svkit.store.audio_file.examine`); empty where only the header was read."""
    level_db: float = 0.0
    """RMS of the loudest frame; measured only where asked for."""
    clipped_share: float = 0.0
    """Share of samples on plateaus; measured only where asked for."""
    reason: str = ""
    """The kind of fault; empty for a readable file."""
    detail: str = ""
    """The fault in words."""
    channel: str = "0"
    """Which channel was read: a number, or `mix`."""
    louder: str = ""
    """Which other channel is clearly louder, in words; looked for where samples were read."""
    missing: str = ""
    """What is said of a file that is cut, where what is there can be read."""

    def digest_words(self) -> npt.NDArray[np.uint64]:
        """Return the first 128 bits of the digest, `[2]`; zeros where there is none."""
        return np.frombuffer(bytes.fromhex(self.digest[:32]).ljust(16, b"\0"), np.uint64)


class Source(NamedTuple):
    """A recording and the channel of it that is read."""

    place: Place
    channel: Channel | Literal["loudest"] = 0

    def __str__(self) -> str:
        """Return the name of its entry."""
        return str(self.place) if self.channel == 0 else f"{self.place}#{self.channel}"


Stamp = tuple[int, int]
"""By what a changed file is known: its size, and the time of its change in ns."""


def stamp_of(place: Place) -> Stamp | None:
    """Return the stamp of a file; None where it cannot be looked up."""
    try:
        status = (place.tar if isinstance(place, TarMember) else place).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


class Entry(NamedTuple):
    """A finding and the stamp of its file before it was read."""

    stamp: Stamp | None
    finding: Finding


_ARROW = {int: pa.int64(), float: pa.float64(), str: pa.string()}
_SCHEMA = pa.schema(
    {"path": pa.string(), "size": pa.int64(), "changed_ns": pa.int64()}
    | {item.name: _ARROW[item.type] for item in fields(Finding)}  # type: ignore[index]
)


def blocks(places: Iterable[Source]) -> Iterator[list[Source]]:
    """Cut a sequence of files into blocks of about a thousand whose ends do not depend on other blocks."""
    block: list[Source] = []
    for place in places:
        block.append(place)
        is_end = zlib.crc32(os.fsencode(str(place))) % _MEAN_BLOCK == 0
        if is_end or len(block) == _LARGEST_BLOCK:
            yield block
            block = []
    if block:
        yield block


class ScanJournal:
    """The entries of one kind of examination; those of another kind are not seen."""

    def __init__(self, directory: Path, kind: str) -> None:
        """Use the directory, which is made with the first entry."""
        self._directory, self._kind = directory, kind

    def read(self, block: Sequence[Source]) -> dict[str, Entry]:
        """Return the entries of a block by path."""
        try:
            with open_file(self._file(block), ArtifactError) as file:
                table = pa_parquet.read_table(file)
            rows = table.to_pylist()
            # Of earlier versions there is no hash.
            if not table.schema.equals(_SCHEMA) or (table.schema.metadata or _digest(rows)) != _digest(rows):
                return {}
        except (ArtifactError, OSError, ValueError, pa.ArrowException):
            return {}  # nothing there, cut short or changed: it is found out again
        return {
            row.pop("path"): Entry((row.pop("size"), row.pop("changed_ns")), Finding(**row)) for row in rows
        }

    def write(self, block: Sequence[Source], entries: Mapping[str, Entry]) -> None:
        """Keep entries of a block; those of files that cannot be looked up are left out.

        Raises:
            ArtifactError: the journal cannot be written.
        """
        rows = []
        for path, entry in entries.items():
            text = path + entry.finding.detail
            if entry.stamp is not None and text.encode(errors="ignore").decode() == text:
                stamp = dict(zip(("size", "changed_ns"), entry.stamp, strict=True))
                rows.append({"path": path, **stamp, **asdict(entry.finding)})
        if rows:
            with replacing(self._file(block)) as temporary:
                table = pa.Table.from_pylist(rows, schema=_SCHEMA)
                hashed = table.replace_schema_metadata(_digest(table.to_pylist()))
                pa_parquet.write_table(hashed, temporary)

    def _file(self, block: Sequence[Source]) -> Path:
        last = os.fsencode(f"{self._kind}\0{block[-1]}")
        name = sha256(last).hexdigest()[:24]
        # Ten million files are ten thousand blocks: no directory gets more than a few dozen of them.
        return self._directory / name[:2] / f"{name[2:]}.parquet"


def _digest(rows: list[dict[str, Any]]) -> dict[bytes, bytes]:
    """Return the hash of entries, as the metadata of their file."""
    return {b"sha256": sha256(repr(rows).encode()).hexdigest().encode()}


def remove_journal(directory: Path) -> None:
    """Remove a journal that is no longer needed; what else lies in its directory stays.

    Raises:
        ArtifactError: it cannot be removed.
    """
    places = list(directory.glob("[0-9a-f]" * 2))
    remove_unfinished(places)
    try:
        for place in places:
            for file in place.glob("[0-9a-f]" * 22 + ".parquet"):
                file.unlink(missing_ok=True)
    except OSError as error:
        raise ArtifactError(f"{directory}: cannot be removed: {error.strerror}") from error
    for place in (*places, directory):
        with contextlib.suppress(OSError):  # not there, or not empty
            place.rmdir()
