"""Systems on one trial list under the same resampled speakers: intervals, DET bands, paired differences."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svkit.errors import ArtifactError
from svkit.eval import bootstrap
from svkit.eval.metrics import equal_error_rate, error_curve
from svkit.store.scores import Scores, read_scores

BAND_RATES = tuple(float(rate) for rate in np.geomspace(1e-4, 0.6, 40))
"""False-accept rates at which the DET band is drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resampled:
    """One system in every resample."""

    eer: float
    """On all trials."""
    eers: NDArray[np.float64]
    """[R]."""
    misses: NDArray[np.float64] | None = None
    """[R, G] miss rates at `BAND_RATES`, where a DET band is wanted."""


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
    systems: Sequence[Scores], speakers: bootstrap.TrialSpeakers, num_resamples: int, seed: int
) -> list[Resampled]:
    """Resample the speakers once and measure every system in each resample.

    Args:
        systems: scores of the same trials.
        speakers: of those trials.
        num_resamples: R.
        seed: of the draw.
    """
    drawn = bootstrap.draw_multiplicities(speakers.num_speakers, num_resamples, seed)
    band = bootstrap.miss_statistic(BAND_RATES)

    def statistic(miss: NDArray[np.float64], false_accept: NDArray[np.float64]) -> NDArray[np.float64]:
        eers = bootstrap.eer_statistic(miss, false_accept)
        return np.concatenate((eers[:, None], band(miss, false_accept)), axis=1)

    resampled = []
    for system in systems:
        values = bootstrap.resample(system.scores, system.trials.labels, speakers, drawn, statistic)
        eer = equal_error_rate(error_curve(system.scores, system.trials.labels))
        resampled.append(Resampled(eer=eer, eers=values[:, 0], misses=values[:, 1:]))
    return resampled


def compare(first: Resampled, second: Resampled, num_speakers: int) -> dict[str, Any]:
    """Return the EER of the first minus that of the second with its 95 % interval and p-value."""
    found = bootstrap.paired_difference(first.eers, second.eers, (first.eer, second.eer), num_speakers)
    return {
        "eer_difference": found.difference,
        "low": found.interval.low,
        "high": found.interval.high,
        "level": found.interval.level,
        "p_value": found.p_value,
        "num_resamples": len(first.eers),
    }


def det_band(system: Resampled, num_nontargets: int, num_speakers: int) -> dict[str, list[float]]:
    """Return the 95 % band of the miss rate at each false-accept rate that the trials resolve."""
    rates = np.asarray(BAND_RATES)
    keep = rates * num_nontargets >= 1
    assert system.misses is not None, "resample_systems fills them"
    tail = bootstrap.tail_share(num_speakers)
    low, high = np.nanquantile(system.misses[:, keep], [tail, 1 - tail], axis=0)
    return {"false_accept_rate": rates[keep].tolist(), "low": low.tolist(), "high": high.tolist()}
