"""Checks that finished outputs are unchanged: their files, and the chain of inputs from one to the next."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from svkit.errors import ArtifactError, DataError
from svkit.progress import Progress
from svkit.store import provenance


@dataclass(kw_only=True)
class Checked:
    """What was found about one output."""

    output: str
    """Its directory, or the list itself if it has its own provenance."""
    is_finished: bool = True
    """An unfinished output has no record to compare it with."""
    command: str | None = None
    num_files: int = 0
    num_inputs: int = 0
    """Those that still exist."""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What could not be checked."""

    @contextlib.contextmanager
    def collecting_faults(self) -> Iterator[None]:
        """Collect errors as faults instead of raising them."""
        try:
            yield
        except (ArtifactError, DataError) as error:
            self.faults.append(str(error))


def run(root: Path, progress: Progress) -> list[Checked]:
    """Hash files and inputs of every finished output below a directory (ArtifactError: none); list unfinished ones."""
    records, unfinished = [], []
    for place, directories, names in os.walk(root):
        directories[:] = [name for name in directories if not name.startswith(".")]
        records += [
            Path(place) / name for name in names if f".{name}".endswith(f".{provenance.PROVENANCE_NAME}")
        ]
        if provenance.RUN_NAME in names and provenance.PROVENANCE_NAME not in names:
            unfinished.append(Path(place))
    if not records:
        raise ArtifactError(f"{root}: no finished output there or below (no {provenance.PROVENANCE_NAME})")
    hash_once = functools.cache(provenance.sha256_file)  # inputs of one output are files of another
    found = []
    with progress.task(f"check {root}", len(records)) as task:
        for path in sorted(records):
            found.append(_check(path, lambda file: hash_once(file.resolve())))
            task.advance(1)
    return found + [Checked(output=str(path), is_finished=False) for path in sorted(unfinished)]


def _check(path: Path, hash_file: Callable[[Path], str]) -> Checked:
    list_name = path.name.removesuffix(provenance.PROVENANCE_NAME).removesuffix(".")
    result = Checked(output=str(path.parent / list_name))
    with result.collecting_faults():
        record = provenance.read_record(path)
    if result.faults:
        return result
    result.command = record["command"]
    if "outputs" not in record:
        result.notes.append("made by an earlier svkit, which recorded no hashes of its files")
    for output in record.get("outputs", []):
        file = path.parent / output["name"]
        result.num_files += 1
        with result.collecting_faults():
            provenance.refuse_changed(file, output["sha256"], hash_file(file), "it was finished")
    for entry in record["inputs"]:
        source, since = Path(entry["path"]), f"this was made ({entry['name']})"
        if not source.exists():
            result.notes.append(f"input {entry['name']} no longer exists ({source})")
            continue
        result.num_inputs += 1
        with result.collecting_faults():
            found = provenance.sha256_artifact(source, hash_file)
            provenance.refuse_changed(source, entry["sha256"], found, since)
    return result
