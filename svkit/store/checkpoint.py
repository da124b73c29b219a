"""Checkpoint directories: architecture, weights, classifier, adapter, log and resume state.

`config.json` is the architecture and nothing else; weights are safetensors; `provenance.json` is written last, by the
output protocol. This file knows names and tensors, not model classes (`svkit.models.load` is where the two meet).
"""

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from svkit.config.architecture import ModelArchitecture
from svkit.errors import ArtifactError, first_line
from svkit.store.atomic import one_line, replacing, write_bytes, write_json, write_text
from svkit.store.files import LOG_BYTES, check_file, read_file
from svkit.store.provenance import check_sha256, sha256_file
from svkit.store.strict_json import check_fields, load_json, read_json, typed
from svkit.store.tables import read_artifact_table, write_table

CONFIG_NAME, MODEL_NAME = "config.json", "model.safetensors"
BEST_NAME, LAST_NAME = "best", "last"
CLASSIFIER_NAME, SPEAKERS_NAME = "classifier.safetensors", "speakers.tsv"
ADAPTER_NAME = "adapter"
ADAPTER_FILES = (f"{ADAPTER_NAME}/adapter_config.json", f"{ADAPTER_NAME}/adapter_model.safetensors")
LOG_NAME, RESUME_NAME, TENSORBOARD_NAME = "train_log.jsonl", "resume", "tensorboard"
STATE_NAME = "state.json"
RESUME_FORMAT, RESUME_VERSION = "svkit-resume", 2
_DIGITS = "[0-9]" * 9
_STATE_GLOB = f"step-{_DIGITS}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Classifier:
    """Class weights and what their rows mean."""

    weight: Tensor
    """[classes, embedding_dim]"""
    speakers: list[str]
    """Speaker of each row."""
    speeds: list[float]
    """Speed of each row."""


def read_architecture(directory: Path) -> ModelArchitecture:
    """Read `config.json`.

    Raises:
        ArtifactError: not a checkpoint directory, or one of another version.
    """
    path = directory / CONFIG_NAME
    if not directory.exists():
        raise ArtifactError(f"{directory}: no such checkpoint directory")
    if not path.exists():
        raise ArtifactError(f"{directory}: not a checkpoint: {CONFIG_NAME} is missing")
    return ModelArchitecture.from_dict(typed(path, load_json(path), dict[str, Any]), str(path))


# A header may name a type of numbers that the file format has and this torch has not.
_UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)


def _unreadable(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(f"{path}: not a readable safetensors file ({first_line(error)})")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file (ArtifactError when missing or corrupt)."""
    check_file(path, ArtifactError)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    return tensors


def read_shapes(path: Path) -> dict[str, list[int]]:
    """Read the names and shapes in the header of a safetensors file, and nothing else of it."""
    check_file(path, ArtifactError)
    try:
        with safe_open(path, "pt") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def check_tensors(path: Path) -> None:
    """Check that a safetensors file is whole, by its header; ArtifactError otherwise."""
    check_file(path, ArtifactError)
    try:
        with safe_open(path, "pt"):
            pass
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file atomically; equal tensors give equal bytes."""
    plain = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    with replacing(path) as temporary:
        save_file(plain, temporary)


def write_model(
    directory: Path, architecture: ModelArchitecture, tensors: Mapping[str, Tensor], name: str = MODEL_NAME
) -> None:
    """Write weights (first) and architecture of a model."""
    write_tensors(directory / name, tensors)
    write_json(directory / CONFIG_NAME, architecture.to_dict())


def write_classifier(directory: Path, classifier: Classifier) -> None:
    """Write class weights and `speakers.tsv` (row, speaker_id, speed)."""
    import pandas as pd

    table = pd.DataFrame(
        {
            "row": range(len(classifier.speakers)),
            "speaker_id": classifier.speakers,
            "speed": [f"{speed:g}" for speed in classifier.speeds],
        }
    )
    write_table(directory / SPEAKERS_NAME, table)
    write_tensors(directory / CLASSIFIER_NAME, {"weight": classifier.weight})


def read_classifier(directory: Path) -> Classifier | None:
    """Read the class weights; None when the checkpoint has none."""
    path = directory / CLASSIFIER_NAME
    if not path.exists():
        return None
    tensors = read_tensors(path)
    table = read_artifact_table(directory / SPEAKERS_NAME, ("row", "speaker_id", "speed"))
    if set(tensors) != {"weight"} or tensors["weight"].ndim != 2 or len(tensors["weight"]) != len(table):
        raise ArtifactError(
            f"{path}: expected one weight row for each of the {len(table)} rows of {SPEAKERS_NAME}"
        )
    try:
        speeds = [float(speed) for speed in table["speed"]]
        if not all(0 < speed < math.inf for speed in speeds):
            raise ValueError("expected numbers above 0")
    except ValueError as error:
        raise ArtifactError(f"{directory / SPEAKERS_NAME}: speed: {error}") from error
    return Classifier(weight=tensors["weight"], speakers=list(table["speaker_id"]), speeds=speeds)


def write_adapter(directory: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write LoRA in peft's format."""
    write_tensors(directory / ADAPTER_FILES[1], tensors)
    write_text(directory / ADAPTER_FILES[0], json.dumps(dict(config), indent=1) + "\n")


def read_adapter(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Read LoRA that is not merged yet: its configuration and tensors; None when there is none."""
    path = directory / ADAPTER_FILES[0]
    if not path.exists():
        return None
    config = load_json(path)
    check_fields(path, config, {})
    return config, read_tensors(directory / ADAPTER_FILES[1])


def append_log(directory: Path, record: Mapping[str, Any]) -> None:
    """Append one line to `train_log.jsonl`."""
    path = directory / LOG_NAME
    with one_line(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(record)) + "\n")


def truncate_log(directory: Path, num_done: int) -> None:
    """Drop log lines of steps that a resumed run will do again."""
    path = directory / LOG_NAME
    if not path.exists():
        return
    kept = []
    for line in read_file(path, ArtifactError, LOG_BYTES).splitlines():
        try:
            if json.loads(line)["step"] <= num_done:
                kept.append(line + b"\n")
        except (ValueError, KeyError, TypeError):
            continue  # the last line of a killed run may be half-written
    write_bytes(path, b"".join(kept))


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumeState:
    """State of an unfinished training."""

    num_done: int
    """Steps done."""
    batch_size: int
    """Examples of a step, over all processes."""
    task: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    facts: dict[str, Any]
    """Small JSON facts of the stage (best EER so far, ...)."""
    best_step: int | None = None
    """Step whose task is kept in `best_path`, where there is one."""


def best_path(directory: Path, step: int) -> Path:
    """Where the task of the best step so far lies until the training ends.

    Named by its step: a run that is killed between this file and the state that mentions it goes on with the best step
    of its own past, not with one from a future that may come out differently.
    """
    return directory / RESUME_NAME / f"best-{step:09d}.safetensors"


def write_resume(directory: Path, state: ResumeState, keep_last: int = 1) -> None:
    """Write `resume/step-N/`, `state.json` last, then remove what the `keep_last` newest states do not need.

    A directory without `state.json` is half-written or half-removed, and is never read.
    """
    root = directory / RESUME_NAME
    place = root / f"step-{state.num_done:09d}"
    if _is_whole(place):  # a step has one state
        return
    (place / STATE_NAME).unlink(missing_ok=True)
    try:
        write_tensors(place / "task.safetensors", state.task)
        write_tensors(place / "optimizer.safetensors", state.optimizer)
        record: dict[str, Any] = {
            "num_done": state.num_done,
            "batch_size": state.batch_size,
            "best_step": state.best_step,
            "facts": state.facts,
        }
        record["sha256"] = {path.name: sha256_file(path) for path in _state_files(place, record)}
        record["checksum"] = _checksum(record)
        write_json(place / STATE_NAME, {"format": RESUME_FORMAT, "format_version": RESUME_VERSION, **record})
    except ArtifactError:
        shutil.rmtree(place, ignore_errors=True)  # the disk may be full: leave the room to others
        raise
    # A newer state than this one could not be read when the run went on.
    kept = [path for path in _complete_states(root) if path.name <= place.name][:keep_last]
    for other in root.glob(_STATE_GLOB):
        if other not in kept:
            (other / STATE_NAME).unlink(missing_ok=True)
            shutil.rmtree(other)
    needed: set[Path] = set()
    for path in kept:
        with contextlib.suppress(ArtifactError):  # it will not be read either
            needed.update(_state_files(path, _read_record(path)))
    for best in root.glob(f"best-{_DIGITS}.safetensors"):
        if best not in needed:
            best.unlink()


def _state_files(place: Path, record: Mapping[str, Any]) -> list[Path]:
    best = [] if record["best_step"] is None else [best_path(place.parent.parent, record["best_step"])]
    return [place / "task.safetensors", place / "optimizer.safetensors", *best]


def _checksum(record: Mapping[str, Any]) -> str:
    """Hash what `state.json` says besides this."""
    others = {
        key: value for key, value in record.items() if key not in ("format", "format_version", "checksum")
    }
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def _is_whole(place: Path) -> bool:
    try:
        _check_files(place, _read_record(place))
    except ArtifactError:
        return False
    return True


def _read_record(place: Path) -> dict[str, Any]:
    """Read and check `state.json`; states of earlier versions have no hashes."""
    path = place / STATE_NAME
    record = read_json(path, RESUME_FORMAT, RESUME_VERSION, dict[str, Any])
    kinds = {"num_done": int, "batch_size": int, "best_step": (int, NoneType), "facts": dict}
    check_fields(path, record, kinds | {key: dict for key in ("sha256",) if key in record})
    if record["batch_size"] < 1:
        raise ArtifactError(f"{path}: batch_size: expected a positive number, found {record['batch_size']}")
    if f"step-{record['num_done']:09d}" != place.name:
        raise ArtifactError(f"{path}: num_done: expected that of {place.name}, found {record['num_done']:,}")
    if record.get("checksum", _checksum(record)) != _checksum(record):
        raise ArtifactError(f"{path}: has changed since it was saved (its checksum is of other content)")
    return record


def _check_files(place: Path, record: Mapping[str, Any]) -> None:
    for path in _state_files(place, record):
        check_tensors(path)
        if "sha256" in record:
            check_sha256(path, record["sha256"].get(path.name), "it was saved")


def _complete_states(root: Path) -> list[Path]:
    """Directories of whole states, the newest first."""
    return sorted((path.parent for path in root.glob(f"{_STATE_GLOB}/{STATE_NAME}")), reverse=True)


def read_resume(
    directory: Path, num_steps: int, note: Callable[[str], None] = lambda _: None
) -> ResumeState | None:
    """Read the newest state that is as it was saved; None when there is none at all.

    Args:
        directory: the checkpoint.
        num_steps: of the whole run: no state has more.
        note: is told of newer states that cannot be read.

    Raises:
        ArtifactError: there are states, but none of them can be read.
    """
    places = _complete_states(directory / RESUME_NAME)
    for number, place in enumerate(places):
        try:
            return _read_state(place, num_steps)
        except ArtifactError as error:
            if number + 1 == len(places):
                raise ArtifactError(f"{error}; remove {directory} to begin again") from error
            note(f"{error}: going back to the state before it")
    return None


def _read_state(place: Path, num_steps: int) -> ResumeState:
    record = _read_record(place)
    if record["num_done"] > num_steps:
        raise ArtifactError(
            f"{place / STATE_NAME}: num_done: expected at most the run's {num_steps:,}, found {record['num_done']:,}"
        )
    _check_files(place, record)
    return ResumeState(
        num_done=record["num_done"],
        batch_size=record["batch_size"],
        task=read_tensors(place / "task.safetensors"),
        optimizer=read_tensors(place / "optimizer.safetensors"),
        facts=record["facts"],
        best_step=record["best_step"],
    )


def read_resume_batch(directory: Path) -> int | None:
    """Read how many examples a step of the interrupted training takes over all processes; None without a state."""
    for place in _complete_states(directory / RESUME_NAME):
        with contextlib.suppress(ArtifactError):  # `read_resume` says so
            return int(_read_record(place)["batch_size"])
    return None


def remove_resume(directory: Path) -> None:
    """Remove the resume state of a finished training."""
    shutil.rmtree(directory / RESUME_NAME, ignore_errors=True)


def check_keys(found: Sequence[str], expected: Sequence[str], where: str) -> None:
    """Raise ArtifactError naming missing and unexpected tensors."""
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        parts = [
            f"{label} {', '.join(names[:5])} ({len(names)})"
            for label, names in (("missing", missing), ("unexpected", extra))
            if names
        ]
        raise ArtifactError(f"{where}: the tensors do not fit config.json: {'; '.join(parts)}")
