"""What a checkpoint was trained on: its provenance, walked back through the checkpoints it was made from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from svkit.errors import ArtifactError
from svkit.scoring.trial_speakers import speakers_of_manifest
from svkit.store.provenance import is_finished, read_provenance
from svkit.store.tables import read_artifact_table


def training_lists(checkpoint: Path) -> list[dict[str, str]]:
    """Return `{path, sha256}` of every training list, the model's own first; what is gone is left out."""
    lists: dict[str, dict[str, str]] = {}
    for _, record in _ancestors(checkpoint):
        for sha256, entry in _own_lists(record).items():
            lists.setdefault(sha256, entry)
    return list(lists.values())


def training_speakers(checkpoint: Path) -> set[str] | None:
    """Return every speaker that the model, or a model it was made from, was trained on; None: not known.

    The classifier of a fine-tuned model names its training speakers. Pruning and distillation pass on a classifier that
    is not theirs, so their lists are read unless a classifier was trained on the same one.
    """
    speakers: set[str] = set()
    told: set[str] = set()
    for directory, record in _ancestors(checkpoint):
        try:
            names = set(read_artifact_table(directory / "speakers.tsv", ("speaker_id",))["speaker_id"])
        except ArtifactError:  # no classifier, or a checkpoint that is refused when it is loaded
            continue
        speakers |= names
        if names and record.get("command") == "finetune":
            told |= set(_own_lists(record))
    for entry in training_lists(checkpoint):
        if entry["sha256"] not in told:
            known = speakers_of_manifest(entry)
            if known is None:
                return None
            speakers |= set(known.values())
    return speakers or None


def made_with(checkpoint: Path) -> tuple[str | None, int | None]:
    """Return recipe and seed that a finished checkpoint was made with, as far as that is recorded."""
    config = read_provenance(checkpoint).get("config") if is_finished(checkpoint) else None
    name, seed = (config.get("preset"), config.get("seed")) if isinstance(config, dict) else (None, None)
    return name if isinstance(name, str) else None, seed if type(seed) is int else None


def mixed_recipes(checkpoint: Path, exp: Path) -> str | None:
    """Say which stages of the chain up to a checkpoint were made with which recipe; None: all with the same one.

    Stages inside the experiment are named by their path in it.
    """
    stages: dict[str, list[str]] = {}
    for directory, _ in _ancestors(checkpoint):
        name, _ = made_with(directory)
        if name is not None:
            inside = directory.resolve().is_relative_to(exp.resolve())
            shown = directory.resolve().relative_to(exp.resolve()) if inside else directory
            stages.setdefault(name, []).append(shown.as_posix())
    if len(stages) < 2:
        return None
    parts = [f"{name} made {', '.join(reversed(made))}" for name, made in reversed(stages.items())]
    return f"the chain mixes recipes: {'; '.join(parts)}"


def _own_lists(record: dict[str, Any]) -> dict[str, dict[str, str]]:
    inputs = (entry for entry in record.get("inputs", []) if entry["name"] == "train")
    return {entry["sha256"]: {"path": entry["path"], "sha256": entry["sha256"]} for entry in inputs}


def _ancestors(checkpoint: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield a finished checkpoint and those it was made from, with their provenance, as far as they exist."""
    waiting, seen = [checkpoint], {checkpoint.resolve()}
    for current in waiting:  # grows on the way
        if not is_finished(current):
            continue
        record = read_provenance(current)
        yield current, record
        for entry in record.get("inputs", []):
            path = Path(entry["path"])
            if path.is_dir() and path.resolve() not in seen:
                seen.add(path.resolve())
                waiting.append(path)
