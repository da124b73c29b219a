"""`metrics.json`: what was measured of one system on one trial list, and what it was scored with.

The types are the schema: fields keep their names and nesting in the file. Unknown keys of other versions are ignored.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from svkit.errors import ArtifactError
from svkit.eval.results import Group, Interval, PairedDifference, Rates
from svkit.store.atomic import write_json
from svkit.store.places import recorded_paths, usable_paths
from svkit.store.provenance import check_outputs
from svkit.store.strict_json import read_json, typed

FORMAT, VERSION = "svkit-metrics", 1
METRICS_NAME = "metrics.json"
IMPORTED = "imported"
"""Back-end of scores that another toolkit made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """Trials of the list that are not scored, as guards allowed."""

    num_trials: int
    sha256: str
    """Of the bits that say which trials are kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListId:
    """Which trial list it is."""

    name: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialList(ListId):
    """The trials that were scored."""

    path: str | None = None
    left_out: LeftOut | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FusedSystem:
    """One of the systems whose scores were fused."""

    name: str
    backend: "BackendRecord"
    checkpoint_sha256: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendRecord:
    """What made the scores; calibrations hold for scores of an equal one."""

    name: str = field(compare=False)
    """Of what differs from plain `cosine`, as earlier versions abridged it; `fusion`, which has `systems` only; or
    `IMPORTED`."""
    method: str | None = None
    """Of imported scores, the name of the system."""
    norm: str | None = None
    top_n: int | None = None
    center: bool | None = None
    cohort_speakers: bool | None = None
    length_norm: bool = True
    adapt_weight: float | None = None
    """Share of the recordings that PLDA was adapted to; None: it was not."""
    material: dict[str, str] | None = None
    """sha256 of embeddings that went in: `cohort`, `mean`, `plda_training`, `plda_adaptation`."""
    systems: tuple[FusedSystem, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibratedBy:
    """What the log-likelihood ratios were learnt on."""

    method: str
    """`held-out trials`, `cross-validation over speakers`, or `PLDA`: the scores are ratios by themselves."""
    trials: ListId | None = None
    """The held-out trials."""
    num_folds: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Breakdown:
    """The trials in groups."""

    column: str
    groups: tuple[Group, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """What the recordings of trials were heard under (`config.conditions`)."""

    name: str
    sides: Literal["test", "both"]


@dataclass(frozen=True, kw_only=True)
class ScoredList:
    """A scored trial list; where it is no `Metrics`, of one class or without labels: it has counts and no rates."""

    name: str
    """Of the system."""
    trials: TrialList
    backend: BackendRecord
    num_targets: int
    num_nontargets: int
    num_unlabelled: int | None = None
    """Trials of a list without labels, which have scores only; None: the list has labels."""
    model: str | None = None
    checkpoint: dict[str, str] | None = None
    """`{path, sha256}`, as the embeddings record it; None: not known, or several."""
    manifest: dict[str, str] | None = None
    """`{path, sha256}` of the manifest behind the embeddings."""
    calibration: CalibratedBy | None = None
    condition: Condition | None = None
    """None: recordings as they are."""
    cautions: tuple[str, ...] = ()
    """What was found, and passed by `--allow` or not worth stopping at."""
    unchecked: tuple[str, ...] = ()
    """What guards could not look at."""
    breakdown: tuple[Breakdown, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Metrics(Rates, ScoredList):
    """A scored list of both classes, with its error rates."""

    no_interval: str | None = None
    """Why there are no confidence intervals; None: there are, or nothing says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The EER of one system minus that of another on the same trials and the same resampled speakers."""

    trials: str
    """Name of the list."""
    backend: str
    first: str
    second: str
    eer_difference: float
    low: float
    high: float
    level: float
    p_value: float
    num_speakers: int
    num_resamples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionRates:
    """A system under a condition, and the differences of EER that tell what it loses there."""

    trials: str
    backend: str
    sides: str
    condition: str | None = None
    """None: recordings as they are."""
    system: str
    reference: str
    """The system that others are compared with: `dense`, or else the first one."""
    eer: float
    eer_interval: Interval | None = None
    lost: PairedDifference | None = None
    """Minus the system's own without the condition."""
    gap: PairedDifference | None = None
    """Minus the reference's under the same condition."""
    lost_more: PairedDifference | None = None
    """What is lost, minus what the reference loses."""


_ALWAYS = {
    *("model", "checkpoint", "checkpoint_sha256", "manifest", "calibration", "left_out"),
    *("eer", "eer_interval", "no_interval", "min_dcf", "miss_rate_interval", "false_accept_rate_interval"),
    # of `report.json`
    *("teacher_parameters", "size_bytes", "timing", "tippett", "model_path"),
    *("svkit", "git_commit", "seed", "device", "started", "finished"),
}
"""Keys that are in the file without a value too."""


def metrics_record(metrics: ScoredList) -> dict[str, Any]:
    """Return metrics as the content of `metrics.json`."""
    no_rates = {} if isinstance(metrics, Metrics) else dict.fromkeys(("eer", "eer_interval", "no_interval"))
    return {"format": FORMAT, "format_version": VERSION, **plain_record(metrics), **no_rates}


def plain_record(value: Any) -> Any:
    """Return a result, or anything made of results, as JSON types; without most keys that have no value."""
    if is_dataclass(value):
        found = {field.name: getattr(value, field.name) for field in fields(value)}
        return {
            name: plain_record(item) for name, item in found.items() if item is not None or name in _ALWAYS
        }
    if isinstance(value, dict):
        return {key: plain_record(item) for key, item in value.items()}
    return [plain_record(item) for item in value] if isinstance(value, tuple | list) else value


def write_metrics(directory: Path, metrics: ScoredList, experiment: Path | None = None) -> None:
    """Write `metrics.json`; paths inside the experiment are relative to it (`store.places`)."""
    record = recorded_paths(directory, metrics_record(metrics), experiment)
    write_json(directory / METRICS_NAME, record)


def read_metrics(directory: Path) -> ScoredList:
    """Read `metrics.json`, with paths that this process can open.

    Raises:
        ArtifactError: missing, not JSON, of another format or version, a key missing or of another type, or changed
            since it was finished.
    """
    path = directory / METRICS_NAME
    content = usable_paths(path, read_json(path, FORMAT, VERSION, dict[str, Any]))
    metrics = typed(path, content, ScoredList if content.get("eer", "") is None else Metrics)
    if metrics.name != Path(metrics.name).name or metrics.name in ("", ".", ".."):
        raise ArtifactError(f"{path}: name: expected a plain name, found {metrics.name[:80]!r}")
    check_outputs(directory, METRICS_NAME)
    return metrics
