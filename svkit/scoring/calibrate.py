"""Learn and apply calibrations, and make sure that none is judged on the trials it was learnt from."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svkit.config.conditions import CUTS
from svkit.errors import ArtifactError, ConfigError, DataError, first_five
from svkit.eval.logistic import PRIOR, fit_calibration, pair_quality
from svkit.scoring.backend import Backend, describe_backend
from svkit.scoring.ratio import bounds_gap, distrust, map_of, needs_a_cohort
from svkit.scoring.subject import Subject
from svkit.scoring.trial_scores import CohortMeans, Lookup
from svkit.scoring.trial_speakers import recorded_manifest, trial_seconds
from svkit.store.calibration import (
    FILE_NAME,
    CalibrationRecord,
    calibration_beside,
    read_calibration,
    write_calibration,
)
from svkit.store.metrics import ListId
from svkit.store.places import Artifact, sha256_of
from svkit.store.provenance import sha256_artifact, sha256_file


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Features:
    """The features of each trial that a calibration uses."""

    names: tuple[str, ...]
    values: NDArray[np.float64]
    """[T, F]; the score first."""


def quality_features(
    scores: NDArray[np.float64], cohort_means: CohortMeans | None, lookup: Lookup, subject: Subject
) -> Features:
    """Return the score of each trial, and the lower and the higher of its two sides' values of each quality measure.

    The measures are the logarithms of the embeddings' norms (averaged over the utterances of an enrollment) and of the
    durations (summed), and, with a cohort, the mean scores against it.

    Raises:
        DataError: the manifest behind the embeddings is gone, has changed or lacks an utterance.
    """
    norms = [np.log(np.linalg.norm(side.astype(np.float64), axis=1)) for side in (lookup.enroll, lookup.test)]
    of_enroll = np.bincount(lookup.enroll_groups, norms[0]) / np.bincount(lookup.enroll_groups)
    trial_set = subject.trial_set
    seconds = trial_seconds(trial_set.trials, recorded_manifest(subject.manifest), trial_set.enrollment)
    if subject.condition is not None:
        kept = CUTS.get(subject.condition.name, np.inf)
        cut_enroll = np.minimum(seconds[0], kept) if subject.condition.sides == "both" else seconds[0]
        seconds = cut_enroll, np.minimum(seconds[1], kept)
    measures = {
        "log_norm": (of_enroll[lookup.enroll_rows], norms[1][lookup.test_rows]),
        "log_duration": (np.log(seconds[0]), np.log(seconds[1])),
    }
    if cohort_means is not None:
        enroll, test = cohort_means
        measures["cohort_mean"] = (enroll[lookup.enroll_rows], test[lookup.test_rows])
    names = [f"{name}_{end}" for name in measures for end in ("low", "high")]
    columns = [pair_quality(*sides) for sides in measures.values()]
    values = np.concatenate([scores[:, None], *columns], axis=1)
    return Features(names=("score", *names), values=values)


def learn(subject: Subject, features: Features) -> CalibrationRecord:
    """Learn a calibration on these trials; it records their list and speakers, so that it is not judged on them."""
    trials, speakers = subject.trial_set.trials, subject.speaker_names()
    fitted = fit_calibration(features.values, trials.labels)
    num_targets, path = int(np.count_nonzero(trials.labels)), subject.trial_set.path
    return CalibrationRecord(
        features=features.names,
        weights=fitted.weights,
        offset=fitted.offset,
        prior=PRIOR,
        backend=subject.backend,
        checkpoint_sha256=sha256_of(subject.checkpoint),
        trials=ListId(name=path.stem, sha256=sha256_file(path)),
        num_targets=num_targets,
        num_nontargets=len(trials) - num_targets,
        speakers=None if speakers is None else tuple(sorted(speakers)),
        bounds=fitted.bounds,
        is_separable=fitted.is_separable,
        cautions=tuple(dict.fromkeys(subject.guards.passed)),
    )


def check_calibration(path: Path, subject: Subject, cohort_size: int | None = None) -> CalibrationRecord:
    """Read a calibration, and check that it was learnt on the same kind of scores but on other trials and speakers.

    Raises:
        ConfigError: it was learnt on the very trials that it would be judged on.
        DataError: it was learnt on other trials of the same speakers.
        ArtifactError: it was learnt on scores of another model or back-end.
    """
    guards, trials_path, speakers = subject.guards, subject.trial_set.path, subject.speaker_names()
    record = read_calibration(path)
    for caution in distrust(record):
        guards.caution(caution)
    if (gap := bounds_gap(path, record)) is not None:
        guards.unchecked.append(gap)
    remedy = "use others, or --calibrate-folds for a cross-validation over speakers"
    if record.trials.sha256 == sha256_file(trials_path):
        found = f"--calibration {path}: was learnt on {trials_path}, on which it would be judged"
        guards.stop("calibrated-on-test", ConfigError(f"{found}; {remedy}"))
    elif record.speakers is None or speakers is None:
        whose = "the trials" if speakers is None else "its own trials"
        guards.unchecked.append(
            f"{path}: whether it was learnt on speakers of the trials: the speakers of {whose} are not known"
        )
    elif shared := speakers.intersection(record.speakers):
        found = (
            f"was learnt on {len(shared)} of the {len(speakers)} speakers of {trials_path}, which makes "
            "results look better"
        )
        names = first_five(sorted(shared))
        guards.stop("calibrated-on-test", DataError(f"{path}: {found}: {names}; {remedy}"))
    if record.checkpoint_sha256 != sha256_of(subject.checkpoint):
        raise ArtifactError(
            f"{path}: expected a calibration of the model scored here, found one of another model"
        )
    recorded = record.backend
    # Earlier versions recorded the --top-n asked for, even beyond the cohort's size.
    if cohort_size is not None:
        recorded = replace(recorded, top_n=min(recorded.top_n or cohort_size, cohort_size))
    if recorded != subject.backend:
        raise ArtifactError(
            f"{path}: expected a calibration of {subject.backend.name} scores,"
            f" found one of {record.backend.name} (or of other settings)"
        )
    return record


def apply(record: CalibrationRecord, features: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Map features to log-likelihood ratios [T]: without bounds, for ranking, and within the calibration's bounds.

    Raises:
        ConfigError: the features are not those that it was learnt with.
    """
    if record.features != features.names:
        raise ConfigError(
            f"calibration: was learnt with the features {', '.join(record.features)}, found "
            f"{', '.join(features.names)}; use --qmf and --cohort as you did then"
        )
    learnt = map_of(record)
    ratios = learnt.apply(features.values)
    return ratios, ratios.clip(*learnt.bounds)


def install(own: Path, record: CalibrationRecord, checkpoint: Artifact | None) -> str:
    """Copy a calibration of cosine scores to the checkpoint, where `svkit verify` looks; say where it is.

    It stays only at its `own` path if the checkpoint has moved or changed, or if `svkit verify` would refuse it because
    of another back-end, a cohort, or a ratio that falls with the score. A calibration that `svkit calibrate` made for
    this checkpoint is not replaced, because somebody asked for its operating point.
    """
    is_plain = record.backend == describe_backend(Backend()) and not needs_a_cohort(record)
    if not is_plain or not record.weights[0] > 0 or not checkpoint:
        return str(own)
    directory = Path(checkpoint["path"])
    if not directory.name or not directory.is_dir() or sha256_artifact(directory) != checkpoint["sha256"]:
        return str(own)
    path = directory / FILE_NAME
    if _decides(calibration_beside(directory), record):
        return (
            f"{own}; `svkit verify` still decides by {path}, which `svkit calibrate` made; remove that first, or give"
            " this one with --calibration"
        )
    write_calibration(path, record)
    return str(path)


def _decides(path: Path | None, record: CalibrationRecord) -> bool:
    """Whether `path` is a calibration that `svkit calibrate` made for the same model."""
    try:
        there = read_calibration(path) if path else None
    except ArtifactError:  # unreadable or lost, so it may be replaced
        return False
    return bool(there and there.decision and there.checkpoint_sha256 == record.checkpoint_sha256)
