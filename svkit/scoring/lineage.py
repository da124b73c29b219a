"""Find what a checkpoint was trained on, by following its provenance back through the checkpoints it was made from."""

from collections.abc import Callable, Iterator
from pathlib import Path

from svkit.config.changes import Change, changes
from svkit.config.schema import TINY_ENCODER, TINY_SIZES
from svkit.errors import ArtifactError
from svkit.store.places import Artifact
from svkit.store.provenance import (
    PROVENANCE_NAME,
    InputEntry,
    Provenance,
    is_finished,
    read_provenance,
    sha256_artifact,
    sha256_file,
)
from svkit.store.source import Source, is_repository, known_source
from svkit.store.strict_json import typed


def training_lists(checkpoint: Path) -> list[Artifact]:
    """Return every recorded training list, the model's own first."""
    lists: dict[str, Artifact] = {}
    for _, record in _ancestors(checkpoint):
        for sha256, entry in _own_lists(record).items():
            lists.setdefault(sha256, entry)
    return list(lists.values())


def training_speakers(checkpoint: Path) -> set[str] | None:
    """Return every speaker that the model, or a model it was made from, was trained on; None: not known.

    The classifier of a fine-tuned model names its training speakers. Pruning and distillation pass on a classifier that
    they did not train, so their lists are read unless a classifier was trained on the same list.
    """
    # Imported here, because pandas takes half a second and `svkit verify`, which uses this file, reads no table.
    from svkit.scoring.trial_speakers import speakers_of_manifest
    from svkit.store.tables import read_artifact_table

    speakers: set[str] = set()
    told: set[str] = set()
    for directory, record in _ancestors(checkpoint):
        try:
            names = set(read_artifact_table(directory / "speakers.tsv", ("speaker_id",))["speaker_id"])
        except ArtifactError:  # no classifier, or a checkpoint that is refused when it is loaded
            continue
        speakers |= names
        if names and record["command"] == "finetune":
            told |= set(_own_lists(record))
    for entry in training_lists(checkpoint):
        if entry["sha256"] not in told:
            known = speakers_of_manifest(entry)
            if known is None:
                return None
            speakers |= set(known.values())
    return speakers or None


def made_with(checkpoint: Path) -> tuple[str | None, int | None]:
    """Return the recipe and the seed that a finished checkpoint was made with, each None if it is not recorded."""
    config = read_provenance(checkpoint).get("config", {}) if is_finished(checkpoint) else {}
    name, seed = config.get("preset"), config.get("seed")
    return name if isinstance(name, str) else None, seed if type(seed) is int else None


def encoder_of(checkpoint: Path) -> str | None:
    """Return the encoder that a checkpoint's training started from, as it was named; None: it is not recorded."""
    named = (record.get("config", {}).get("encoder") for _, record in _ancestors(checkpoint))
    return next((name for name in named if isinstance(name, str)), None)


def source_of(checkpoint: Path) -> Source | None:
    """Return the hub model that a checkpoint, or its nearest ancestor with a known one, comes from; None: not known."""
    for directory, record in _ancestors(checkpoint):
        for key in ("published", "origin"):  # fetched unchanged (`svkit.tools.push`), or converted
            if (recorded := record.get(key)) is not None:
                return typed(directory / PROVENANCE_NAME, recorded, Source, key)
        names = [entry["name"] for entry in record["inputs"]]
        encoder = record.get("config", {}).get("encoder")
        if isinstance(encoder, str) and is_repository(encoder) and "encoder" not in names:
            return known_source(encoder)
    return None


def corpus_of(entry: Artifact) -> str | None:
    """Return the corpus that a list was prepared from; None: not known, or the list has changed."""
    record = preparation_of(entry)
    name = record and record.get("config", {}).get("corpus")
    return name if isinstance(name, str) else None


def preparation_of(entry: Artifact) -> Provenance | None:
    """Return the record of the `svkit prepare` that wrote a list; None: there is none, or the list has changed."""
    home = Path(entry.get("path", "")).parent
    if not is_finished(home):
        return None
    record = read_provenance(home)
    lists = [output["sha256"] for output in record.get("outputs", [])]
    return record if entry.get("sha256") in lists else None


def has_changed(entry: Artifact) -> bool:
    """Say whether `svkit prepare` wrote a list at the place of this one, with another content."""
    path = Path(entry.get("path", ""))
    record = read_provenance(path.parent) if is_finished(path.parent) else None
    if record is None or not record["command"].startswith("prepare "):
        return False
    lists = {output["name"]: output["sha256"] for output in record.get("outputs", [])}
    return path.name in lists and entry.get("sha256") not in lists.values()


_FINETUNING = ("head", "joint", "lmft")
_PLACES = {"prune": -1, "distill": -1, "lora": 0} | {name: place for place, name in enumerate(_FINETUNING)}


def skipped_stages(stage: str, source: Path) -> list[str]:
    """Return the stages of fine-tuning that a stage leaves out if it starts from this checkpoint."""
    record = read_provenance(source) if is_finished(source) else None
    if record is None:
        return []
    made_by = record.get("config", {}).get("stage") if record["command"] == "finetune" else record["command"]
    # None: made otherwise, for example converted.
    place = _PLACES.get(made_by) if isinstance(made_by, str) else None
    return [] if place is None or stage not in _PLACES else [*_FINETUNING[place + 1 : _PLACES[stage]]]


def chain_faults(checkpoint: Path, exp: Path) -> list[str]:
    """Say which recipes are mixed on the way to a checkpoint, and which stages were left out."""
    recipes: dict[str, list[str]] = {}
    found = []
    for directory, record in _ancestors(checkpoint):
        made, config = shown_path(directory, exp), record.get("config", {})
        recipe, stage = config.get("preset"), config.get("stage")
        if isinstance(recipe, str):
            recipes.setdefault(recipe, []).append(made)
        for source in (Path(entry["path"]) for entry in record["inputs"] if entry["name"] == "checkpoint"):
            if isinstance(stage, str) and (skipped := skipped_stages(stage, source)):
                words = f"{' and '.join(skipped)}: {made} was made from {shown_path(source, exp)}"
                found.append(f"the chain leaves out {words}")
    if len(recipes) > 1:
        parts = [f"{name} made {', '.join(reversed(places))}" for name, places in reversed(recipes.items())]
        found.insert(0, f"the chain mixes recipes: {'; '.join(parts)}")
    return found


def recipe_changes(checkpoint: Path, hash_file: Callable[[Path], str] = sha256_file) -> list[Change]:
    """Return what the stages up to a checkpoint changed of their presets, in the order of the chain.

    Stages of a recipe that is no preset of this svkit are passed over, and so is what has been remade since.
    """
    chain = [*_ancestors(checkpoint, lambda entry: not _is_other(entry, hash_file))]
    found = [change for directory, record in reversed(chain) for change in _own_changes(directory, record)]
    return list(dict.fromkeys(found))


def _own_changes(directory: Path, record: Provenance) -> Iterator[Change]:
    """Yield what one stage changed of its preset."""
    command, config = record["command"], record.get("config", {})
    parts = {}
    if command in ("prune", "distill"):
        parts = {command: config.get(command)}
    elif command == "finetune":
        # Imported here, because it takes torch, which the options of a command do without.
        from svkit.store.checkpoint import read_architecture

        try:
            kind = "pruned" if read_architecture(directory).is_pruned else "dense"
        except ArtifactError:  # an earlier stage may have lost its model; then it is not known which it was
            return
        parts = {"head": config.get("head"), "lora": config.get("lora")}
        overrides = config.get("encoder_overrides")
        if config.get("encoder") == TINY_ENCODER and isinstance(overrides, dict):
            parts["encoder_overrides"] = TINY_SIZES | overrides
        parts[f"{kind}.{config.get('stage')}"] = config.get("stage_config")
    yield from changes(config.get("preset"), parts)


def pruned_by(checkpoint: Path, hash_file: Callable[[Path], str] = sha256_file) -> Path | None:
    """Return the output of `svkit prune` that a checkpoint is or comes from; None: there is none, or it is gone."""

    def is_student(entry: InputEntry) -> bool:
        return entry["name"] in ("checkpoint", "student") and not _is_other(entry, hash_file)

    chain = _ancestors(checkpoint, is_student)
    return next((directory for directory, record in chain if record["command"] == "prune"), None)


def remade_sources(
    checkpoint: Path, hash_file: Callable[[Path], str] = sha256_file
) -> Iterator[tuple[Path, Path]]:
    """Yield (source, made) in the chain up to a checkpoint where the source has been replaced since `made` was made."""
    for made, record in _ancestors(checkpoint, lambda entry: not _is_other(entry, hash_file)):
        for entry in record["inputs"]:
            if _is_other(entry, hash_file):
                yield Path(entry["path"]), made


def shown_path(directory: Path, exp: Path) -> str:
    """Return the path of an artifact to show: relative to the experiment if it lies inside."""
    whole, root = directory.resolve(), exp.resolve()
    return (whole.relative_to(root) if whole.is_relative_to(root) else directory).as_posix()


def _is_other(entry: InputEntry, hash_file: Callable[[Path], str]) -> bool:
    """Say whether the path of an input now holds another finished artifact than the recorded one."""
    path = Path(entry["path"])
    return path.is_dir() and is_finished(path) and sha256_artifact(path, hash_file) != entry["sha256"]


def _own_lists(record: Provenance) -> dict[str, Artifact]:
    inputs = (entry for entry in record["inputs"] if entry["name"] == "train")
    return {entry["sha256"]: {"path": entry["path"], "sha256": entry["sha256"]} for entry in inputs}


def _ancestors(
    checkpoint: Path, follows: Callable[[InputEntry], bool] = lambda entry: True
) -> Iterator[tuple[Path, Provenance]]:
    """Yield a finished checkpoint and those it was made from, with their provenance, as far as they exist.

    `follows` says whether to follow an entry of `inputs`.
    """
    waiting, seen = [checkpoint], {checkpoint.resolve()}
    for current in waiting:  # the list grows in the loop
        if not is_finished(current):
            continue
        record = read_provenance(current)
        yield current, record
        for entry in record["inputs"]:
            path = Path(entry["path"])
            if path.is_dir() and path.resolve() not in seen and follows(entry):
                seen.add(path.resolve())
                waiting.append(path)
