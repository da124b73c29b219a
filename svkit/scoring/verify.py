"""`svkit verify`: are these recordings of one speaker? Score, calibrated log-likelihood ratio, decision."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from svkit.errors import ArtifactError, ConfigError
from svkit.eval.llr import bayes_threshold
from svkit.eval.scoring import cosine_scores
from svkit.models.load import load_model
from svkit.progress import Progress
from svkit.scoring import listen, ratio
from svkit.scoring.backend import Backend, describe_backend
from svkit.scoring.lineage import training_lists
from svkit.store.calibration import CalibrationRecord, calibration_beside, read_calibration
from svkit.store.gallery import Gallery, read_gallery
from svkit.store.metrics import plain_record
from svkit.store.places import Artifact
from svkit.store.provenance import Provenance, is_finished, read_provenance
from svkit.store.source import shown


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyRequest(listen.HearingRequest):
    """Which recordings to compare, and how to decide."""

    enroll: tuple[Path, ...]
    """Recordings of the known speaker; empty if `person` is given."""
    test: tuple[Path, ...]
    """Recordings of one unknown speaker."""
    person: str | None = None
    """Name of the known speaker in `gallery`."""
    people: Gallery | None = None
    """What `gallery` holds, if it has been read already."""

    calibration: Path | None = None
    """None: `calibration.json` beside the model, if there is one."""
    prior: float | None = None
    """Prior probability of the same speaker; None: the one that the calibration was made for, else 0.5."""
    threshold: float | None = None
    """Accept if the score is at least this; None: decide by the calibration and the prior."""


class EnrolledPerson(TypedDict):
    """Somebody of a gallery."""

    gallery: str
    name: str
    recordings: int
    seconds: float


class ModelFacts(TypedDict):
    """The model behind an answer, and what its provenance records of it."""

    path: str
    sha256: str
    command: str | None
    finished: str | None
    svkit: str | None
    trained_on: list[Artifact]


class CalibrationFacts(TypedDict):
    """The calibration behind an answer."""

    path: str
    trials: dict[str, str]
    """Name and sha256 of the list that it was learnt on."""
    num_targets: int
    num_nontargets: int
    people: int | None
    bounds: tuple[float, float]
    is_separable: bool | None
    features: tuple[str, ...]
    decision: dict[str, Any] | None
    """The fields of `Decision`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyResult:
    """The answer, and what it is based on."""

    score: float
    """Cosine of the two sides' mean length-normalised embeddings."""
    llr: float | None
    """Natural-log likelihood ratio, within what the calibration's trials support; None: not calibrated."""
    prior: float
    c_miss: float
    """Costs of the two errors, by which the Bayes threshold is set."""
    c_fa: float
    posterior: float | None
    """Probability of the same speaker at `prior`; None: not calibrated."""
    threshold: float | None
    """Score from which recordings of this quality are accepted; None: no decision, or one that the bounds of the
    likelihood ratio make alone."""
    threshold_llr: float | None
    """Log-likelihood ratio from which recordings are accepted; None: no decision, or by a given threshold."""
    threshold_from: str | None
    """`bayes`, `given`, or `false accepts` (the rate that `svkit calibrate` was given)."""
    is_accepted: bool | None
    warnings: tuple[str, ...]
    """Why the answer should not be trusted."""
    notes: tuple[str, ...]
    """What else to know about the answer."""
    person: EnrolledPerson | None
    """Whom the recordings are compared with, if not with others; `enroll` is then empty."""
    enroll: tuple[listen.Recording, ...]
    test: tuple[listen.Recording, ...]
    model: ModelFacts
    calibration: CalibrationFacts | None

    @property
    def is_trusted(self) -> bool:
        """Whether nothing speaks against the answer."""
        return not self.warnings


@dataclass(frozen=True, kw_only=True, slots=True)
class _Verdict:
    """Part of the answer; its fields are named as there."""

    llr: float | None
    prior: float
    c_miss: float
    c_fa: float
    threshold: float | None
    threshold_llr: float | None
    threshold_from: str | None
    is_accepted: bool | None


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class _Side:
    """One side of the comparison: one or more recordings of a speaker."""

    mean: NDArray[np.float32]
    """[1, D], mean of the length-normalised embeddings, as in scoring with an enrollment map."""
    log_norm: float
    """Mean logarithm of the embeddings' norms before normalisation."""
    seconds: float
    """Duration of all files together."""
    count: int


def run(request: VerifyRequest, progress: Progress) -> VerifyResult:
    """Compare the recordings of both sides.

    Raises:
        ConfigError: a prior outside (0, 1), or a side without a file.
        DataError: a file is missing, unreadable, empty, not finite, or shorter than 35 ms.
        ArtifactError: there is no model, or the calibration is of another model or back-end.
    """
    if not (request.enroll or request.person) or not request.test:
        raise ConfigError("verify: expected at least one file per side")
    bayes_threshold(0.5 if request.prior is None else request.prior)  # checks it before anything slow
    gallery = request.people
    if gallery is None and request.gallery is not None:
        gallery = read_gallery(request.gallery)
    row = 0 if gallery is None else gallery.row_of(str(request.person), Path(str(request.gallery)))
    heard = listen.hear((*request.enroll, *request.test), request.channel, allow_cut=request.allow_cut)
    checkpoint, chosen = listen.choose_model(request, gallery, progress)
    model, sha256 = load_model(checkpoint), chosen.sha256
    calibration = find_calibration(request.calibration, checkpoint, sha256)
    embedded = listen.embed_heard(model, checkpoint, heard, progress, f"verify with {shown(checkpoint)}")
    known = _side(request.enroll, heard, embedded) if gallery is None else _enrolled(gallery, row)
    tested, first = _side(request.test, heard, embedded), np.zeros(1, dtype=np.int64)
    score = float(cosine_scores(known.mean, tested.mean, first, first)[0])
    warnings, notes, about_bounds = _warnings(request, heard, gallery), listen.notes_on(heard), list[str]()
    unbounded = None
    if calibration is not None:
        path, record = calibration
        unbounded = float(ratio.map_of(record).apply(_features(record, score, known, tested))[0])
    verdict = _decide(request, score, calibration and calibration[1], unbounded)
    if calibration is not None and unbounded is not None:
        warnings += ratio.distrust(record)
        if max(known.count, tested.count) > 1:
            notes.append(ratio.SEVERAL_RECORDINGS)
        # Only then does it decide as `svkit calibrate` was asked to.
        if request.prior is None and request.threshold is None:
            notes += ratio.limits_of_target(record)
            if verdict.is_accepted is False:
                notes += filter(None, (ratio.weak_rejection(record),))
        neutral = verdict.threshold_llr if verdict.threshold_from == "bayes" else None
        about_bounds = _notes_on_bounds(path, record, unbounded, neutral)
    if verdict.threshold is not None and verdict.threshold > 1:
        notes.append("no score reaches the threshold: at this prior the model never accepts")
    if gallery is not None and verdict.is_accepted is not False:
        warnings += _closer(gallery, row, listen.search(gallery, tested.mean))
    recorded = read_provenance(checkpoint) if is_finished(checkpoint) else Provenance()
    return VerifyResult(
        score=score,
        **asdict(verdict),
        # Without the costs: they change the decision, but not how probable it is.
        posterior=None if verdict.llr is None else float(expit(verdict.llr - bayes_threshold(verdict.prior))),
        warnings=tuple(warnings),
        notes=(*notes, *about_bounds),
        person=None
        if gallery is None
        else {
            "gallery": str(request.gallery),
            "name": gallery.names[row],
            "recordings": known.count,
            "seconds": known.seconds,
        },
        enroll=tuple(heard[path][0] for path in request.enroll),
        test=tuple(heard[path][0] for path in request.test),
        model={
            "path": checkpoint.as_posix(),
            "sha256": sha256,
            "command": recorded.get("command"),
            "finished": recorded.get("finished"),
            "svkit": recorded.get("svkit"),
            "trained_on": training_lists(checkpoint),
        },
        calibration=None if calibration is None else describe_calibration(*calibration),
    )


def find_calibration(
    given: Path | None, checkpoint: Path, sha256: str
) -> tuple[Path, CalibrationRecord] | None:
    """Return the calibration of this model's cosine scores; None if there is none beside the model.

    Raises:
        ArtifactError: it belongs to another model or back-end, needs a cohort, or falls with the score.
    """
    path = given or calibration_beside(checkpoint)
    if path is None:
        return None
    record = read_calibration(path)
    again = (
        "learn it again with `svkit calibrate HELD_OUT_PEOPLE` or `svkit score HELD_OUT_TRIALS --calibrate`"
    )
    if record.checkpoint_sha256 != sha256:
        wanted = f"a calibration of {checkpoint} (sha256 {sha256[:12]})"
        found = f"one of another model (sha256 {str(record.checkpoint_sha256)[:12]})"
    elif record.backend != describe_backend(Backend()) or ratio.needs_a_cohort(record):
        wanted = "a calibration of cosine scores, with or without --qmf: verify has two sides and no cohort"
        found = f"one of {record.backend.name} scores with {', '.join(record.features)}"
        again += ", without --norm, --center, --backend and --cohort"
    elif not record.weights[0] > 0:
        wanted, found = "a positive weight of the score", f"{record.weights[0]:g}"
    else:
        return path, record
    raise ArtifactError(f"{path}: expected {wanted}, found {found}; {again}")


def _decide(
    request: VerifyRequest, score: float, record: CalibrationRecord | None, unbounded: float | None
) -> _Verdict:
    """Decide by the given threshold, or else by the calibration; `unbounded` is its ratio for the trial, unclipped."""
    prior, costs = 0.5 if request.prior is None else request.prior, (1.0, 1.0)
    decision = record.decision if record is not None and request.prior is None else None
    if decision is not None:
        prior, costs = decision.p_target, (decision.c_miss, decision.c_fa)
    threshold, reached_at, llr = request.threshold, None, None
    accepts, source = (None, None) if threshold is None else (score >= threshold, "given")
    if record is not None and unbounded is not None:
        learnt = ratio.map_of(record)
        llr = float(np.clip(unbounded, *learnt.bounds))
        if threshold is None and decision is not None and decision.false_accepts is not None:
            reached_at = decision.point.threshold
            # Without bounds, because the threshold was measured on ratios without bounds.
            source, accepts = "false accepts", unbounded >= reached_at
        elif threshold is None:
            reached_at = bayes_threshold(prior, *costs)
            source, accepts = "bayes", llr >= reached_at
        if reached_at is not None:
            # The map is linear in the score, so the score that reaches this ratio follows from this trial's.
            threshold = score + (reached_at - unbounded) / learnt.weights[0]
            is_bounded = source == "bayes" and not learnt.bounds[0] <= reached_at <= learnt.bounds[1]
            if abs(threshold) <= 1 and is_bounded:
                threshold = None  # no score decides: the bounds do
    return _Verdict(
        llr=llr,
        prior=prior,
        c_miss=costs[0],
        c_fa=costs[1],
        threshold=threshold,
        threshold_llr=reached_at,
        threshold_from=source,
        is_accepted=accepts,
    )


def _side(paths: Sequence[Path], heard: listen.Heard, embedded: listen.Embedded) -> _Side:
    embeddings = np.stack([embedded[path] for path in paths])
    return _Side(
        mean=listen.mean_embedding(embeddings),
        log_norm=float(np.mean(np.log(np.linalg.norm(embeddings.astype(np.float64), axis=1)))),
        seconds=sum(heard[path][0].file_seconds for path in paths),
        count=len(paths),
    )


def _enrolled(gallery: Gallery, row: int) -> _Side:
    count = int(gallery.counts[row])
    return _Side(
        mean=gallery.sums[row][None] / count,
        log_norm=float(gallery.log_norms[row]) / count,
        seconds=float(gallery.seconds[row]),
        count=count,
    )


def _features(record: CalibrationRecord, score: float, enroll: _Side, test: _Side) -> NDArray[np.float64]:
    """Return the features of this trial for the calibration, [1, F], measured as in scoring a list."""
    log_norms = (np.array([enroll.log_norm]), test.log_norm)
    seconds = (np.array([enroll.seconds]), test.seconds)
    return ratio.pair_features(np.array([score]), log_norms, seconds)[:, : len(record.features)]


def _warnings(request: VerifyRequest, heard: listen.Heard, gallery: Gallery | None) -> list[str]:
    found = listen.warnings_on(heard)
    for other in dict.fromkeys(request.test):
        for one in dict.fromkeys(request.enroll):
            if np.array_equal(heard[one][1], heard[other][1]):
                found.append(f"{one} and {other}: the same recording on both sides")
    return found if gallery is None else [*found, *listen.enrolled_among(heard, gallery)]


def _closer(gallery: Gallery, row: int, scores: NDArray[np.float64]) -> list[str]:
    """Say whose score [N] is the highest, if not that of the person in `row`."""
    best = int(np.argmax(scores))
    if scores[best] <= scores[row]:
        return []
    return [
        f"{gallery.names[best]}, also enrolled, scores higher ({scores[best]:.4f} against {scores[row]:.4f});"
        " `svkit identify` compares everybody"
    ]


def _notes_on_bounds(
    path: Path, record: CalibrationRecord, unbounded: float, neutral: float | None
) -> list[str]:
    """Say where the likelihood ratio reached its bounds; `neutral` is the ratio to decide by, None if it does not."""
    low, high = ratio.map_of(record).bounds
    found = []
    if not low <= unbounded <= high:
        found.append(
            f"the likelihood ratio is at its bound: the calibration's {record.num_targets:,} target and"
            f" {record.num_nontargets:,} nontarget trials support none beyond {low:+.2f} and {high:+.2f}"
            f" (without bounds {unbounded:+.2f})"
        )
    if neutral is not None and not low <= neutral <= high:
        always = "accepts" if neutral < low else "rejects"
        found.append(
            f"at this prior a ratio of {neutral:+.2f} is needed, beyond the bounds {low:+.2f} and {high:+.2f}, so the"
            f" model always {always}"
        )
    gap = ratio.bounds_gap(path, record)
    return found if gap is None else [*found, f"not known: {gap}"]


def describe_calibration(path: Path, record: CalibrationRecord) -> CalibrationFacts:
    """Return the facts about the calibration that an answer includes."""
    return {
        "path": path.as_posix(),
        "trials": {"name": record.trials.name, "sha256": record.trials.sha256},
        "num_targets": record.num_targets,
        "num_nontargets": record.num_nontargets,
        "people": None if record.speakers is None else len(record.speakers),
        "bounds": ratio.map_of(record).bounds,
        "is_separable": record.is_separable,
        "features": record.features,
        "decision": plain_record(record.decision),
    }
