"""The cache of pieces of far files: bounded, exact, and never damaged for its reader, whoever dies or writes beside."""

import errno
import hashlib
import multiprocessing
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from svkit.errors import ConfigError
from svkit.store.block_cache import BLOCK_BYTES, BlockCache, CachedFile

SET_BYTES = 64 * (BLOCK_BYTES + 64)


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()[:16]


def block(number: int, size: int = BLOCK_BYTES) -> bytes:
    return np.random.default_rng(number).bytes(size)


def make(directory: Path, sets: int = 1) -> BlockCache:
    cache = BlockCache.make(directory, sets * SET_BYTES / 1e9 + 1e-9)
    assert cache.num_sets == sets
    return cache


@dataclass
class Source:
    """A file in memory that counts what is read of it."""

    data: bytes
    version: int = 1
    reads: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, count: int) -> bytes:
        self.reads.append((offset, count))
        return self.data[offset : offset + count]


def test_blocks_come_back_and_the_file_never_grows(tmp_path: Path) -> None:
    cache = make(tmp_path / "new" / "cache", sets=2)
    kept = 0
    for number in range(300):
        assert cache.get(key(number), BLOCK_BYTES) is None
        cache.put(key(number), block(number))
        assert cache.get(key(number), BLOCK_BYTES) == block(number)
    for number in range(300):
        found = cache.get(key(number), BLOCK_BYTES)
        assert found in (None, block(number))
        kept += found is not None
    assert kept == 128  # what fits
    (file,) = (tmp_path / "new" / "cache").iterdir()
    assert file.stat().st_size == 2 * SET_BYTES


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    cache = make(tmp_path)
    for number in range(64):
        cache.put(key(number), block(number, 10))
    assert cache.get(key(0), 10) == block(0, 10)  # used: the oldest is number 1 now
    cache.put(key(64), block(64, 10))
    assert [number for number in range(65) if cache.get(key(number), 10) is None] == [1]


def test_damage_of_any_kind_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make(tmp_path)
    for number in range(3):
        cache.put(key(number), block(number))
    data = bytearray(cache.path.read_bytes())
    data[4096 + 7] ^= 1  # of the first block
    data[64 + 20] ^= 1  # of the second one's entry
    cache.path.write_bytes(data)
    assert [cache.get(key(number), BLOCK_BYTES) for number in range(3)] == [None, None, block(2)]
    assert cache.get(key(2), BLOCK_BYTES - 1) is None  # the same name, another length

    # Killed after the block and before its entry: the place of the block that goes, number 0 (damaged, oldest).
    write, done = os.pwrite, []

    def killed(handle: int, content: bytes, place: int) -> int:
        done.append(place)
        if len(done) == 2:
            raise KeyboardInterrupt
        return write(handle, content, place)

    for number in range(3, 64):
        cache.put(key(number), block(number))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "pwrite", killed)
        cache.put(key(99), block(99))
    assert cache.get(key(99), BLOCK_BYTES) is None and cache.get(key(0), BLOCK_BYTES) is None
    assert cache.get(key(63), BLOCK_BYTES) == block(63)

    os.truncate(cache.path, 4096 + 3 * BLOCK_BYTES - 1)
    assert cache.get(key(2), BLOCK_BYTES) is None
    os.truncate(cache.path, 0)
    assert cache.get(key(63), BLOCK_BYTES) is None
    cache.put(key(63), block(63))
    assert cache.get(key(63), BLOCK_BYTES) == block(63)


def _use(directory: Path, seed: int) -> None:
    """Read and write more blocks than fit, always the same ones in all processes."""
    cache, rng, found = make(directory), np.random.default_rng(seed), 0
    for number in map(int, rng.integers(0, 80, 400)):
        data = cache.get(key(number), BLOCK_BYTES)
        assert data in (None, block(number))
        found += data is not None
        if data is None:
            cache.put(key(number), block(number))
    assert found > 50


def test_processes_share_a_cache_that_is_too_small(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_use, args=(tmp_path, seed)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]


def test_a_full_disk_only_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(block(1, 3 * BLOCK_BYTES))
    file = CachedFile("a", source, make(tmp_path))
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def refuse(*_: object) -> int:
            raise full

        patch.setattr(os, "pwrite", refuse)
        for _ in range(2):
            assert file.read(5, 100_000) == source.data[5:100_005]
    assert len(source.reads) == 2
    assert file.read(5, 100_000) == file.read(5, 100_000) == source.data[5:100_005]
    assert len(source.reads) == 3


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"data.cache_dir: .*file cannot be written: .*; choose another"):
        BlockCache.make(tmp_path / "file", 1.0)


def test_a_cache_of_another_size_keeps_its_bound_and_stays_right(tmp_path: Path) -> None:
    large = make(tmp_path, sets=3)
    for number in range(150):
        large.put(key(number), block(number))
    small = make(tmp_path, sets=1)
    assert small.path == large.path and small.path.stat().st_size == SET_BYTES
    for cache in (small, large, small):
        for number in range(150):
            assert cache.get(key(number), BLOCK_BYTES) in (None, block(number))
        cache.put(key(7), block(7))
        assert cache.get(key(7), BLOCK_BYTES) == block(7)


def test_pieces_are_those_of_the_file_and_are_fetched_once(tmp_path: Path) -> None:
    source = Source(block(2, 5 * BLOCK_BYTES + 123))
    file, rng = CachedFile("name", source, make(tmp_path)), np.random.default_rng(3)
    for _ in range(60):
        first, last = sorted(map(int, rng.integers(0, source.size, 2)))
        assert file.read(first, last - first) == source.data[first:last]
    assert file.read(source.size - 3, 3) == source.data[-3:] and file.read(7, 0) == b""
    fetched = sorted(
        offset + place for offset, count in source.reads for place in range(0, count, BLOCK_BYTES)
    )
    assert fetched == [index * BLOCK_BYTES for index in range(6)]
    # Another version, size or name is another file.
    for other in (Source(block(4, source.size), version=2), Source(block(5, source.size - 1))):
        assert CachedFile("name", other, make(tmp_path)).read(9, 99) == other.data[9:108]
    other = Source(block(6, source.size))
    assert CachedFile("other", other, make(tmp_path)).read(9, 99) == other.data[9:108]


def test_neighbours_that_are_missing_come_as_one_piece(tmp_path: Path) -> None:
    source = Source(block(2, 8 * BLOCK_BYTES))
    file = CachedFile("name", source, make(tmp_path))
    file.read(3 * BLOCK_BYTES, 1)
    file.read(0, 8 * BLOCK_BYTES)
    assert source.reads == [(3 * BLOCK_BYTES, BLOCK_BYTES), (0, 8 * BLOCK_BYTES)]


def test_what_was_cut_is_read_as_far_as_it_goes_and_not_kept(tmp_path: Path) -> None:
    source = Source(block(2, 2 * BLOCK_BYTES))
    file = CachedFile("name", source, make(tmp_path))
    whole, source.data = source.data, source.data[:100]
    assert file.read(50, 1000) == whole[50:100]
    source.data = whole
    assert file.read(50, 1000) == whole[50:1050]
