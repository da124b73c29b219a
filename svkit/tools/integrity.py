"""Whether finished outputs are what they were: their files, and the chain of inputs from one to the next."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from svkit.errors import ArtifactError, DataError
from svkit.progress import Progress
from svkit.store.provenance import (
    PROVENANCE_NAME,
    RUN_NAME,
    read_record,
    refuse_changed,
    sha256_artifact,
    sha256_file,
)


@dataclass(kw_only=True)
class Checked:
    """What was found about one output."""

    output: str
    """Its directory; for a list that has a provenance of its own, the list."""
    is_finished: bool = True
    """What is not finished has nothing to be compared with."""
    command: str | None = None
    num_files: int = 0
    num_inputs: int = 0
    """Those that are there."""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What could not be checked."""


def run(root: Path, progress: Progress) -> list[Checked]:
    """Hash the files and inputs of every finished output in a directory or below it; name those that are not finished.

    Raises:
        ArtifactError: there is none.
    """
    records, unfinished = _find_outputs(root)
    if not records:
        raise ArtifactError(f"{root}: no finished output there or below (no {PROVENANCE_NAME})")
    hash_once = functools.cache(sha256_file)

    def hash_file(path: Path) -> str:
        return hash_once(path.resolve())  # inputs of one output are files of another

    found = []
    with progress.task(f"check {root}", len(records)) as task:
        for path in records:
            found.append(_check(path, hash_file))
            task.advance(1)
    return found + [Checked(output=str(path), is_finished=False) for path in unfinished]


def _find_outputs(root: Path) -> tuple[list[Path], list[Path]]:
    """Return the records of finished outputs, and the directories of those that are not finished, sorted."""
    records, unfinished = [], []
    for place, directories, names in os.walk(root):
        directories[:] = [name for name in directories if not name.startswith(".")]
        records += [Path(place) / name for name in names if f".{name}".endswith(f".{PROVENANCE_NAME}")]
        if RUN_NAME in names and PROVENANCE_NAME not in names:
            unfinished.append(Path(place))
    return sorted(records), sorted(unfinished)


@contextlib.contextmanager
def _collected(result: Checked) -> Iterator[None]:
    try:
        yield
    except (ArtifactError, DataError) as error:
        result.faults.append(str(error))


def _check(path: Path, hash_file: Callable[[Path], str]) -> Checked:
    is_list = path.name != PROVENANCE_NAME
    result = Checked(
        output=str(path.parent / path.name.removesuffix(f".{PROVENANCE_NAME}") if is_list else path.parent)
    )
    try:
        record = read_record(path)
    except ArtifactError as error:
        result.faults.append(str(error))
        return result
    result.command = record["command"]
    if "outputs" not in record:
        result.notes.append("made by an earlier svkit, which recorded no hashes of its files")
    for entry in record.get("outputs", []):
        file = path.parent / entry["name"]
        result.num_files += 1
        with _collected(result):
            refuse_changed(file, entry["sha256"], hash_file(file), "it was finished")
    for entry in record["inputs"]:
        source = Path(entry["path"])
        if not source.exists():
            result.notes.append(f"input {entry['name']} is not there any more ({source})")
            continue
        result.num_inputs += 1
        with _collected(result):
            refuse_changed(
                source,
                entry["sha256"],
                sha256_artifact(source, hash_file),
                f"this was made ({entry['name']})",
            )
    return result
