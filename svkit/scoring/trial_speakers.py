"""Find the speakers of trials, from the manifest behind the embeddings, or else from the trials themselves.

A manifest is given as it is recorded with the embeddings, and an enrollment map as its table (None:
every enrollment is an utterance).
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svkit.errors import DataError
from svkit.eval.bootstrap import TrialSpeakers, speakers_from_trials, trial_speakers
from svkit.store.enrollment import first_utterances
from svkit.store.manifest import Manifest, read_manifest
from svkit.store.places import Artifact
from svkit.store.provenance import sha256_file
from svkit.store.trials import Trials


def find_speakers(
    trials: Trials, manifest: Artifact | None, enrollment: pd.DataFrame | None = None
) -> tuple[TrialSpeakers, str]:
    """Number the speakers of both sides of every trial; an enrollment's speaker is that of its first utterance.

    Returns:
        The speakers, and where they come from: `manifest`, if it is unchanged and has every utterance, or `trials`.

    Raises:
        DataError: labels and speakers contradict each other.
    """
    known = speakers_of_manifest(manifest)
    sides = None if known is None else manifest_speakers(trials, known, enrollment)
    source = "manifest"
    if sides is None or min(side.min() for side in sides) < 0:
        # All utterances that target trials connect, directly or through others, are of one speaker.
        source, first_test = "trials", len(trials.enroll.values)
        number, utterances = pd.factorize(np.concatenate((trials.enroll.values, trials.test.values)))
        is_target = trials.labels.astype(bool)
        group = speakers_from_trials(
            number[:first_test][trials.enroll.codes[is_target]],
            number[first_test:][trials.test.codes[is_target]],
            len(utterances),
        )
        of_ids = group[number].astype(np.int32)
        sides = of_ids[:first_test], of_ids[first_test:]
    enroll, test = trials.enroll.look_up(sides[0]), trials.test.look_up(sides[1])
    return trial_speakers(enroll, test, trials.labels), source


def manifest_speakers(
    trials: Trials, known: Mapping[str, str], enrollment: pd.DataFrame | None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Number the speakers of `trials.enroll.values` and of `trials.test.values`; -1: not `known`."""
    enrolled = pd.Series(trials.enroll.values, dtype=object)
    if enrollment is not None:
        enrolled = enrolled.map(first_utterances(enrollment))
    speakers = pd.concat([enrolled, pd.Series(trials.test.values, dtype=object)]).map(known)
    number = pd.factorize(speakers, sort=True)[0].astype(np.int32)
    return number[: len(enrolled)], number[len(enrolled) :]


def trial_utterances(trials: Trials, enrollment: pd.DataFrame | None) -> set[str]:
    """Return the utterances of both sides; with an enrollment map, all utterances of the map."""
    enrolled = trials.enroll.values if enrollment is None else enrollment["utterance_id"]
    return set(trials.test.values).union(enrolled)


def trial_speaker_names(
    trials: Trials, manifest: Artifact | None, enrollment: pd.DataFrame | None
) -> set[str] | None:
    """Return the speakers of the trials' utterances that the manifest has; None if it is gone, changed or bad."""
    known = speakers_of_manifest(manifest)
    if known is None:
        return None
    return {known[name] for name in trial_utterances(trials, enrollment) if name in known}


def speakers_of_manifest(manifest: Artifact | None) -> dict[str, str] | None:
    """Return the speaker of each utterance; None if the manifest is gone, has changed, is bad or lacks speakers."""
    try:
        table = recorded_manifest(manifest)
    except DataError:
        return None
    known = table.known_speakers
    return known if len(known) == len(table) else None


def recorded_manifest(manifest: Artifact | None) -> Manifest:
    """Read the manifest behind embeddings (DataError: none is recorded, or it is gone, has changed or is bad)."""
    if not manifest or not manifest.get("path"):
        raise DataError("the embeddings record no manifest; extract them again")
    path = Path(manifest["path"])
    if not path.exists():
        raise DataError(f"{path}: does not exist; the embeddings were extracted with it")
    status = path.stat()
    return _read_once(path, manifest["sha256"], status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1)
def _read_once(path: Path, sha256: str, size: int, mtime_ns: int) -> Manifest:
    """Hash and read a manifest. Scoring asks for it several times, so the last one is kept while it is the same."""
    if sha256_file(path) != sha256:
        raise DataError(f"{path}: has changed since the embeddings were extracted; extract again")
    return read_manifest(path, needs_speakers=False)


def trial_seconds(
    trials: Trials, manifest: Manifest, enrollment: pd.DataFrame | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the duration in seconds of both sides of every trial, [T] each; utterances of an enrollment add up.

    Raises:
        DataError: an utterance is not in the manifest.
    """
    seconds = pd.Series(manifest.durations_seconds, index=pd.Index(manifest.utterance_ids))
    of_enroll = seconds
    if enrollment is not None:
        each = seconds.reindex(np.asarray(enrollment["utterance_id"], dtype=object)).to_numpy()
        of_enroll = pd.Series(each).groupby(enrollment["enroll_id"].to_numpy()).sum(min_count=1)
    sides = (trials.enroll, of_enroll), (trials.test, seconds)
    enroll, test = (known.reindex(side.values).to_numpy(np.float64) for side, known in sides)
    if np.isnan(enroll).any() or np.isnan(test).any():
        raise DataError(f"{manifest.source}: no duration for some utterances of the trials")
    return trials.enroll.look_up(enroll), trials.test.look_up(test)
