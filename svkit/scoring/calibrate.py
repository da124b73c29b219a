"""Learns and applies calibrations, and sees that none is judged on what it was learnt from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svkit.errors import ArtifactError, ConfigError, DataError, first_five
from svkit.eval.llr import count_bounds
from svkit.eval.logistic import (
    PRIOR,
    CrossValidated,
    LinearCalibration,
    fit_calibration,
    pair_quality,
)
from svkit.scoring.backend import Backend, Lookup, Scored
from svkit.scoring.guards import Guards
from svkit.scoring.trial_speakers import recorded_manifest, trial_seconds
from svkit.store.calibration import CalibrationRecord, read_calibration, write_calibration
from svkit.store.embeddings import Embeddings
from svkit.store.metrics import BackendRecord, ListId
from svkit.store.provenance import sha256_artifact, sha256_file
from svkit.store.trials import Trials


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Features:
    """What a calibration sees of each trial."""

    names: tuple[str, ...]
    values: NDArray[np.float64]
    """[T, F]; the score first."""


def trial_features(
    scored: Scored,
    found: Lookup,
    trials: Trials,
    embeddings: Embeddings,
    enrollment: pd.DataFrame | None,
    *,
    quality: bool,
) -> Features:
    """Build the features of every trial.

    Args:
        scored: scores, and the cohort means where the back-end has a cohort.
        found: embeddings of both sides.
        trials: T trials.
        embeddings: their manifest gives the durations.
        enrollment: utterances of each enrollment, where enrollments are not utterances.
        quality: add embedding norms (averaged over the utterances of an enrollment), durations (summed) and, with a
            cohort, mean cohort scores of both sides.

    Raises:
        DataError: the manifest behind the embeddings is gone, has changed or lacks an utterance.
    """
    names, columns = ["score"], [scored.scores[:, None]]
    if quality:
        norms = [
            np.log(np.linalg.norm(side.astype(np.float64), axis=1)) for side in (found.enroll, found.test)
        ]
        of_enroll = np.bincount(found.enroll_groups, norms[0]) / np.bincount(found.enroll_groups)
        measures = {
            "log_norm": (of_enroll[found.enroll_rows], norms[1][found.test_rows]),
            "log_duration": _log_durations(trials, embeddings, enrollment),
        }
        if scored.cohort_means is not None:
            enroll, test = scored.cohort_means
            measures["cohort_mean"] = (enroll[found.enroll_rows], test[found.test_rows])
        for name, (enroll, test) in measures.items():
            names += [f"{name}_low", f"{name}_high"]
            columns.append(pair_quality(enroll, test))
    return Features(names=tuple(names), values=np.concatenate(columns, axis=1))


def _log_durations(
    trials: Trials, embeddings: Embeddings, enrollment: pd.DataFrame | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    manifest = recorded_manifest(embeddings.meta.get("manifest"))
    enroll, test = trial_seconds(trials, manifest, enrollment)
    return np.log(enroll), np.log(test)


def learn(
    features: Features,
    trials: Trials,
    trials_path: Path,
    backend: BackendRecord,
    checkpoint_sha256: str | None,
    speakers: set[str] | None,
) -> CalibrationRecord:
    """Learn a calibration on the trials at hand.

    Args:
        features: of the T trials.
        trials: T trials.
        trials_path: their list, recorded so that the calibration is never judged on it.
        backend: what made the scores (`describe_backend`), which they must be of when it is applied.
        checkpoint_sha256: the model behind the scores; None: several.
        speakers: of the trials, recorded likewise; None: not known.
    """
    fitted = fit_calibration(features.values, trials.labels)
    num_targets = int(np.count_nonzero(trials.labels))
    return CalibrationRecord(
        features=features.names,
        weights=fitted.weights,
        offset=fitted.offset,
        prior=PRIOR,
        backend=backend,
        checkpoint_sha256=checkpoint_sha256,
        trials=ListId(name=trials_path.stem, sha256=sha256_file(trials_path)),
        num_targets=num_targets,
        num_nontargets=len(trials) - num_targets,
        speakers=None if speakers is None else tuple(sorted(speakers)),
        bounds=fitted.bounds,
        is_separable=fitted.is_separable,
    )


def map_of(record: CalibrationRecord) -> LinearCalibration:
    """Return the map of a calibration, within what its trials support: where not recorded, by their number alone."""
    return LinearCalibration(
        weights=record.weights,
        offset=record.offset,
        bounds=record.bounds or count_bounds(record.num_targets, record.num_nontargets),
        is_separable=bool(record.is_separable),
    )


def separable_caution(record: CalibrationRecord) -> str | None:
    """Say that trials without an error do not tell how the ratio grows with the score; None where they had some."""
    if not record.is_separable:
        return None
    low, high = map_of(record).bounds
    return (
        f"the calibration learnt on {record.trials.name} ({record.num_targets:,} target and"
        f" {record.num_nontargets:,} nontarget trials, which a threshold separates without an error) has a slope that"
        f" nothing but its penalty sets; its log-likelihood ratios, from {low:+.1f} to {high:+.1f}, are a guess"
    )


def bounds_gap(path: Path, record: CalibrationRecord) -> str | None:
    """Say what a calibration of an earlier svkit does not tell; None where it tells it."""
    if record.is_separable is not None and record.bounds is not None:
        return None
    low, high = map_of(record).bounds
    return (
        f"{path}: whether the trials it was learnt on have errors (an earlier svkit did not record it): log-likelihood"
        f" ratios are bounded by the number of trials alone, from {low:+.1f} to {high:+.1f}"
    )


def folds_caution(found: CrossValidated) -> str | None:
    """Say that some maps of a cross-validation were learnt on trials without an error; None where none was."""
    if not found.num_separable:
        return None
    return (
        f"{found.num_separable} of the {found.num_maps} maps of the cross-validation were learnt on trials that a"
        " threshold separates without an error; nothing but their penalty sets their slope"
    )


def describe_backend(backend: Backend, material: Mapping[str, str] | None = None) -> BackendRecord:
    """Return what is recorded of a back-end, with the sha256 of the cohort and PLDA data it used."""
    return BackendRecord(**asdict(backend), name=backend.name, material=dict(material or {}))


def check_calibration(
    path: Path,
    trials_path: Path,
    backend: BackendRecord,
    checkpoint_sha256: str | None,
    speakers: set[str] | None,
    guards: Guards,
    cohort_size: int | None = None,
) -> CalibrationRecord:
    """Read a calibration and check that it belongs to these scores and not to these trials or speakers.

    Args:
        path: `calibration.json`.
        trials_path: the list it would be judged on.
        backend: what made the scores (`describe_backend`).
        checkpoint_sha256: the model behind them; None: several.
        speakers: of the trials; None: not known.
        guards: what is allowed; told where speakers are not known.
        cohort_size: members of the cohort, where the back-end has one.

    Raises:
        ConfigError: it was learnt on the very trials it would be judged on.
        DataError: it was learnt on other trials of their speakers.
        ArtifactError: it was learnt on scores of another model or back-end.
    """
    record = read_calibration(path)
    guards.caution(separable_caution(record))
    if (gap := bounds_gap(path, record)) is not None:
        guards.unchecked.append(gap)
    remedy = "use others, or --calibrate-folds for a cross-validation over speakers"
    if record.trials.sha256 == sha256_file(trials_path):
        guards.stop(
            "calibrated-on-test",
            ConfigError(
                f"--calibration {path}: was learnt on {trials_path}, which it would be judged on; {remedy}"
            ),
        )
    elif record.speakers is None or speakers is None:
        guards.unchecked.append(
            f"{path}: whether it was learnt on speakers of the trials: those of"
            f" {'the trials' if speakers is None else 'its own trials'} are not known"
        )
    elif shared := speakers.intersection(record.speakers):
        guards.stop(
            "calibrated-on-test",
            DataError(
                f"{path}: was learnt on {len(shared)} of the {len(speakers)} speakers of {trials_path}, which flatters:"
                f" {first_five(sorted(shared))}; {remedy}"
            ),
        )
    if record.checkpoint_sha256 != checkpoint_sha256:
        raise ArtifactError(
            f"{path}: expected a calibration of the model scored here, found one of another model"
        )
    recorded = record.backend
    if cohort_size is not None:  # an earlier svkit recorded the number asked for, not the number there was
        recorded = replace(recorded, top_n=min(recorded.top_n or cohort_size, cohort_size))
    if recorded != backend:
        raise ArtifactError(
            f"{path}: expected a calibration of {backend.name} scores,"
            f" found one of {record.backend.name} (or of other settings)"
        )
    return record


def apply(record: CalibrationRecord, features: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Map features to log-likelihood ratios [T] without bounds, to rank by, and within those of the calibration.

    Raises:
        ConfigError: other features than those it was learnt with.
    """
    if record.features != features.names:
        raise ConfigError(
            f"calibration: was learnt with the features {', '.join(record.features)}, found"
            f" {', '.join(features.names)}; give or leave out --qmf and --cohort as then"
        )
    learnt = map_of(record)
    return learnt.apply(features.values), learnt.bounded(features.values)


def install(record: CalibrationRecord, embeddings: Embeddings) -> Path | None:
    """Put a calibration of plain scores beside the checkpoint, where `svkit verify` looks; return where.

    None where the checkpoint is not at its recorded place, has changed, or the calibration needs more than a
    score.
    """
    checkpoint = checkpoint_facts(embeddings)
    directory = Path(str(checkpoint.get("path", "")))
    if record.features != ("score",) or record.backend.name != "cosine" or not checkpoint.get("path"):
        return None
    if not directory.is_dir() or sha256_artifact(directory) != checkpoint.get("sha256"):
        return None
    target = directory / "calibration.json"
    write_calibration(target, record)
    return target


def checkpoint_facts(embeddings: Embeddings) -> dict[str, Any]:
    """Return `{path, sha256}` of the checkpoint as the embeddings record it; empty where they do not."""
    return dict(embeddings.meta.get("checkpoint") or {})
