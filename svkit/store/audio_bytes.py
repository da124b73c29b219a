"""The bytes of a recording, seen as a file: a whole file, or part of an uncompressed tar file."""

import io
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from svkit.errors import SvkitError
from svkit.store.audio_header import Claim, Read
from svkit.store.block_cache import BlockCache, ByteSource, CachedFile
from svkit.store.files import open_handle
from svkit.store.remote_file import open_remote

_most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
_OPEN_TARS = 256 if _most_files == resource.RLIM_INFINITY else min(256, _most_files // 4)
"""Number of tar files that a process holds open."""
_WHOLE_BYTES = 1 << 20
"""Remote recordings up to this size are fetched in one piece; most utterances are shorter."""
_PIECE_BYTES = 1 << 18
"""Bytes fetched at once of longer ones."""


@dataclass(frozen=True, slots=True)
class TarMember:
    """Place of a recording inside an uncompressed tar file."""

    tar: Path | str
    """A URL is a str."""
    offset: int
    """First byte of the recording, after the member's header."""
    size: int
    """Size in bytes."""
    cache: BlockCache | None = None
    """Cache for pieces of the tar file; None: none is kept."""

    def __str__(self) -> str:
        """Return the name used in messages."""
        return f"{self.tar} (bytes {self.offset} to {self.offset + self.size})"


class OpenFile:
    """An open file; `read` leaves no position behind that threads or processes could share."""

    def __init__(self, path: Path) -> None:
        self.handle = open_handle(path)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # `close` is bound here: when the interpreter ends, `os` may go before the cache of open files.
        if hasattr(self, "handle"):
            close(self.handle)

    @property
    def size(self) -> int:
        """Size in bytes, now."""
        return os.fstat(self.handle).st_size

    @property
    def version(self) -> int:
        """Modification time in ns."""
        return os.fstat(self.handle).st_mtime_ns

    def read(self, offset: int, count: int) -> bytes:
        """Read up to `count` bytes from `offset` on."""
        return os.pread(self.handle, count, offset)


# Opening a file on a network takes longer than reading from it. A file that leaves the cache closes with its last user.
_open_local = lru_cache(maxsize=_OPEN_TARS)(OpenFile)


class _Ahead:
    """Part of a remote file, fetched in a few pieces, because each request takes a round trip; the last one is kept."""

    def __init__(self, file: ByteSource, offset: int, size: int) -> None:
        self._file, self._start, self._end = file, offset, offset + size
        self._first, self._piece = offset, b""

    def read(self, offset: int, count: int) -> bytes:
        if count <= 0:
            return b""
        if not self._first <= offset <= offset + count <= self._first + len(self._piece):
            is_short = self._end - self._start <= _WHOLE_BYTES
            self._first = self._start if is_short else offset
            last = self._end if is_short else min(self._end, offset + max(count, _PIECE_BYTES))
            self._piece = self._file.read(self._first, last - self._first)
        place = offset - self._first
        return self._piece[place : place + count]


def open_tar(member: TarMember) -> ByteSource:
    """Return the tar file of a recording. It is opened once in a process, and read through the cache if there is one.

    Raises:
        OSError: the file is missing or cannot be opened.
        DataError: the server cannot be reached, or refuses the request.
    """
    file: ByteSource = open_remote(member.tar) if isinstance(member.tar, str) else _open_local(member.tar)
    if member.cache is None:
        return file
    name = member.tar if isinstance(member.tar, str) else str(member.tar.absolute())
    return CachedFile(name, file, member.cache)


def reader_of(file: ByteSource, member: TarMember) -> Read:
    """Return the function that reads a recording's bytes from its tar file, with few requests if it is remote."""
    return file.read if isinstance(file, OpenFile) else _Ahead(file, member.offset, member.size).read


def stamp_of(place: Path | TarMember) -> tuple[int, int]:
    """Return size, and time of change in ns or version at the URL: a changed file has others (errors as `open_tar`)."""
    path = place.tar if isinstance(place, TarMember) else place
    if isinstance(path, str):
        file = open_remote(path)
        return file.size, file.version
    status = path.stat()
    return status.st_size, status.st_mtime_ns


class Window(io.RawIOBase):
    """Part of a file, seen as a whole file with a corrected header."""

    failure: SvkitError | None = None
    """Why bytes could not be read, if it is known."""

    def __init__(self, read: Read, offset: int, size: int, claim: Claim) -> None:
        self._read, self._offset, self._claim = read, offset, claim
        self._end = size if claim.end is None else claim.end
        self._position, self._size = claim.start, claim.start + (size - claim.start) * claim.stretch

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a byte and return its place."""
        self._position = offset + (self._claim.start, self._position, self._size)[whence]
        return self.tell()

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._position - self._claim.start

    def read_at(self, offset: int, count: int) -> bytes:
        """Read bytes without corrections."""
        return self._read(self._offset + min(offset, self._end), max(0, min(count, self._end - offset)))

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """Read the next bytes; none where the file cannot be read."""
        try:
            data = self.read_at(self._position, len(buffer))
        except OSError:  # libsndfile calls this from C, where an exception would only be printed to stderr
            data = b""
        except SvkitError as error:
            self.failure, data = error, b""
        if self._claim.stretch > 1 and self._position >= self._size - 128:
            # mpg123 looks for an ID3 tag at the end, which is not really there.
            data = bytes(min(len(buffer), self._size - self._position))
        place, patch = self._claim.patch
        first, last = max(place, self._position), min(place + len(patch), self._position + len(data))
        if first < last:
            cut = first - self._position
            data = data[:cut] + patch[first - place : last - place] + data[cut + last - first :]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
