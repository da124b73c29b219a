"""Error rates of a verification system from scores and labels, with one sort and exact ties.

A trial is accepted when its score is at or above the threshold. Labels are 1 (target) and 0 (nontarget); a
higher score means the same speaker. Every quantity is a function of the step curve `ErrorCurve`, whose points
are the distinct scores and one threshold above them all, so that equal scores are accepted or rejected
together.

Source: NIST SRE evaluation plans (detection cost function); N. Brummer and E. de Villiers, "The BOSARIS
toolkit", 2011 (convex hull of the ROC by the pool-adjacent-violators algorithm).
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svkit.errors import DataError
from svkit.eval.results import OperatingPoint

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

POINTS_PER_BLOCK = 2**16
"""Points whose cost is computed at once: they stay within a core's cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorCurve:
    """Error counts at every threshold that matters, ascending: K distinct scores make K + 1 points."""

    thresholds: Floats
    """The distinct scores and the next number above the highest one (everything rejected)."""
    num_misses: Ints
    """Targets with a score below the threshold; from 0 to num_targets."""
    num_false_accepts: Ints
    """Nontargets with a score at or above the threshold; from num_nontargets to 0."""
    num_targets: int
    num_nontargets: int


def check_trials(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Check scores and labels and return them as float64 [N] and bool [N] (True = target).

    Raises:
        DataError: lengths differ, a label is not 0 or 1, a score is not finite, or a class has no trial.
    """
    values = np.asarray(scores, dtype=np.float64).reshape(-1)
    given = np.asarray(labels).reshape(-1)
    if len(values) != len(given):
        raise DataError(
            f"scores and labels: expected as many of each, found {len(values)} scores, {len(given)} labels"
        )
    is_target = given.astype(bool)
    if not np.array_equal(is_target, given):
        row = int(np.flatnonzero(is_target != given)[0])
        raise DataError(
            f"labels: expected 1 (target) or 0 (nontarget), found {given[row]} at trial {row + 1}"
        )
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(
            f"scores: expected finite numbers, found {len(bad)} of {len(values)} that are not"
            f" (the first is {values[bad[0]]} at trial {bad[0] + 1})"
        )
    num_targets = int(np.count_nonzero(is_target))
    if num_targets in (0, len(values)):
        raise DataError(
            f"trials: expected targets and nontargets, found {num_targets} targets and"
            f" {len(values) - num_targets} nontargets; error rates need both"
        )
    return values, is_target


def error_curve(scores: ArrayLike, labels: ArrayLike) -> ErrorCurve:
    """Count the errors of scores [N] with labels [N] at every threshold (DataError: see `check_trials`)."""
    values, is_target = check_trials(scores, labels)
    num_targets = int(np.count_nonzero(is_target))
    num_nontargets = len(values) - num_targets
    # For large lists memory access is the limit, so there are few arrays, filled in place. The sentinel above all
    # scores comes last.
    ordered = np.empty(len(values) + 1)
    ordered[:-1] = values
    ordered[:-1].sort()
    ordered[-1] = np.nextafter(ordered[-2], np.inf)
    is_first = np.empty(len(ordered), dtype=bool)
    is_first[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    num_below = np.flatnonzero(is_first)
    thresholds = ordered if len(num_below) == len(ordered) else ordered[num_below]
    del ordered, is_first
    # Sorting values is ten times faster than sorting indices, so the smaller class is looked up among sorted values.
    few_are_targets = num_targets <= num_nontargets
    few = np.sort(values[is_target if few_are_targets else ~is_target])
    few_below = np.bincount(np.searchsorted(thresholds, few) + 1, minlength=len(thresholds))
    np.cumsum(few_below, out=few_below)
    num_below -= few_below
    misses, rejected_nontargets = (few_below, num_below) if few_are_targets else (num_below, few_below)
    return ErrorCurve(
        thresholds=thresholds,
        num_misses=misses,
        num_false_accepts=np.subtract(num_nontargets, rejected_nontargets, out=rejected_nontargets),
        num_targets=num_targets,
        num_nontargets=num_nontargets,
    )


def convex_hull(curve: ErrorCurve) -> ErrorCurve:
    """Keep the points of the curve on the lower convex hull of (false-accept rate, miss rate).

    The blocks of the isotonic regression of the labels over the scores are the edges of the hull. It passes through
    corners of the curve only, of which there are far fewer than points.
    """
    corners = corner_points(curve)
    targets = np.diff(curve.num_misses[corners])
    counts = targets - np.diff(curve.num_false_accepts[corners])
    from scipy.optimize import isotonic_regression  # takes half a second to import; only curves need it

    points = corners[isotonic_regression(targets / counts, weights=counts.astype(np.float64)).blocks]
    return replace(
        curve,
        thresholds=curve.thresholds[points],
        num_misses=curve.num_misses[points],
        num_false_accepts=curve.num_false_accepts[points],
    )


def equal_error_rate(curve: ErrorCurve) -> float:
    """EER: where miss rate = false-accept rate on the line between the two points around the crossing.

    On `error_curve` this is the plain EER; on `convex_hull(curve)` the EER of the ROC's convex hull, never
    larger.
    """
    after = _crossing(curve)
    before = operating_point(curve, after - 1)
    behind = operating_point(curve, after)
    gap_before = before.false_accept_rate - before.miss_rate
    gap_behind = behind.miss_rate - behind.false_accept_rate
    share = gap_before / (gap_before + gap_behind)
    return before.miss_rate + share * (behind.miss_rate - before.miss_rate)


def _crossing(curve: ErrorCurve) -> int:
    """Return the first point whose miss rate is not below its false-accept rate; exact in integers."""

    def has_crossed(index: int) -> bool:
        misses, accepts = int(curve.num_misses[index]), int(curve.num_false_accepts[index])
        return misses * curve.num_nontargets >= accepts * curve.num_targets

    return bisect_left(range(len(curve.thresholds)), True, key=has_crossed)


def operating_point(curve: ErrorCurve, index: int) -> OperatingPoint:
    """Return the point `index` of the curve."""
    return OperatingPoint(
        threshold=float(curve.thresholds[index]),
        miss_rate=float(curve.num_misses[index] / curve.num_targets),
        false_accept_rate=float(curve.num_false_accepts[index] / curve.num_nontargets),
    )


def eer_point(curve: ErrorCurve) -> OperatingPoint:
    """Return the threshold whose two error rates are closest to each other (the lowest of several)."""
    after = _crossing(curve)
    points = [operating_point(curve, index) for index in (after - 1, after)]
    return min(points, key=lambda point: abs(point.miss_rate - point.false_accept_rate))


def far_point(curve: ErrorCurve, false_accept_rate: float) -> OperatingPoint:
    """Return the lowest threshold with at most this false-accept rate.

    With fewer nontargets than 1 / rate it lies just above the highest nontarget, because the trials cannot resolve the
    rate.
    """
    # The product may be rounded to just below a whole number.
    allowed = np.floor(false_accept_rate * curve.num_nontargets * (1 + 1e-12))
    return operating_point(curve, int(np.argmax(curve.num_false_accepts <= allowed)))


def threshold_point(curve: ErrorCurve, threshold: float) -> OperatingPoint:
    """Return the error rates at any given threshold."""
    # Above the last threshold, everything is rejected, as it is there.
    index = min(int(np.searchsorted(curve.thresholds, threshold)), len(curve.thresholds) - 1)
    return replace(operating_point(curve, index), threshold=float(threshold))


def detection_cost(miss_rate: ArrayLike, false_accept_rate: ArrayLike, p_target: float) -> Floats:
    """Detection cost, at unit costs, of rates of any one shape, divided by that of accepting all or rejecting all.

    Source: NIST SRE 2016 evaluation plan, section 3 (normalised C_det).
    """
    cost = p_target * np.asarray(miss_rate) + (1 - p_target) * np.asarray(false_accept_rate)
    return np.asarray(cost / min(p_target, 1 - p_target), dtype=np.float64)


def min_dcf(curve: ErrorCurve, p_target: float) -> tuple[float, OperatingPoint]:
    """Return the lowest normalised detection cost over all thresholds and the lowest threshold giving it."""
    per_miss = p_target / curve.num_targets
    per_accept = (1 - p_target) / curve.num_nontargets
    index, lowest = 0, np.inf
    for start in range(0, len(curve.thresholds), POINTS_PER_BLOCK):
        block = slice(start, start + POINTS_PER_BLOCK)
        costs = curve.num_misses[block] * per_miss
        costs += curve.num_false_accepts[block] * per_accept
        cheapest = int(np.argmin(costs))
        if costs[cheapest] < lowest:
            index, lowest = start + cheapest, float(costs[cheapest])
    best = operating_point(curve, index)
    return float(detection_cost(best.miss_rate, best.false_accept_rate, p_target)), best


def corner_points(curve: ErrorCurve) -> Ints:
    """Return the indices of the points where the curve turns, in order; the lines between them draw the same curve.

    The EER and the lowest cost lie on these points or between two of them, however trials are weighted: along a run of
    targets only misses grow, along a run of nontargets only false accepts fall.
    """
    misses = curve.num_misses[1:] > curve.num_misses[:-1]
    accepts = curve.num_false_accepts[1:] < curve.num_false_accepts[:-1]
    is_corner = np.ones(len(curve.thresholds), dtype=bool)
    is_corner[1:-1] = (misses[1:] != misses[:-1]) | (accepts[1:] != accepts[:-1])
    # Where both rates change at once (tied scores), every point is a corner.
    slanted = misses & accepts
    is_corner[:-1] |= slanted
    is_corner[1:] |= slanted
    return np.flatnonzero(is_corner)


def det_corners(curve: ErrorCurve) -> tuple[Floats, Floats]:
    """Return false-accept and miss rates at the corners of the curve: all that a DET plot needs."""
    corners = corner_points(curve)
    false_accept_rate = curve.num_false_accepts[corners] / curve.num_nontargets
    return false_accept_rate, curve.num_misses[corners] / curve.num_targets


def thin_curve(
    false_accept: Floats, miss: Floats, num_points: int, floor: float
) -> tuple[Sequence[float], Sequence[float]]:
    """Thin a curve of rates [K] for drawing to about `num_points`, evenly along the logarithm of both; keep the ends.

    Rates below the floor are drawn at the floor, because a DET axis has no zero.
    """
    path = np.log(np.maximum(miss, floor)) - np.log(np.maximum(false_accept, floor))
    cells = np.floor((path - path[0]) / max(path[-1] - path[0], 1e-12) * max(num_points - 2, 1))
    keep = np.concatenate(([True], cells[1:] != cells[:-1]))
    keep[-1] = True
    return false_accept[keep].tolist(), miss[keep].tolist()
