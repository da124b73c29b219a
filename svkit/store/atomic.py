"""Whole files or nothing: every file is written to a temporary sibling, flushed to disk and renamed."""

import json
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from svkit.errors import ArtifactError

_PREFIX = ".svkit-tmp-"
_TEMPORARY = _PREFIX + "[0-9a-z_]" * 8 + "*"
"""Names that `tempfile` makes with the prefix, and a suffix."""


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Turn what the system says about writing `path` into an ArtifactError of one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ArtifactError(
            f"{path}: cannot be written: {reason}; free some space or choose another directory"
        ) from error


_UMASK_LOCK = threading.Lock()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` that takes its place when the block ends without an error.

    For writers that want a path (safetensors, soundfile, parquet); the sibling keeps the suffix of `path`.

    Raises:
        ArtifactError: the file cannot be written (rights, disk full); what was at `path` stays as it was.
    """
    temporary = None
    try:
        with one_line(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=path.suffix, dir=path.parent)
            os.close(handle)
            temporary = Path(name)
            yield temporary
            _flush(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            _flush(path.parent)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_unfinished(directories: Iterable[Path]) -> None:
    """Remove the temporary files that killed processes left in directories no other process writes to.

    Files of `replacing` alone, and nothing further below: what lies there may be the user's.
    """
    for directory in directories:
        for path in directory.glob(_TEMPORARY):
            if path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    # It can only be read by setting it: two threads at once would leave it at 0.
    with _UMASK_LOCK:
        mask = os.umask(0)
        os.umask(mask)
    return mask


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically, newlines as they are.

    Raises:
        ArtifactError: it cannot be written, or holds what UTF-8 cannot say (the name of a file in another encoding).
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        place = text[max(0, error.start - 30) : error.end + 30]
        raise ArtifactError(
            f"{path}: cannot be written: {place!r} is not UTF-8; rename the file or directory of that name"
        ) from error
    write_bytes(path, data)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as JSON in the given order.

    Raises:
        ValueError: a NaN or an infinity in `content`, which JSON cannot say.
    """
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
