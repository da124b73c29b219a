"""Atomic writes: every file is written to a temporary sibling, flushed to disk and renamed."""

import errno
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from svkit.errors import ArtifactError

_PREFIX = ".svkit-tmp-"
_TEMPORARY = _PREFIX + "[0-9a-z_]" * 8 + "*"
"""Pattern of our temporary names: prefix, eight characters (from `tempfile` in earlier versions), suffix."""
_OF_SAFETENSORS = ".tmp" + "[0-9A-Za-z]" * 6
"""Pattern of the temporary names that safetensors itself uses since version 0.8."""
_OF_NUMPY = "requested and"
"""In numpy's error, which has no number, when a disk takes only part of an array (as of a large graph's weights)."""


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Turn a system error while writing `path` into an ArtifactError of one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        # By its text, because safetensors tells no number.
        full = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), _OF_NUMPY)
        is_full = any(text in str(error) for text in full)
        remedy = "free some space or choose another directory" if is_full else "choose another directory"
        raise ArtifactError(f"{path}: cannot be written: {reason}; {remedy}") from error


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
            name = path.with_name(f"{_PREFIX}{secrets.token_hex(4)}{path.suffix}")
            # With the rights that umask allows; those of a file by `tempfile` are its owner's alone.
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            temporary, mode = name, name.stat().st_mode
            yield temporary
            temporary.chmod(mode)  # safetensors puts a file there that only its owner may read
            # Flushed before it takes the name: a loss of power leaves the old file or the whole new one.
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_unfinished(directories: Iterable[Path], *, are_own: bool) -> None:
    """Remove the temporary files that killed processes left in directories no other process writes to.

    Subdirectories are not searched. The temporary files of safetensors are removed only in directories that nothing
    but svkit writes to (`are_own`): elsewhere they may belong to another program.
    """
    patterns = (_TEMPORARY, _OF_SAFETENSORS) if are_own else (_TEMPORARY,)
    for directory in directories:
        for path in (path for pattern in patterns for path in directory.glob(pattern)):
            if path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically, with its newlines unchanged.

    Raises:
        ArtifactError: the file cannot be written, or `text` cannot be encoded (a file name in another encoding).
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        place = text[max(0, error.start - 30) : error.end + 30]
        raise ArtifactError(
            f"{path}: cannot be written: {place!r} is not UTF-8; rename the file or directory of that name"
        ) from error
    write_bytes(path, data)


def json_text(content: Mapping[str, Any]) -> str:
    """Return `content` as JSON in the given order (ValueError: it holds a NaN or an infinity)."""
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` to `path` atomically, in the form of `json_text`."""
    write_text(path, json_text(content))
