"""Checkpoint directories: architecture, weights, classifier, adapter, log and resume state.

`config.json` holds the architecture and nothing else, and weights are safetensors files. The output protocol writes
`provenance.json` last. This file knows names and tensors but no model classes; `svkit.models.load` joins the two.
"""

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from svkit.config.architecture import ModelArchitecture
from svkit.config.ranges import Range
from svkit.config.schema import HeadConfig
from svkit.errors import ArtifactError, first_five
from svkit.store.arrays import reading
from svkit.store.atomic import one_line, replacing, write_bytes, write_json, write_text
from svkit.store.files import CONFIG_NAME as CONFIG_NAME
from svkit.store.files import LOG_BYTES, LOG_NAME, read_file
from svkit.store.files import MODEL_NAME as MODEL_NAME
from svkit.store.provenance import refuse_changed, refuse_unfinished, sha256_file
from svkit.store.strict_json import read_json, read_object

BEST_NAME, LAST_NAME = "best", "last"
CLASSIFIER_NAME, SPEAKERS_NAME = "classifier.safetensors", "speakers.tsv"
ADAPTER_NAME = "adapter"
ADAPTER_FILES = (f"{ADAPTER_NAME}/adapter_config.json", f"{ADAPTER_NAME}/adapter_model.safetensors")
RESUME_NAME, TENSORBOARD_NAME = "resume", "tensorboard"
STATE_NAME = "state.json"
FORMAT, VERSION = "svkit-checkpoint", 1
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
    """Read `config.json` (ArtifactError: not a checkpoint directory, an unfinished one, or one of another version)."""
    path = directory / CONFIG_NAME
    if not directory.exists():
        raise ArtifactError(f"{directory}: no such checkpoint directory")
    if not path.exists():
        refuse_unfinished(directory)
        found = {one.parent for level in ("*", "*/*") for one in directory.glob(f"{level}/{CONFIG_NAME}")}
        final_first = sorted(found, key=lambda one: (one.name != "lmft", one))
        which = f"; there are checkpoints in it: {first_five(final_first)}" if found else ""
        raise ArtifactError(f"{directory}: not a checkpoint: {CONFIG_NAME} is missing{which}")
    return read_json(path, FORMAT, VERSION, ModelArchitecture)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file (ArtifactError when missing or corrupt)."""
    with reading(path):
        tensors: dict[str, Tensor] = load_file(path)
    return tensors


def read_shapes(path: Path) -> dict[str, list[int]]:
    """Read names and shapes from the header of a safetensors file (ArtifactError: missing or truncated)."""
    with reading(path), safe_open(path, "pt") as file:
        return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file atomically; equal tensors give equal bytes."""
    plain = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    with replacing(path) as temporary:
        save_file(plain, temporary)


def write_model(directory: Path, architecture: ModelArchitecture, tensors: Mapping[str, Tensor]) -> None:
    """Write a model: the weights first, then the architecture."""
    write_tensors(directory / MODEL_NAME, tensors)
    content, usual = asdict(architecture), HeadConfig()
    # Newer keys are written only if they differ from the default: earlier versions refuse keys they do not know.
    content["head"] = {
        name: value
        for name, value in content["head"].items()
        if name.endswith("_dim") or value != getattr(usual, name)
    }
    write_json(directory / CONFIG_NAME, {"format": FORMAT, "format_version": VERSION, **content})


def write_classifier(directory: Path, classifier: Classifier) -> None:
    """Write class weights and `speakers.tsv` (row, speaker_id, speed)."""
    import pandas as pd  # costs half a second, and embedding alone needs no table

    from svkit.store.tables import write_table

    speeds = [f"{speed:g}" for speed in classifier.speeds]
    columns = {"row": range(len(speeds)), "speaker_id": classifier.speakers, "speed": speeds}
    write_table(directory / SPEAKERS_NAME, pd.DataFrame(columns))
    write_tensors(directory / CLASSIFIER_NAME, {"weight": classifier.weight})


def read_classifier(directory: Path) -> Classifier | None:
    """Read the class weights; None when the checkpoint has none."""
    import pandas as pd

    from svkit.store.tables import read_artifact_table

    path, names = directory / CLASSIFIER_NAME, directory / SPEAKERS_NAME
    if not path.exists():
        return None
    tensors, table = read_tensors(path), read_artifact_table(names, ("row", "speaker_id", "speed"))
    weight = tensors.pop("weight", None)
    if tensors or weight is None or weight.ndim != 2 or len(weight) != len(table):
        raise ArtifactError(
            f"{path}: expected one weight row for each of the {len(table)} rows of {SPEAKERS_NAME}"
        )
    speeds = pd.to_numeric(table["speed"], errors="coerce")
    if not speeds.between(0, math.inf, inclusive="neither").all():
        raise ArtifactError(f"{names}: speed: expected numbers above 0")
    return Classifier(weight=weight, speakers=list(table["speaker_id"]), speeds=speeds.tolist())


def write_adapter(directory: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write unmerged LoRA in peft's format."""
    write_tensors(directory / ADAPTER_FILES[1], tensors)
    write_text(directory / ADAPTER_FILES[0], json.dumps(dict(config), indent=1) + "\n")


def read_adapter(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Read the configuration and tensors of unmerged LoRA; None when there is none."""
    path = directory / ADAPTER_FILES[0]
    if not path.exists():
        return None
    return read_object(path), read_tensors(directory / ADAPTER_FILES[1])


def append_log(directory: Path, record: Mapping[str, Any]) -> None:
    """Append one line to `train_log.jsonl`."""
    path = directory / LOG_NAME
    with one_line(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(record)) + "\n")


def truncate_log(directory: Path, num_done: int) -> None:
    """Drop the log lines of steps that a resumed run will repeat."""
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


Validations = dict[str, dict[str, int | float]]
"""The metrics of the `best` and of the `last` validation, each with its `step`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Progress:
    """Where an unfinished training run is."""

    num_done: int
    """Steps done."""
    batch_size: Annotated[int, Range(ge=1)]
    """Examples per step, over all processes."""
    best_step: int | None = None
    """Step whose task is kept in `best_path`, if there is one."""
    facts: Validations


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumeState(_Progress):
    """State of an unfinished training run."""

    task: dict[str, Tensor]
    optimizer: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Record(_Progress):
    """`state.json`."""

    sha256: dict[str, str] | None = None
    """Hash of each file of the state; None here or in `checksum`: an earlier version wrote the state."""
    checksum: str | None = None
    """Hash of all other fields."""

    def digest(self) -> str:
        others = {key: value for key, value in asdict(self).items() if key != "checksum"}
        return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def best_path(directory: Path, step: int) -> Path:
    """Return where the task of the best step so far is kept until training ends.

    The name holds the step. If a run is killed after it wrote this file and before the state that refers to it, the
    resumed run uses the best step of the older state, not one that it may never reach again.
    """
    return directory / RESUME_NAME / f"best-{step:09d}.safetensors"


def _state_files(place: Path, best_step: int | None) -> list[Path]:
    files = [place / "task.safetensors", place / "optimizer.safetensors"]
    return files if best_step is None else [*files, best_path(place.parent.parent, best_step)]


def write_resume(directory: Path, state: ResumeState, keep_last: int = 1) -> None:
    """Write `resume/step-N/`, `state.json` last, then remove what the `keep_last` newest states do not need.

    A directory without `state.json` is half-written or half-removed, and is never read.
    """
    root = directory / RESUME_NAME
    place = root / f"step-{state.num_done:09d}"
    with contextlib.suppress(ArtifactError):
        _check_files(place, _read_record(place))
        return  # the state of this step is already there, whole
    # A damaged state of this step must not look complete while its files are replaced.
    (place / STATE_NAME).unlink(missing_ok=True)
    try:
        write_tensors(place / "task.safetensors", state.task)
        write_tensors(place / "optimizer.safetensors", state.optimizer)
        hashes = {path.name: sha256_file(path) for path in _state_files(place, state.best_step)}
        record = _Record(**_progress(state), sha256=hashes)
        record = replace(record, checksum=record.digest())
        heading = {"format": RESUME_FORMAT, "format_version": RESUME_VERSION}
        write_json(place / STATE_NAME, {**heading, **asdict(record)})
    except ArtifactError:
        shutil.rmtree(place, ignore_errors=True)  # the disk may be full: free what this has taken
        raise
    # States newer than this one are damaged, or the run would have resumed from them.
    kept = [path for path in _complete_states(root) if path.name <= place.name][:keep_last]
    for other in root.glob(_STATE_GLOB):
        if other not in kept:
            (other / STATE_NAME).unlink(missing_ok=True)
            shutil.rmtree(other)
    needed: set[Path] = set()
    for path in kept:
        with contextlib.suppress(ArtifactError):  # an unreadable state needs no files
            needed.update(_state_files(path, _read_record(path).best_step))
    for best in root.glob(f"best-{_DIGITS}.safetensors"):
        if best not in needed:
            best.unlink()


def _read_record(place: Path) -> _Record:
    path = place / STATE_NAME
    record = read_json(path, RESUME_FORMAT, RESUME_VERSION, _Record)
    if f"step-{record.num_done:09d}" != place.name:
        raise ArtifactError(f"{path}: num_done: expected that of {place.name}, found {record.num_done:,}")
    if record.checksum not in (None, record.digest()):
        raise ArtifactError(f"{path}: has changed since it was saved (its checksum does not fit)")
    return record


def _check_files(place: Path, record: _Record) -> None:
    for path in _state_files(place, record.best_step):
        if record.sha256 is None:
            read_shapes(path)
        else:
            refuse_changed(path, record.sha256.get(path.name), sha256_file(path), "it was saved")


def _complete_states(root: Path) -> list[Path]:
    """Return the directories of complete states, the newest first."""
    return sorted((path.parent for path in root.glob(f"{_STATE_GLOB}/{STATE_NAME}")), reverse=True)


def read_resume(
    directory: Path, num_steps: int, note: Callable[[str], None] = lambda _: None
) -> ResumeState | None:
    """Read the newest intact state; None when there is no state at all.

    A state beyond the last step of the run, `num_steps`, is not intact. `note` receives a line about each newer state
    that cannot be read.

    Raises:
        ArtifactError: there are states, but none of them can be read.
    """
    places = _complete_states(directory / RESUME_NAME)
    for place in places:
        try:
            return _read_state(place, num_steps)
        except ArtifactError as error:
            if place == places[-1]:
                raise ArtifactError(f"{error}; remove {directory} to begin again") from error
            note(f"{error}; going back to the state before it")
    return None


def _read_state(place: Path, num_steps: int) -> ResumeState:
    record = _read_record(place)
    if record.num_done > num_steps:
        raise ArtifactError(
            f"{place / STATE_NAME}: num_done: expected at most the run's {num_steps:,}, found {record.num_done:,}"
        )
    _check_files(place, record)
    task, optimizer, *_ = _state_files(place, None)
    return ResumeState(**_progress(record), task=read_tensors(task), optimizer=read_tensors(optimizer))


def _progress(state: _Progress) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in fields(_Progress)}


def read_resume_batch(directory: Path) -> int | None:
    """Read the batch size of the interrupted training, over all processes; None without a state."""
    for place in _complete_states(directory / RESUME_NAME):
        with contextlib.suppress(ArtifactError):  # `read_resume` reports it
            return _read_record(place).batch_size
    return None


def remove_resume(directory: Path) -> None:
    """Remove the resume state of a finished training."""
    shutil.rmtree(directory / RESUME_NAME, ignore_errors=True)


def check_keys(found: Collection[str], expected: Collection[str], where: str) -> None:
    """Raise ArtifactError naming missing and unexpected tensors."""
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    parts = [
        f"{label} {', '.join(names[:5])} ({len(names)})"
        for label, names in (("missing", missing), ("unexpected", extra))
        if names
    ]
    if parts:
        raise ArtifactError(f"{where}: the tensors do not fit config.json: {'; '.join(parts)}")
