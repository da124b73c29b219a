"""Log-likelihood-ratio metrics against direct sums and their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import norm
from sklearn.isotonic import IsotonicRegression

from svkit.errors import ConfigError
from svkit.eval import llr
from svkit.eval.metrics import detection_cost, error_curve, min_dcf, threshold_point
from svkit.eval.results import Application
from svkit.eval.summary import summarize


def gaussian_llrs(num=40_000, d_prime=2.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, num)
    return d_prime * (rng.normal(size=num) + d_prime * labels) - d_prime**2 / 2, labels


def test_cllr_of_no_information_is_one_bit_and_of_certainty_zero():
    assert llr.cllr([0.0, 0.0, 0.0], [0, 1, 1]) == pytest.approx(1.0)
    assert llr.cllr([-800.0, 800.0], [0, 1]) == pytest.approx(0.0)
    assert llr.cllr([800.0, -800.0], [0, 1]) == pytest.approx(800 / np.log(2))


def test_cllr_weighs_the_classes_alike():
    assert llr.cllr([1.0, -2.0], [1, 0]) == pytest.approx(llr.cllr([1.0, -2.0, -2.0, -2.0], [1, 0, 0, 0]))


def test_calibrated_gaussians_lose_nothing_and_shifted_ones_do():
    values, labels = gaussian_llrs()
    curve = error_curve(values, labels)
    best = llr.min_cllr(curve)
    assert best <= llr.cllr(values, labels) <= best + 0.01
    assert llr.cllr(values + 3, labels) > best + 0.1
    assert llr.min_cllr(error_curve(values + 3, labels)) == pytest.approx(best)
    for p_target in (0.05, 0.5):
        point = threshold_point(curve, llr.bayes_threshold(p_target))
        cost = detection_cost(point.miss_rate, point.false_accept_rate, p_target)
        assert cost == pytest.approx(min_dcf(curve, p_target)[0], abs=0.06)


def test_act_dcf_decides_at_the_bayes_threshold():
    values = np.array([-5.0, 2.9, 3.0, 1.0, 4.0])
    labels = np.array([0, 0, 0, 1, 1])
    found = summarize(values, labels, values, applications=[Application(p_target=0.05)]).act_dcf
    assert found is not None
    (cost,) = found
    assert cost.threshold == pytest.approx(np.log(19))  # 2.944
    assert (cost.miss_rate, cost.false_accept_rate) == (0.5, pytest.approx(1 / 3))
    assert cost.value == pytest.approx(0.5 + 19 / 3)
    assert llr.bayes_threshold(0.5, c_fa=10) == pytest.approx(np.log(10))


def test_min_cllr_is_the_minimum_over_monotone_maps():
    scores = np.array([1, 2, 2, 3, 4, 5, 6], dtype=float)
    labels = np.array([0, 1, 0, 0, 1, 0, 1])

    def cost(steps):  # a non-decreasing map of six distinct scores, by its increments
        levels = steps[0] + np.concatenate(([0], np.cumsum(np.square(steps[1:]))))
        return llr.cllr(levels[[0, 1, 1, 2, 3, 4, 5]], labels)

    best = min(
        minimize(cost, start, method="Powell", options={"maxiter": 4000}).fun
        for start in (np.full(6, 0.5), np.array([-3, 1, 0.1, 1, 0.1, 2.0]))
    )
    assert llr.min_cllr(error_curve(scores, labels)) == pytest.approx(best, abs=2e-3)


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
def test_min_cllr_is_that_of_scikit_learns_isotonic_regression(rows):
    values, labels = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows], int)
    if len(set(labels.tolist())) < 2:
        return
    posterior = IsotonicRegression().fit(values, labels).predict(values)
    with np.errstate(divide="ignore"):
        llrs = np.log(posterior / (1 - posterior)) - np.log(labels.sum() / (len(labels) - labels.sum()))
    bits = [np.logaddexp(0, np.where(labels, -llrs, llrs))[labels == label].mean() for label in (0, 1)]
    assert llr.min_cllr(error_curve(values, labels)) == pytest.approx(np.mean(bits) / np.log(2), abs=1e-9)


def test_cllr_of_calibrated_gaussians_is_the_integral():
    """LLRs of two unit Gaussians d' apart are N(+-d'^2 / 2, d'^2): Cllr is an integral over that density."""
    d_prime = 2.0
    grid = np.linspace(-30, 30, 200_001)
    density = norm.pdf(grid, d_prime**2 / 2, d_prime)
    expected = np.sum(density * np.logaddexp(0, -grid)) * (grid[1] - grid[0]) / np.log(2)
    quantiles = norm.ppf((np.arange(50_000) + 0.5) / 50_000)
    llrs = np.concatenate((d_prime * quantiles + d_prime**2 / 2, d_prime * quantiles - d_prime**2 / 2))
    assert llr.cllr(llrs, np.repeat([1, 0], 50_000)) == pytest.approx(expected, abs=2e-4)


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=20))
def test_min_cllr_never_exceeds_cllr_or_one_bit(rows):
    values, labels = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows], int)
    if len(set(labels.tolist())) == 2:
        best = llr.min_cllr(error_curve(values, labels))
        assert -1e-12 <= best <= min(1.0, llr.cllr(values, labels)) + 1e-9


@pytest.mark.parametrize(("p_target", "c_miss"), [(0.0, 1), (1.0, 1), (0.5, 0)])
def test_impossible_costs_are_refused(p_target, c_miss):
    with pytest.raises(ConfigError, match="0 < p_target < 1"):
        llr.bayes_threshold(p_target, c_miss)


def test_reliability_lies_on_the_diagonal_when_calibrated_and_off_it_when_shifted():
    values, labels = gaussian_llrs()
    stated, observed = llr.reliability(values, labels.astype(bool), 10)
    assert 8 <= len(stated) <= 10 and (np.diff(stated) > 0).all()
    np.testing.assert_allclose(observed[1:-1], stated[1:-1], atol=0.2)  # the outer bins are wide
    shifted, seen = llr.reliability(values + 2, labels.astype(bool), 10)
    np.testing.assert_allclose(shifted, stated + 2, atol=1e-6)
    np.testing.assert_allclose(seen, observed)


def test_reliability_leaves_out_bins_of_one_class():
    stated, observed = llr.reliability(np.array([-4.0, -3, 3, 4]), np.array([False, False, True, True]), 2)
    assert len(stated) == len(observed) == 0
    stated, observed = llr.reliability(np.array([0.0, 1.0]), np.array([True, False]), 1)
    assert (stated.tolist(), observed.tolist()) == ([0.5], [0.0])


@pytest.mark.parametrize("seed", range(6))
def test_bounds_are_where_one_more_error_a_class_would_cost_more_than_the_prior(seed):
    """The cost at every Bayes threshold, written out and scanned."""
    rng = np.random.default_rng(seed)
    is_target = rng.random(rng.integers(30, 300)) < 0.3
    is_target[:2] = [False, True]
    llrs = rng.uniform(1, 4) * (rng.normal(size=len(is_target)) + rng.uniform(0.5, 3) * (2 * is_target - 1))
    low, high = llr.supported_bounds(llrs, is_target)

    def gain(threshold):
        miss = ((llrs[is_target] < threshold).sum() + 1) / (is_target.sum() + 1)
        accept = ((llrs[~is_target] >= threshold).sum() + 1) / ((~is_target).sum() + 1)
        prior = np.exp(-threshold)  # odds at which this is the Bayes threshold
        return min(prior, 1) - (accept + prior * miss)

    steps = np.arange(1e-6, 12, 1e-3)
    for side, bound in ((1, high), (-1, -low)):
        worse = np.array([gain(side * step) <= 0 for step in steps])
        assert bound == pytest.approx(steps[np.argmax(worse)], abs=2e-3) and worse.any()


def test_bounds_of_trials_without_an_error_are_those_of_their_number():
    is_target = np.arange(2484) < 324
    low, high = llr.supported_bounds(np.where(is_target, 30.0, -30.0), is_target)
    assert (low, high) == pytest.approx(llr.count_bounds(324, 2160))
    assert (low, high) == pytest.approx((-np.log(325 * 2160 / 2161), np.log(2161 * 324 / 325)))
    assert llr.count_bounds(1, 1) == (0, 0)
    # Few trials far off support nothing; nothing is claimed beyond the furthest one.
    assert llr.supported_bounds(np.array([1.0, -1.0]), np.array([False, True])) == (0, 0)
    assert llr.supported_bounds(np.where(is_target, 0.5, -0.25), is_target) == (-0.25, 0.5)


def test_open_set_posteriors_are_as_often_right_as_they_say() -> None:
    """Of 20 people with Gaussian evidence, 30 % of 4,000 voices of nobody."""
    rng = np.random.default_rng(0)
    strength, people, voices, prior = 6.0, 20, 4000, 0.7
    truth = np.where(rng.random(voices) < prior, rng.integers(0, people, voices), people)
    llrs = rng.normal(-strength / 2, np.sqrt(strength), (voices, people))
    rows = np.flatnonzero(truth < people)
    llrs[rows, truth[rows]] += strength
    found = [llr.open_set_posteriors(row, prior) for row in llrs]
    stated = np.array([np.append(posteriors, none) for posteriors, none in found])
    assert stated.sum(axis=1) == pytest.approx(np.ones(voices))
    hits = stated.argmax(axis=1) == truth
    for low, high in ((0.3, 0.6), (0.6, 0.9), (0.9, 1.0)):
        inside = (stated.max(axis=1) > low) & (stated.max(axis=1) <= high)
        assert hits[inside].mean() == pytest.approx(stated.max(axis=1)[inside].mean(), abs=0.05)
