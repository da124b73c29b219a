"""The model card, `README.md` beside a checkpoint: what it is, what from, how good; rendered from files alone.

A stage writes what is known when it ends; `svkit report` writes it again with the figures of the evaluation. It is a
document, not content: it does not enter the checkpoint's hash.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from svkit.errors import ArtifactError
from svkit.models.info import describe_checkpoint
from svkit.reports import wording
from svkit.reports.markdown import escape, table
from svkit.scoring.calibrate import bounds_gap, map_of, separable_caution
from svkit.store.atomic import write_text
from svkit.store.calibration import FILE_NAME as CALIBRATION_NAME
from svkit.store.calibration import read_calibration
from svkit.store.checkpoint import SPEAKERS_NAME
from svkit.store.files import read_file
from svkit.store.provenance import read_provenance, sha256_artifact
from svkit.store.tables import read_artifact_table

CARD_NAME = "README.md"
_MARK = "(of svkit's artifact hash)"
"""What every card says, and no other document."""
_TITLES = {
    "finetune": "fine-tuned speaker model",
    "prune": "pruned speaker model, before distillation",
    "distill": "pruned and distilled speaker model, before fine-tuning",
    "convert": "converted speaker model",
}


def write_card(directory: Path, systems: Sequence[Mapping[str, Any]] = ()) -> None:
    """Write the card of a finished checkpoint, unless the user has put a document of that name in its place.

    Args:
        directory: the checkpoint.
        systems: evaluations of it, as `report.json` has them; none: the card says that there are none yet.
    """
    path = directory / CARD_NAME
    if not path.exists() or _MARK.encode() in read_file(path, ArtifactError):
        write_text(path, render(directory, systems))


def render(directory: Path, systems: Sequence[Mapping[str, Any]]) -> str:
    """Return the card as markdown."""
    record, facts = read_provenance(directory), describe_checkpoint(directory)
    sections = [
        _head(directory, record, facts),
        _use(directory),
        _size(facts),
        _training(directory, record),
        _evaluation(systems),
        _limits(directory),
    ]
    return "\n\n".join(sections) + "\n"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(table(headings, rows))


def _head(directory: Path, record: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    num_layers = len(facts["widths"]["num_heads"])
    kind = "dense" if facts["teacher_parameters"] is None else f"cut by {100 * facts['sparsity']:.1f} %"
    made_by = escape(f"svkit {record['command']} (svkit {record['svkit']}), {record['finished']}")
    return (
        f"# {escape(directory.name)}: {_TITLES.get(record['command'], 'speaker model')}\n\n"
        f"A w2v-BERT 2.0 encoder of {num_layers} layers ({kind}) with layer adapters, attentive statistics pooling and"
        f" a linear layer: a recording in, a speaker embedding out. Written by {made_by}."
    )


def _use(directory: Path) -> str:
    digest = sha256_artifact(directory)
    return (
        "## Use\n\n```python\nimport svkit\n\n"
        'model = svkit.load("this directory")\n'
        'embedding = model.embed("a.wav")  # float32, not length-normalised\n```\n\n'
        "`svkit verify a.wav b.wav --model DIR` compares two recordings, `svkit export DIR` writes ONNX."
        f" Content: sha256 `{digest}` {_MARK}."
    )


def _size(facts: Mapping[str, Any]) -> str:
    macs = facts["macs_per_second"]
    rows = [["encoder", f"{facts['encoder_parameters']:,} parameters"]]
    if facts["teacher_parameters"] is not None:
        rows.append(["encoder before the cut", f"{facts['teacher_parameters']:,} parameters"])
    rows += [
        ["head", f"{facts['head_parameters']:,} parameters"],
        ["work for 1 s of audio", f"{macs['total'] / 1e9:,.3f} G MACs"],
        ["weights", f"{facts['size_bytes'] / 1e6:,.1f} MB"],
    ]
    return "## Size\n\n" + _table(["", ""], rows)


def _training(directory: Path, record: Mapping[str, Any]) -> str:
    config = record["config"]
    rows = [
        [name, str(value)]
        for name, value in (
            ("command", record["command"]),
            ("stage", config.get("stage")),
            ("recipe", config.get("preset")),
            ("starts from encoder", config.get("encoder")),
            ("seed", record["seed"]),
            ("device", record["device"]),
            ("started", record["started"]),
            ("finished", record["finished"]),
            ("code", record.get("git_commit")),
            (
                "libraries",
                ", ".join(f"{name} {version}" for name, version in record.get("libraries", {}).items()),
            ),
        )
        if value is not None
    ]
    if (directory / SPEAKERS_NAME).exists():
        classes = read_artifact_table(directory / SPEAKERS_NAME, ("row", "speaker_id", "speed"))
        rows.append(["classifier", f"{classes['speaker_id'].nunique():,} speakers, {len(classes):,} classes"])
    last = (record.get("validation") or {}).get("last") or {}
    if "eer" in last:
        rows.append(["EER on held-out training speakers, last step", f"{100 * last['eer']:.2f} %"])
    inputs = [[entry["name"], Path(entry["path"]).name, entry["sha256"][:16]] for entry in record["inputs"]]
    made_from = _table(["input", "file", "sha256"], inputs) if inputs else "Inputs: none recorded."
    return "## Training\n\n" + _table(["", ""], rows) + "\n\n" + made_from


def _evaluation(systems: Sequence[Mapping[str, Any]]) -> str:
    if not systems:
        return "## Evaluation\n\nNone yet: `svkit extract`, `svkit score` and `svkit report` fill this in."
    rows = []
    for system in systems:
        interval = system["eer_interval"]
        limits = "-" if interval is None else f"{100 * interval['low']:.2f} to {100 * interval['high']:.2f}"
        costs = {cost["p_target"]: cost["value"] for cost in system["min_dcf"]}
        rows.append(
            [
                system["trials"]["name"],
                f"{system['num_targets']:,} / {system['num_nontargets']:,}",
                system["backend"]["name"],
                f"{100 * system['eer']:.2f}",
                limits,
                f"{costs[0.01]:.3f}",
            ]
        )
    headings = ["trials", "target / nontarget", "back-end", "EER, %", "95 %", "minDCF 0.01"]
    cautions = [f"\n\n{escape(sentence)}" for sentence in wording.caution_sentences(systems)]
    return "## Evaluation\n\n" + _table(headings, rows) + "".join(cautions)


def _calibration(path: Path) -> str:
    if not path.exists():
        return "It has no calibration: a score is no probability; no threshold is known (`svkit score --calibrate`)."
    try:
        record = read_calibration(path)
    except ArtifactError:
        return f"It has a calibration (`{path.name}`) that cannot be read."
    low, high = map_of(record).bounds
    words = [("Caution", separable_caution(record)), ("Not known", bounds_gap(Path(path.name), record))]
    return (
        f"It has a calibration (`{path.name}`): its log-likelihood ratios hold for recordings like its own, and from"
        f" {low:+.1f} to {high:+.1f}, which is what its trials support."
    ) + "".join(f" {kind}: {text}." for kind, text in words if text is not None)


def _limits(directory: Path) -> str:
    calibrated = _calibration(directory / CALIBRATION_NAME)
    return (
        "## Limits\n\nFigures hold for recordings like those evaluated on; other languages, microphones, noise or"
        f" lengths need an evaluation of their own. {calibrated} The licences of the training data and of the"
        " encoder's weights are not known to svkit: they are for whoever publishes this model to state."
    )
