"""Strict JSON: no repeated keys, no NaN or infinity, only text that UTF-8 can encode, and fields of declared types."""

import json
import math
from pathlib import Path
from typing import Any, TypeVar

from svkit.config.typed import Misfit, fit_json
from svkit.errors import ArtifactError
from svkit.store.files import JSON_BYTES, read_file

Kind = TypeVar("Kind")


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ArtifactError: the file is missing, unreadable, too long or not JSON, or has something that Python's own parser
            would accept: a repeated key, a number that is not finite or beyond 64 bits, or a lone surrogate.
    """
    data = read_file(path, ArtifactError, JSON_BYTES)
    try:
        content = json.loads(
            data.decode("utf-8-sig"),  # given bytes, json itself would let lone surrogates pass
            object_pairs_hook=_unique,
            parse_constant=_finite,
            parse_float=_finite,
            parse_int=_whole,
        )
        if b"\\u" in data:
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not a JSON file: {error}") from error
    return content


def typed(path: Path, content: object, kind: type[Kind], key: str = "") -> Kind:
    """Return content read from a file as a value of type `kind`: a dataclass (with its defaults), a list, a number.

    Keys that a dataclass does not declare are ignored, and nothing is coerced. `Annotated[int, Range(ge=1)]` restricts
    a number to a range. `content` is what `load_json` returned, or the part of it with the dotted name `key`.

    Raises:
        ArtifactError: a value is missing or does not fit; the message has its dotted name.
    """
    try:
        return fit_json(kind, json.dumps(content))
    except Misfit as misfit:
        names = [".".join(filter(None, (key, name))).replace(".[", "[") for name in misfit.names]
        raise ArtifactError(f"{path}: {', '.join(names) or 'content'}: {misfit.reason}") from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object, in any format (ArtifactError: it is none)."""
    return typed(path, load_json(path), dict[str, Any])


def read_json(path: Path, format: str, version: int, kind: type[Kind]) -> Kind:
    """Read a JSON file in one of svkit's formats as a dataclass or `dict[str, Any]`, without format and version.

    Raises:
        ArtifactError: the file is missing, not JSON, or of a format or version that is not the expected one, or a value
            is missing or does not fit its type (see `typed`).
    """
    content = read_object(path)
    found, found_version = content.pop("format", None), content.pop("format_version", None)
    if found != format:
        raise ArtifactError(f"{path}: format: expected {format!r}, found {found!r}")
    if found_version != version:
        raise ArtifactError(
            f"{path}: format_version: expected {version}, found {found_version!r}; use the svkit that wrote it, or"
            " make it again"
        )
    return typed(path, content, kind)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:80]!r} appears twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"expected finite numbers, found {text[:80]}")
    return number


def _whole(text: str) -> int:
    number = int(text)
    if abs(number) >= 2**63:
        raise ValueError(f"expected numbers of 64 bits, found {text[:80]}")
    return number
