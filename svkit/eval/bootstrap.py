"""Confidence intervals and paired comparisons by a bootstrap over speakers.

Trials are not independent, because one speaker is in many of them. So speakers are drawn with replacement, as many as
there are, and the trial list is formed anew over the drawn population. A speaker drawn m times counts as m different
people with the same recordings: a target trial of speaker a then occurs m_a times (each copy is compared with itself
only), and a nontarget trial between a and b occurs m_a * m_b times (every copy of a with every copy of b). The
multiplicities are the same for both sides of a trial and for all systems compared, which makes differences between
systems paired.

Percentiles of few errors give no valid interval, because rare errors that no trial shows are in no resample either. So
resamples only give the standard error. The interval is that of as many independent trials as have the same standard
error: Clopper and Pearson's for a rate, and its limit for amounts without an upper end. The interval of a cost follows
from those of its two rates. `benchmarks/intervals.py` measures how often the intervals contain the truth.

Source: R. Bolle, N. Ratha, S. Pankanti, "Error analysis of pattern recognition systems: the subsets
bootstrap", CVIU 2004 (resampling people, not trials); A. Owen and D. Eckles, "Bootstrapping data arrays of
arbitrary order", Annals of Applied Statistics 2012 (product of multiplicities; slightly conservative); E. Korn and B.
Graubard, "Confidence intervals for proportions with small expected number of positive counts estimated from survey
data", Survey Methodology 1998 (trials of equal standard error); M. Fay and E. Feuer, "Confidence intervals for directly
standardized rates: a method based on the gamma distribution", Statistics in Medicine 1997 (amounts); G. Zou and A.
Donner, "Construction of confidence limits about effect measures: a general approach", Statistics in Medicine 2008
(sums); B. Efron, "Estimation and accuracy after model selection", JASA 2014 (a speaker's influence); J. Hanley and A.
Lippman-Hand, "If nothing goes wrong, is everything all right?", JAMA 1983 (no error); T. Hesterberg, "What teachers
should know about the bootstrap", The American Statistician 2015 (percentiles of differences, expanded).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array, triu
from scipy.sparse.csgraph import connected_components
from scipy.special import betaincinv, gammaincinv, ndtr, ndtri, stdtr, stdtrit

from svkit.errors import ConfigError, DataError, first_five
from svkit.eval.metrics import check_trials
from svkit.eval.results import Interval, PairedDifference

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Numbers = NDArray[np.integer[Any]]
Cost = Callable[[slice], NDArray[np.generic]]
"""Says what each of some trials costs."""

CONFIDENCE = 0.95
"""How often an interval contains the truth."""
_TAIL = (1 - CONFIDENCE) / 2
MIN_SPEAKERS = 5
"""With fewer, the outer percentiles that an interval of 95 % needs lie beyond any number of resamples."""

BLOCK_TRIALS = 2**21
"""Trials whose costs are summed in one go."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialSpeakers:
    """Speaker of each side of each trial, numbered from 0; numbers of 32 bits suffice for millions of speakers."""

    enroll: Numbers
    """[N]."""
    test: Numbers
    """[N]; equal to `enroll` exactly for target trials."""
    num_speakers: int


def trial_speakers(enroll: Numbers, test: Numbers, labels: ArrayLike) -> TrialSpeakers:
    """Check the speakers [N] of both sides, which together use every number from 0 on, against the labels [N].

    Raises:
        DataError: a target trial has two speakers or a nontarget trial one.
    """
    wrong = np.flatnonzero((enroll == test) != np.asarray(labels).astype(bool))
    if len(wrong):
        raise DataError(
            "trial labels contradict the speakers (a target trial needs one speaker, a nontarget trial two)"
            f" at trials {first_five((wrong + 1).tolist())}"
        )
    return TrialSpeakers(enroll=enroll, test=test, num_speakers=int(max(enroll.max(), test.max())) + 1)


def speakers_from_trials(left: Numbers, right: Numbers, num_utterances: int) -> NDArray[np.int32]:
    """Guess speakers from the trials alone: utterances joined by target trials belong to one speaker.

    Args:
        left: [N] utterances, from 0 to num_utterances - 1, on one side of the target trials.
        right: [N] on the other side.
        num_utterances: in all trials.

    Returns:
        Speaker number of each utterance, [num_utterances].
    """
    shape = (num_utterances, num_utterances)
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=shape)
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int32)


def draw_multiplicities(num_speakers: int, num_resamples: int, seed: int) -> NDArray[np.int64]:
    """Draw how often each speaker occurs in each resample, [num_resamples, num_speakers], rows summing to S.

    Raises:
        ConfigError: fewer than `MIN_SPEAKERS` speakers or 1 resample.
    """
    if num_resamples < 1:
        raise ConfigError(f"expected at least 1 resample, found {num_resamples}")
    if num_speakers < MIN_SPEAKERS:
        raise ConfigError(f"it needs at least {MIN_SPEAKERS} speakers, found {num_speakers}")
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    return rng.multinomial(num_speakers, np.full(num_speakers, 1 / num_speakers), size=num_resamples)


def resample_rates(
    scores: ArrayLike,
    labels: ArrayLike,
    speakers: TrialSpeakers,
    multiplicities: NDArray[np.int64],
    thresholds: Sequence[float],
) -> tuple[Floats, Floats]:
    """Return miss and false-accept rates of P fixed thresholds in every resample, [R, P] each."""
    values, is_target = check_trials(scores, labels)

    def errors(limit: float) -> Cost:
        return lambda rows: (values[rows] >= limit) != is_target[rows]

    return resample_means([errors(limit) for limit in thresholds], is_target, speakers, multiplicities)


def resample_means(
    costs: Sequence[Cost],
    is_target: NDArray[np.bool_],
    speakers: TrialSpeakers,
    multiplicities: NDArray[np.int64],
) -> tuple[Floats, Floats]:
    """Return mean costs of the target and of the nontarget trials in every resample, [R, P] each.

    Means need no curve: each of the P costs is summed only once for each speaker or pair of speakers.
    """
    drawn = multiplicities.astype(np.float64)

    def totals(cost: Cost) -> Floats:
        """Return what the target and the nontarget trials of each resample cost, [2, R]."""
        own, pairs = _sum_costs(cost, is_target, speakers)
        return np.stack([drawn @ own, np.einsum("rs,rs->r", np.asarray(drawn @ pairs), drawn)])

    counts = totals(lambda rows: np.ones(len(is_target[rows])))
    # A resample may have lost a class: its rates are not defined, and `_defined` leaves it out.
    counts[counts == 0] = np.nan
    means = np.stack([totals(cost) / counts for cost in costs], axis=2)
    return means[0], means[1]


def _sum_costs(cost: Cost, is_target: NDArray[np.bool_], speakers: TrialSpeakers) -> tuple[Floats, csr_array]:
    """Return the costs of the target trials of each speaker [S] and of the nontarget trials of each pair [S, S]."""
    size = speakers.num_speakers
    own, pairs = np.zeros(size), csr_array((size, size), dtype=np.float64)
    for start in range(0, len(is_target), BLOCK_TRIALS):
        rows = slice(start, start + BLOCK_TRIALS)
        amounts = np.asarray(cost(rows), dtype=np.float64)
        targets = np.flatnonzero(is_target[rows])
        own += np.bincount(speakers.enroll[rows][targets], amounts[targets], size)
        counted = np.flatnonzero(amounts * ~is_target[rows])
        sides = (speakers.enroll[rows][counted], speakers.test[rows][counted])
        pairs = pairs + csr_array(coo_array((amounts[counted], sides), shape=(size, size)))
    return own, pairs


def count_people(labels: ArrayLike, speakers: TrialSpeakers) -> int:
    """Return how many speakers have target trials; labels [N] are 1 for target, 0 for nontarget."""
    return int(np.count_nonzero(np.bincount(speakers.enroll[np.asarray(labels) == 1])))


def count_pairs(labels: ArrayLike, speakers: TrialSpeakers) -> int:
    """Return how many pairs of speakers have nontarget trials."""
    is_target = np.asarray(labels) == 1
    _, pairs = _sum_costs(lambda rows: np.ones(len(is_target[rows])), is_target, speakers)
    return int(triu(pairs + pairs.T).nnz)


def highest_unseen(count: int) -> float:
    """Return the highest error rate that remains possible after `count` independent cases without an error."""
    return float(1 - (1 - CONFIDENCE) ** (1 / count))


def rate_interval(rate: float, samples: Floats, multiplicities: Ints, num_units: int) -> Interval:
    """Return the interval of an error rate.

    Args:
        rate: on all trials.
        samples: [R] in the resamples.
        multiplicities: [R, S] of the speakers that are in these trials.
        num_units: speakers, or pairs of them, in whom errors were looked for. If all resamples agree, they tell
            nothing, and the units count as the trials. The interval of a rate of 0 or 1 is one-sided.

    Raises:
        DataError: more than half of the resamples are undefined (too few speakers with target trials).
    """
    error = _standard_error(samples, multiplicities)
    low, high = 0.0, 1.0
    if rate <= 0:
        high = highest_unseen(num_units)
    elif rate >= 1:
        low = 1 - highest_unseen(num_units)
    else:
        trials = rate * (1 - rate) / error**2 if error else float(num_units)
        low = float(betaincinv(trials * rate, trials * (1 - rate) + 1, _TAIL))
        high = float(betaincinv(trials * rate + 1, trials * (1 - rate), 1 - _TAIL))
    return _interval(low, high, multiplicities.shape)


def amount_interval(amount: float, samples: Floats, multiplicities: Ints) -> Interval | None:
    """Return the interval of a mean of costs without an upper end, such as Cllr; see `rate_interval`."""
    error = _standard_error(samples, multiplicities, heavy=True)
    if error == 0:
        return None
    count = (amount / error) ** 2
    low, high = gammaincinv(count, _TAIL) / count, gammaincinv(count + 1, 1 - _TAIL) / count
    return _interval(amount * float(low), amount * float(high), multiplicities.shape)


def sum_interval(
    cost: Callable[[float, float], float], misses: tuple[float, Interval], accepts: tuple[float, Interval]
) -> Interval:
    """Return the interval of a cost that is linear in miss and false-accept rate, from each rate and its interval."""
    (miss, of_misses), (accept, of_accepts) = misses, accepts
    value = cost(miss, accept)
    below, above = (
        float(np.hypot(cost(one, accept) - value, cost(miss, other) - value))
        for one, other in ((of_misses.low, of_accepts.low), (of_misses.high, of_accepts.high))
    )
    return replace(of_misses, low=value - below, high=value + above)


def _interval(low: float, high: float, drawn: tuple[int, ...]) -> Interval:
    """Return an interval; `drawn` is the shape of the multiplicities, (R, S)."""
    return Interval(low=low, high=high, num_speakers=drawn[1], num_resamples=drawn[0], level=CONFIDENCE)


def _standard_error(samples: Floats, multiplicities: Ints, *, heavy: bool = False) -> float:
    """Return the standard error of resampled values [R], widened so that normal quantiles give Student's interval.

    It has S - 1 degrees of freedom if the influences of the S speakers are Gaussian, and fewer if few speakers make the
    errors, because chance then decides how many of them are in the list (Satterthwaite's, from the variance of a
    variance). `heavy`: single trials without bounds matter as much as speakers, so the tails are those of the resampled
    values themselves.
    """
    defined = _defined(samples)
    if np.ptp(defined) <= 1e-12 * np.abs(defined).max():  # all equal, up to rounding
        return 0.0
    size = multiplicities.shape[1]
    deviations = defined - defined.mean()
    influence = deviations @ (multiplicities[~np.isnan(samples)] - 1)
    excess = _excess_kurtosis(deviations) if heavy else _excess_kurtosis(influence) / size
    freedom = 2 / (excess + 2 / (size - 1))
    widening = stdtrit(freedom, _TAIL) / ndtri(_TAIL)
    return float(defined.std() * np.sqrt(size / (size - 1)) * widening)


def _excess_kurtosis(values: Floats) -> float:
    """Return the excess kurtosis, by which tails are heavier than Gaussian ones; 0 if they are not."""
    squares = (values - values.mean()) ** 2
    return max(0.0, float(np.mean(squares**2) / np.mean(squares) ** 2) - 3)


def paired_difference(
    first: Floats, second: Floats, values: tuple[float, float], num_speakers: int
) -> PairedDifference:
    """Compare two systems by a statistic, first minus second: in equal resamples [R], and on all trials (`values`).

    The interval lies between outer percentiles of the resampled differences. Plain percentiles behave like an interval
    with the normal distribution's quantile and a variance divided by S instead of S - 1, which is too narrow for few
    speakers. Those taken turn the interval of a Gaussian mean into that of Student's t.
    """
    ordered = np.sort(_defined(first - second))
    share = ndtr(stdtrit(num_speakers - 1, _TAIL) * np.sqrt(num_speakers / (num_speakers - 1)))
    # Counted as the p-value is, so that the interval excludes zero exactly where p is small.
    place = max(1, int(share * (len(ordered) + 1)))
    opposite = min(np.count_nonzero(ordered <= 0), np.count_nonzero(ordered >= 0))
    # The inverse of the expansion from normal to Student's quantiles: an interval of level 1 - p ends at zero.
    quantile = ndtri(min(0.5, (opposite + 1) / (len(ordered) + 1)))
    steps = quantile * np.sqrt((num_speakers - 1) / num_speakers)
    return PairedDifference(
        difference=values[0] - values[1],
        interval=_interval(float(ordered[place - 1]), float(ordered[-place]), (len(ordered), num_speakers)),
        p_value=float(2 * stdtr(num_speakers - 1, steps)),
    )


def _defined(samples: Floats) -> Floats:
    defined = samples[~np.isnan(samples)]
    if 2 * len(defined) < len(samples):
        raise DataError(
            "bootstrap: expected target and nontarget trials in most resamples, found them in"
            f" {len(defined)} of {len(samples)}; there are too few speakers with target trials"
        )
    return defined
