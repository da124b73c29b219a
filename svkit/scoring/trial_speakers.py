"""Who speaks in the trials: from the manifest behind the embeddings, else from the trials themselves."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svkit.errors import DataError
from svkit.eval.bootstrap import TrialSpeakers, speakers_from_trials, trial_speakers
from svkit.store.manifest import Manifest, read_manifest
from svkit.store.provenance import sha256_file
from svkit.store.trials import Trials


def find_speakers(
    trials: Trials, manifest: Mapping[str, Any] | None, enrollment: Mapping[str, str] | None = None
) -> tuple[TrialSpeakers, str]:
    """Number the speakers of both sides of every trial.

    Args:
        trials: the trial list.
        manifest: `{path, sha256}` as recorded with the embeddings; used if the file is there and unchanged.
        enrollment: one utterance of each enrollment id, where enrollments are not utterances.

    Returns:
        The speakers, and where they come from: `manifest` or `trials`.

    Raises:
        DataError: labels and speakers contradict each other.
    """
    enroll_ids, test_ids = trials.enroll.values, trials.test.values

    def of_trials(number: NDArray[np.integer[Any]]) -> TrialSpeakers:
        of_ids = number.astype(np.int32)
        sides = (
            trials.enroll.look_up(of_ids[: len(enroll_ids)]),
            trials.test.look_up(of_ids[len(enroll_ids) :]),
        )
        return trial_speakers(*sides, trials.labels)

    known = manifest_speakers(trials, manifest, enrollment)
    if known is not None and min(side.min() for side in known) >= 0:
        return of_trials(np.concatenate(known)), "manifest"
    number, utterances = pd.factorize(np.concatenate((enroll_ids, test_ids)))
    is_target = trials.labels.astype(bool)
    group = speakers_from_trials(
        number[: len(enroll_ids)][trials.enroll.codes[is_target]],
        number[len(enroll_ids) :][trials.test.codes[is_target]],
        len(utterances),
    )
    return of_trials(group[number]), "trials"


def manifest_speakers(
    trials: Trials, manifest: Mapping[str, Any] | None, enrollment: Mapping[str, str] | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int32]] | None:
    """Number the speakers of the distinct enrollments and of the distinct tests by the manifest.

    Args:
        trials: the trial list.
        manifest: `{path, sha256}` as recorded with the embeddings.
        enrollment: one utterance of each enrollment id, where enrollments are not utterances.

    Returns:
        A number for each of `trials.enroll.values` and of `trials.test.values`, -1 where the manifest lacks the
        utterance; None where the manifest is gone or has changed.
    """
    known = speakers_of_manifest(manifest)
    if known is None:
        return None
    enrolled = pd.Series(trials.enroll.values, dtype=object)
    if enrollment is not None:
        enrolled = enrolled.map(enrollment)
    speakers = pd.concat([enrolled, pd.Series(trials.test.values, dtype=object)]).map(known)
    number = pd.factorize(speakers, sort=True)[0].astype(np.int32)
    return number[: len(enrolled)], number[len(enrolled) :]


def trial_utterances(trials: Trials, enrollment: pd.DataFrame | None) -> set[str]:
    """Return the utterances of both sides; of the whole map where enrollments are not utterances."""
    enrolled = trials.enroll.values if enrollment is None else enrollment["utterance_id"]
    return set(trials.test.values).union(enrolled)


def trial_speaker_names(
    trials: Trials, manifest: Mapping[str, Any] | None, enrollment: pd.DataFrame | None
) -> set[str] | None:
    """Return the speakers of the trials by the manifest behind the embeddings; None where it is gone or changed.

    Args:
        trials: the trials; utterances that the manifest lacks count for nothing.
        manifest: `{path, sha256}` as recorded with the embeddings.
        enrollment: utterances of each enrollment, where enrollments are not utterances.
    """
    known = speakers_of_manifest(manifest)
    if known is None:
        return None
    return {known[name] for name in trial_utterances(trials, enrollment) if name in known}


def speakers_of_manifest(manifest: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Return the speaker of each utterance; None where the manifest is gone, changed or bad.

    Args:
        manifest: `{path, sha256}` as recorded with embeddings.
    """
    try:
        table = recorded_manifest(manifest)
    except DataError:
        return None
    return dict(zip(table.utterance_ids, table.speaker_ids, strict=True))


def recorded_manifest(manifest: Mapping[str, Any] | None) -> Manifest:
    """Read the manifest behind embeddings.

    Args:
        manifest: `{path, sha256}` as recorded.

    Raises:
        DataError: none recorded, gone, changed since, or bad.
    """
    if not manifest or not manifest.get("path"):
        raise DataError("the embeddings record no manifest; extract them again")
    path = Path(str(manifest["path"]))
    if not path.exists():
        raise DataError(f"{path}: does not exist; the embeddings were extracted with it")
    status = path.stat()
    return _read_once(path, str(manifest.get("sha256")), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1)
def _read_once(path: Path, sha256: str, size: int, mtime_ns: int) -> Manifest:
    """Hash and read a manifest; a scoring asks for it several times, so the last one is kept while it is the same."""
    if sha256_file(path) != sha256:
        raise DataError(f"{path}: has changed since the embeddings were extracted; extract again")
    return read_manifest(path)


def trial_seconds(
    trials: Trials, manifest: Manifest, enrollment: pd.DataFrame | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the duration of both sides of every trial, [T] each; several enrollment utterances add up.

    Raises:
        DataError: an utterance is not in the manifest.
    """
    seconds = pd.Series(manifest.durations_seconds, index=pd.Index(manifest.utterance_ids))
    test = seconds.reindex(trials.test.values)
    if enrollment is None:
        enroll = seconds.reindex(trials.enroll.values)
    else:
        each = seconds.reindex(np.asarray(enrollment["utterance_id"], dtype=object)).to_numpy()
        sums = pd.Series(each).groupby(enrollment["enroll_id"].to_numpy()).sum(min_count=1)
        enroll = sums.reindex(trials.enroll.values)
    if enroll.isna().any() or test.isna().any():
        raise DataError(f"{manifest.source}: no duration for some utterances of the trials")
    return trials.enroll.look_up(enroll.to_numpy(np.float64)), trials.test.look_up(test.to_numpy(np.float64))
