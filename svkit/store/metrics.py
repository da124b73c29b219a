"""`metrics.json`: the results of one system on one trial list, and how it was scored.

The types are the schema: fields keep their names and nesting in the file. Unknown keys of other versions are ignored.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from svkit.errors import ArtifactError
from svkit.eval.results import Group, Interval, PairedDifference, Rates
from svkit.store.atomic import write_json
from svkit.store.places import Artifact, read_placed, recorded_paths
from svkit.store.provenance import check_outputs
from svkit.store.strict_json import typed

FORMAT, VERSION = "svkit-metrics", 1
METRICS_NAME = "metrics.json"
IMPORTED = "imported"
"""Back-end of scores that another toolkit made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """Trials that were not scored because a guard was passed with `--allow`."""

    num_trials: int
    sha256: str
    """Hash of the mask of kept trials."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListId:
    """Identity of a trial list."""

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
    """How the scores were made; a calibration holds only for scores of an equal back-end."""

    name: str = field(compare=False)
    """Short name: `cosine`, or what differs from it, in the abbreviations of earlier versions; `fusion`, for which only
    `systems` is set; or `IMPORTED`."""
    method: str | None = None
    """For imported scores, the name of the system."""
    norm: str | None = None
    top_n: int | None = None
    center: bool | None = None
    cohort_speakers: bool | None = None
    length_norm: bool = True
    adapt_weight: float | None = None
    """Weight of the recordings that PLDA was adapted to; None: it was not adapted."""
    material: dict[str, str] | None = None
    """sha256 of the embeddings used as `cohort`, `mean`, `plda_training` or `plda_adaptation`."""
    systems: tuple[FusedSystem, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibratedBy:
    """What the log-likelihood ratios were learnt on."""

    method: str
    """`held-out trials`, `cross-validation over speakers`, or `PLDA`, whose scores are ratios already."""
    trials: ListId | None = None
    """The held-out trials."""
    num_folds: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Breakdown:
    """Error rates of the trials grouped by the values of a column."""

    column: str
    groups: tuple[Group, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """The condition (`config.conditions`) that recordings of the trials were heard under."""

    name: str
    sides: Literal["test", "both"]


@dataclass(frozen=True, kw_only=True)
class ScoredList:
    """A scored trial list. One of a single class or without labels has counts only; others are `Metrics`."""

    name: str
    """Name of the system."""
    trials: TrialList
    backend: BackendRecord
    num_targets: int
    num_nontargets: int
    num_unlabelled: int | None = None
    """Number of trials in a list without labels; None: the list has labels."""
    model: str | None = None
    checkpoint: Artifact | None = None
    """As the embeddings record it; None: unknown, or several checkpoints."""
    manifest: Artifact | None = None
    """The manifest behind the embeddings."""
    calibration: CalibratedBy | None = None
    condition: Condition | None = None
    """None: the unchanged recordings."""
    cautions: tuple[str, ...] = ()
    """What guards found, and either `--allow` passed or was no reason to stop."""
    unchecked: tuple[str, ...] = ()
    """What guards could not check."""
    found_nothing: tuple[str, ...] = ()
    """Guards that were checked and found nothing; an earlier svkit did not record them."""
    breakdown: tuple[Breakdown, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Metrics(Rates, ScoredList):
    """A scored list of both classes, with its error rates."""

    no_interval: str | None = None
    """Why there are no confidence intervals; None: there are, or the reason was not recorded."""


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
    """EER of a system under a condition, and differences that show what it loses there."""

    trials: str
    backend: str
    sides: str
    condition: str | None = None
    """None: the unchanged recordings."""
    system: str
    reference: str
    """The system that others are compared with: `dense`, or else the first one."""
    eer: float
    eer_interval: Interval | None = None
    lost: PairedDifference | None = None
    """EER minus the system's own EER without the condition."""
    gap: PairedDifference | None = None
    """EER minus the reference's EER under the same condition."""
    lost_more: PairedDifference | None = None
    """`lost` minus what the reference loses."""


_ALWAYS = {
    *("model", "checkpoint", "checkpoint_sha256", "manifest", "calibration", "left_out"),
    *("eer", "eer_interval", "no_interval", "min_dcf", "miss_rate_interval", "false_accept_rate_interval"),
    # of `report.json`
    *("teacher_parameters", "size_bytes", "timing", "tippett", "model_path"),
    *("svkit", "git_commit", "seed", "device", "started", "finished"),
}
"""Keys that are written even without a value."""


def metrics_record(metrics: ScoredList) -> dict[str, Any]:
    """Return metrics as the content of `metrics.json`."""
    no_rates = {} if isinstance(metrics, Metrics) else dict.fromkeys(("eer", "eer_interval", "no_interval"))
    return {"format": FORMAT, "format_version": VERSION, **plain_record(metrics), **no_rates}


def plain_record(value: Any) -> Any:
    """Return dataclasses, or a structure of them, as JSON types; None is left out unless the key is in `_ALWAYS`."""
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
    """Read `metrics.json`, with usable paths (ArtifactError: missing, of another version, unfit, or changed since)."""
    path = directory / METRICS_NAME
    content = read_placed(path, FORMAT, VERSION, dict[str, Any])
    metrics = typed(path, content, ScoredList if content.get("eer", "") is None else Metrics)
    if metrics.name != Path(metrics.name).name or metrics.name in ("", ".", ".."):
        raise ArtifactError(f"{path}: name: expected a plain name, found {metrics.name[:80]!r}")
    check_outputs(directory, METRICS_NAME)
    return metrics
