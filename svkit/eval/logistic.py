"""Calibration: a linear map from a score, and measures of quality, to a natural-log likelihood ratio.

Source: N. Brummer and D. van Leeuwen, "On calibration of language recognition scores", 2006 (prior-weighted
logistic regression); J. Thienpondt et al., "The IDLab VoxCeleb speaker recognition challenge 2020 system
description" (quality measures: duration, embedding norm, mean score against impostors).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from svkit.errors import ConfigError, DataError
from svkit.eval.llr import supported_bounds
from svkit.eval.metrics import check_trials, error_curve, far_point

if TYPE_CHECKING:
    from svkit.eval.bootstrap import TrialSpeakers

Floats = NDArray[np.float64]

PRIOR = 0.05
"""Target prior to which the regression weights the trials: between the priors of the reported minDCF and 0.5."""

RIDGE = 1e-6
"""Penalty on standardised weights: keeps them finite on trials without an error, and hardly changes others."""

MAX_STEPS = 100
TOLERANCE = 1e-8
"""Largest gradient at which the regression stops."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearCalibration:
    """LLR = offset + sum of weight * feature, clipped to the bounds; the first feature is the score."""

    weights: tuple[float, ...]
    offset: float
    bounds: tuple[float, float] = (-np.inf, np.inf)
    """What the trials it was learnt on support (`svkit.eval.llr.supported_bounds`)."""
    is_separable: bool = False
    """Those trials had no error at some threshold, so that only the penalty keeps the weights finite."""

    def apply(self, features: NDArray[np.floating]) -> Floats:
        """Map features [N, F] to ratios [N], not clipped to the bounds.

        Raises:
            DataError: the number of features differs from that the calibration was learnt with.
        """
        if features.ndim != 2 or features.shape[1] != len(self.weights):
            raise DataError(
                f"calibration: expected [N, {len(self.weights)}] features, found {features.shape}"
            )
        return np.asarray(features @ np.asarray(self.weights) + self.offset, dtype=np.float64)


def fit_calibration(features: NDArray[np.floating], labels: ArrayLike) -> LinearCalibration:
    """Learn a map of features [N, F] by logistic regression in which targets weigh `PRIOR` and nontargets the rest.

    Raises:
        DataError: the trials are of one class only, or a feature is not finite.
    """
    _, is_target = check_trials(features[:, 0], labels)
    if not np.isfinite(features).all():
        raise DataError("calibration: expected finite features")
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    weight = np.where(is_target, PRIOR / is_target.sum(), (1 - PRIOR) / (~is_target).sum())
    from sklearn.linear_model import LogisticRegression  # takes a second to import; only learning needs it

    regression = LogisticRegression(C=1 / RIDGE, solver="newton-cholesky", tol=TOLERANCE, max_iter=MAX_STEPS)
    regression.fit(np.asarray((features - mean) / scale), is_target, sample_weight=weight)
    weights = regression.coef_[0] / scale
    # The regression gives log-odds at the prior that the trials were weighted to.
    offset = regression.intercept_[0] - np.log(PRIOR / (1 - PRIOR)) - weights @ mean
    plain = LinearCalibration(weights=tuple(weights.tolist()), offset=float(offset))
    llrs = plain.apply(features)
    return replace(
        plain,
        bounds=supported_bounds(llrs, is_target),
        is_separable=bool(llrs[is_target].min() >= llrs[~is_target].max()),
    )


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class CrossValidated:
    """All trials, each calibrated by a map learnt on others."""

    unbounded: Floats
    """[N] ratios without bounds, to rank by."""
    llrs: Floats
    """[N] natural-log likelihood ratios, each within the bounds of its map."""
    thresholds: Floats
    """[R, N] unbounded ratio at which the trials of each map have the requested false-accept rates."""
    num_maps: int
    num_separable: int
    """Maps whose trials had no error."""


def cross_validate(
    features: NDArray[np.floating],
    labels: ArrayLike,
    speakers: "TrialSpeakers",
    num_folds: int,
    seed: int,
    false_accept_rates: Sequence[float] = (),
    on_map: Callable[[], object] = lambda: None,
) -> CrossValidated:
    """Calibrate every trial with a map learnt on trials of other speakers only.

    Speakers are dealt into folds, those with target trials first, so that folds have equally many of them. A trial
    between folds f and g gets the map of the trials without a speaker of f or g and, for each of `false_accept_rates`,
    the lowest threshold at which these trials have no higher rate. `on_map` is called after each of the
    num_folds * (num_folds + 1) / 2 pairs of folds.

    Raises:
        ConfigError: there are fewer than 3 folds, or more folds than speakers.
        DataError: the other speakers of a fold have no target or no nontarget trials.
    """
    # A trial between two folds needs a third one to learn from.
    if not 3 <= num_folds <= speakers.num_speakers:
        raise ConfigError(
            f"--calibrate-folds: expected 3 to {speakers.num_speakers} (the number of speakers),"
            f" found {num_folds}"
        )
    given = np.asarray(labels)
    order = np.random.default_rng(np.random.SeedSequence(seed)).permutation(speakers.num_speakers)
    has_targets = np.isin(order, speakers.enroll[given == 1])
    order = order[np.argsort(~has_targets, kind="stable")]
    fold = np.empty(speakers.num_speakers, dtype=np.int64)
    fold[order] = np.arange(speakers.num_speakers) % num_folds
    left, right = fold[speakers.enroll], fold[speakers.test]
    unbounded, llrs = np.full((2, len(given)), np.nan)
    thresholds = np.full((len(false_accept_rates), len(given)), np.nan)
    fitted: list[LinearCalibration] = []
    for first in range(num_folds):
        for second in range(first, num_folds):
            held_out = ((left == first) & (right == second)) | ((left == second) & (right == first))
            if held_out.any():
                others = ~np.isin(left, (first, second)) & ~np.isin(right, (first, second))
                fitted.append(fit_calibration(features[others], given[others]))
                unbounded[held_out] = fitted[-1].apply(features[held_out])
                llrs[held_out] = unbounded[held_out].clip(*fitted[-1].bounds)
                if false_accept_rates:
                    # Chosen on the trials that the map was learnt on, so that it too has never seen the held-out ones.
                    curve = error_curve(fitted[-1].apply(features[others]), given[others])
                    for row, rate in zip(thresholds, false_accept_rates, strict=True):
                        row[held_out] = far_point(curve, rate).threshold
            on_map()
    return CrossValidated(
        unbounded=unbounded,
        llrs=llrs,
        thresholds=thresholds,
        num_maps=len(fitted),
        num_separable=sum(one.is_separable for one in fitted),
    )


def pair_quality(enroll: ArrayLike, test: ArrayLike) -> Floats:
    """Return the lower and the higher value of a measure of both sides, [N, 2]; the order of sides is lost."""
    both = np.stack((np.asarray(enroll, dtype=np.float64), np.asarray(test, dtype=np.float64)), axis=1)
    return np.sort(both, axis=1)
