"""Confidence intervals and paired comparisons by a bootstrap over speakers.

Trials are not independent: one speaker is in many of them. So speakers are drawn with replacement, as many as
there are, and a trial list is imagined over the drawn population. A speaker drawn m times is m different
people with the same recordings: a target trial of speaker a then occurs m_a times (each copy is compared with
itself only), and a nontarget trial between a and b occurs m_a * m_b times (every copy of a with every copy of
b). The multiplicities are the same for both sides of a trial and for all systems compared, which makes
differences between systems paired.

Source: R. Bolle, N. Ratha, S. Pankanti, "Error analysis of pattern recognition systems: the subsets
bootstrap", CVIU 2004 (resampling people, not trials); A. Owen and D. Eckles, "Bootstrapping data arrays of
arbitrary order", Annals of Applied Statistics 2012 (product of multiplicities; slightly conservative); T.
Hesterberg, "What teachers should know about the bootstrap", The American Statistician 2015 (percentile interval
expanded for small samples). How often the intervals hold the truth: `benchmarks/intervals.py`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from svkit.errors import ConfigError, DataError, first_five
from svkit.eval.metrics import check_trials, corner_points, detection_cost, error_curve

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Statistic = Callable[[Floats, Floats], Floats]
"""Maps miss rates [B, K] and false-accept rates [B, K] (thresholds ascending along K) to [B] or [B, ...]."""

MIN_SPEAKERS = 5
"""With fewer, the outer percentiles that an interval of 95 % needs lie beyond any number of resamples."""

BLOCK_VALUES = 2**22
"""Weights (resamples x trials) held at once."""

MAX_POINTS = 2**20
"""Corners of the error curve looked at in each resample; of more, so many evenly spread ones tell an interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialSpeakers:
    """Speaker of each side of each trial, numbered from 0."""

    enroll: Ints
    """[N]."""
    test: Ints
    """[N]; equal to `enroll` exactly for target trials."""
    num_speakers: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Interval between percentiles of the resampled values, expanded for few speakers."""

    low: float
    high: float
    level: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference:
    """A statistic of one system minus that of another on the same trials and the same resamples."""

    difference: float
    interval: Interval
    p_value: float
    """Two-sided: how often the resampled difference has the other sign, doubled, with the correction of the interval
    for few speakers; 1 for equal systems."""


def trial_speakers(enroll_speakers: ArrayLike, test_speakers: ArrayLike, labels: ArrayLike) -> TrialSpeakers:
    """Number the speakers of both sides and check them against the labels.

    Args:
        enroll_speakers: [N] speaker of the enrollment side of each trial (any values that can be sorted).
        test_speakers: [N] speaker of the test side.
        labels: [N] 1 for target, 0 for nontarget.

    Raises:
        DataError: a target trial has two speakers or a nontarget trial one.
    """
    both = np.concatenate((np.asarray(enroll_speakers), np.asarray(test_speakers)))
    if (
        np.issubdtype(both.dtype, np.integer) and both.min(initial=0) >= 0
    ):  # no need to sort millions of numbers
        is_there = np.bincount(both) > 0
        num_speakers, numbers = int(is_there.sum()), (np.cumsum(is_there) - 1)[both]
    else:
        names, numbers = np.unique(both, return_inverse=True)
        num_speakers = len(names)
    enroll, test = np.split(numbers.astype(np.int64), 2)
    wrong = np.flatnonzero((enroll == test) != np.asarray(labels).astype(bool))
    if len(wrong):
        raise DataError(
            "trial labels contradict the speakers (a target trial needs one speaker, a nontarget trial two)"
            f" at trials {first_five((wrong + 1).tolist())}"
        )
    return TrialSpeakers(enroll=enroll, test=test, num_speakers=num_speakers)


def speakers_from_trials(enroll_rows: Ints, test_rows: Ints, labels: ArrayLike) -> Ints:
    """Guess speakers from the trials alone: utterances joined by target trials belong to one speaker.

    Args:
        enroll_rows: [N] utterance numbers.
        test_rows: [N] utterance numbers.
        labels: [N] 1 for target.

    Returns:
        Speaker number of each utterance number, [max + 1].
    """
    size = int(max(enroll_rows.max(), test_rows.max())) + 1
    linked = np.asarray(labels).astype(bool)
    left, right = enroll_rows[linked], test_rows[linked]
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def draw_multiplicities(num_speakers: int, num_resamples: int, seed: int) -> NDArray[np.int64]:
    """Draw how often each speaker occurs in each resample, [num_resamples, num_speakers], rows summing to S.

    Raises:
        ConfigError: fewer than `MIN_SPEAKERS` speakers or 1 resample.
    """
    if num_speakers < MIN_SPEAKERS or num_resamples < 1:
        raise ConfigError(
            f"bootstrap: expected at least {MIN_SPEAKERS} speakers and 1 resample,"
            f" found {num_speakers} speakers, {num_resamples} resamples"
        )
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    return rng.multinomial(num_speakers, np.full(num_speakers, 1 / num_speakers), size=num_resamples)


def resample(
    scores: ArrayLike,
    labels: ArrayLike,
    speakers: TrialSpeakers,
    multiplicities: NDArray[np.int64],
    statistic: Statistic,
) -> Floats:
    """Evaluate a statistic of the error curve in every resample.

    Args:
        scores: [N].
        labels: [N] 1 for target, 0 for nontarget.
        speakers: speakers of the N trials.
        multiplicities: [R, S] from `draw_multiplicities`; hand the same to every system that is compared.
        statistic: what to measure.

    Returns:
        [R] or [R, ...]; NaN where a resample has no target or no nontarget trial left.
    """
    values, is_target = check_trials(scores, labels)
    curve = error_curve(values, is_target)
    targets, nontargets = np.flatnonzero(is_target), np.flatnonzero(~is_target)
    targets = targets[np.argsort(values[targets])]
    nontargets = nontargets[np.argsort(values[nontargets])]
    target_speaker = speakers.enroll[targets]
    left, right = speakers.enroll[nontargets], speakers.test[nontargets]
    points = corner_points(curve)
    if len(points) > MAX_POINTS:
        points = points[np.linspace(0, len(points) - 1, MAX_POINTS).round().astype(np.int64)]
    num_misses = curve.num_misses[points]
    num_rejected = curve.num_nontargets - curve.num_false_accepts[points]
    del curve
    table = multiplicities.astype(np.float64)
    rows = max(1, BLOCK_VALUES // len(values))
    found = []
    for start in range(0, len(table), rows):
        drawn = table[start : start + rows]
        missed = _cumulative_share(drawn[:, target_speaker])
        weights = drawn[:, left]
        weights *= drawn[:, right]
        rejected = _cumulative_share(weights)
        found.append(statistic(missed[:, num_misses], 1.0 - rejected[:, num_rejected]))
    return np.concatenate(found)


def _cumulative_share(weights: Floats) -> Floats:
    """Return the running sums [B, N + 1] of each row over its total; NaN where the total is zero."""
    sums = np.zeros((weights.shape[0], weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    totals = sums[:, -1:].copy()
    totals[totals == 0] = np.nan
    sums /= totals
    return sums


def eer_statistic(miss: Floats, false_accept: Floats) -> Floats:
    """Plain EER of every row (see `metrics.equal_error_rate`), [B]."""
    undefined = np.isnan(miss[:, -1]) | np.isnan(false_accept[:, -1])
    after = np.clip(np.count_nonzero(miss < false_accept, axis=1), 1, miss.shape[1] - 1)
    row = np.arange(len(miss))
    gap_before = false_accept[row, after - 1] - miss[row, after - 1]
    gap_after = miss[row, after] - false_accept[row, after]
    share = gap_before / np.where(undefined, 1.0, gap_before + gap_after)
    eer = miss[row, after - 1] + share * (miss[row, after] - miss[row, after - 1])
    return np.where(undefined, np.nan, eer)


def min_dcf_statistic(p_target: float) -> Statistic:
    """Return the statistic minDCF at a prior (unit costs, normalised), [B]."""

    def statistic(miss: Floats, false_accept: Floats) -> Floats:
        return np.asarray(detection_cost(miss, false_accept, p_target).min(axis=1), dtype=np.float64)

    return statistic


def miss_statistic(false_accept_rates: Sequence[float]) -> Statistic:
    """Return the statistic miss rate at the lowest threshold within each false-accept rate, [B, G]."""
    limits = np.asarray(false_accept_rates, dtype=np.float64)

    def statistic(miss: Floats, false_accept: Floats) -> Floats:
        # False-accept rates fall along a row: the first column within a limit is the number of those above it.
        num_columns = false_accept.shape[1]
        allowed = limits * (1 + 1e-12) + 1e-15
        within = [np.searchsorted(row[::-1], allowed, side="right") for row in false_accept]
        columns = np.minimum(num_columns - np.stack(within), num_columns - 1)
        undefined = np.isnan(false_accept[:, :1])
        return np.where(undefined, np.nan, np.take_along_axis(miss, columns, axis=1))

    return statistic


def resample_rates(
    scores: ArrayLike,
    labels: ArrayLike,
    speakers: TrialSpeakers,
    multiplicities: NDArray[np.int64],
    thresholds: Sequence[float],
) -> tuple[Floats, Floats]:
    """Return miss and false-accept rates of fixed thresholds in every resample, [R, P] each.

    Args:
        scores: [N].
        labels: [N] 1 for target, 0 for nontarget.
        speakers: speakers of the N trials.
        multiplicities: [R, S] from `draw_multiplicities`.
        thresholds: P thresholds; a trial is accepted at or above one.
    """
    values, is_target = check_trials(scores, labels)
    errors = (np.where(is_target, values < limit, values >= limit) for limit in thresholds)
    return resample_means(errors, is_target, speakers, multiplicities)


def resample_means(
    costs: Iterable[NDArray[np.generic]],
    is_target: NDArray[np.bool_],
    speakers: TrialSpeakers,
    multiplicities: NDArray[np.int64],
) -> tuple[Floats, Floats]:
    """Return mean costs of the target and of the nontarget trials in every resample, [R, P] each.

    Means need no curve: costs are summed for each speaker, or pair of speakers, once.

    Args:
        costs: P times [N], what each trial costs.
        is_target: [N].
        speakers: speakers of the N trials.
        multiplicities: [R, S] from `draw_multiplicities`.
    """
    size = speakers.num_speakers
    drawn = multiplicities.astype(np.float64)
    own, left, right = speakers.enroll[is_target], speakers.enroll[~is_target], speakers.test[~is_target]

    def totals(amounts: Floats) -> tuple[Floats, Floats]:
        others = amounts[~is_target]
        counted = np.flatnonzero(others)
        pairs = csr_array(
            coo_array((others[counted], (left[counted], right[counted])), shape=(size, size)),
            dtype=np.float64,
        )
        of_targets = drawn @ np.bincount(own, amounts[is_target], size)
        return of_targets, np.einsum("rs,rs->r", np.asarray(drawn @ pairs), drawn)

    counts = totals(np.ones(len(is_target)))
    found = [totals(np.asarray(each, dtype=np.float64)) for each in costs]
    means = [
        np.stack([sums[side] / np.where(counts[side] > 0, counts[side], np.nan) for sums in found], axis=1)
        for side in (0, 1)
    ]
    return means[0], means[1]


def percentile_interval(samples: Floats, num_speakers: int, level: float = 0.95) -> Interval:
    """Return the interval between the outer percentiles of resampled values, expanded for few speakers.

    Percentiles alone behave like an interval with the normal distribution's quantile and a variance divided by S
    instead of S - 1: too narrow for few speakers. The percentiles taken are those that make a Gaussian mean's
    interval the one of Student's t.

    Args:
        samples: [R].
        num_speakers: S that were drawn.
        level: that the interval should hold the truth.

    Raises:
        DataError: more than half of the resamples are undefined (too few speakers with target trials).
    """
    defined = np.sort(_defined(samples))
    # Counted as a p-value is, so that a difference's interval leaves zero out exactly where p is small.
    place = max(1, int(tail_share(num_speakers, level) * (len(defined) + 1)))
    return Interval(low=float(defined[place - 1]), high=float(defined[-place]), level=level)


def tail_share(num_speakers: int, level: float = 0.95) -> float:
    """Return the share of resampled values that lies beyond each end of an interval."""
    expansion = np.sqrt(num_speakers / (num_speakers - 1))
    return float(ndtr(stdtrit(num_speakers - 1, (1 - level) / 2) * expansion))


def paired_difference(
    first: Floats,
    second: Floats,
    values: tuple[float, float],
    num_speakers: int,
    level: float = 0.95,
) -> PairedDifference:
    """Compare two systems by the same statistic on the same resamples: first minus second.

    Args:
        first: [R] resampled values of the first system.
        second: [R] of the second, from the same multiplicities.
        values: the statistic of the first and of the second system on all trials.
        num_speakers: S that were drawn.
        level: of the interval.
    """
    differences = _defined(first - second)
    opposite = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    share = min(0.5, (opposite + 1) / (len(differences) + 1))
    # The inverse of the interval's expansion: an interval of level 1 - p ends at zero.
    steps = ndtri(share) * np.sqrt((num_speakers - 1) / num_speakers)
    return PairedDifference(
        difference=values[0] - values[1],
        interval=percentile_interval(differences, num_speakers, level),
        p_value=float(2 * stdtr(num_speakers - 1, steps)),
    )


def _defined(samples: Floats) -> Floats:
    defined = samples[~np.isnan(samples)]
    if 2 * len(defined) < len(samples):
        raise DataError(
            "bootstrap: expected target and nontarget trials in most resamples, they are in"
            f" {len(defined)} of {len(samples)}; there are too few speakers with target trials"
        )
    return defined
