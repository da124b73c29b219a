"""Quality of scores as natural-log likelihood ratios: Bayes threshold, Cllr and its minimum, and what trials support.

Source: N. Brummer and J. du Preez, "Application-independent evaluation of speaker detection", 2006 (Cllr);
N. Brummer and E. de Villiers, "The BOSARIS toolkit", 2011 (Bayes threshold, minimum over monotone maps);
P. Vergeer, A. van Es, A. de Jongh, I. Alberink and R. Stoel, "Numerical likelihood ratios outputted by LR systems are
often based on extrapolation: when to stop extrapolating?", Science and Justice 2016 (empirical lower and upper bounds).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svkit.errors import ConfigError
from svkit.eval.metrics import ErrorCurve, check_trials, convex_hull


def bayes_threshold(p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
    """Return the log-likelihood ratio from which accepting costs less than rejecting.

    Raises:
        ConfigError: the prior is not inside (0, 1) or a cost is not positive.
    """
    if not 0 < p_target < 1 or min(c_miss, c_fa) <= 0:
        raise ConfigError(
            "decision costs: expected 0 < p_target < 1 and positive costs,"
            f" found p_target={p_target}, c_miss={c_miss}, c_fa={c_fa}"
        )
    return float(np.log(c_fa * (1 - p_target)) - np.log(c_miss * p_target))


def cllr(llrs: ArrayLike, labels: ArrayLike) -> float:
    """Return the Cllr of natural-log likelihood ratios [N] in bits: 0 is perfect, LLRs of 0 in all trials give 1.

    Raises:
        DataError: see `check_trials`.
    """
    values, is_target = check_trials(llrs, labels)
    target_cost = np.logaddexp(0, -values[is_target]).mean()
    nontarget_cost = np.logaddexp(0, values[~is_target]).mean()
    return float((target_cost + nontarget_cost) / (2 * np.log(2)))


def min_cllr(curve: ErrorCurve) -> float:
    """Return the Cllr of the best non-decreasing map of the scores (pool adjacent violators), in bits.

    Every edge of the convex hull with t targets and n nontargets gets the ratio (t / T) / (n / N).
    """
    hull = convex_hull(curve)
    target_share = np.diff(hull.num_misses) / hull.num_targets
    nontarget_share = -np.diff(hull.num_false_accepts) / hull.num_nontargets
    # Edges with one class only are decided with certainty and cost nothing.
    mixed = (target_share > 0) & (nontarget_share > 0)
    target_share, nontarget_share = target_share[mixed], nontarget_share[mixed]
    ratio = np.log(target_share) - np.log(nontarget_share)
    cost = np.sum(target_share * np.logaddexp(0, -ratio)) + np.sum(nontarget_share * np.logaddexp(0, ratio))
    return float(cost / (2 * np.log(2)))


def supported_bounds(llrs: NDArray[np.float64], is_target: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the lowest and the highest log-likelihood ratio that trials support.

    Each class gets one more trial on the wrong side, because the next trial might be one. Then deciding by the ratios
    costs less than deciding by the prior alone at every Bayes threshold between the bounds, but no longer just outside
    them. So T target and N nontarget trials without an error support `count_bounds`, and others support less. Trials
    count as independent; those of few speakers support even less.
    """
    targets, nontargets = np.sort(llrs[is_target]), np.sort(llrs[~is_target])
    return -_highest_supported(-nontargets[::-1], -targets[::-1]), _highest_supported(targets, nontargets)


def count_bounds(num_targets: int, num_nontargets: int) -> tuple[float, float]:
    """Return the `supported_bounds` of trials without an error: the widest that these numbers of trials support."""
    kept_targets, kept_nontargets = (count / (count + 1) for count in (num_targets, num_nontargets))
    low = np.log((num_targets + 1) * kept_nontargets)
    return -float(low), float(np.log((num_nontargets + 1) * kept_targets))


def _highest_supported(targets: NDArray[np.float64], nontargets: NDArray[np.float64]) -> float:
    """Return the upper bound; both classes are sorted.

    Accepting from the threshold t on, with a share m of targets missed and f of nontargets accepted, beats rejecting
    all if f + m exp(-t) < exp(-t), that is, t < log((1 - m) / f). Between two values, m and f are constant.
    """
    values = np.unique(np.concatenate([targets[targets > 0], nontargets[nontargets > 0]]))
    if not len(values):
        return 0.0
    num_targets, num_nontargets = len(targets), len(nontargets)
    hits = num_targets - np.searchsorted(targets, values)
    accepts = num_nontargets - np.searchsorted(nontargets, values)
    with np.errstate(divide="ignore"):  # no hit supports nothing
        limits = np.log(hits / (num_targets + 1)) - np.log((accepts + 1) / (num_nontargets + 1))
    crossed = np.flatnonzero(limits < values)
    if not len(crossed):
        return float(values[-1])
    first = crossed[0]
    return float(max(values[first - 1] if first else 0.0, limits[first]))


def reliability(
    llrs: NDArray[np.float64], is_target: NDArray[np.bool_], num_bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compare stated with observed log-likelihood ratios in bins of equally many target and nontarget trials.

    A bin's observed ratio is log of (share of all targets in it / share of all nontargets in it); bins are
    cut where the mean of the two shares grows by 1 / num_bins, so that both classes fill them. Bins with one
    class are left out.

    Returns:
        Mean stated ratio of each bin, each class weighing half, and the observed ratio.
    """
    order = np.argsort(llrs, kind="stable")
    ordered, target = llrs[order], is_target[order]
    share = np.where(target, 0.5 / target.sum(), 0.5 / (~target).sum())
    bins = np.minimum((np.cumsum(share) * num_bins * (1 - 1e-12)).astype(np.int64), num_bins - 1)
    targets = np.bincount(bins[target], minlength=num_bins) / target.sum()
    nontargets = np.bincount(bins[~target], minlength=num_bins) / (~target).sum()
    weights = np.bincount(bins, share, num_bins)
    mixed = (targets > 0) & (nontargets > 0)
    stated = np.bincount(bins, share * ordered, num_bins)[mixed] / weights[mixed]
    return stated, np.log(targets[mixed] / nontargets[mixed])


def open_set_posteriors(llrs: NDArray[np.float64], prior: float) -> tuple[NDArray[np.float64], float]:
    """Return the probability of each of N people [N], and that it is none of them.

    Args:
        llrs: natural-log ratios [N] of "it is this person" over "it is somebody else".
        prior: probability, before listening, that it is one of them; each of the N has an equal part of it.

    Raises:
        ConfigError: the prior is not inside (0, 1).
    """
    odds = np.append(llrs - bayes_threshold(prior) - np.log(len(llrs)), 0.0)  # over "none of them"
    shares = np.exp(odds - odds.max())
    shares /= shares.sum()
    return shares[:-1], float(shares[-1])
