"""Calibration against a general minimiser, closed forms and leak checks."""

import numpy as np
import pytest
from scipy.optimize import minimize

from svkit.errors import ConfigError, DataError
from svkit.eval import logistic as calibration
from svkit.eval.bootstrap import TrialSpeakers
from svkit.eval.llr import cllr, count_bounds, min_cllr
from svkit.eval.metrics import error_curve


def trials(num=4000, share=0.2, d_prime=2.0, seed=0):
    """Scores that are calibrated LLRs after an affine map: llr = 4 * score - 1."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(num) < share).astype(int)
    llrs = d_prime * (rng.normal(size=num) + d_prime * labels) - d_prime**2 / 2
    return (llrs + 1) / 4, labels, llrs


def test_weights_are_those_of_weighted_logistic_regression():
    prior = calibration.PRIOR
    scores, labels, _ = trials()
    features = np.stack((scores, np.random.default_rng(1).normal(size=len(scores)) + labels), axis=1)
    found = calibration.fit_calibration(features, labels)

    def loss(solution):  # mean cost of each class, weighed by its prior, written out
        llrs = features @ solution[:2] + solution[2]
        log_odds = np.log(prior / (1 - prior))
        cost = prior * np.mean(np.log1p(np.exp(-llrs - log_odds))[labels == 1])
        return cost + (1 - prior) * np.mean(np.log1p(np.exp(llrs + log_odds))[labels == 0])

    best = minimize(loss, np.zeros(3), tol=1e-9)
    np.testing.assert_allclose([*found.weights, found.offset], best.x, rtol=1e-3, atol=1e-3)


def test_the_true_map_is_found_whatever_the_share_of_targets():
    for share in (0.05, 0.5):
        scores, labels, llrs = trials(num=60_000, share=share)
        found = calibration.fit_calibration(scores[:, None], labels)
        assert found.weights[0] == pytest.approx(4, rel=0.06)
        assert found.offset == pytest.approx(-1, abs=0.15)
        assert cllr(found.apply(scores[:, None]), labels) == pytest.approx(cllr(llrs, labels), abs=0.003)


def test_scale_of_the_scores_does_not_matter():
    scores, labels, _ = trials()
    plain = calibration.fit_calibration(scores[:, None], labels)
    shifted = calibration.fit_calibration(1000 * scores[:, None] + 5e4, labels)
    np.testing.assert_allclose(
        plain.apply(scores[:, None]), shifted.apply(1000 * scores[:, None] + 5e4), atol=1e-5
    )


def test_trials_without_an_error_stay_finite():
    found = calibration.fit_calibration(np.array([[-1.0], [-0.9], [0.9], [1.0]]), [0, 0, 1, 1])
    llrs = found.apply(np.array([[-1.0], [1.0]]))
    assert np.isfinite(llrs).all() and llrs[0] < -5 and llrs[1] > 5
    assert found.is_separable and found.bounds == pytest.approx(count_bounds(2, 2))
    np.testing.assert_allclose(llrs.clip(*found.bounds), [-np.log(2), np.log(2)])


def test_trials_with_an_error_are_not_separable_and_support_less():
    scores, labels, _ = trials()
    found = calibration.fit_calibration(scores[:, None], labels)
    low, high = count_bounds(labels.sum(), (1 - labels).sum())
    assert not found.is_separable and low < found.bounds[0] < -2 and 2 < found.bounds[1] < high
    # Touching is separable too: the slope that fits best is not finite either.
    assert calibration.fit_calibration(np.array([[0.0], [1.0], [1.0], [2.0]]), [0, 0, 1, 1]).is_separable


def test_each_trial_has_the_bounds_of_its_own_map():
    _, labels, speakers = all_pairs(12)
    far = 100 * labels[:, None] - 50.0
    found = calibration.cross_validate(far, labels, speakers, 4, seed=0)
    assert found.num_separable == found.num_maps == 10
    assert np.abs(found.unbounded).min() > 5 and len(np.unique(found.llrs)) > 2
    assert np.abs(found.llrs).max() < count_bounds(labels.sum(), (1 - labels).sum())[1]
    features, labels, speakers = all_pairs(40)
    assert calibration.cross_validate(features, labels, speakers, 4, seed=0).num_separable == 0


def test_a_useful_quality_measure_lowers_cllr():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 6000)
    noise = rng.uniform(0, 2, 6000)
    scores = labels + 0.4 * rng.normal(size=6000) - 0.8 * noise  # the score falls with the noise of a trial
    alone = calibration.fit_calibration(scores[:, None], labels)
    both = np.stack((scores, noise), axis=1)
    aided = calibration.fit_calibration(both, labels)
    assert cllr(aided.apply(both), labels) < 0.75 * cllr(alone.apply(scores[:, None]), labels)


def test_a_constant_feature_is_harmless():
    scores, labels, _ = trials(500)
    features = np.stack((scores, np.full(500, 7.0)), axis=1)
    plain = calibration.fit_calibration(scores[:, None], labels)
    found = calibration.fit_calibration(features, labels)
    np.testing.assert_allclose(found.apply(features), plain.apply(scores[:, None]), atol=1e-6)


def all_pairs(num_speakers, seed=0):
    rng = np.random.default_rng(seed)
    a, b = (side.ravel() for side in np.meshgrid(np.arange(num_speakers), np.arange(num_speakers)))
    labels = (a == b).astype(int)
    scores = labels + 0.5 * rng.normal(size=len(labels))
    return scores[:, None], labels, TrialSpeakers(enroll=a, test=b, num_speakers=num_speakers)


def test_cross_validation_never_learns_from_a_speaker_it_judges():
    features, labels, speakers = all_pairs(12)
    before = calibration.cross_validate(features, labels, speakers, 4, seed=0).unbounded
    assert np.isfinite(before).all()
    mine = (speakers.enroll == 0) | (speakers.test == 0)
    poisoned = features.copy()
    poisoned[mine] += 50.0  # had any of these been learnt from, the others' maps for speaker 0 would move
    after = calibration.cross_validate(poisoned, labels, speakers, 4, seed=0).unbounded
    shift = (after - before)[mine]
    slopes = shift / 50.0
    plain = [calibration.fit_calibration(features, labels).weights[0]]
    assert slopes.min() > 0.3 * plain[0]
    # The map is the same as before: the shift is exactly slope * 50 with the slope of the clean maps.
    doubled = features.copy()
    doubled[mine] += 100.0
    again = calibration.cross_validate(doubled, labels, speakers, 4, seed=0).unbounded
    np.testing.assert_allclose((again - before)[mine], 2 * shift, rtol=1e-9)


def test_cross_validated_cllr_is_close_to_the_minimum():
    features, labels, speakers = all_pairs(40)
    llrs = calibration.cross_validate(features, labels, speakers, 5, seed=1).llrs
    assert (
        min_cllr(error_curve(llrs, labels))
        <= cllr(llrs, labels)
        < 1.3 * cllr(calibration.fit_calibration(features, labels).apply(features), labels)
    )


def test_bad_requests_are_refused():
    features, labels, speakers = all_pairs(5)
    for folds in (2, 6):
        with pytest.raises(ConfigError, match="expected 3 to 5"):
            calibration.cross_validate(features, labels, speakers, folds, seed=0)
    with pytest.raises(DataError, match="finite"):
        calibration.fit_calibration(np.array([[0.0, np.nan], [1.0, 1.0]]), [0, 1])
    with pytest.raises(DataError, match="2 targets and 0 nontargets"):
        calibration.fit_calibration(np.array([[0.0], [1.0]]), [1, 1])
    with pytest.raises(DataError, match=r"\[N, 1\]"):
        calibration.fit_calibration(features, labels).apply(np.zeros((2, 3)))


def test_pair_quality_is_symmetric():
    np.testing.assert_array_equal(calibration.pair_quality([1, 5], [3, 2]), [[1, 3], [2, 5]])
    np.testing.assert_array_equal(
        calibration.pair_quality([1, 5], [3, 2]), calibration.pair_quality([3, 2], [1, 5])
    )
