"""The metrics of one system on one trial list, each with its interval where speakers are resampled."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svkit.eval import bootstrap
from svkit.eval.llr import act_dcf, bayes_threshold, cllr, min_cllr
from svkit.eval.metrics import (
    ErrorCurve,
    check_trials,
    convex_hull,
    detection_cost,
    eer_point,
    equal_error_rate,
    error_curve,
    far_point,
    min_dcf,
    threshold_point,
)
from svkit.eval.results import Application, DetectionCost, Group, Interval, OperatingPoint, Rates

APPLICATIONS = tuple(Application(p_target=prior) for prior in (0.01, 0.05, 0.005, 0.001))
"""Of minDCF and actDCF: the usual target priors, with unit costs. Source: NIST SRE evaluation plans 2012 to 2021."""
FALSE_ACCEPT_RATES = (0.01, 0.001, 0.0001)
"""Rates whose thresholds are reported."""
BAND_RATES = tuple(float(rate) for rate in np.geomspace(1e-4, 0.6, 40))
"""False-accept rates at which the band of a DET curve is drawn."""

Floats = NDArray[np.float64]
Point = TypeVar("Point", bound=OperatingPoint)


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Draws:
    """Speakers of the trials and how often each is drawn in each resample; the same for systems that are compared."""

    speakers: bootstrap.TrialSpeakers
    multiplicities: NDArray[np.int64]
    """[R, S]."""
    source: str
    """Where the speakers are known from: `manifest` or `trials`."""


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Resampled:
    """One system in every resample."""

    eer: Floats
    """[R]."""
    min_dcf: Floats
    """[R, len(applications)]."""
    misses: Floats
    """[R, len(BAND_RATES)] miss rates at the false-accept rates of the DET band."""


def resample_errors(
    scores: ArrayLike, labels: ArrayLike, draws: Draws, applications: Sequence[Application] = APPLICATIONS
) -> Resampled:
    """Measure scores [N] with labels [N] in every resample; minDCF for each application."""
    band = bootstrap.miss_statistic(BAND_RATES)
    costs = [bootstrap.min_dcf_statistic(one.effective_prior) for one in applications]

    def statistic(miss: Floats, false_accept: Floats) -> Floats:
        columns = [one(miss, false_accept)[:, None] for one in (bootstrap.eer_statistic, *costs)]
        return np.concatenate([*columns, band(miss, false_accept)], axis=1)

    found = bootstrap.resample(scores, labels, draws.speakers, draws.multiplicities, statistic)
    first_miss = 1 + len(costs)
    return Resampled(eer=found[:, 0], min_dcf=found[:, 1:first_miss], misses=found[:, first_miss:])


def summarize(
    scores: ArrayLike,
    labels: ArrayLike,
    llrs: ArrayLike | None = None,
    draws: Draws | None = None,
    resampled: Resampled | None = None,
    applications: Sequence[Application] = APPLICATIONS,
) -> Rates:
    """Compute every metric of scored trials.

    Args:
        scores: [N].
        labels: [N] 1 for target, 0 for nontarget.
        llrs: [N] natural-log likelihood ratios of the same trials; adds Cllr, actDCF and the Bayes decisions.
        draws: resampled speakers of the trials; adds intervals.
        resampled: what `resample_errors` found for them and the same applications; given with `draws`.
        applications: of the detection costs.

    Raises:
        DataError: see `metrics.check_trials`; or most resamples are undefined.
    """
    curve = error_curve(scores, labels)
    thresholds = {"eer": eer_point(curve)}
    for rate in sorted(FALSE_ACCEPT_RATES, reverse=True):
        is_resolved = curve.num_nontargets * rate * (1 + 1e-12) >= 1
        thresholds[f"far_{rate:g}"] = replace(far_point(curve, rate), is_resolved=is_resolved)
    minima = _lowest_costs(curve, applications)
    eer_interval = None
    if draws is not None and resampled is not None:
        num_speakers = draws.speakers.num_speakers
        eer_interval = _interval(resampled.eer, num_speakers, draws.source)
        points = _with_intervals([*thresholds.values()], scores, labels, draws)[0]
        thresholds = dict(zip(thresholds, points, strict=True))
        minima = [
            replace(cost, interval=_interval(values, num_speakers))
            for cost, values in zip(
                _with_intervals(minima, scores, labels, draws)[0], resampled.min_dcf.T, strict=True
            )
        ]
    rates = Rates(
        num_targets=curve.num_targets,
        num_nontargets=curve.num_nontargets,
        eer=equal_error_rate(curve),
        eer_convex_hull=equal_error_rate(convex_hull(curve)),
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
    """Add what log-likelihood ratios [N] give when they decide by themselves."""
    curve = error_curve(llrs, labels)
    decided = list(dict.fromkeys((*applications, Application(p_target=0.5))))
    points = [threshold_point(curve, bayes_threshold(one.effective_prior)) for one in decided]
    cost_intervals: list[Interval | None] = [None] * len(decided)
    cllr_interval = None
    if draws is not None:
        num_speakers = draws.speakers.num_speakers
        points, misses, accepts = _with_intervals(points, llrs, labels, draws)
        cost_intervals = [
            _interval(detection_cost(misses[:, place], accepts[:, place], one.effective_prior), num_speakers)
            for place, one in enumerate(decided)
        ]
        cllr_interval = _interval(_resampled_cllr(llrs, labels, draws), num_speakers)
    return replace(
        rates,
        cllr=cllr(llrs, labels),
        cllr_interval=cllr_interval,
        min_cllr_llr=min_cllr(curve),
        act_dcf=tuple(
            _cost(one, act_dcf(curve, one.effective_prior)[0], point, interval)
            for one, point, interval in zip(applications, points, cost_intervals, strict=False)
        ),
        min_dcf_llr=tuple(_lowest_costs(curve, applications)),
        bayes_thresholds={f"p_target_{one.name}": point for one, point in zip(decided, points, strict=True)},
    )


def _resampled_cllr(llrs: ArrayLike, labels: ArrayLike, draws: Draws) -> Floats:
    values, is_target = check_trials(llrs, labels)

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
    """Measure the trials `rows` of all, scores and labels [N]; with one class only there are counts and no rates."""
    scores, labels = scores[rows], labels[rows]
    num_targets = int(np.count_nonzero(labels))
    group = Group(value=value, num_targets=num_targets, num_nontargets=len(rows) - num_targets)
    if num_targets in (0, len(rows)):
        return group
    curve = error_curve(scores, labels)
    interval = None
    if draws is not None:
        whole = draws.speakers
        part = replace(whole, enroll=whole.enroll[rows], test=whole.test[rows])
        eers = bootstrap.resample(scores, labels, part, draws.multiplicities, bootstrap.eer_statistic)
        present = len(np.union1d(part.enroll, part.test))
        # Too few speakers, or too few with target trials: the rate stands without an interval.
        if present >= bootstrap.MIN_SPEAKERS and 2 * np.count_nonzero(np.isfinite(eers)) >= len(eers):
            interval = _interval(eers, present)
    return replace(
        group,
        eer=equal_error_rate(curve),
        eer_interval=interval,
        min_dcf=tuple(_lowest_costs(curve, APPLICATIONS)),
    )


def _lowest_costs(curve: ErrorCurve, applications: Sequence[Application]) -> list[DetectionCost]:
    return [_cost(one, *min_dcf(curve, one.effective_prior)) for one in applications]


def _cost(
    application: Application, value: float, point: OperatingPoint, interval: Interval | None = None
) -> DetectionCost:
    at = {field.name: getattr(part, field.name) for part in (point, application) for field in fields(part)}
    return DetectionCost(**at, value=value, interval=interval)


def _with_intervals(
    points: Sequence[Point], scores: ArrayLike, labels: ArrayLike, draws: Draws
) -> tuple[list[Point], Floats, Floats]:
    """Return P points with the intervals of their rates, and the resampled miss and false-accept rates [R, P]."""
    misses, accepts = bootstrap.resample_rates(
        scores, labels, draws.speakers, draws.multiplicities, [point.threshold for point in points]
    )
    size = draws.speakers.num_speakers
    resampled = [
        replace(
            point,
            miss_rate_interval=_interval(missed, size),
            false_accept_rate_interval=_interval(accepted, size),
        )
        for point, missed, accepted in zip(points, misses.T, accepts.T, strict=True)
    ]
    return resampled, misses, accepts


def _interval(samples: Floats, num_speakers: int, source: str | None = None) -> Interval | None:
    """Return the interval of resampled values [R], None where all agree.

    Trials without an error have none in any resample, which says nothing about how rare errors are.
    """
    interval = bootstrap.percentile_interval(samples, num_speakers)
    return None if interval.low == interval.high else replace(interval, speakers_from=source)
