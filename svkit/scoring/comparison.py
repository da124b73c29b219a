"""Compare systems on one trial list under the same resampled speakers; for `svkit score` and the report."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from svkit.errors import ArtifactError, ConfigError, DataError
from svkit.eval import bootstrap
from svkit.eval.results import Band
from svkit.eval.summary import BAND_RATES, Draws, resample_errors
from svkit.progress import Progress
from svkit.scoring.trial_speakers import find_speakers
from svkit.store.enrollment import read_enrollment
from svkit.store.metrics import Comparison, Metrics
from svkit.store.provenance import read_provenance
from svkit.store.scores import Resamples, Scores, read_resamples, read_scores

NUM_RESAMPLES = 1000


def read_systems(directories: Sequence[Path]) -> list[Scores]:
    """Read the scores of several systems on one trial list (ArtifactError: their trials differ)."""
    systems: list[Scores] = []
    for directory in directories:
        system = read_scores(directory)
        if systems and not system.trials.equals(systems[0].trials):
            raise ArtifactError(
                f"{directory}: expected the same trials as in {directories[0]}; score both again"
            )
        systems.append(replace(system, trials=systems[0].trials) if systems else system)
    return systems


def make_resamples(scores: ArrayLike, labels: ArrayLike, draws: Draws, seed: int) -> Resamples:
    """Resample the errors of scores [N] with labels [N] for comparisons and DET bands; `seed` is that of the draws."""
    eers, band = resample_errors(scores, labels, draws)
    digest = hashlib.sha256(f"{seed} {draws.multiplicities.shape}".encode())
    for side in (draws.speakers.enroll, draws.speakers.test):
        digest.update(np.ascontiguousarray(side, dtype=np.int32).data)
    return Resamples(
        eer=eers,
        band=band,
        draws=digest.hexdigest(),
        seed=seed,
        num_speakers=draws.speakers.num_speakers,
    )


def find_resamples(directory: Path, metrics: Metrics, seed: int, progress: Progress) -> Resamples | None:
    """Return the resamples of scores, kept or made now; None, with a note, if they cannot be made."""
    kept = read_resamples(directory)
    if kept is not None and (len(kept.eer), kept.seed) == (NUM_RESAMPLES, seed):
        return kept
    scores, inputs = read_scores(directory), read_provenance(directory)["inputs"]
    maps = [Path(entry["path"]) for entry in inputs if entry["name"] == "enroll"]
    enrollment = read_enrollment(maps[0]) if maps and maps[0].is_file() else None
    try:
        speakers, source = find_speakers(scores.trials, metrics.manifest, enrollment)
        drawn = bootstrap.draw_multiplicities(speakers.num_speakers, NUM_RESAMPLES, seed)
    except (ConfigError, DataError) as error:
        progress.note(f"{directory}: no comparison: {error}")
        return None
    draws = Draws(speakers=speakers, multiplicities=drawn, source=source)
    return make_resamples(scores.scores, scores.trials.labels, draws, seed)


def compare_systems(
    systems: Sequence[tuple[Metrics, Resamples | None]], progress: Progress
) -> list[Comparison]:
    """Compare every system with the reference, which is `dense` or else the first, paired by the resampled speakers.

    Systems with other trials or speakers than the reference are left out.
    """
    usable = [(metrics, resamples) for metrics, resamples in systems if resamples is not None]
    if len(usable) < 2:
        if len(systems) > 1:
            progress.note(
                "no comparison of the systems: without confidence intervals there are no p-values either"
            )
        return []
    usable.sort(key=lambda system: system[0].name != "dense")
    (reference, base), *others = usable
    wanted = reference.trials.sha256, reference.trials.left_out, base.draws
    comparisons = []
    for metrics, resamples in others:
        if (metrics.trials.sha256, metrics.trials.left_out, resamples.draws) != wanted:
            continue
        eers = metrics.eer, reference.eer
        try:
            found = bootstrap.paired_difference(resamples.eer, base.eer, eers, base.num_speakers)
        except DataError as error:  # most resamples lack a class
            progress.note(f"no comparison of {metrics.name} with {reference.name}: {error}")
            continue
        comparisons.append(
            Comparison(
                trials=metrics.trials.name,
                backend=reference.backend.name,
                first=metrics.name,
                second=reference.name,
                eer_difference=found.difference,
                low=found.interval.low,
                high=found.interval.high,
                level=found.interval.level,
                p_value=found.p_value,
                num_speakers=base.num_speakers,
                num_resamples=len(base.eer),
            )
        )
    return comparisons


def det_band(resamples: Resamples, num_nontargets: int) -> Band:
    """Return the 95 % band of the miss rate at each false-accept rate of at least one in `num_nontargets`."""
    rates = np.asarray(BAND_RATES)
    keep = rates * num_nontargets >= 1
    low, high = resamples.band[:, keep]
    return Band(
        false_accept_rate=tuple(rates[keep].tolist()), low=tuple(low.tolist()), high=tuple(high.tolist())
    )
