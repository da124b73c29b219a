"""What deciding at one threshold means, among people it was not chosen on, and how many people show a wished rate.

People are counted, not trials: however many recordings two people have, they are one pair of people, and what one voice
does to a system it does in all of its recordings. With n of them and no error the rate may still be anything up to
1 - 0.05 ** (1 / n), about 3 / n, with 95 % confidence.

Source: J. Hanley and A. Lippman-Hand, "If nothing goes wrong, is everything all right?", JAMA 1983 (rule of three).
"""

from dataclasses import replace
from math import ceil, comb, log, log1p, sqrt

import numpy as np
from numpy.typing import NDArray

from svkit.eval.bootstrap import (
    MIN_SPEAKERS,
    TrialSpeakers,
    draw_multiplicities,
    percentile_interval,
    resample_rates,
)
from svkit.eval.metrics import error_curve, threshold_point
from svkit.eval.results import Interval, OperatingPoint

_DOUBT = 0.05


def highest_unseen(count: int) -> float:
    """Return the highest rate of errors that `count` independent cases without one leave possible, at 95 %."""
    return float(1 - _DOUBT ** (1 / count))


def people_to_show(rate: float) -> int:
    """Return how many people make enough pairs to show a false-accept rate, none of them being accepted."""
    pairs = log(_DOUBT) / log1p(-rate)
    return ceil((1 + sqrt(1 + 8 * pairs)) / 2)


def judge(
    margins: NDArray[np.float64],
    labels: NDArray[np.int8],
    speakers: TrialSpeakers,
    num_resamples: int,
    seed: int,
) -> OperatingPoint:
    """Return the errors of accepting trials whose margin [T] is 0 or more, with intervals over people.

    Resampling learns from errors how rare they are. Where fewer than `MIN_SPEAKERS` people (misses) or pairs of people
    (false accepts) have one, the upper end is at least what as many without any leave possible.

    Raises:
        ConfigError, DataError: too few speakers for an interval.
    """
    drawn = draw_multiplicities(speakers.num_speakers, num_resamples, seed)
    misses, accepts = resample_rates(margins, labels, speakers, drawn, [0.0])
    pair = np.sort(np.stack([speakers.enroll, speakers.test]), axis=0)
    is_target, is_error = labels == 1, (margins >= 0) != (labels == 1)

    def interval(rates: NDArray[np.float64], chosen: NDArray[np.bool_], count: int) -> Interval:
        found = percentile_interval(rates[:, 0], speakers.num_speakers)
        in_error = np.unique(pair[:, chosen & is_error], axis=1).shape[1]
        return (
            found if in_error >= MIN_SPEAKERS else replace(found, high=max(found.high, highest_unseen(count)))
        )

    num_people = len(np.unique(speakers.enroll[is_target]))
    return replace(
        threshold_point(error_curve(margins, labels), 0.0),
        miss_rate_interval=interval(misses, is_target, num_people),
        false_accept_rate_interval=interval(accepts, ~is_target, comb(speakers.num_speakers, 2)),
    )
