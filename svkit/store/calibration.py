"""`calibration.json`: a learnt map from scores (and measures of quality) to log-likelihood ratios."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from svkit.config.ranges import Range
from svkit.errors import ArtifactError, ConfigError, first_five
from svkit.eval.results import OperatingPoint
from svkit.store.atomic import write_json
from svkit.store.metrics import BackendRecord, ListId, plain_record
from svkit.store.provenance import check_outputs, output_around
from svkit.store.strict_json import load_json, read_json, typed

FORMAT, VERSION = "svkit-calibration", 1
FILE_NAME = "calibration.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The operating point that `svkit calibrate` was asked for."""

    point: OperatingPoint
    """Threshold on the natural-log likelihood ratio (before bounds), with its error rates for people whom neither the
    threshold nor the map was learnt on."""
    false_accepts: float | None = None
    """Highest false-accept rate asked for; None: the decision of lowest expected cost was asked for."""
    p_target: float = 0.5
    """Prior probability of the same speaker, for the posterior. With the costs it also sets the threshold, unless
    `false_accepts` does."""
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
    """Hash of the model whose scores it maps."""
    trials: ListId
    """The list it was learnt on."""
    num_targets: Annotated[int, Range(ge=1)]
    num_nontargets: Annotated[int, Range(ge=1)]
    speakers: tuple[str, ...] | None = None
    """Speakers of the trials it was learnt on, sorted; None: not known."""
    bounds: tuple[Annotated[float, Range(le=0)], Annotated[float, Range(ge=0)]] | None = None
    """Lowest and highest log-likelihood ratio that those trials support; None: an earlier version wrote no bounds."""
    is_separable: bool | None = None
    """Some threshold makes no error on those trials, so that the weights mean little; None: as for `bounds`."""
    decision: Decision | None = None
    """Where `svkit verify` accepts unless told otherwise; None: no operating point was asked for."""
    cautions: tuple[str, ...] = ()
    """What was wrong with its trials, but allowed; whoever uses it is told."""


def calibration_beside(checkpoint: Path) -> Path | None:
    """Return the place of the calibration beside a checkpoint; None if there is none.

    A link that leads nowhere is a calibration that got lost, not one that was never learnt: reading it says so.
    """
    path = checkpoint / FILE_NAME
    return path if _is_taken(path) else None


def _is_taken(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def check_place(path: Path, checkpoint: Path, *, overwrite: bool) -> None:
    """Raise ConfigError unless a calibration of `checkpoint` may be written to `path`.

    Nothing but a calibration is ever replaced. In a checkpoint only `calibration.json` does not count as content: any
    other name would make it another model, of which the calibration would not be.
    """
    if _is_taken(path) and not overwrite:
        raise ConfigError(
            f"{path} already exists; use --overwrite to replace it, or --out FILE to write another"
        )
    around = checkpoint if checkpoint.resolve() in path.resolve().parents else output_around(path)
    if path.name != FILE_NAME and around is not None:
        raise ConfigError(
            f"{path}: lies in {around}, whose content it would change; name it {FILE_NAME}, or choose another directory"
        )
    if path.is_dir() or (_is_taken(path) and path.name != FILE_NAME and not _is_calibration(path)):
        raise ConfigError(
            f"{path}: expected a calibration to replace, found something else; choose another --out"
        )


def _is_calibration(path: Path) -> bool:
    try:
        content = load_json(path)
    except ArtifactError:
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def write_calibration(path: Path, record: CalibrationRecord) -> None:
    """Write a calibration."""
    values = {field.name: plain_record(getattr(record, field.name)) for field in fields(record)}
    if not record.cautions:  # earlier versions refuse a key that they do not know
        del values["cautions"]
    write_json(path, {"format": FORMAT, "format_version": VERSION, **values})


def read_calibration(path: Path) -> CalibrationRecord:
    """Read and check a calibration.

    Raises:
        ArtifactError: the file is missing or of another format or version, a key is missing or unknown, features and
            weights differ in number, or the file has changed since the scoring that wrote it finished.
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
            f"{path}: expected one weight for each feature, with score first,"
            f" found {len(record.weights)} for {list(record.features)}"
        )
    check_outputs(path.parent, path.name, in_full=True)
    return record
