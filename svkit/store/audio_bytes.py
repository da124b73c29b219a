"""The bytes of a recording as a file of their own: a whole file, or a stretch of an uncompressed tar file."""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from svkit.store.audio_header import Claim
from svkit.store.files import open_handle

_OPEN_TARS = 64
"""Tar files held open in one process."""


@dataclass(frozen=True, slots=True)
class TarMember:
    """Where a recording lies inside an uncompressed tar file."""

    tar: Path
    offset: int
    """Its first byte (after the member's header)."""
    size: int
    """In bytes."""

    def __str__(self) -> str:
        """Return the name used in messages."""
        return f"{self.tar} (bytes {self.offset} to {self.offset + self.size})"


class OpenFile:
    """An open file; `pread` leaves no position behind that threads or processes could share."""

    def __init__(self, path: Path) -> None:
        self.handle = open_handle(path)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # `close` is bound here: at the end of the interpreter, `os` may be gone before the cache of open files is.
        if hasattr(self, "handle"):
            close(self.handle)


# Opening a file on a network takes longer than reading from it. One that is dropped here closes with its last reader.
open_tar = lru_cache(maxsize=_OPEN_TARS)(OpenFile)


class Window(io.RawIOBase):
    """A stretch of a file as a file of its own, with the corrections of its header."""

    def __init__(self, file: OpenFile, offset: int, size: int, claim: Claim) -> None:
        self._file, self._offset, self._claim = file, offset, claim
        self._end = size if claim.end is None else claim.end
        self._position, self._size = claim.start, claim.start + (size - claim.start) * claim.stretch

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte; return its place."""
        self._position = offset + (self._claim.start, self._position, self._size)[whence]
        return self.tell()

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._position - self._claim.start

    def read_at(self, offset: int, count: int) -> bytes:
        """Read bytes as they are."""
        return os.pread(
            self._file.handle, max(0, min(count, self._end - offset)), self._offset + min(offset, self._end)
        )

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """Read the next bytes; none where the file cannot be read."""
        try:
            data = self.read_at(self._position, len(buffer))
        except OSError:  # libsndfile asks from C, where an exception would end as text on stderr
            data = b""
        if self._claim.stretch > 1 and self._position >= self._size - 128:
            # mpg123 looks for an ID3 tag at the end.
            data = bytes(min(len(buffer), self._size - self._position))
        place, patch = self._claim.patch
        first, last = max(place, self._position), min(place + len(patch), self._position + len(data))
        if first < last:
            cut = first - self._position
            data = data[:cut] + patch[first - place : last - place] + data[cut + last - first :]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
