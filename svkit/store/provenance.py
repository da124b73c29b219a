"""`provenance.json`: how an output was made and from what, with the hashes of inputs and outputs."""

import hashlib
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from svkit.errors import ArtifactError, DataError
from svkit.store.files import in_artifact, open_file
from svkit.store.places import read_placed
from svkit.store.strict_json import read_object, typed

FORMAT, VERSION = "svkit-provenance", 1
PROVENANCE_NAME, RUN_NAME = "provenance.json", "run.json"
_LIBRARIES = "accelerate numpy pandas peft safetensors soundfile torch torchaudio transformers"
_DATA_SUFFIXES = {".tsv", ".txt", ".parquet", ".csv", ".wav", ".flac"}
NOT_CONTENT = {PROVENANCE_NAME, RUN_NAME, "train_log.jsonl", "calibration.json", "README.md"}
NOT_CONTENT |= {"resume", "tensorboard", "checkpoints"}
"""Logs, state and documents beside the content: two artifacts that differ only in these are the same artifact."""


class InputEntry(TypedDict):
    """An input in a record."""

    name: str
    path: str
    sha256: str


class OutputEntry(TypedDict):
    """A file of a finished output in its record."""

    name: str
    sha256: str
    size: int
    mtime_ns: int


class _Always(TypedDict):
    """What every record has."""

    command: str
    inputs: list[InputEntry]


class Provenance(TypedDict, total=False):
    """The keys of `provenance.json` that svkit reads again; earlier versions did not write all of them.

    The last group are facts that single commands add; who reads one checks it.
    """

    command: str
    inputs: list[InputEntry]
    outputs: list[OutputEntry]
    config: dict[str, Any]
    """The settings that decide the result, by the names that the command gives them."""
    svkit: str | None
    git_commit: str | None
    libraries: dict[str, str]
    seed: int | None
    device: str | None
    started: str
    finished: str
    argv: list[str]
    """The command line."""

    validation: dict[str, dict[str, float]]
    """Of `finetune`: `best` and `last`."""
    sparsity: object
    distance_after_cut: object
    pruning: object
    summary: object
    categories: object
    origin: object
    """Of `convert`: the hub model."""
    published: object
    """Of `push`: the repository that this was published as."""


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes in hex."""
    digest = hashlib.sha256()
    with open_file(path, DataError if path.suffix in _DATA_SUFFIXES else ArtifactError) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def refuse_changed(path: Path, expected: object, found: str, since: str) -> None:
    """Raise ArtifactError if a file's sha256 is not the expected one; `since` ends "it has changed since ..."."""
    if found != expected:
        raise ArtifactError(
            f"{path}: expected sha256 {str(expected)[:12]}, found {found[:12]}: it has changed since {since}"
        )


def sha256_artifact(path: Path, hash_file: Callable[[Path], str] = sha256_file) -> str:
    """Return the sha256 of a file, or of a directory's content.

    A directory's hash runs over the sorted (relative POSIX name, sha256) of its files, without logs, resume
    state, provenance, calibration, documents and dot files.

    Raises:
        DataError: a list or audio file that does not exist.
        ArtifactError: any other path that does not exist.
    """
    if not path.is_dir():
        return hash_file(path)
    digest = hashlib.sha256()
    with in_artifact():
        for name in sorted(file.relative_to(path).as_posix() for file in content_files(path)):
            digest.update(f"{name}\0{hash_file(path / name)}\n".encode())
    return digest.hexdigest()


def sha256_input(path: Path) -> str:
    """Return the hash of an input. An artifact must be finished and not have changed; a list may have been edited.

    Raises:
        ArtifactError: a file of an artifact has changed, or it is not finished; also as `sha256_artifact`.
    """
    refuse_unfinished(path)
    recorded = recorded_files(path)

    def hash_file(file: Path) -> str:
        found = sha256_file(file)
        if file in recorded and (file != path or file.suffix not in _DATA_SUFFIXES):
            refuse_changed(file, recorded[file]["sha256"], found, _FINISHED)
        return found

    return sha256_artifact(path, hash_file)


def check_outputs(directory: Path, *names: str, in_full: bool = False) -> None:
    """Check files of a finished output; unless `in_full`, equal size and modification time are enough.

    Files without a recorded hash (of earlier versions) and missing files are not checked.

    Raises:
        ArtifactError: a file has changed since it was finished.
    """
    recorded = recorded_files(directory)
    for path in (directory / name for name in names):
        if path in recorded and path.exists():
            entry, now = recorded[path], path.stat()
            if in_full or (now.st_size, now.st_mtime_ns) != (entry["size"], entry["mtime_ns"]):
                refuse_changed(path, entry["sha256"], sha256_file(path), _FINISHED)


_FINISHED = "it was finished; restore it from a copy, or make it again with --overwrite"


def recorded_files(path: Path) -> dict[Path, OutputEntry]:
    """Return the recorded entry of each file of a finished output; `path` is the output or an entry of it."""
    home = next((place for place in (path, path.parent) if is_finished(place)), None)
    entries = [] if home is None else read_provenance(home).get("outputs", [])
    return {home / entry["name"]: entry for entry in entries if home is not None}


def content_files(directory: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield the files of an artifact's content, also those in subdirectories (see `NOT_CONTENT`)."""
    place = directory.resolve()
    if place in above:  # several such links would be followed in every order
        raise ArtifactError(f"{directory}: a link that leads back to {place}; remove it")
    for entry in directory.iterdir():
        if entry.name.startswith(".") or entry.name in NOT_CONTENT:
            continue
        if entry.is_dir():
            yield from content_files(entry, (*above, place))
        else:
            yield entry


def plain(value: Any) -> Any:
    """Return `value` as JSON types: dataclasses and mappings as objects, tuples as lists, paths as text."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, os.PathLike):
        return Path(value).as_posix()
    if hasattr(value, "item") and not isinstance(value, str | bytes):
        return value.item()
    return value


def utc_now() -> str:
    """Return the time now, ISO 8601 to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def describe_code() -> dict[str, object]:
    """Return the svkit version, the git commit where svkit runs from a clone, and the library versions."""
    return {
        "svkit": _version("svkit"),
        "git_commit": _git_commit(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "libraries": {
            name: version for name in _LIBRARIES.split() if (version := _version(name)) is not None
        },
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    clone = Path(__file__).resolve().parents[2]
    if not (clone / ".git").exists():
        return None
    command = ["git", "-C", str(clone), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def read_provenance(directory: Path) -> Provenance:
    """Read the provenance of a finished output, with usable paths (ArtifactError: unfinished, or another version)."""
    refuse_unfinished(directory)
    path = directory / PROVENANCE_NAME
    if directory.is_dir() and not path.exists():
        raise ArtifactError(
            f"{directory}: not finished (no {PROVENANCE_NAME}); run the command that writes it again"
        )
    return read_record(path)


def refuse_unfinished(directory: Path) -> None:
    """Raise ArtifactError if a command has begun an output here and not finished it; the message names the command."""
    run = directory / RUN_NAME
    if run.exists() and not is_finished(directory):
        command = read_object(run).get("command")
        # A run that was emptying the directory has a name that is no command.
        is_verb = isinstance(command, str) and not command.startswith("-")
        same = f"the same `svkit {command}`" if is_verb else "the command that writes it"
        raise ArtifactError(f"{directory}: not finished; run {same} again to finish it first")


def read_record(path: Path) -> Provenance:
    """Read a `provenance.json`, or the `NAME.provenance.json` of a list; errors as `read_provenance`."""
    record = read_placed(path, FORMAT, VERSION, Provenance)
    typed(path, record, _Always)
    return record


def is_finished(directory: Path) -> bool:
    """Say whether the output in `directory` is complete. Reading the record refuses anything but a file there."""
    return (directory / PROVENANCE_NAME).exists()


def real_path(path: Path) -> Path:
    """Return the absolute path without links, as `Path.resolve`, which refuses links in a circle before Python 3.13."""
    return Path(os.path.realpath(path))


def output_around(path: Path) -> Path | None:
    """Return the finished output whose content, and thereby hash, a new entry at `path` would change; None: none."""
    places = (
        above for above in real_path(path).parents if is_finished(above) and (above / RUN_NAME).exists()
    )
    return next(places, None)


def identity(command: str, config: Mapping[str, object], inputs: Iterable[InputEntry]) -> dict[str, object]:
    """Return what makes two runs the same: command, configuration and the content of the inputs.

    The path of an input may change (another mount, a moved experiment), but its content may not.
    """
    hashes = {entry["name"]: entry["sha256"] for entry in inputs}
    # Settings that name files are left out: the inputs have their hashes.
    named = {"trials", *(name.replace(" ", "_") for name in ("encoder", "eval speakers") if name in hashes)}
    settings = {key: value for key, value in config.items() if key not in named}
    return {"command": command, "config": settings, "input": hashes}
