"""A cache for pieces of remote files in one local file of fixed size, shared by all processes that use its directory.

The file is an array of sets. A set is a page of `_WAYS` entries and as many blocks. The hash of a key chooses the set;
within it, a block takes the place of the one that was not used for longest. An entry holds the sha256 of its key and
block, so that no locks are needed: what a killed process, a full disk or two writers at once leave behind does not
match its hash, and is read from its source again.
"""

import errno
import hashlib
import os
import struct
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from svkit.errors import ConfigError

BLOCK_BYTES = 1 << 16
_WAYS = 64
_ENTRY = struct.Struct("<16s32sQ8x")
"""Key, sha256 of key and block, time of the last use in ns."""
_USED = 48
"""Offset of the time in an entry."""
_PAGE_BYTES = _WAYS * _ENTRY.size
_SET_BYTES = _PAGE_BYTES + _WAYS * BLOCK_BYTES
_NAME = "shards.cache"


class ByteSource(Protocol):
    """A file that can be read at any offset."""

    @property
    def size(self) -> int:
        """Size in bytes."""

    @property
    def version(self) -> int:
        """A number that differs if the content does."""

    def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset` on, or fewer at the end of a truncated file."""


@dataclass(frozen=True, slots=True)
class BlockCache:
    """A cache of limited size for blocks of `BLOCK_BYTES` with keys of 16 bytes; once made, it raises no errors."""

    path: Path
    num_sets: int

    @classmethod
    def make(cls, directory: Path, gigabytes: float) -> "BlockCache":
        """Open the cache in a directory, with at most this many GB (10^9 bytes); existing blocks that fit are kept.

        Raises:
            ConfigError: it cannot be written.
        """
        cache = cls(directory.absolute() / _NAME, max(1, int(gigabytes * 1e9) // _SET_BYTES))
        try:
            directory.mkdir(parents=True, exist_ok=True)
            # The file takes space only as it fills. If the size has changed, some blocks are no longer found.
            os.truncate(_open(cache.path), cache.num_sets * _SET_BYTES)
        except OSError as error:
            reason = error.strerror or os.strerror(errno.EIO)
            raise ConfigError(
                f"data.cache_dir: {directory} cannot be written: {reason}; choose another directory"
            ) from error
        return cache

    def get(self, key: bytes, size: int) -> bytes | None:
        """Return the block of a key, of `size` bytes; None: it is missing or damaged."""
        try:
            handle, start, page, place = self._find(key)
            if place is None:
                return None
            _, digest, _ = _ENTRY.unpack_from(page, place)
            data = os.pread(handle, size, _block_at(start, place // _ENTRY.size))
            if digest != _digest(key, data):
                return None
            os.pwrite(handle, struct.pack("<Q", time.time_ns()), start + place + _USED)
            return data
        except OSError:
            return None

    def put(self, key: bytes, data: bytes) -> None:
        """Store a block, in place of the one that was not used for longest."""
        try:
            handle, start, page, place = self._find(key)
            if place is None:
                used = np.frombuffer(page, "<u8").reshape(_WAYS, -1)[:, _USED // 8]
                place = int(used.argmin()) * _ENTRY.size
            # The block comes first: until its own entry is written, the old entry does not match it.
            if os.pwrite(handle, data, _block_at(start, place // _ENTRY.size)) == len(data):
                entry = _ENTRY.pack(key, _digest(key, data), time.time_ns())
                os.pwrite(handle, entry, start + place)
        except OSError:  # the disk is full: training continues without the cache
            pass

    def _find(self, key: bytes) -> tuple[int, int, bytes, int | None]:
        """Return the open file, the offset of a key's set, the page of the set's entries, and the key's place there."""
        handle, start = _open(self.path), int.from_bytes(key, "big") % self.num_sets * _SET_BYTES
        page = os.pread(handle, _PAGE_BYTES, start).ljust(_PAGE_BYTES, b"\0")
        place = page.find(key)
        return handle, start, page, None if place < 0 or place % _ENTRY.size else place


@lru_cache
def _open(path: Path) -> int:
    # Reading and writing at offsets needs no position, so loaders can share the handle of their parent.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _block_at(start: int, way: int) -> int:
    return start + _PAGE_BYTES + way * BLOCK_BYTES


def _digest(key: bytes, data: bytes) -> bytes:
    return hashlib.sha256(key + data).digest()


class CachedFile:
    """A remote file read through a cache in whole blocks; missing blocks are fetched together as one piece."""

    def __init__(self, name: str, file: ByteSource, cache: BlockCache) -> None:
        """Read `file`, which its name, size and version identify."""
        self._file, self._cache = file, cache
        self.size, self.version = file.size, file.version
        self._key = f"{name}\0{self.size}\0{self.version}\0"

    def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset` on."""
        if count <= 0:
            return b""
        indices = range(offset // BLOCK_BYTES, (offset + count - 1) // BLOCK_BYTES + 1)
        blocks = {index: self._cache.get(self._block_key(index), self._length(index)) for index in indices}
        missing = [index for index, block in blocks.items() if block is None]
        if missing:
            start, end = missing[0] * BLOCK_BYTES, missing[-1] * BLOCK_BYTES + self._length(missing[-1])
            data = self._file.read(start, end - start)
            if len(data) < end - start:  # truncated: nothing of it is stored
                return self._file.read(offset, count)
            for index in missing:
                place = index * BLOCK_BYTES - start
                block = blocks[index] = data[place : place + self._length(index)]
                self._cache.put(self._block_key(index), block)
        skipped = offset - indices[0] * BLOCK_BYTES
        return b"".join(block or b"" for block in blocks.values())[skipped : skipped + count]

    def _length(self, index: int) -> int:
        return min(BLOCK_BYTES, self.size - index * BLOCK_BYTES)

    def _block_key(self, index: int) -> bytes:
        return hashlib.sha256(f"{self._key}{index}".encode()).digest()[:16]
