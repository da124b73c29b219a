"""Directory locks: only one svkit command at a time writes to a directory."""

import errno
import fcntl
import os
import time
from pathlib import Path

from svkit.errors import ArtifactError

LOCK_NAME = ".lock"


def lock_directory(directory: Path, wait_seconds: float = 0.0) -> int:
    """Make `directory` if needed, lock it against other svkit processes, and return the handle of the lock.

    `release_directory` or the end of the process releases the lock. If another process holds it, this tries again
    until `wait_seconds` have passed.

    Raises:
        ArtifactError: another process holds the lock, or `directory` cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ArtifactError(f"{directory}: cannot be written: {error.strerror}") from error
    until = time.monotonic() + wait_seconds
    while not _try(handle):
        if time.monotonic() >= until:
            os.close(handle)
            raise ArtifactError(f"{directory}: another svkit command is writing here; wait for it to end")
        time.sleep(0.02)
    _locks.add(handle)
    return handle


def _try(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Some network file systems have no locks; there the user has to take care of one writer at a time.
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def release_directory(lock: int) -> None:
    """Release a lock of `lock_directory`."""
    _locks.discard(lock)
    os.close(lock)


_locks: set[int] = set()


def _drop_locks() -> None:
    """Close inherited locks in a forked child: a loader's worker must not keep them if its parent is killed."""
    for lock in _locks:
        os.close(lock)
    _locks.clear()


os.register_at_fork(after_in_child=_drop_locks)
