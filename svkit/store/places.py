"""Paths in records: inside an experiment relative to it, so that a copy or a moved one finds its own; others absolute.

`experiment` in a record leads from the record's directory to its experiment. Records without it are of earlier svkit
versions, whose relative paths began in a working directory that nobody noted, or lie outside every experiment.
"""

import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

from svkit.errors import ArtifactError
from svkit.store.strict_json import typed

EXPERIMENT = "experiment"
_ARTIFACTS = ("checkpoint", "manifest", "trials")
"""Keys of a record that hold `{path, sha256}`; `inputs` holds a list of such."""
_HOMES = (
    "cohorts", "data", "distill", "embeddings", "finetune", "finetune-pruned", "onnx", "prune", "scores",
)  # fmt: skip
"""Directories of an experiment that earlier versions made."""


def recorded_path(path: Path, experiment: Path) -> str:
    """Return what a record of an experiment says of a path: relative to it where it lies inside, else absolute."""
    below = _below(path, experiment)
    return path.resolve().as_posix() if below is None else below.as_posix()


def recorded_paths(directory: Path, record: Mapping[str, Any], experiment: Path | None) -> dict[str, Any]:
    """Return a record as it is written into a directory.

    The paths of `record` are those of this process: absolute, or relative to the working directory. Where the
    directory lies inside the experiment, those inside become relative to it; all others become absolute.
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
        # First by the name the directory was opened by; where that is a link to it from elsewhere, by its real one.
        places = [os.path.normpath(home / way / recorded) for home in (directory, directory.resolve())]
        return next((found for found in places if _exists(Path(found))), places[0])

    return _with_paths({key: value for key, value in record.items() if key != EXPERIMENT}, place)


def _with_paths(record: Mapping[str, Any], convert: Callable[[str], str]) -> dict[str, Any]:
    def entry(value: Any) -> Any:
        path = value.get("path") if isinstance(value, dict) else None
        return {**value, "path": convert(path)} if path and isinstance(path, str) else value

    changed = {key: entry(record[key]) for key in _ARTIFACTS if key in record}
    if isinstance(record.get("inputs"), list):
        changed["inputs"] = [entry(value) for value in record["inputs"]]
    return {**record, **changed}


def _below(path: Path, root: Path) -> PurePath | None:
    """Return where a path lies below a root, by their names or else by where links lead; None: outside."""
    for full, base in ((path.absolute(), root.absolute()), (path.resolve(), root.resolve())):
        if full.is_relative_to(base) and ".." not in full.relative_to(base).parts:
            return full.relative_to(base)
    return None


def _place_of_old(directory: Path, path: str) -> str:
    """Return the place that a record without `experiment` means.

    That is the path itself, seen from some directory above the record; or, in an experiment that was moved or renamed,
    the path's end from one of its own directories on. Where both are there and the record lies beside the path itself
    too, this record is the copy, and means its own neighbour.
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
    # A list of that name below the working directory is known by its hash; a directory is taken for another's.
    return str(directory / path) if _exists(Path(path)) and Path(path).is_dir() else path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or a NUL
        return False
