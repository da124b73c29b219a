"""`calibration.json`: a learnt map from scores (and measures of quality) to log-likelihood ratios."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from svkit.errors import ArtifactError, first_five
from svkit.eval.results import OperatingPoint
from svkit.store.atomic import write_json
from svkit.store.metrics import BackendRecord, ListId, plain_record
from svkit.store.provenance import check_outputs
from svkit.store.strict_json import read_json, typed

FORMAT, VERSION = "svkit-calibration", 1
FILE_NAME = "calibration.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The operating point that `svkit calibrate` was asked for."""

    point: OperatingPoint
    """Accept from this natural-log likelihood ratio on (before bounds); its errors among people that neither it nor the
    map was learnt on."""
    false_accepts: float | None = None
    """Highest rate that was asked for; None: the cheapest decision was."""
    p_target: float = 0.5
    """Prior probability of the same speaker; the threshold follows from it and the costs, or the ratio is weighed by
    it."""
    c_miss: float = 1.0
    c_fa: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationRecord:
    """A linear calibration and what it was learnt from."""

    features: tuple[str, ...]
    """Names of the features; the first is `score`."""
    weights: tuple[float, ...]
    offset: float
    prior: float
    """Target prior of the regression."""
    backend: BackendRecord
    """Back-end whose scores it maps."""
    checkpoint_sha256: str | None
    """Content of the model whose scores it maps."""
    trials: ListId
    """Those it was learnt on."""
    num_targets: int
    num_nontargets: int
    speakers: tuple[str, ...] | None = None
    """Speakers of the trials it was learnt on, sorted; None: not known."""
    bounds: tuple[float, float] | None = None
    """Lowest and highest log-likelihood ratio that those trials support; None: written before there were bounds."""
    is_separable: bool | None = None
    """Those trials had no error at some threshold, so that the weights mean little; None: as above."""
    decision: Decision | None = None
    """Where to accept, unless `svkit verify` is told otherwise; None: nobody asked."""


def write_calibration(path: Path, record: CalibrationRecord) -> None:
    """Write a calibration."""
    values = {field.name: plain_record(getattr(record, field.name)) for field in fields(record)}
    write_json(path, {"format": FORMAT, "format_version": VERSION, **values})


def read_calibration(path: Path) -> CalibrationRecord:
    """Read and check a calibration.

    Raises:
        ArtifactError: missing, of another format or version, a key missing or unknown, not one weight per feature, or
            changed since the scoring that made it had finished.
    """
    content = read_json(path, FORMAT, VERSION, dict[str, Any])
    known = {field.name for field in fields(CalibrationRecord)}
    if unknown := sorted(set(content) - known):
        raise ArtifactError(
            f"{path}: not a calibration (unexpected {first_five(unknown)}); learn it again with --calibrate"
        )
    record = typed(path, content, CalibrationRecord)
    if len(record.features) != len(record.weights) or record.features[:1] != ("score",):
        raise ArtifactError(
            f"{path}: expected one weight for each feature, score first,"
            f" found {len(record.weights)} for {list(record.features)}"
        )
    if min(record.num_targets, record.num_nontargets) < 1:
        raise ArtifactError(f"{path}: expected target and nontarget trials, found none of one of them")
    if record.bounds is not None and not record.bounds[0] <= 0 <= record.bounds[1]:
        raise ArtifactError(
            f"{path}: bounds: expected a lower one up to 0 and an upper one from 0, found {record.bounds}"
        )
    check_outputs(path.parent, path.name, in_full=True)
    return record
