"""Report directories, and the finished outputs and training logs that a report is made from.

The types are the schema of `report.json`: fields keep their names and nesting in the file. Rates are fractions.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from svkit.config.changes import Change
from svkit.errors import ArtifactError
from svkit.eval.results import Band
from svkit.store.atomic import write_json
from svkit.store.files import CONFIG_NAME, LOG_BYTES, LOG_NAME, MODEL_NAME, read_file
from svkit.store.metrics import Comparison, ConditionRates, Metrics, plain_record
from svkit.store.output import Output
from svkit.store.provenance import PROVENANCE_NAME, InputEntry, is_finished, read_provenance
from svkit.store.strict_json import read_json, typed

FORMAT, VERSION = "svkit-report", 1
REPORT_NAME, MARKDOWN_NAME, PAGE_NAME, FIGURES_NAME = "report.json", "report.md", "report.html", "figures"

Verdict = Literal["pruned", "undecided", "unknown", "depends", "neither"]
"""Which model to use, from the best result for the pruned one to the worst. `undecided`: its interval is too wide;
`unknown`: it has none; `depends`: the dense one where accuracy matters, the pruned one where size or speed does."""

_CHECKPOINT_HOMES = ("finetune", "", "finetune-pruned")
_PARTS = (CONFIG_NAME, MODEL_NAME)
_STAGE_ORDER = ("lora", "head", "joint", "lmft", "prune", "distill")


@dataclass(frozen=True, kw_only=True, slots=True)
class Macs:
    """Multiply-accumulates for 1 s of audio."""

    total: int
    encoder: int
    head: int
    positional: int
    """Of the relative positions in attention; not in the total."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSize:
    """What `svkit info` shows of a checkpoint or configuration."""

    name: str
    encoder_parameters: int
    teacher_parameters: int | None
    """Parameters of the encoder before the cut; None: it is dense."""
    head_parameters: int
    sparsity: float
    macs_per_second: Macs
    widths: dict[str, tuple[int, ...]]
    """Width of each layer, by kind of unit."""
    dense_widths: dict[str, tuple[int, ...]]
    vanished: tuple[str, ...] = ()
    """Kinds of units that no layer has any more."""
    state_weights: dict[int, float] | None = None
    """Weight of each hidden state that the head uses: its share in the learned sum, or its share of the norms of the
    embedding layer's weights; None: not computed."""
    size_bytes: int | None
    """Size of the weights; None: a configuration has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Seconds of computation per second of audio."""

    wall: float
    """The real-time factor."""
    cpu: float
    cpu_rounds: tuple[float, ...] = ()
    """`cpu` of each round, which times every model once; empty: an earlier svkit kept only the median."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListCounts:
    """A list of recordings, with the counts that `svkit prepare` recorded."""

    corpus: str | None
    """As `svkit prepare` names it; None: the list has changed since it was prepared, or since it was used."""
    num_speakers: int | None = None
    num_utterances: int | None = None
    hours: float | None = None
    root: str | None = None
    """Directory or table that it was prepared from, as it was given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model(ModelSize):
    """A checkpoint of the experiment."""

    path: str
    """Relative to the experiment."""
    sha256: str
    is_evaluated: bool
    size_bytes: int
    timing: Timing | None
    pruned_by: str | None = None
    """Key in `Report.prunings` of the pruning that it comes from."""
    recipe: str | None = None
    changes: tuple[Change, ...] = ()
    """What this stage, and those before it, changed of their recipes."""
    seed: int | None = None
    encoder: str | None = None
    """Encoder that its training started from, as it was named; None: it is not recorded."""
    trained_on: tuple[ListCounts, ...] = ()
    """Training lists of this model and of the models it was made from, as far as they are known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Distance:
    """Distance of a student's hidden states from its teacher's, on held-out crops."""

    l1: float
    cosine: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruning:
    """The gates at the end of `svkit prune` and the effect of the cut; None: an earlier svkit did not record it."""

    target: float | None = None
    expected: float | None = None
    """Sparsity by the gates' expectation when training ended."""
    counted: float | None = None
    """Sparsity of the encoder after the cut."""
    before_cut: Distance | None = None
    after_cut: Distance | None = None
    moved: float | None = None
    """Change of the L1 distance by the cut, relative to the distance before it."""
    vanished: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Where and how the timing ran."""

    processor: str
    architecture: str
    num_cores: int | None
    num_threads: int
    system: str
    utterance_seconds: tuple[float, ...]
    rounds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DetCurve:
    """Detection error trade-off, thinned for drawing."""

    false_accept_rate: tuple[float, ...]
    miss_rate: tuple[float, ...]
    band: Band | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """Distribution of the scores: one edge more than there are counts."""

    edges: tuple[float, ...]
    targets: tuple[int, ...]
    nontargets: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tippett:
    """Share of each class above each natural-log likelihood ratio; stated against observed ratios, in bins."""

    llr: tuple[float, ...]
    targets_above: tuple[float, ...]
    nontargets_above: tuple[float, ...]
    stated: tuple[float, ...]
    observed: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class System(Metrics):
    """One system on one trial list: its metrics and the data of its figures."""

    directory: str
    """Directory of its scores, relative to the experiment."""
    det: DetCurve
    histogram: Histogram
    tippett: Tippett | None
    model_path: str | None
    """`path` of its `Model`; None: it is not in the experiment, or there are several."""
    recordings: ListCounts | None = None
    """The evaluation list; None: svkit did not prepare it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A value over training steps."""

    step: tuple[int, ...]
    value: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageCurves:
    """Training curves of a checkpoint by name."""

    stage: str
    """Path of the checkpoint, relative to the experiment."""
    train: dict[str, Curve]
    valid: dict[str, Curve]
    margin: float | None = None
    """Margin of the classification loss; None: there is none, or it is not recorded."""
    valid_speakers: int | None = None
    """Speakers of its validation list; None: there is none, or svkit did not prepare it."""
    repeated_steps: int | None = None
    """Steps at the beginning whose crops the stage before it was trained on; None: that had others, or is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Which command made an output, and from what."""

    output: str
    """Path relative to the experiment."""
    command: str
    svkit: str | None
    git_commit: str | None
    seed: int | None
    device: str | None
    started: str | None
    finished: str | None
    inputs: tuple[InputEntry, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """Which of a dense and a pruned model to use, as the first screen says it; of several lists, the worst decides."""

    use: Verdict
    sentence: str
    rule: str
    dense: str
    """`path` of the dense model."""
    pruned: str
    """`path` of the pruned model."""
    trials: str
    backend: str
    dense_eer: float
    pruned_eer: float
    comparison: Comparison | None = None
    """Pruned minus dense; None: the trials give no interval."""
    highest_eer: float
    """`neither` if both EERs are above this."""
    allowed_difference: float
    """`pruned` if the difference is not above this, even at the worse end of its interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Content of `report.json`."""

    machine: Machine
    models: tuple[Model, ...]
    systems: tuple[System, ...]
    comparisons: tuple[Comparison, ...]
    recommendations: tuple[Recommendation, ...] = ()
    """One for each pruned model with a dense one beside it."""
    training: tuple[StageCurves, ...]
    provenance: tuple[Origin, ...]
    conditions: tuple[ConditionRates, ...] = ()
    prunings: dict[str, Pruning] = field(default_factory=dict)
    """By the path of the output, relative to the experiment if it lies inside."""
    cautions: tuple[str, ...] = ()


def find_scores(exp: Path) -> list[Path]:
    """Return the finished score directories `exp/scores/NAME/TRIALS`, sorted; one that has lost its metrics too."""
    return sorted(path.parent for path in exp.glob(f"scores/*/*/{PROVENANCE_NAME}"))


def find_checkpoints(exp: Path) -> list[Path]:
    """Return the finished checkpoints of an experiment in the order of the chain (ArtifactError: one lacks a file)."""
    order = {name: number for number, name in enumerate(_STAGE_ORDER)}
    found = []
    for home in _CHECKPOINT_HOMES:
        parts = [path for name in _PARTS for path in (exp / home).glob(f"*/{name}")]
        homes = {path.parent for path in parts if is_finished(path.parent)}
        ready = sorted(homes, key=lambda path: (order.get(path.name, len(order)), path.name))
        for path in (directory / name for directory in ready for name in _PARTS):
            if not path.exists():
                raise ArtifactError(
                    f"{path}: does not exist, but its checkpoint is finished; restore it from a copy"
                )
        found += ready
    return found


def find_finished(exp: Path) -> list[Path]:
    """Return every finished output below an experiment, sorted, for the provenance of a report."""
    finished = (path.parent for path in exp.rglob("provenance.json") if is_finished(path.parent))
    # `hub` holds copies, written by `svkit push`.
    return sorted(path for path in finished if not {"report", "hub"} & set(path.relative_to(exp).parts))


def read_log(directory: Path) -> list[dict[str, Any]]:
    """Read `train_log.jsonl` without a half-written last line; empty without a log (ArtifactError: no JSON objects)."""
    path = directory / LOG_NAME
    if not path.exists():
        return []
    lines = read_file(path, ArtifactError, LOG_BYTES).splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise ArtifactError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ArtifactError(
                f"{path}:{number}: expected a JSON object, found {line[:60].decode(errors='replace')!r}"
            )
        records.append(record)
    return records


def read_pruning(directory: Path) -> Pruning:
    """Read what `svkit prune` recorded about its gates and its cut (ArtifactError: unfinished, or of other types)."""
    record = read_provenance(directory)
    of_earlier = {"counted": record.get("sparsity"), "after_cut": record.get("distance_after_cut")}
    return typed(directory / PROVENANCE_NAME, record.get("pruning", of_earlier), Pruning, "pruning")


def report_record(report: Report) -> dict[str, Any]:
    """Return a report as the content of `report.json`."""
    return {"format": FORMAT, "format_version": VERSION, **plain_record(report)}


def write_report(output: Output, report: Report) -> None:
    """Write `report.json`, with paths inside the experiment relative to it."""
    record = report_record(report)
    for part in ("systems", "provenance"):
        record[part] = [output.recorded(entry) for entry in record[part]]
    write_json(output.path / REPORT_NAME, output.recorded(record))


def read_report(directory: Path) -> Report:
    """Read `report.json`, with paths as recorded (ArtifactError: missing, of another format or version, or unfit)."""
    return read_json(directory / REPORT_NAME, FORMAT, VERSION, Report)
