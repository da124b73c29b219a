"""The model card, `README.md` beside a checkpoint: what the model is, what it was made from, how accurate it is.

The card is rendered from files alone. A stage writes what is known when it ends; `svkit report` rewrites the card with
the results of the evaluation. The card does not enter the checkpoint's hash.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from svkit.config.changes import Change
from svkit.config.schema import TINY_ENCODER
from svkit.errors import ArtifactError
from svkit.models.info import describe_checkpoint
from svkit.pruning.outcome import vanished_sentence
from svkit.reports import results, templates, wording
from svkit.reports.tables import Table
from svkit.scoring.lineage import (
    corpus_of,
    encoder_of,
    has_changed,
    pruned_by,
    recipe_changes,
    source_of,
    training_lists,
)  # fmt: skip
from svkit.scoring.ratio import bounds_gap, map_of, slope_caution
from svkit.store import calibration
from svkit.store.atomic import write_text
from svkit.store.checkpoint import SPEAKERS_NAME
from svkit.store.files import read_file
from svkit.store.metrics import Metrics
from svkit.store.places import Artifact
from svkit.store.provenance import Provenance, read_provenance, sha256_artifact, sha256_file
from svkit.store.report import Pruning, read_pruning
from svkit.store.source import Source
from svkit.store.tables import read_artifact_table
from svkit.store.upstream import published_classes

CARD_NAME = "README.md"
_MARK = "(of svkit's artifact hash)"
"""Every card contains this text; a `README.md` without it is the user's."""
_TITLES = {
    "finetune": "fine-tuned speaker model",
    "prune": "pruned speaker model, before distillation",
    "distill": "pruned and distilled speaker model, before fine-tuning",
    "convert": "converted speaker model",
}

_UNKNOWN: Provenance = {
    "config": {}, "svkit": "of unknown version", "seed": None, "device": "unknown", "started": "unknown",
    "finished": "at an unknown time",
}  # fmt: skip
"""What a card says instead of facts that a record lacks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """What a card says in addition when the checkpoint is published."""

    repository: str
    licence: str | None
    """As its publisher states it; None if the source's applies or none is known."""


def write_card(
    directory: Path, systems: Sequence[Metrics] = (), hash_file: Callable[[Path], str] = sha256_file
) -> None:
    """Write the card of a finished checkpoint, unless the user has put a document of their own in its place.

    `systems` are the checkpoint's evaluations from `report.json`; without any, the card says that there are none yet.
    """
    if users_document(directory) is None:
        write_text(directory / CARD_NAME, render(directory, systems, hash_file))


def users_document(directory: Path) -> bytes | None:
    """Return the user's own `README.md`; None if there is none, or it is svkit's card."""
    path = directory / CARD_NAME
    content = read_file(path, ArtifactError) if path.exists() else None
    return None if content is None or _MARK.encode() in content else content


def render(
    directory: Path,
    systems: Sequence[Metrics],
    hash_file: Callable[[Path], str] = sha256_file,
    publication: Publication | None = None,
) -> str:
    """Return the card as markdown; with `publication`, as the page of that repository on the hub."""
    record: Provenance = {**_UNKNOWN, **read_provenance(directory)}
    facts = describe_checkpoint(directory)
    source, source_on_hub = pruned_by(directory, hash_file), source_of(directory)
    pruning = Pruning() if source is None else read_pruning(source)
    limits = list(pruning.cautions)
    if facts.vanished and not pruning.vanished:
        limits.append(vanished_sentence(facts.vanished))
    changes, encoder = recipe_changes(directory, hash_file), encoder_of(directory)
    inputs = [[entry["name"], Path(entry["path"]).name, entry["sha256"][:16]] for entry in record["inputs"]]
    return templates.render(
        "card.md.j2",
        name=directory.name if publication is None else publication.repository.partition("/")[2],
        # `hub.parse` has read the repository's name.
        address=None if publication is None else Markup(f"hub:{publication.repository}"),
        title=_TITLES.get(record["command"], "speaker model"),
        num_layers=len(facts.widths["num_heads"]),
        is_own=encoder == TINY_ENCODER,
        kind="dense" if facts.teacher_parameters is None else f"cut by {100 * facts.sparsity:.1f} %",
        record=record,
        sha256=sha256_artifact(directory, hash_file),
        mark=_MARK,
        size=results.model_size(facts),
        pruning=results.pruning({"" if source is None else source.name: pruning}),
        pruning_cautions=wording.caution_sentences([], limits),
        training=_training(directory, record, source_on_hub, changes, encoder),
        training_cautions=wording.caution_sentences([], wording.shortened(changes)),
        inputs=Table(headings=["input", "file", "sha256"], rows=inputs),
        evaluation=_evaluation(systems),
        cautions=wording.caution_sentences(systems),
        calibration=_calibration(directory),
        source=source_on_hub,
        licence=None if publication is None else publication.licence,
    )


def _training(
    directory: Path,
    record: Provenance,
    source: Source | None,
    changes: Sequence[Change],
    encoder: str | None,
) -> Table:
    config, libraries = record["config"], record.get("libraries", {})
    recipe = config.get("preset")
    if changes:
        recipe = f"{recipe}, changed: {wording.changed(changes, 'provenance.json of each stage')}"
    facts = {
        "command": record["command"],
        "stage": config.get("stage"),
        "recipe": recipe,
        "started from": wording.start_of(encoder),
        "seed": record["seed"],
        "device": record["device"],
        "started": record["started"],
        "finished": record["finished"],
        "code": record.get("git_commit"),
        "libraries": ", ".join(f"{name} {version}" for name, version in libraries.items()),
    }
    if (directory / SPEAKERS_NAME).exists():
        classes = read_artifact_table(directory / SPEAKERS_NAME, ("row", "speaker_id", "speed"))
        facts["classifier"] = _classifier(classes, is_foreign=record["command"] == "convert")
    if source is not None:
        place = f" at {source.revision}: {source.file}" if source.revision else ""
        facts["comes from"] = f"{source.repository}{place}"
    if lists := training_lists(directory):
        facts["trained on"] = "; ".join(
            dict.fromkeys(_known(entry) or wording.corpus_title(None) for entry in lists)
        )
    last = record.get("validation", {}).get("last", {})
    if "eer" in last:
        facts["EER on held-out training speakers, last step"] = f"{100 * last['eer']:.2f} %"
    rows = [[name, str(value)] for name, value in facts.items() if value is not None]
    return Table(headings=["", ""], rows=rows)


def _classifier(classes: pd.DataFrame, *, is_foreign: bool) -> str:
    if is_foreign and published_classes(len(classes)) is None:
        return f"{len(classes):,} classes; the source does not say of which speakers, at which speeds"
    speakers, speeds = classes["speaker_id"].nunique(), classes["speed"].nunique()
    at_speeds = f" at {speeds} speeds" if speeds > 1 else ""
    return f"{speakers:,} speakers{at_speeds}, {len(classes):,} classes"


def _evaluation(systems: Sequence[Metrics]) -> Table:
    rows = [
        [
            system.trials.name + (f" ({corpus})" if (corpus := evaluated_on(system)) else ""),
            f"{system.num_targets:,} / {system.num_nontargets:,}",
            system.backend.name,
            results.eer_cell(system),
            *results.cost_cells(system.min_dcf, results.BRIEF[:1]),
        ]
        for system in systems
    ]
    return Table(headings=["trials", "target / nontarget", "back-end", results.EER, "minDCF 0.01"], rows=rows)


def evaluated_on(system: Metrics) -> str | None:
    """Name the corpus of a system's trials; None if it is not known."""
    return _known(system.manifest) if system.manifest else None


def _known(entry: Artifact) -> str | None:
    """Describe the recordings of a list; None: svkit did not prepare it."""
    corpus = corpus_of(entry)
    if corpus is None:
        return wording.CHANGED_LIST if has_changed(entry) else None
    return wording.corpus_title(corpus)


def _calibration(directory: Path) -> dict[str, object] | None:
    """Return the facts of the calibration beside a checkpoint: empty if it cannot be read; None: there is none."""
    path = calibration.calibration_beside(directory)
    if path is None:
        return None
    try:
        record = calibration.read_calibration(path)
    except ArtifactError:
        return {}
    low, high = map_of(record).bounds
    words = [("Caution", slope_caution(record)), ("Not known", bounds_gap(Path(path.name), record))]
    cautions = [f"{kind}: {text}." for kind, text in words if text is not None]
    return {"low": f"{low:+.1f}", "high": f"{high:+.1f}", "cautions": cautions}
