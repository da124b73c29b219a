"""Judges decisions at one threshold on people it was not chosen on; counts the people needed to show a wanted rate.

People are counted, not trials. However many recordings two people have, they are one pair of people, and a voice that
misleads a system does so in all of its recordings. With n people or pairs and no error, the rate may still be anything
up to 1 - 0.05 ** (1 / n), about 3 / n, with 95 % confidence (`bootstrap.highest_unseen`).
"""

from dataclasses import replace
from math import ceil, log, log1p, sqrt

import numpy as np
from numpy.typing import NDArray

from svkit.eval import bootstrap
from svkit.eval.metrics import error_curve, threshold_point
from svkit.eval.results import Interval, OperatingPoint

_DOUBT = 0.05


def people_to_show(rate: float) -> int:
    """Return how many people make enough pairs to show a false-accept rate, if no pair is accepted."""
    pairs = log(_DOUBT) / log1p(-rate)
    return ceil((1 + sqrt(1 + 8 * pairs)) / 2)


def judge(
    margins: NDArray[np.float64],
    labels: NDArray[np.int8],
    speakers: bootstrap.TrialSpeakers,
    num_resamples: int,
    seed: int,
) -> OperatingPoint:
    """Return the errors of accepting trials whose margin [T] is 0 or more, with intervals over people.

    Resampling can learn only from errors how rare they are. If fewer than `MIN_SPEAKERS` people have a miss, the upper
    end is at least the highest rate that remains possible without any. For false accepts, which are what a decision
    promises, it always is: so no number of errors seems to promise less than none.

    Raises:
        ConfigError, DataError: there are too few speakers for an interval.
    """
    drawn = bootstrap.draw_multiplicities(speakers.num_speakers, num_resamples, seed)
    misses, accepts = bootstrap.resample_rates(margins, labels, speakers, drawn, [0.0])
    point = threshold_point(error_curve(margins, labels), 0.0)
    is_target, is_error = labels == 1, (margins >= 0) != (labels == 1)
    num_people, num_pairs = bootstrap.count_people(labels, speakers), bootstrap.count_pairs(labels, speakers)

    def interval(rate: float, rates: NDArray[np.float64], count: int, *, is_certain: bool) -> Interval:
        found = bootstrap.rate_interval(rate, rates[:, 0], drawn, count)
        least = 0.0 if is_certain else bootstrap.highest_unseen(count)
        return replace(found, high=max(found.high, least))

    num_missed = len(np.unique(speakers.enroll[is_target & is_error]))
    return replace(
        point,
        miss_rate_interval=interval(
            point.miss_rate, misses, num_people, is_certain=num_missed >= bootstrap.MIN_SPEAKERS
        ),
        false_accept_rate_interval=interval(point.false_accept_rate, accepts, num_pairs, is_certain=False),
    )
