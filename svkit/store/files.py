"""The only place where files are opened for reading: regular files only, with a size limit where they should be small.

A pipe in place of a file would wait for a writer for ever, and `/dev/zero` never ends. A file is checked after it is
opened, so that nothing can take its place in between. `tests/store/test_files.py` makes sure that nothing else in svkit
opens files.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from svkit.errors import ArtifactError, DataError, SvkitError

TOML_BYTES = 1 << 20
"""Limit for recipes and `exp/config.toml`; the longest preset has 4 kB."""
JSON_BYTES = 1 << 26
"""Limit for facts, metrics and states; the longest, `report.json` with curves of many systems, has a few MB."""
CONFIG_NAME, MODEL_NAME, LOG_NAME = "config.json", "model.safetensors", "train_log.jsonl"
"""Of a checkpoint, for those who look for one without torch, which `svkit.store.checkpoint` needs."""
LOG_BYTES = 1 << 30
"""Limit for `train_log.jsonl`: three million records of some 300 bytes."""


def open_handle(path: Path) -> int:
    """Open a regular file for reading (OSError: missing, unreadable, a directory, pipe, socket or device)."""
    # O_NONBLOCK: opening a pipe does not wait for its writer; it does not affect regular files.
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL byte
        raise OSError(errno.EINVAL, str(error)) from error
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.ENXIO
        raise OSError(number, os.strerror(number))
    return handle


def why_not(error: OSError) -> str:
    """Say why `open_handle`, or reading from a file, has failed."""
    if error.errno == errno.ENXIO:  # also the error of opening a socket
        return "is a pipe, socket or device; expected a file (save the output of a pipe to one)"
    if error.errno == errno.EISDIR:
        return "is a directory; expected a file, or several (DIRECTORY/*)"
    if error.errno == errno.ENOENT:
        return "does not exist"
    return f"cannot be read: {error.strerror or error}"


@contextmanager
def open_file(path: Path, family: type[SvkitError], limit: int | None = None) -> Iterator[BinaryIO]:
    """Open a regular file of at most `limit` bytes for reading (errors of `family`: as `open_handle`, or too long)."""
    try:
        with os.fdopen(open_handle(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if limit is not None and size > limit:
                raise family(f"{path}: expected at most {limit:,} bytes, found {size:,}")
            yield file
    except OSError as error:
        if error.errno is None:  # raised by a library, about the content
            raise
        is_link = error.errno == errno.ENOENT and Path(path).is_symlink()
        why = "is a symbolic link to a place that does not exist" if is_link else why_not(error)
        raise family(f"{path}: {why}") from error


def read_file(path: Path, family: type[SvkitError], limit: int | None = None) -> bytes:
    """Return the bytes of a regular file; arguments and errors as `open_file`."""
    with open_file(path, family, limit) as file:
        return file.read()


@contextmanager
def in_artifact() -> Iterator[None]:
    """Turn the DataError about a list or scores that belong to an artifact into an ArtifactError."""
    try:
        yield
    except DataError as error:
        raise ArtifactError(str(error)) from error


def check_file(path: Path, family: type[SvkitError]) -> None:
    """Check a file as `open_file` does, for libraries that open a path themselves (to map it into memory)."""
    with open_file(path, family):
        pass
