"""Text files of corpora with one entry per line."""

import re
from collections.abc import Iterator
from pathlib import Path

from svkit.errors import DataError
from svkit.store.manifest import CLIMBS
from svkit.store.tables import read_bytes


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the stripped text of each line that is not blank (DataError: it cannot be read)."""
    for number, line in enumerate(read_bytes(path).decode().split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def read_map(path: Path, form: str, *, has_spaces: bool = False) -> dict[str, str]:
    """Read lines of a key and a value, which with `has_spaces` is the rest of the line.

    `form` is the form of a line for messages, such as `utterance speaker`.

    Raises:
        DataError: the file is empty or has a line of another form; a key is repeated or has the part `..`, which would
            climb out of a directory.
    """
    found: dict[str, str] = {}
    for number, line in read_lines(path):
        fields = line.split(maxsplit=1 if has_spaces else -1)
        if len(fields) != 2:
            raise DataError(f"{path}:{number}: expected `{form}`, found {line[:80]!r}")
        key, value = fields
        if re.search(CLIMBS, key):
            raise DataError(f"{path}:{number}: expected an id without the part `..`, found {key!r}")
        if key in found:
            raise DataError(f"{path}:{number}: {key} appears twice")
        found[key] = value
    if not found:
        raise DataError(f"{path}: empty; expected lines of the form `{form}`")
    return found
