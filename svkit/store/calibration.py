"""`calibration.json`: a learnt map from scores (and measures of quality) to log-likelihood ratios."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from svkit.errors import ArtifactError
from svkit.store.atomic import write_json
from svkit.store.provenance import check_outputs
from svkit.store.strict_json import NUMBER, OPTIONAL_TEXT, check_fields, read_json

FORMAT, VERSION = "svkit-calibration", 1
FILE_NAME = "calibration.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationRecord:
    """A linear calibration and what it was learnt from."""

    features: tuple[str, ...]
    """Names of the features; the first is `score`."""
    weights: tuple[float, ...]
    offset: float
    prior: float
    """Target prior of the regression."""
    backend: dict[str, Any]
    """Back-end whose scores it maps."""
    checkpoint_sha256: str | None
    """Content of the model whose scores it maps."""
    trials: dict[str, str]
    """`{name, sha256}` of the trials it was learnt on."""
    num_targets: int
    num_nontargets: int
    speakers: tuple[str, ...] | None = None
    """Speakers of the trials it was learnt on, sorted; None: not known."""
    bounds: tuple[float, float] | None = None
    """Lowest and highest log-likelihood ratio that those trials support; None: written before there were bounds."""
    is_separable: bool | None = None
    """Those trials had no error at some threshold, so that the weights mean little; None: as above."""


def write_calibration(path: Path, record: CalibrationRecord) -> None:
    """Write a calibration."""
    write_json(
        path,
        {
            "format": FORMAT,
            "format_version": VERSION,
            "features": list(record.features),
            "weights": list(record.weights),
            "offset": record.offset,
            "prior": record.prior,
            "backend": record.backend,
            "checkpoint_sha256": record.checkpoint_sha256,
            "trials": record.trials,
            "num_targets": record.num_targets,
            "num_nontargets": record.num_nontargets,
            "speakers": None if record.speakers is None else list(record.speakers),
            "bounds": None if record.bounds is None else list(record.bounds),
            "is_separable": record.is_separable,
        },
    )


_FIELDS = {
    "features": [str],
    "weights": [NUMBER],
    "offset": NUMBER,
    "prior": NUMBER,
    "backend": {"name": str},
    "checkpoint_sha256": OPTIONAL_TEXT,
    "trials": {"name": str, "sha256": str},
    "num_targets": int,
    "num_nontargets": int,
}


def read_calibration(path: Path) -> CalibrationRecord:
    """Read and check a calibration.

    Raises:
        ArtifactError: missing, of another format or version, a key missing or unknown, not one weight a feature, or
            changed since the scoring that made it had finished.
    """
    content: Mapping[str, Any] = read_json(path, FORMAT, VERSION, dict[str, Any])
    check_fields(path, content, _FIELDS)
    values = {key: value for key, value in content.items() if key not in ("format", "format_version")}
    try:
        record = CalibrationRecord(**values)
        features = tuple(str(name) for name in record.features)
        weights = tuple(float(weight) for weight in record.weights)
        offset = float(record.offset)
        speakers = None if record.speakers is None else tuple(record.speakers)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(
            f"{path}: not a calibration ({reason}); learn it again with --calibrate"
        ) from error
    if len(features) != len(weights) or features[:1] != ("score",):
        raise ArtifactError(
            f"{path}: expected one weight for each feature, score first,"
            f" found {len(weights)} for {list(features)}"
        )
    if speakers is not None:
        check_fields(path, content["speakers"], [str], "speakers")
    check_outputs(path.parent, path.name, in_full=True)
    if min(record.num_targets, record.num_nontargets) < 1:
        raise ArtifactError(f"{path}: expected target and nontarget trials, found none of one of them")
    check_fields(path, content.get("is_separable"), (bool, NoneType), "is_separable")
    bounds = content.get("bounds")
    if bounds is not None:
        check_fields(path, bounds, [NUMBER], "bounds")
        if len(bounds) != 2 or not bounds[0] <= 0 <= bounds[1]:
            raise ArtifactError(
                f"{path}: bounds: expected a lower one up to 0 and an upper one from 0, found {bounds}"
            )
        bounds = (float(bounds[0]), float(bounds[1]))
    read = {
        "features": features,
        "weights": weights,
        "offset": offset,
        "speakers": speakers,
        "bounds": bounds,
    }
    return CalibrationRecord(**{**values, **read})
