"""The metrics of one system on one trial list, with intervals if speakers are resampled."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svkit.eval import bootstrap, metrics
from svkit.eval.crossings import resample_crossings
from svkit.eval.llr import bayes_threshold, cllr, min_cllr
from svkit.eval.results import Application, DetectionCost, Group, Interval, OperatingPoint, Rates

APPLICATIONS = tuple(Application(p_target=prior) for prior in (0.01, 0.05, 0.005, 0.001))
"""For minDCF and actDCF: the usual target priors, with unit costs. Source: NIST SRE evaluation plans 2012 to 2021."""
FALSE_ACCEPT_RATES = (0.01, 0.001, 0.0001)
"""Rates whose thresholds are reported."""
BAND_RATES = tuple(float(rate) for rate in np.geomspace(1e-4, 0.6, 40))
"""False-accept rates at which the band of a DET curve is drawn."""

Floats = NDArray[np.float64]
Point = TypeVar("Point", bound=OperatingPoint)


@dataclass(frozen=True, eq=False, kw_only=True)
class Draws:
    """Speakers of the trials and how often each is drawn in each resample; the same for systems that are compared."""

    speakers: bootstrap.TrialSpeakers
    multiplicities: NDArray[np.int64]
    """[R, S]."""
    source: str
    """Source of the speakers: `manifest` or `trials`."""

    @cached_property
    def num_people(self) -> int:
        """Speakers that have target trials."""
        return bootstrap.count_people(self._is_target(), self.speakers)

    @cached_property
    def num_pairs(self) -> int:
        """Pairs of speakers that have nontarget trials; counting them takes a pass over all trials."""
        return bootstrap.count_pairs(self._is_target(), self.speakers)

    def _is_target(self) -> NDArray[np.bool_]:
        return np.asarray(self.speakers.enroll == self.speakers.test)


def resample_errors(scores: ArrayLike, labels: ArrayLike, draws: Draws) -> tuple[Floats, Floats]:
    """Measure scores [N] with labels [N] in every resample.

    Returns:
        EERs [R], and the ends [2, len(BAND_RATES)] of the intervals of the miss rate at `BAND_RATES`; these are NaN if
        most resamples are undefined.
    """
    drawn = draws.multiplicities
    once = np.ones_like(drawn[:1])  # the trials as they are
    counts = np.concatenate([once, drawn])
    eers, misses = resample_crossings(scores, labels, draws.speakers, counts, BAND_RATES)
    ends = np.full((2, len(BAND_RATES)), np.nan)
    if 2 * np.count_nonzero(np.isfinite(eers[1:])) >= len(drawn):
        for place, miss in enumerate(misses[0].tolist()):
            interval = bootstrap.rate_interval(miss, misses[1:, place], drawn, draws.num_people)
            ends[:, place] = interval.low, interval.high
    return eers[1:], ends


def summarize(
    scores: ArrayLike,
    labels: ArrayLike,
    llrs: ArrayLike | None = None,
    draws: Draws | None = None,
    eers: Floats | None = None,
    applications: Sequence[Application] = APPLICATIONS,
) -> Rates:
    """Compute every metric of scored trials.

    Args:
        scores: [N].
        labels: [N] 1 for target, 0 for nontarget.
        llrs: [N] natural-log likelihood ratios of the same trials; adds Cllr, actDCF and the Bayes decisions.
        draws: resampled speakers of the trials; adds intervals.
        eers: [R] the EERs that `resample_errors` found in them; given with `draws`.
        applications: those of the detection costs.

    Raises:
        DataError: see `metrics.check_trials`; or most resamples are undefined.
    """
    curve = metrics.error_curve(scores, labels)
    thresholds = {"eer": metrics.eer_point(curve)}
    for rate in sorted(FALSE_ACCEPT_RATES, reverse=True):
        is_resolved = curve.num_nontargets * rate * (1 + 1e-12) >= 1
        thresholds[f"far_{rate:g}"] = replace(metrics.far_point(curve, rate), is_resolved=is_resolved)
    minima = _lowest_costs(curve, applications)
    eer, eer_interval = metrics.equal_error_rate(curve), None
    if draws is not None and eers is not None:
        eer_interval = _eer_interval(eer, eers, draws)
        points = _with_intervals([*thresholds.values(), *minima], scores, labels, draws)
        thresholds = dict(zip(thresholds, points, strict=False))
        minima = [_with_cost_interval(point, 1.0) for point in points if isinstance(point, DetectionCost)]
    rates = Rates(
        num_targets=curve.num_targets,
        num_nontargets=curve.num_nontargets,
        eer=eer,
        eer_convex_hull=metrics.equal_error_rate(metrics.convex_hull(curve)),
        eer_interval=eer_interval,
        min_dcf=tuple(minima),
        min_cllr=min_cllr(curve),
        thresholds=thresholds,
    )
    return rates if llrs is None else _with_llrs(rates, llrs, labels, draws, applications)


def _with_llrs(
    rates: Rates,
    llrs: ArrayLike,
    labels: ArrayLike,
    draws: Draws | None,
    applications: Sequence[Application],
) -> Rates:
    """Add the metrics of log-likelihood ratios [N] that decide without a threshold chosen on the trials."""
    curve = metrics.error_curve(llrs, labels)
    decided = list(dict.fromkeys((*applications, Application(p_target=0.5))))
    points = [metrics.threshold_point(curve, bayes_threshold(one.effective_prior)) for one in decided]
    bits, cllr_interval = cllr(llrs, labels), None
    if draws is not None:
        points = _with_intervals(points, llrs, labels, draws)
        samples = _resampled_cllr(llrs, labels, draws)
        cllr_interval = bootstrap.amount_interval(bits, samples, draws.multiplicities)
    return replace(
        rates,
        cllr=bits,
        cllr_interval=cllr_interval,
        min_cllr_llr=min_cllr(curve),
        act_dcf=tuple(
            _with_cost_interval(_cost(one, point)) for one, point in zip(applications, points, strict=False)
        ),
        min_dcf_llr=tuple(_lowest_costs(curve, applications)),
        bayes_thresholds={f"p_target_{one.name}": point for one, point in zip(decided, points, strict=True)},
    )


def _resampled_cllr(llrs: ArrayLike, labels: ArrayLike, draws: Draws) -> Floats:
    values, is_target = metrics.check_trials(llrs, labels)

    def bits(rows: slice) -> Floats:
        wrong_way = np.where(is_target[rows], -values[rows], values[rows])
        return np.asarray(np.logaddexp(0, wrong_way) / np.log(2), dtype=np.float64)

    of_targets, of_nontargets = bootstrap.resample_means(
        [bits], is_target, draws.speakers, draws.multiplicities
    )
    return (of_targets + of_nontargets)[:, 0] / 2


def summarize_group(
    value: str, scores: Floats, labels: NDArray[np.int8], draws: Draws | None, rows: NDArray[np.int64]
) -> Group:
    """Measure the trials `rows` of all scores and labels [N]; with one class only, there are counts but no rates."""
    scores, labels = scores[rows], labels[rows]
    num_targets = int(np.count_nonzero(labels))
    group = Group(value=value, num_targets=num_targets, num_nontargets=len(rows) - num_targets)
    if num_targets in (0, len(rows)):
        return group
    curve = metrics.error_curve(scores, labels)
    eer, interval = metrics.equal_error_rate(curve), None
    if draws is not None:
        whole = draws.speakers
        part = replace(whole, enroll=whole.enroll[rows], test=whole.test[rows])
        eers, _ = resample_crossings(scores, labels, part, draws.multiplicities)
        present = np.union1d(part.enroll, part.test)
        # With too few speakers, or too few with target trials, the rate has no interval.
        if len(present) >= bootstrap.MIN_SPEAKERS and 2 * np.count_nonzero(np.isfinite(eers)) >= len(eers):
            here = replace(draws, speakers=part, multiplicities=draws.multiplicities[:, present])
            interval = _eer_interval(eer, eers, here)
    lowest = tuple(_lowest_costs(curve, APPLICATIONS))
    return replace(group, eer=eer, eer_interval=interval, min_dcf=lowest)


def _lowest_costs(curve: metrics.ErrorCurve, applications: Sequence[Application]) -> list[DetectionCost]:
    return [_cost(one, metrics.min_dcf(curve, one.effective_prior)[1]) for one in applications]


def _cost(application: Application, point: OperatingPoint) -> DetectionCost:
    at = {field.name: getattr(part, field.name) for part in (point, application) for field in fields(part)}
    cost = metrics.detection_cost(point.miss_rate, point.false_accept_rate, application.effective_prior)
    return DetectionCost(**at, value=float(cost))


def _with_cost_interval(cost: DetectionCost, most: float = np.inf) -> DetectionCost:
    """Return a cost with an interval, made from those of its rates and cut at `most`.

    A threshold of lowest cost errs least on the trials that chose it. Resampling the choice does not help, because
    resamples share this luck. The intervals of the rates, which include what is possible without an error, are wide
    enough.
    """
    misses, accepts = cost.miss_rate_interval, cost.false_accept_rate_interval
    if misses is None or accepts is None:
        return cost
    interval = bootstrap.sum_interval(
        lambda miss, accept: float(metrics.detection_cost(miss, accept, cost.application.effective_prior)),
        (cost.miss_rate, misses),
        (cost.false_accept_rate, accepts),
    )
    return replace(cost, interval=replace(interval, high=min(interval.high, most)))


def _with_intervals(
    points: Sequence[Point], scores: ArrayLike, labels: ArrayLike, draws: Draws
) -> list[Point]:
    """Return P points with the intervals of their rates."""
    misses, accepts = bootstrap.resample_rates(
        scores, labels, draws.speakers, draws.multiplicities, [point.threshold for point in points]
    )
    return [
        replace(
            point,
            miss_rate_interval=bootstrap.rate_interval(
                point.miss_rate, missed, draws.multiplicities, draws.num_people
            ),
            false_accept_rate_interval=bootstrap.rate_interval(
                point.false_accept_rate, accepted, draws.multiplicities, draws.num_pairs
            ),
        )
        for point, missed, accepted in zip(points, misses.T, accepts.T, strict=True)
    ]


def _eer_interval(eer: float, samples: Floats, draws: Draws) -> Interval:
    """Return the interval of an EER with resampled values [R]; for 0, up to what the number of speakers allows."""
    interval = bootstrap.rate_interval(eer, samples, draws.multiplicities, draws.num_people)
    return replace(interval, speakers_from=draws.source)
