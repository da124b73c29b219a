"""`svkit verify`: are these recordings of one speaker? Score, calibrated log-likelihood ratio, decision."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.special import expit

from svkit.errors import ArtifactError, ConfigError
from svkit.eval.llr import bayes_threshold
from svkit.eval.scoring import cosine_scores, group_means
from svkit.models.extract import final_model
from svkit.models.load import load_model
from svkit.progress import Progress
from svkit.scoring.backend import Backend
from svkit.scoring.calibrate import bounds_gap, describe_backend, map_of, separable_caution
from svkit.scoring.lineage import training_lists
from svkit.scoring.listen import Heard, Recording, embed_heard, hear, notes_on
from svkit.store.audio_file import Channel
from svkit.store.calibration import FILE_NAME, CalibrationRecord, read_calibration
from svkit.store.provenance import is_finished, read_provenance, sha256_input


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyRequest:
    """Which recordings to compare, and how to decide."""

    exp: Path
    enroll: tuple[Path, ...]
    """Recordings of the known speaker."""
    test: tuple[Path, ...]
    """Recordings of one unknown speaker."""
    model: Path | None = None
    """Checkpoint; None: the experiment's final pruned model, else its final dense one."""
    calibration: Path | None = None
    """None: `calibration.json` beside the model, where there is one."""
    prior: float = 0.5
    """Probability of the same speaker before listening."""
    threshold: float | None = None
    """Accept from this score on; None: the Bayes threshold, for which a calibration is needed."""
    channel: Channel | Literal["loudest"] = 0
    """Which channel is listened to of recordings with several."""
    allow_cut: bool = False
    """Listen to what is there of files whose header says that they were longer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyResult:
    """The answer, and what it rests on."""

    score: float
    """Cosine of the two sides' mean length-normalised embeddings."""
    llr: float | None
    """Natural-log likelihood ratio, within what the calibration's trials support; None: not calibrated."""
    prior: float
    posterior: float | None
    """Probability of the same speaker at `prior`; None: not calibrated."""
    threshold: float | None
    """Score from which it is accepted; None: no decision, or one that the bounds of the likelihood ratio make alone."""
    threshold_from: str | None
    """`bayes` or `given`."""
    is_accepted: bool | None
    warnings: tuple[str, ...]
    """Why the answer should not be trusted."""
    notes: tuple[str, ...]
    """What else to know about it."""
    enroll: tuple[Recording, ...]
    test: tuple[Recording, ...]
    model: dict[str, Any]
    """`{path, sha256, command, finished, svkit, trained_on: [{path, sha256}]}`."""
    calibration: dict[str, Any] | None
    """`{path, trials, num_targets, num_nontargets, bounds, is_separable}`."""


def run(request: VerifyRequest, progress: Progress) -> VerifyResult:
    """Compare the recordings of both sides.

    Raises:
        ConfigError: a prior outside (0, 1), or a side without a file.
        DataError: audio that is missing, unreadable, empty, not finite, or shorter than 35 ms.
        ArtifactError: no model, or a calibration of another model or back-end.
    """
    if not request.enroll or not request.test:
        raise ConfigError("verify: expected at least one file a side")
    neutral = bayes_threshold(request.prior)  # checks the prior before anything slow
    heard = hear((*request.enroll, *request.test), request.channel, allow_cut=request.allow_cut)
    checkpoint = request.model or final_model(request.exp, progress)
    model = load_model(checkpoint)
    sha256 = sha256_input(checkpoint)
    calibration = _find_calibration(request.calibration, checkpoint, sha256)
    embedded = embed_heard(model, heard, progress, f"verify with {checkpoint}")
    # The mean of normalised embeddings, as a trial list with an enrollment map is scored.
    sides = [
        group_means(np.stack([embedded[path] for path in side]), np.zeros(len(side), dtype=np.int64), 1)
        for side in (request.enroll, request.test)
    ]
    first = np.zeros(1, dtype=np.int64)
    score = float(cosine_scores(sides[0], sides[1], first, first)[0])
    warnings, notes, about_bounds = _warnings(request, heard), notes_on(heard), list[str]()
    llr, threshold, source = None, request.threshold, None if request.threshold is None else "given"
    is_accepted = None if threshold is None else score >= threshold
    if calibration is not None:
        path, record = calibration
        learnt = map_of(record)
        unbounded = float(learnt.apply(np.array([[score]]))[0])
        llr = float(np.clip(unbounded, *learnt.bounds))
        decides_by = None
        if threshold is None:
            source, is_accepted, decides_by = "bayes", llr >= neutral, neutral
            threshold = (neutral - learnt.offset) / learnt.weights[0]
            if abs(threshold) <= 1 and not learnt.bounds[0] <= neutral <= learnt.bounds[1]:
                threshold = None  # no score decides: the bounds do
        if (caution := separable_caution(record)) is not None:
            warnings.append(caution)
        if max(len(request.enroll), len(request.test)) > 1:
            notes.append(
                "several files a side: the calibration was learnt on single utterances, so the likelihood ratio"
                " is an approximation"
            )
        about_bounds = _notes_on_bounds(path, record, unbounded, decides_by)
    if threshold is not None and threshold > 1:
        notes.append("no score reaches the threshold: at this prior the model never accepts")
    record_of_model = read_provenance(checkpoint) if is_finished(checkpoint) else {}
    return VerifyResult(
        score=score,
        llr=llr,
        prior=request.prior,
        posterior=None if llr is None else float(expit(llr - neutral)),
        threshold=threshold,
        threshold_from=source,
        is_accepted=is_accepted,
        warnings=tuple(warnings),
        notes=(*notes, *about_bounds),
        enroll=tuple(heard[path][0] for path in request.enroll),
        test=tuple(heard[path][0] for path in request.test),
        model={
            "path": checkpoint.as_posix(),
            "sha256": sha256,
            **{key: record_of_model.get(key) for key in ("command", "finished", "svkit")},
            "trained_on": training_lists(checkpoint),
        },
        calibration=None if calibration is None else _describe(*calibration),
    )


def _find_calibration(
    given: Path | None, checkpoint: Path, sha256: str
) -> tuple[Path, CalibrationRecord] | None:
    """Return the calibration of this model's cosine scores; None where there is none beside the model.

    Raises:
        ArtifactError: it belongs to another model or back-end, needs more than a score, or falls with it.
    """
    path = given or checkpoint / FILE_NAME
    if given is None and not path.exists():
        return None
    record = read_calibration(path)
    again = "learn it again with `svkit score HELD_OUT_TRIALS --calibrate`"
    if record.checkpoint_sha256 != sha256:
        wanted = f"a calibration of {checkpoint} (sha256 {sha256[:12]})"
        found = f"one of another model (sha256 {str(record.checkpoint_sha256)[:12]})"
    elif record.backend != describe_backend(Backend()) or record.features != ("score",):
        wanted = "a calibration of plain cosine scores, which verify computes"
        found = f"one of {record.backend.name} with {', '.join(record.features)}"
        again += ", without --norm, --center, --backend and --qmf"
    elif not record.weights[0] > 0:
        wanted, found = "a positive weight of the score", f"{record.weights[0]:g}"
    else:
        return path, record
    raise ArtifactError(f"{path}: expected {wanted}, found {found}; {again}")


def _warnings(request: VerifyRequest, heard: Heard) -> list[str]:
    found = [f"{path}: {warning}" for path, (recording, _) in heard.items() for warning in recording.warnings]
    for one in dict.fromkeys(request.enroll):
        for other in dict.fromkeys(request.test):
            if np.array_equal(heard[one][1], heard[other][1]):
                found.append(f"{one} and {other}: the same recording on both sides")
    return found


def _notes_on_bounds(
    path: Path, record: CalibrationRecord, unbounded: float, neutral: float | None
) -> list[str]:
    """Say where the bounds of the likelihood ratio were reached; `neutral`: the ratio to decide by, if it decides."""
    low, high = map_of(record).bounds
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
            f"at this prior a ratio of {neutral:+.2f} is needed, beyond the bounds {low:+.2f} and {high:+.2f}: it"
            f" always {always}"
        )
    gap = bounds_gap(path, record)
    return found if gap is None else [*found, f"not known: {gap}"]


def _describe(path: Path, record: CalibrationRecord) -> dict[str, Any]:
    trials = {"name": record.trials.name, "sha256": record.trials.sha256}
    counts = {"num_targets": record.num_targets, "num_nontargets": record.num_nontargets}
    bounds = {"bounds": map_of(record).bounds, "is_separable": record.is_separable}
    return {"path": path.as_posix(), "trials": trials, **counts, **bounds}
