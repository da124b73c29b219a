"""Who made an output, from what, and how: hashes, the output protocol and `provenance.json`.

An output directory is open (`run.json`) while a command writes it and finished once `provenance.json` is
there, which is written last. A second run of the same command finds equal configuration and input hashes in
`run.json` and resumes.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from svkit.errors import ArtifactError, ConfigError, DataError
from svkit.store.atomic import read_json, remove_unfinished, write_json
from svkit.store.files import open_file
from svkit.store.locks import lock_directory, release_directory
from svkit.store.places import recorded_paths, usable_paths
from svkit.store.strict_json import check_fields

FORMAT, VERSION = "svkit-provenance", 1
RUN_FORMAT, RUN_VERSION = "svkit-run", 1
PROVENANCE_NAME, RUN_NAME = "provenance.json", "run.json"
_LIBRARIES = (
    "accelerate",
    "numpy",
    "pandas",
    "peft",
    "safetensors",
    "soundfile",
    "torch",
    "torchaudio",
    "transformers",
)
_DATA_SUFFIXES = {".tsv", ".txt", ".parquet", ".csv", ".wav", ".flac"}
# Logs, state and documents beside the content: two artifacts that differ in them only are the same artifact.
_NOT_CONTENT = {
    PROVENANCE_NAME,
    RUN_NAME,
    "train_log.jsonl",
    "resume",
    "tensorboard",
    "checkpoints",
    "calibration.json",
    "README.md",
}
_WRITTEN_IN = (
    "adapter",
    "best",
    "best/adapter",
    "last",
    "last/adapter",
    "resume",
    "resume/step-*",
    "figures",
    "kaldi",
    "wespeaker",
)
"""Where commands write files below their output."""

_INPUT = {"name": str, "path": str, "sha256": str}


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file's bytes in hex."""
    digest = hashlib.sha256()
    with open_file(path, DataError if path.suffix in _DATA_SUFFIXES else ArtifactError) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_sha256(path: Path, expected: object, since: str) -> None:
    """Refuse a file that is not what it was.

    Raises:
        ArtifactError: its sha256 is another one; `since` says from when the expected one is ("it was saved").
    """
    found = sha256_file(path)
    if found != expected:
        raise ArtifactError(
            f"{path}: expected sha256 {str(expected)[:12]}, found {found[:12]}: it has changed since {since}"
        )


def sha256_artifact(path: Path) -> str:
    """Return the sha256 of a file, or of a directory's content.

    A directory's hash runs over the sorted (relative POSIX name, sha256) of its files, without logs, resume
    state, provenance, calibration, documents and dot files.

    Raises:
        DataError: a list or audio file that does not exist.
        ArtifactError: any other path that does not exist.
    """
    if not path.is_dir():
        return sha256_file(path)
    digest = hashlib.sha256()
    for name in sorted(file.relative_to(path).as_posix() for file in _content_files(path)):
        digest.update(f"{name}\0{sha256_file(path / name)}\n".encode())
    return digest.hexdigest()


def _content_files(directory: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    place = directory.resolve()
    if place in above:  # several of them would be walked in every order
        raise ArtifactError(f"{directory}: a link that leads back to {place}; remove it")
    for entry in directory.iterdir():
        if entry.name.startswith(".") or entry.name in _NOT_CONTENT:
            continue
        if entry.is_dir():
            yield from _content_files(entry, (*above, place))
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


def describe_inputs(inputs: Mapping[str, Path]) -> list[dict[str, str]]:
    """Return `{name, path, sha256}` of every input, as provenance records them."""
    return [
        {"name": name, "path": Path(path).as_posix(), "sha256": sha256_artifact(Path(path))}
        for name, path in inputs.items()
    ]


def _utc_now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def describe_code() -> dict[str, Any]:
    """Return the svkit version, the git commit where svkit runs from a clone, and the library versions."""
    return {
        "svkit": _version("svkit"),
        "git_commit": _git_commit(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "libraries": {name: version for name in _LIBRARIES if (version := _version(name)) is not None},
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


def _device_name() -> str:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return "cpu"


def make_provenance(
    *,
    command: str,
    config: Mapping[str, Any],
    inputs: list[dict[str, str]],
    started: str,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of a `provenance.json`.

    Args:
        command: the verb, such as `prune`.
        config: the resolved configuration (plain JSON types).
        inputs: `{name, path, sha256}` of every input.
        started: ISO 8601 UTC.
        extra: more keys; `device` replaces the one found out here.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "format_version": VERSION,
        "command": command,
        **describe_code(),
        "argv": list(sys.argv),
        "config": plain(config),
        "seed": plain(config).get("seed"),
        "device": _device_name(),
        "started": started,
        "finished": _utc_now(),
        "inputs": inputs,
    }
    return {**content, **plain(extra or {})}


def read_provenance(directory: Path) -> dict[str, Any]:
    """Read the provenance of a finished output, with paths that this process can open.

    Raises:
        ArtifactError: missing (the output is unfinished), not JSON, of another format or version.
    """
    path = directory / PROVENANCE_NAME
    if directory.is_dir() and not path.exists():
        raise ArtifactError(
            f"{directory}: not finished (no {PROVENANCE_NAME}); run the command that writes it again"
        )
    record = read_json(path, FORMAT, VERSION)
    check_fields(path, record, {"command": str, "inputs": [_INPUT]})
    return usable_paths(path, record)


def is_finished(directory: Path) -> bool:
    """Say whether the output in `directory` is complete."""
    return (directory / PROVENANCE_NAME).is_file()


@dataclass(kw_only=True)
class Output:
    """An output directory held by this process; use it as a context manager."""

    path: Path
    is_resumed: bool
    """An earlier run with equal configuration and inputs left its state here."""
    command: str
    config: dict[str, Any]
    inputs: list[dict[str, str]]
    """`{name, path, sha256}` of every input."""
    started: str
    experiment: Path | None
    _lock: int = field(repr=False)

    def __enter__(self) -> "Output":
        """Return the output itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release the lock."""
        self.close()

    def recorded(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record as it is written here: paths inside the experiment relative to it (`store.places`)."""
        return recorded_paths(self.path, record, self.experiment)

    def finish(self, extra: Mapping[str, Any] | None = None) -> None:
        """Write `provenance.json`, the mark of completeness; call it last."""
        content = make_provenance(
            command=self.command, config=self.config, inputs=self.inputs, started=self.started, extra=extra
        )
        write_json(self.path / PROVENANCE_NAME, self.recorded(content))

    def close(self) -> None:
        """Release the lock; an unfinished output stays and can be resumed."""
        if self._lock >= 0:
            release_directory(self._lock)
            self._lock = -1


def open_output(
    directory: Path,
    *,
    command: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Path],
    overwrite: bool,
    experiment: Path | None = None,
) -> Output:
    """Take an output directory for writing.

    Args:
        directory: made if missing.
        command: the verb, such as `prune`.
        config: the resolved configuration; decides, with the inputs' hashes, whether a run is resumed.
        inputs: name -> file or artifact directory read by the command.
        overwrite: empty the directory first if svkit wrote it. Unfinished output of the same run is resumed all the
            same, so that the command of an interrupted run can be given again as it was.
        experiment: paths inside it are recorded relative to it, so that a copy finds its own; None: all are absolute.

    Returns:
        The output, locked against other svkit processes until it is closed.

    Raises:
        ConfigError: finished already and not `overwrite`.
        ArtifactError: held by another process; unfinished with another configuration or other inputs; or it
            holds files that svkit did not write.
        DataError: an input list does not exist.
    """
    described = describe_inputs(inputs)
    lock = lock_directory(directory)
    try:
        run = {
            "format": RUN_FORMAT,
            "format_version": RUN_VERSION,
            "command": command,
            "config": plain(config),
            "inputs": described,
            "started": _utc_now(),
        }
        run = recorded_paths(directory, run, experiment)
        earlier = _earlier_run(directory, run, overwrite)
        if earlier is not None:
            run["started"] = earlier.get("started", run["started"])
        else:
            write_json(directory / RUN_NAME, run)
        remove_unfinished((directory, *(place for name in _WRITTEN_IN for place in directory.glob(name))))
    except BaseException:
        release_directory(lock)
        raise
    return Output(
        path=directory,
        is_resumed=earlier is not None,
        command=command,
        config=run["config"],
        inputs=described,
        started=run["started"],
        experiment=experiment,
        _lock=lock,
    )


def _earlier_run(directory: Path, run: Mapping[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """Return the unfinished run to resume; None when the directory is empty, or has been emptied."""
    entries = [entry for entry in directory.iterdir() if not entry.name.startswith(".")]
    is_ours = any(entry.name in (RUN_NAME, PROVENANCE_NAME) for entry in entries)
    if entries and not is_ours:
        raise ArtifactError(
            f"{directory}: holds files that svkit did not write ({entries[0].name});"
            " choose an empty directory"
        )
    if not entries:
        return None
    if not is_finished(directory):
        try:
            earlier = read_json(directory / RUN_NAME, RUN_FORMAT, RUN_VERSION)
            _refuse_other_run(directory, earlier, run)
            return earlier
        except ArtifactError:
            if not overwrite:
                raise
    elif not overwrite:
        raise ConfigError(f"{directory} is finished; use --overwrite to make it again")
    _empty(directory, entries, run)
    return None


def _empty(directory: Path, entries: list[Path], run: Mapping[str, Any]) -> None:
    """Remove all but `run.json`; when this is interrupted, the rest neither looks finished nor is resumed."""
    write_json(directory / RUN_NAME, {**run, "command": "--overwrite"})
    (directory / PROVENANCE_NAME).unlink(missing_ok=True)
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != RUN_NAME:
            entry.unlink(missing_ok=True)


def _refuse_other_run(directory: Path, earlier: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    check_fields(
        directory / RUN_NAME, earlier, {"command": str, "config": dict, "started": str, "inputs": [_INPUT]}
    )
    difference = _first_difference(identity(earlier), identity(run))
    if difference is not None:
        key, before, now = difference
        raise ArtifactError(
            f"{directory}: unfinished, made with another {key}: {_short(before)} then, {_short(now)} now;"
            " run the earlier command again to go on, or use --overwrite"
        )


def identity(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes two runs the same: command, configuration and the content of the inputs.

    The path of an input may change (another mount, a moved experiment), its content may not.
    """
    inputs = {entry["name"]: entry["sha256"] for entry in run.get("inputs", [])}
    config = run.get("config")
    if "encoder" in inputs and isinstance(
        config, dict
    ):  # a directory, which the configuration names by its path
        config = {**config, "encoder": None}
    return {"command": run.get("command"), "config": config, "input": inputs}


def _first_difference(before: Any, now: Any, key: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in [*before, *(name for name in now if name not in before)]:
            found = _first_difference(before.get(name), now.get(name), f"{key}.{name}" if key else str(name))
            if found is not None:
                return found
        return None
    return None if before == now else (key, before, now)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
