"""Turn a score into a log-likelihood ratio by a recorded calibration: its features, its map and its cautions."""

from math import exp
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svkit.eval.llr import count_bounds
from svkit.eval.logistic import LinearCalibration, pair_quality
from svkit.store.calibration import CalibrationRecord, Decision

PAIR_FEATURES = ("score", "log_norm_low", "log_norm_high", "log_duration_low", "log_duration_high")
"""Features of two recordings that need no cohort."""


def pair_features(
    scores: NDArray[np.float64],
    log_norms: tuple[NDArray[np.float64], float],
    seconds: tuple[NDArray[np.float64], float],
) -> NDArray[np.float64]:
    """Return the `PAIR_FEATURES` [T, 5] of the trials of T enrolled sides with one test side."""
    sides = (log_norms, (np.log(seconds[0]), np.log(seconds[1])))
    measures = [pair_quality(enroll, np.full(len(scores), test)) for enroll, test in sides]
    return np.concatenate([scores[:, None], *measures], axis=1)


def needs_a_cohort(record: CalibrationRecord) -> bool:
    """Whether a calibration of cosine scores uses more than the two sides of a trial."""
    return record.features not in (PAIR_FEATURES[:1], PAIR_FEATURES)


def map_of(record: CalibrationRecord) -> LinearCalibration:
    """Return the map of a calibration, within the recorded bounds, or else within those that follow from its counts."""
    return LinearCalibration(
        weights=record.weights,
        offset=record.offset,
        bounds=record.bounds or count_bounds(record.num_targets, record.num_nontargets),
        is_separable=bool(record.is_separable),
    )


def score_at(record: CalibrationRecord, llr: float) -> float | None:
    """Return the score that has this log-likelihood ratio (before bounds); None: it depends on the recordings."""
    return (llr - record.offset) / record.weights[0] if len(record.weights) == 1 else None


def people_needed(decision: Decision) -> int:
    """Return how many people it takes to show the false-accept rate that a decision aims at."""
    # Imported here, because they import scipy.sparse, which `svkit verify` needs for nothing else.
    from svkit.eval.bootstrap import MIN_SPEAKERS
    from svkit.eval.decision import people_to_show

    # Like a rate of 1 in N, a ratio of N to 1 takes N pairs of people without an error.
    rate = decision.false_accepts or exp(-max(decision.point.threshold, 0))
    return people_to_show(rate) if rate < 1 else MIN_SPEAKERS


def lowest_shown(people: int) -> float:
    """Return the lowest false-accept rate that so many people can show: none of their pairs is accepted."""
    from svkit.eval.bootstrap import highest_unseen

    return highest_unseen(people * (people - 1) // 2)


def too_few_people(record: CalibrationRecord) -> str | None:
    """Say that the calibration's people cannot show what its decision aims at; None: they can, or are not known."""
    decision, people = record.decision, len(record.speakers or ())
    if decision is None or not people or people >= people_needed(decision):
        return None
    aim = f"a ratio of {decision.point.threshold:+.2f} is not assured: "
    if decision.false_accepts is not None:
        aim = f"{100 * decision.false_accepts:g} % false accepts is not assured: "
        if (highest := highest_rate(decision)) > decision.false_accepts:
            aim += f"by what was measured it may be {100 * highest:.3g} %, and "
    return (
        f"{aim}the calibration was learnt on {people} people, whose pairs, even without a single error, show no rate"
        f" below {100 * lowest_shown(people):.2g} %; it takes at least {people_needed(decision):,} people"
    )


def misses_target(decision: Decision) -> bool:
    """Whether the false-accept rate that was measured is above the target, and not by chance: so is its interval."""
    target, measured = decision.false_accepts, decision.point.false_accept_rate_interval
    return (
        target is not None
        and (decision.point.false_accept_rate if measured is None else measured.low) > target
    )


def highest_rate(decision: Decision) -> float:
    """Return how high the false-accept rate that was measured may be, by its interval."""
    interval = decision.point.false_accept_rate_interval
    return decision.point.false_accept_rate if interval is None else interval.high


MANY_MISSES = 0.2
"""From this miss rate on, a rejection says little."""


def weak_rejection(record: CalibrationRecord) -> str | None:
    """Say that a rejection means little, if the decision of a calibration misses many; None: it means something."""
    decision = record.decision
    if decision is None or decision.point.miss_rate < MANY_MISSES:
        return None
    return (
        f"a rejection alone is weak evidence: where it was measured, {100 * decision.point.miss_rate:.2g} % of the"
        " pairs of one person were rejected; the likelihood ratio says more"
    )


def limits_of_target(record: CalibrationRecord) -> list[str]:
    """Say why a decision may not keep its target: it was missed, or what was measured is too little."""
    found, decision = list(filter(None, (too_few_people(record),))), record.decision
    if decision is None or decision.false_accepts is None:
        return found
    target = f"the target of {100 * decision.false_accepts:g} % false accepts"
    if misses_target(decision):
        missed = f"{target} was missed where it was measured: {100 * decision.point.false_accept_rate:.3g} %"
        found.insert(0, missed)
    elif not found and (highest := highest_rate(decision)) > decision.false_accepts:
        found.append(
            f"{target} is neither missed nor assured: by what was measured, it may be {100 * highest:.3g} %"
        )
    return found


SEVERAL_RECORDINGS = (
    "the likelihood ratio, like any rate that was measured, is approximate: the calibration was learnt on pairs of"
    " single recordings, and here several are averaged; giving several is still better than one"
)


def slope_caution(record: CalibrationRecord) -> str | None:
    """Return a caution if the ratio falls with the score, or if trials without an error leave its slope open."""
    counts = f"{record.num_targets:,} target and {record.num_nontargets:,} nontarget trials"
    learnt = f"the calibration learnt on {record.trials.name} ({counts}"
    if record.weights[0] <= 0 and record.backend.name != "fusion":
        return (
            f"{learnt}) falls with the score, which was higher for two speakers than for one; is this a trained speaker"
            " model?"
        )
    if not record.is_separable:
        return None
    low, high = map_of(record).bounds
    return (
        f"{learnt}, which a threshold separates without error) has a slope that is set by its penalty alone; its"
        f" log-likelihood ratios, from {low:+.1f} to {high:+.1f}, are a guess"
    )


def bounds_gap(path: Path, record: CalibrationRecord) -> str | None:
    """Say what a calibration of an earlier svkit does not record; None: it records everything."""
    if record.is_separable is not None and record.bounds is not None:
        return None
    low, high = map_of(record).bounds
    return (
        f"{path}: whether the trials it was learnt on have errors (an earlier svkit did not record it): log-likelihood"
        f" ratios are bounded by the number of trials alone, from {low:+.1f} to {high:+.1f}"
    )


def distrust(record: CalibrationRecord) -> list[str]:
    """Return why the ratios of this calibration should not be trusted."""
    allowed = [f"the calibration was learnt in spite of a warning: {caution}" for caution in record.cautions]
    return [*filter(None, (slope_caution(record),)), *allowed]
