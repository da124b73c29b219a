"""The other intervals that `intervals.py` compares with the adopted one.

Each takes K values measured on all trials, the same values in resamples, and with each speaker left out once.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

Floats = NDArray[np.float64]
Ends = tuple[Floats, Floats]
IS_RATE = np.array([True, True, False, False, True, True])
"""Which of the values of `intervals.MEASURED` are rates; the others are costs."""


def percentiles(value: Floats, drawn: Floats, left_out: Floats) -> Ends:
    """Return percentiles, widened as Student's t widens the normal distribution: the former intervals of svkit."""
    size, count = len(left_out), len(drawn)
    share = ndtr(stdtrit(size - 1, 0.025) * np.sqrt(size / (size - 1)))
    place = max(1, int(share * (count + 1)))
    ordered = np.sort(drawn, axis=0)
    return ordered[place - 1], ordered[-place]


def corrected(value: Floats, drawn: Floats, left_out: Floats) -> Ends:
    """Return bias-corrected and accelerated percentiles.

    Source: B. Efron, "Better bootstrap confidence intervals", JASA 1987.
    """
    below = (drawn < value).mean(axis=0) + (drawn == value).mean(axis=0) / 2
    bias = ndtri(np.clip(below, 0.5 / len(drawn), 1 - 0.5 / len(drawn)))
    influence = left_out.mean(axis=0) - left_out
    spread = np.maximum((influence**2).sum(axis=0), 1e-30)
    acceleration = (influence**3).sum(axis=0) / (6 * spread**1.5)
    ends = []
    for place in ndtri([0.025, 0.975]):
        moved = bias + (bias + place) / (1 - acceleration * (bias + place))
        ends.append(
            np.array([np.quantile(one, share) for one, share in zip(drawn.T, ndtr(moved), strict=True)])
        )
    return ends[0], ends[1]


def on_a_scale(spread: Callable[[Floats], Floats]) -> Callable[[Floats, Floats, Floats], Ends]:
    """Make Student's interval of probits of rates and logarithms of costs, with samples of at least value / 10."""

    def ends(value: Floats, drawn: Floats, left_out: Floats) -> Ends:
        size = len(left_out)
        samples = drawn if spread is deviation else left_out

        def scale(values: Floats) -> Floats:
            held = np.clip(np.maximum(values, value / 10), 1e-9, None)
            return np.where(IS_RATE, ndtri(np.minimum(held, 1 - 1e-3)), np.log(held))

        half = -stdtrit(size - 1, 0.025) * np.sqrt(size / (size - 1)) * spread(scale(samples))
        middle = scale(value)
        return tuple(np.where(IS_RATE, ndtr(end), np.exp(end)) for end in (middle - half, middle + half))  # type: ignore[return-value]

    return ends


def deviation(samples: Floats) -> Floats:
    """Return the standard deviation of resampled values."""
    return np.asarray(samples.std(axis=0))


def jackknife(samples: Floats) -> Floats:
    """Return the standard error times sqrt((S - 1) / S), from the values with each speaker left out once."""
    return np.asarray(samples.std(axis=0) * (len(samples) - 1) / np.sqrt(len(samples)))


CANDIDATES = {
    "percentiles, expanded": percentiles,
    "BCa": corrected,
    "probit, bootstrap": on_a_scale(deviation),
    "probit, jackknife": on_a_scale(jackknife),
}
