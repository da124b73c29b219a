"""What a scan has found out about audio files, so that an interrupted scan can continue.

The journal is a SQLite file with one entry per recording. An entry is valid as long as its audio file keeps its size
and modification time.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from svkit.errors import ArtifactError
from svkit.store import audio_bytes
from svkit.store.atomic import one_line
from svkit.store.audio_file import Channel, Place


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What was found out about one file."""

    sample_rate_hz: int = 0
    num_samples: int = 0
    digest: str = ""
    """Hash of the samples (`svkit.store.audio_file.examine`); empty if only the header was read."""
    level_db: float = 0.0
    """RMS of the loudest frame; measured only if asked for."""
    clipped_share: float = 0.0
    """Share of samples on plateaus; measured only if asked for."""
    reason: str = ""
    """The kind of fault; empty for a readable file."""
    detail: str = ""
    """The fault in words."""
    channel: str = "0"
    """Which channel was read: a number, or `mix`."""
    louder: str = ""
    """Which other channel is clearly louder, in words; looked for only if samples were read."""
    missing: str = ""
    """What a truncated file lacks, in words, if the rest of it can be read."""

    def digest_words(self) -> npt.NDArray[np.uint64]:
        """Return the first 128 bits of the digest, `[2]`; zeros if there is none."""
        return np.frombuffer(bytes.fromhex(self.digest[:32]).ljust(16, b"\0"), np.uint64)


class Track(NamedTuple):
    """A recording and the channel of it to read."""

    place: Place
    channel: Channel | Literal["loudest"] = 0

    def __str__(self) -> str:
        """Return the name of its journal entry."""
        return str(self.place) if self.channel == 0 else f"{self.place}#{self.channel}"


Stamp = tuple[int, int]
"""Size of a file in bytes and its modification time in ns, or version at its URL: a changed file has another stamp."""


def stamp_of(place: Place) -> Stamp | None:
    """Return the stamp of a file; None if it is missing."""
    try:
        return audio_bytes.stamp_of(place)
    except OSError:
        return None


class Entry(NamedTuple):
    """A finding and the stamp of its file before it was read."""

    stamp: Stamp | None
    finding: Finding


_DEFAULTS = {item.name: item.default for item in fields(Finding)}


class ScanJournal:
    """The entries of one kind of examination; each kind has a file of its own."""

    def __init__(self, directory: Path, kind: str) -> None:
        """Use `directory`, which is created with the first entry."""
        self._path = directory / f"{kind}.sqlite"

    def _connect(self, mode: str) -> "contextlib.closing[sqlite3.Connection]":
        # Without locks, which some network file systems lack; the command has locked the directory above.
        address = f"{self._path.absolute().as_uri()}?nolock=1&mode={mode}"
        return contextlib.closing(sqlite3.connect(address, uri=True))

    def read(self, sources: Iterable[Track]) -> dict[str, Entry]:
        """Return the entries of those recordings that have one, by the recordings' names."""
        names = {os.fsencode(str(source)): str(source) for source in sources}
        query = f"SELECT * FROM entries WHERE source IN ({', '.join('?' * len(names))})"
        try:
            with self._connect("ro") as database:
                rows = database.execute(query, list(names)).fetchall()
        except sqlite3.Error:  # missing or damaged: the files are examined again
            return {}
        entries = {}
        for name, text, digest in rows:
            if digest == _digest(name, text):
                size, changed_ns, finding = json.loads(text)
                if finding.keys() <= _DEFAULTS.keys():  # otherwise of another version
                    entries[names[name]] = Entry((size, changed_ns), Finding(**finding))
        return entries

    def write(self, entries: Mapping[str, Entry]) -> None:
        """Store entries that have a stamp by the names of their sources (ArtifactError: it cannot be written)."""
        rows = []
        for source, entry in entries.items():
            if entry.stamp is not None:
                found = asdict(entry.finding).items()
                told = {key: value for key, value in found if value != _DEFAULTS[key]}
                name, text = os.fsencode(source), json.dumps([*entry.stamp, told])
                rows.append((name, text, _digest(name, text)))
        with one_line(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._insert(rows)
        except sqlite3.DatabaseError as error:
            if "full" in str(error):
                raise ArtifactError(f"{self._path}: cannot be written: {error}") from error
            with one_line(self._path):
                self._path.unlink(missing_ok=True)  # a damaged database: begin again
            try:
                self._insert(rows)
            except sqlite3.Error as again:
                raise ArtifactError(f"{self._path}: cannot be written: {again}") from again

    def _insert(self, rows: list[tuple[bytes, str, bytes]]) -> None:
        with self._connect("rwc") as database, database:  # one transaction
            # Do not wait for the disk: what a loss of power takes away is soon found out again.
            database.execute("PRAGMA synchronous = OFF")
            columns = "source BLOB PRIMARY KEY, entry TEXT, digest BLOB"
            database.execute(f"CREATE TABLE IF NOT EXISTS entries ({columns}) WITHOUT ROWID")
            database.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", rows)


def _digest(name: bytes, text: str) -> bytes:
    return sha256(name + b"\0" + text.encode()).digest()[:8]


def remove_journal(directory: Path) -> None:
    """Remove a journal that is no longer needed (ArtifactError: it cannot be removed); other files there stay."""
    try:
        for path in directory.glob("*.sqlite*"):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise ArtifactError(f"{directory}: cannot be removed: {error.strerror}") from error
    with contextlib.suppress(OSError):  # not there, or not empty
        directory.rmdir()
