"""The metrics of one system on one trial list, gathered for `metrics.json`."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svkit.eval import bootstrap
from svkit.eval.llr import act_dcf, bayes_threshold, cllr, min_cllr
from svkit.eval.metrics import (
    OperatingPoint,
    convex_hull,
    eer_point,
    equal_error_rate,
    error_curve,
    far_point,
    min_dcf,
    threshold_point,
)

PRIORS = (0.01, 0.05, 0.001)
"""Target priors of minDCF and actDCF, with unit costs."""

FALSE_ACCEPT_RATES = (0.01, 0.001, 0.0001)
"""Rates whose thresholds are reported."""


def summarize(scores: ArrayLike, labels: ArrayLike, llrs: ArrayLike | None = None) -> dict[str, Any]:
    """Compute every metric of scored trials; rates are fractions, thresholds are on the scale of the scores.

    Args:
        scores: [N].
        labels: [N] 1 for target, 0 for nontarget.
        llrs: [N] natural-log likelihood ratios of the same trials; adds Cllr, actDCF and the Bayes decisions.

    Raises:
        DataError: see `metrics.check_trials`.
    """
    curve = error_curve(scores, labels)
    hull = convex_hull(curve)
    minima = [(prior, *min_dcf(curve, prior)) for prior in PRIORS]
    summary: dict[str, Any] = {
        "num_targets": curve.num_targets,
        "num_nontargets": curve.num_nontargets,
        "eer": equal_error_rate(curve),
        "eer_convex_hull": equal_error_rate(hull),
        "min_dcf": [cost_facts(prior, cost, point) for prior, cost, point in minima],
        "min_cllr": min_cllr(curve),
        "thresholds": {
            "eer": _point(eer_point(curve)),
            **{
                f"far_{rate:g}": {
                    **_point(far_point(curve, rate)),
                    "is_resolved": curve.num_nontargets * rate * (1 + 1e-12) >= 1,
                }
                for rate in sorted(FALSE_ACCEPT_RATES, reverse=True)
            },
        },
    }
    if llrs is not None:
        calibrated = error_curve(llrs, labels)
        actual = [(prior, *act_dcf(calibrated, prior)) for prior in PRIORS]
        summary["cllr"] = cllr(llrs, labels)
        summary["min_cllr_llr"] = min_cllr(calibrated)
        summary["act_dcf"] = [cost_facts(prior, cost, point) for prior, cost, point in actual]
        summary["min_dcf_llr"] = [cost_facts(prior, *min_dcf(calibrated, prior)) for prior in PRIORS]
        summary["bayes_thresholds"] = {
            f"p_target_{prior:g}": _point(threshold_point(calibrated, bayes_threshold(prior)))
            for prior in (*PRIORS, 0.5)
        }
    return summary


def _point(point: OperatingPoint) -> dict[str, float]:
    return {
        "threshold": point.threshold,
        "miss_rate": point.miss_rate,
        "false_accept_rate": point.false_accept_rate,
    }


def cost_facts(prior: float, cost: float, point: OperatingPoint) -> dict[str, float]:
    """Return a detection cost with its prior, unit costs and operating point."""
    return {"p_target": prior, "c_miss": 1.0, "c_fa": 1.0, "value": cost, **_point(point)}


def interval_facts(samples: NDArray[np.float64], num_speakers: int) -> dict[str, Any] | None:
    """Return the 95 % interval of resampled values [R] with what it rests on.

    None where all resamples agree: trials without an error have none in any resample, which says nothing about how
    rare errors are.

    Raises:
        DataError: most resamples are undefined.
    """
    interval = bootstrap.percentile_interval(samples, num_speakers)
    if interval.low == interval.high:
        return None
    return {
        "low": interval.low,
        "high": interval.high,
        "level": interval.level,
        "num_resamples": len(samples),
        "num_speakers": num_speakers,
    }
