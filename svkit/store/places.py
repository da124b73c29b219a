"""Paths in records: relative inside an experiment, so that a copy or a moved one refers to its own files.

The key `experiment` is the path from the record's directory to its experiment. A record without it lies outside every
experiment, or is of an earlier version of svkit, whose relative paths started in a working directory that it did not
record.
"""

import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any, TypeVar, cast

from typing_extensions import TypedDict

from svkit.errors import ArtifactError
from svkit.store.strict_json import read_json, typed

Kind = TypeVar("Kind")
EXPERIMENT = "experiment"
_ARTIFACTS = ("checkpoint", "manifest", "trials")
"""Keys of a record that hold `{path, sha256}`; `inputs` holds a list of these."""
_HOMES = (
    "cohorts", "data", "distill", "embeddings", "finetune", "finetune-pruned", "onnx", "prune", "scores",
)  # fmt: skip
"""Directories of an experiment that earlier versions made."""


class Artifact(TypedDict):
    """A file or an artifact in a record, and its content."""

    path: str
    sha256: str


def sha256_of(artifact: Artifact | None) -> str | None:
    """Return the recorded content of an artifact; None if none is recorded."""
    return None if artifact is None else artifact["sha256"]


def recorded_path(path: Path, experiment: Path) -> str:
    """Return a path as records of an experiment hold it: relative to the experiment if inside it, else absolute."""
    below = _below(path, experiment)
    return path.resolve().as_posix() if below is None else below.as_posix()


def recorded_paths(directory: Path, record: Mapping[str, Any], experiment: Path | None) -> dict[str, Any]:
    """Return a record as it is written into a directory.

    The paths in `record` are absolute or relative to the working directory. If `directory` lies inside the experiment,
    paths inside the experiment become relative to it. All others become absolute.
    """
    below = None if experiment is None else _below(directory, experiment)
    if experiment is None or below is None:
        return _with_paths(record, lambda path: Path(path).resolve().as_posix())
    way = PurePath(*[".."] * len(below.parts)).as_posix()
    return {**_with_paths(record, lambda path: recorded_path(Path(path), experiment)), EXPERIMENT: way}


def usable_paths(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record read from `path`, by this or an earlier version, with paths that this process can open.

    Raises:
        ArtifactError: `experiment` is not text, or a path holds a NUL.
    """
    directory = path.parent
    way = typed(path, record.get(EXPERIMENT, ""), str, EXPERIMENT)

    def place(recorded: str) -> str:
        if "\0" in recorded:
            raise ArtifactError(f"{path}: expected a path, found {recorded[:80]!r}")
        if not way:
            return _place_of_old(directory, recorded)
        # First relative to the directory as it was opened; if that is a link, then relative to where it leads.
        places = [os.path.normpath(home / way / recorded) for home in (directory, directory.resolve())]
        return next((found for found in places if _exists(Path(found))), places[0])

    return _with_paths({key: value for key, value in record.items() if key != EXPERIMENT}, place)


def read_placed(path: Path, format: str, version: int, kind: type[Kind]) -> Kind:
    """Read a record as `read_json` does, with paths that this process can open.

    `kind` is a TypedDict. The record is checked against it, and returned with all its keys, also undeclared ones.
    """
    record = read_json(path, format, version, dict[str, Any])
    typed(path, record, kind)
    return cast(Kind, usable_paths(path, record))


def _with_paths(record: Mapping[str, Any], convert: Callable[[str], str]) -> dict[str, Any]:
    def entry(value: Any) -> Any:
        path = value.get("path") if isinstance(value, dict) else None
        return {**value, "path": convert(path)} if path and isinstance(path, str) else value

    changed = {key: entry(record[key]) for key in _ARTIFACTS if key in record}
    if isinstance(record.get("inputs"), list):
        changed["inputs"] = [entry(value) for value in record["inputs"]]
    return {**record, **changed}


def _below(path: Path, root: Path) -> PurePath | None:
    """Return a path relative to a root, as written or else with links resolved; None: it lies outside."""
    for full, base in ((path.absolute(), root.absolute()), (path.resolve(), root.resolve())):
        if full.is_relative_to(base) and ".." not in full.relative_to(base).parts:
            return full.relative_to(base)
    return None


def _place_of_old(directory: Path, path: str) -> str:
    """Return the place that a path in a record without `experiment` stands for.

    That is the path itself, relative to some directory above the record. In an experiment that was moved or renamed, it
    is the end of the path, from one of the experiment's own directories (`_HOMES`) on. If both exist and the first
    experiment holds this record as well, then this experiment is a copy, and the path stands for the copy's own file.
    """
    parts = PurePath(path).parts
    ends = [parts[start:] for start, name in enumerate(parts) if name in _HOMES]
    for own in dict.fromkeys((Path(os.path.normpath(directory.absolute())), directory.resolve())):
        literal = next(filter(_exists, (home / path for home in own.parents)), None)
        for end, home in itertools.product(ends, own.parents):
            found = home.joinpath(*end)
            if _exists(found) and (
                literal is None
                or (
                    not found.samefile(literal)
                    and _exists(literal.parents[len(end) - 1] / own.relative_to(home))
                )
            ):
                return found.as_posix()
        if literal is not None:
            return literal.as_posix()
    # A list below the working directory is taken, as its hash is checked; a directory may be another experiment's.
    return str(directory / path) if _exists(Path(path)) and Path(path).is_dir() else path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or a NUL
        return False
