"""Systems on one trial list under the same resampled speakers: intervals, DET bands, paired differences."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from svkit.errors import ArtifactError
from svkit.eval import bootstrap
from svkit.eval.bootstrap import TrialSpeakers
from svkit.eval.summary import BAND_RATES, Draws, Resampled, resample_errors
from svkit.store.metrics import Comparison, Metrics
from svkit.store.scores import Scores, read_scores


def read_systems(directories: Sequence[Path]) -> list[Scores]:
    """Read the scores of several systems on one trial list.

    Raises:
        ArtifactError: their trials differ.
    """
    systems: list[Scores] = []
    for directory in directories:
        system = read_scores(directory)
        if systems and not system.trials.equals(systems[0].trials):
            raise ArtifactError(
                f"{directory}: expected the same trials as in {directories[0]}; score both again"
            )
        systems.append(replace(system, trials=systems[0].trials) if systems else system)
    return systems


def resample_systems(
    systems: Sequence[Scores], speakers: TrialSpeakers, num_resamples: int, seed: int
) -> list[Resampled]:
    """Resample the speakers once and measure every system in each resample.

    Args:
        systems: scores of the same trials.
        speakers: of those trials.
        num_resamples: R.
        seed: of the draw.
    """
    drawn = bootstrap.draw_multiplicities(speakers.num_speakers, num_resamples, seed)
    draws = Draws(speakers=speakers, multiplicities=drawn, source="")
    return [resample_errors(system.scores, system.trials.labels, draws) for system in systems]


def compare(
    first: tuple[Metrics, Resampled], second: tuple[Metrics, Resampled], num_speakers: int
) -> Comparison:
    """Compare the EERs of two systems in the same resamples.

    Raises:
        DataError: most resamples are undefined.
    """
    (of_first, resampled), (of_second, base) = first, second
    values = (of_first.eer, of_second.eer)
    found = bootstrap.paired_difference(resampled.eer, base.eer, values, num_speakers)
    return Comparison(
        trials=of_first.trials.name,
        backend=of_first.backend.name,
        first=of_first.name,
        second=of_second.name,
        eer_difference=found.difference,
        low=found.interval.low,
        high=found.interval.high,
        level=found.interval.level,
        p_value=found.p_value,
        num_speakers=num_speakers,
        num_resamples=len(resampled.eer),
    )


def det_band(system: Resampled, num_nontargets: int, num_speakers: int) -> dict[str, list[float]]:
    """Return the 95 % band of the miss rate at each false-accept rate that the trials resolve."""
    rates = np.asarray(BAND_RATES)
    keep = rates * num_nontargets >= 1
    tail = bootstrap.tail_share(num_speakers)
    low, high = np.nanquantile(system.misses[:, keep], [tail, 1 - tail], axis=0)
    return {"false_accept_rate": rates[keep].tolist(), "low": low.tolist(), "high": high.tolist()}
