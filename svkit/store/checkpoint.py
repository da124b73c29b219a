"""Checkpoint directories: architecture, weights, classifier, adapter, log and resume state.

`config.json` is the architecture and nothing else; weights are safetensors; `provenance.json` is written last, by the
output protocol. This file knows names and tensors, not model classes (`svkit.stages.models` is where the two meet).
"""

import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from svkit.config.architecture import ModelArchitecture
from svkit.errors import ArtifactError
from svkit.store.atomic import read_json, replacing, write_json, write_text
from svkit.store.strict_json import check_fields, load_json
from svkit.store.tables import read_table, write_table

CONFIG_NAME, MODEL_NAME = "config.json", "model.safetensors"
BEST_NAME, LAST_NAME = "best.safetensors", "last.safetensors"
CLASSIFIER_NAME, SPEAKERS_NAME = "classifier.safetensors", "speakers.tsv"
ADAPTER_NAME = "adapter"
LOG_NAME, RESUME_NAME, TENSORBOARD_NAME = "train_log.jsonl", "resume", "tensorboard"
RESUME_FORMAT, RESUME_VERSION = "svkit-resume", 1


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
    if not path.is_file():
        raise ArtifactError(f"{directory}: not a checkpoint: {CONFIG_NAME} is missing")
    record = load_json(path)
    if not isinstance(record, dict):
        raise ArtifactError(f"{path}: expected a JSON object, found {type(record).__name__}")
    return ModelArchitecture.from_dict(record, str(path))


# A header may name a type of numbers that the file format has and this torch has not.
_UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file (ArtifactError when missing or corrupt)."""
    if not path.is_file():
        raise ArtifactError(f"{path}: does not exist")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except _UNREADABLE as error:
        raise ArtifactError(f"{path}: not a readable safetensors file ({error})") from error
    return tensors


def read_shapes(path: Path) -> dict[str, list[int]]:
    """Read the names and shapes in the header of a safetensors file, and nothing else of it."""
    if not path.is_file():
        raise ArtifactError(f"{path}: does not exist")
    try:
        with safe_open(path, "pt") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except _UNREADABLE as error:
        raise ArtifactError(f"{path}: not a readable safetensors file ({error})") from error


def check_tensors(path: Path) -> None:
    """Check that a safetensors file is whole, by its header; ArtifactError otherwise."""
    try:
        with safe_open(path, "pt"):
            pass
    except _UNREADABLE as error:
        raise ArtifactError(f"{path}: not a readable safetensors file ({error})") from error


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
    table = read_table(directory / SPEAKERS_NAME, ("row", "speaker_id", "speed"))
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
    write_tensors(directory / ADAPTER_NAME / "adapter_model.safetensors", tensors)
    write_text(directory / ADAPTER_NAME / "adapter_config.json", json.dumps(dict(config), indent=1) + "\n")


def read_adapter(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Read LoRA that is not merged yet: its configuration and tensors; None when there is none."""
    path = directory / ADAPTER_NAME / "adapter_config.json"
    if not path.exists():
        return None
    config = load_json(path)
    check_fields(path, config, {})
    return config, read_tensors(directory / ADAPTER_NAME / "adapter_model.safetensors")


def append_log(directory: Path, record: Mapping[str, Any]) -> None:
    """Append one line to `train_log.jsonl`."""
    with (directory / LOG_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(record)) + "\n")


def truncate_log(directory: Path, num_done: int) -> None:
    """Drop log lines of steps that a resumed run will do again."""
    path = directory / LOG_NAME
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= num_done:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # the last line of a killed run may be half-written
    write_text(path, "".join(kept))


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumeState:
    """State of an unfinished training."""

    num_done: int
    """Steps done."""
    task: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    facts: dict[str, Any]
    """Small JSON facts of the stage (best EER so far, ...)."""


def write_resume(directory: Path, state: ResumeState) -> None:
    """Write the resume state under a new name, point `state.json` to it, then remove the previous one."""
    root = directory / RESUME_NAME
    name = f"step-{state.num_done:09d}"
    write_tensors(root / name / "task.safetensors", state.task)
    write_tensors(root / name / "optimizer.safetensors", state.optimizer)
    write_json(
        root / "state.json",
        {
            "format": RESUME_FORMAT,
            "format_version": RESUME_VERSION,
            "name": name,
            "num_done": state.num_done,
            "facts": state.facts,
        },
    )
    for other in root.iterdir():
        if other.is_dir() and other.name != name:
            shutil.rmtree(other)


def read_resume(directory: Path) -> ResumeState | None:
    """Read the last good resume state; None when there is none."""
    root = directory / RESUME_NAME
    if not (root / "state.json").exists():
        return None
    record = read_json(root / "state.json", RESUME_FORMAT, RESUME_VERSION)
    try:
        if not re.fullmatch(r"step-[0-9]+", record["name"]):
            raise ValueError("a name that is none of ours")
        place, num_done, facts = root / record["name"], int(record["num_done"]), dict(record["facts"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{root / 'state.json'}: expected name, num_done and facts ({error!r})"
        ) from error
    return ResumeState(
        num_done=num_done,
        task=read_tensors(place / "task.safetensors"),
        optimizer=read_tensors(place / "optimizer.safetensors"),
        facts=facts,
    )


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
