"""The bootstrap against explicitly copied trial lists and simulated populations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from scipy.stats import t as student

from svkit.errors import ConfigError, DataError
from svkit.eval import bootstrap, metrics
from svkit.eval.crossings import resample_crossings
from svkit.eval.results import Interval


def population(num_speakers, rng):
    """Scores with a strong speaker effect: every speaker has an own level for targets and nontargets."""
    level = rng.normal(size=num_speakers)
    rows = []
    for a in range(num_speakers):
        rows += [(a, a, 1, 2.5 + level[a] + 0.5 * rng.normal()) for _ in range(9)]
        others = rng.permutation(num_speakers)[:8]
        rows += [(a, b, 0, (level[a] + level[b]) / 2 + 0.5 * rng.normal()) for b in others if b != a]
    a, b, labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    return scores, labels, bootstrap.TrialSpeakers(enroll=a, test=b, num_speakers=num_speakers)


def copied_trials(scores, labels, speakers, multiplicity):
    """The trial list over a drawn population, written out copy by copy."""
    copies = [
        multiplicity[a] if label else multiplicity[a] * multiplicity[b]
        for a, b, label in zip(speakers.enroll, speakers.test, labels, strict=True)
    ]
    return np.repeat(scores, copies), np.repeat(labels, copies)


def test_multiplicities_are_draws_with_replacement_and_reproducible():
    drawn = bootstrap.draw_multiplicities(20, 300, 1)
    assert drawn.shape == (300, 20)
    assert (drawn.sum(axis=1) == 20).all()
    assert drawn.var() == pytest.approx(0.95, abs=0.05)  # binomial(20, 1/20)
    assert np.array_equal(drawn, bootstrap.draw_multiplicities(20, 300, 1))
    assert not np.array_equal(drawn, bootstrap.draw_multiplicities(20, 300, 2))
    for arguments, words in (
        ((4, 10, 0), "^it needs at least 5 speakers, found 4$"),
        ((5, 0, 0), "1 resample"),
    ):
        with pytest.raises(ConfigError, match=words):
            bootstrap.draw_multiplicities(*arguments)


@pytest.mark.parametrize("block", [1, 7, 100])
def test_blocks_change_nothing(monkeypatch, block):
    scores, labels, speakers = population(8, np.random.default_rng(3))
    drawn = bootstrap.draw_multiplicities(8, 50, 0)
    whole = bootstrap.resample_rates(scores, labels, speakers, drawn, [0.0, 1.0])
    monkeypatch.setattr(bootstrap, "BLOCK_TRIALS", block)
    found = bootstrap.resample_rates(scores, labels, speakers, drawn, [0.0, 1.0])
    np.testing.assert_array_equal(found, whole)


def test_interval_covers_the_true_eer_where_a_bootstrap_over_trials_does_not():
    """40 populations of 30 speakers with a speaker effect: 95 % intervals must hold the truth that often."""
    truth_scores, truth_labels, _ = population(4000, np.random.default_rng(99))
    truth = metrics.equal_error_rate(metrics.error_curve(truth_scores, truth_labels))
    covered = covered_by_trials = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scores, labels, speakers = population(30, rng)
        drawn = bootstrap.draw_multiplicities(30, 200, seed)
        eer = metrics.equal_error_rate(metrics.error_curve(scores, labels))
        samples = resample_crossings(scores, labels, speakers, drawn)[0]
        interval = bootstrap.rate_interval(eer, samples, drawn, 30)
        covered += interval.low <= truth <= interval.high
        naive = []
        for _ in range(60):
            rows = rng.integers(0, len(scores), len(scores))
            naive.append(metrics.equal_error_rate(metrics.error_curve(scores[rows], labels[rows])))
        covered_by_trials += np.quantile(naive, 0.025) <= truth <= np.quantile(naive, 0.975)
    assert 35 <= covered <= 40
    assert covered_by_trials < covered - 6


def test_paired_comparison_sees_what_unpaired_intervals_hide():
    rng = np.random.default_rng(5)
    scores, labels, speakers = population(40, rng)
    worse = scores + 0.2 * rng.normal(size=len(scores)) - 0.5 * labels
    drawn = bootstrap.draw_multiplicities(40, 500, 0)
    first = resample_crossings(worse, labels, speakers, drawn)[0]
    second = resample_crossings(scores, labels, speakers, drawn)[0]
    values = [metrics.equal_error_rate(metrics.error_curve(system, labels)) for system in (worse, scores)]
    found = bootstrap.paired_difference(first, second, tuple(values), 40)
    assert found.difference == values[0] - values[1] > 0
    assert 0 < found.interval.low <= found.difference <= found.interval.high
    assert found.p_value < 0.01
    intervals = [
        bootstrap.rate_interval(eer, samples, drawn, 40)
        for eer, samples in zip(values, (first, second), strict=True)
    ]
    assert intervals[0].low < intervals[1].high  # apart, the two look alike
    swapped = bootstrap.paired_difference(second, first, (values[1], values[0]), 40)
    assert (swapped.difference, swapped.p_value) == (-found.difference, found.p_value)
    assert swapped.interval.high == pytest.approx(-found.interval.low)


MANY = 10**6
"""Speakers: so many that nothing is corrected."""


def test_p_values():
    difference = np.arange(-3.0, 97.0)  # 3 below zero, one at zero of 100
    zeros = np.zeros(100)

    def p_value(first, second, num_speakers=MANY):
        return bootstrap.paired_difference(first, second, (1.0, 0.0), num_speakers).p_value

    assert p_value(difference, zeros) == pytest.approx(2 * 5 / 101, rel=1e-4)
    assert p_value(zeros, zeros) == 1.0
    assert p_value(zeros + 1, zeros) == pytest.approx(2 / 101, rel=1e-4)
    undefined = np.where(np.arange(100) < 40, np.nan, 1.0)
    assert p_value(undefined, zeros) == pytest.approx(2 / 61, rel=1e-4)
    assert p_value(zeros, zeros, 4) == 1.0
    assert p_value(zeros + 1, zeros, 4) > 3 * 2 / 101  # four speakers prove little
    with pytest.raises(DataError, match="40 of 100"):
        bootstrap.rate_interval(0.5, np.where(np.arange(100) < 40, 1.0, np.nan), np.ones((100, 5)), 5)


@pytest.mark.parametrize("num_speakers", [4, 17, 300])
def test_the_interval_of_a_difference_is_that_of_students_t(num_speakers):
    """Resampled means of a Gaussian have the variance s^2 / S with divisor S: expanded, they give t's interval."""
    rng = np.random.default_rng(0)
    spread = 1 / np.sqrt(num_speakers)  # standard deviation with divisor S, over sqrt(S)
    samples = spread * rng.normal(size=400_000)
    zeros = np.zeros_like(samples)
    found = bootstrap.paired_difference(samples, zeros, (0.0, 0.0), num_speakers).interval
    half = student.ppf(0.975, num_speakers - 1) / np.sqrt(num_speakers - 1)
    assert (found.low, found.high) == (pytest.approx(-half, rel=0.03), pytest.approx(half, rel=0.03))


def means_of(values, num_resamples=20_000):
    """Mean of one value a speaker, and of the resampled speakers."""
    drawn = bootstrap.draw_multiplicities(len(values), num_resamples, 0)
    return values.mean(), drawn @ values / len(values), drawn


@pytest.mark.parametrize(("num_errors", "num_trials"), [(30, 1000), (3, 400), (250, 500), (497, 500)])
def test_the_interval_of_independent_trials_is_the_exact_one(num_errors, num_trials):
    rate, samples, drawn = means_of((np.arange(num_trials) < num_errors).astype(float), 4000)
    found = bootstrap.rate_interval(rate, samples, drawn, num_trials)
    exact = binomtest(num_errors, num_trials).proportion_ci()
    width = exact.high - exact.low
    # Few errors are few degrees of freedom: a little wider.
    for more in (exact.low - found.low, found.high - exact.high):
        assert -0.03 * width <= more <= 0.25 * width
    assert (found.num_speakers, found.num_resamples) == (num_trials, 4000)


def test_trials_of_one_speaker_count_as_little_as_they_tell():
    """Speakers that always or never fail: the interval is that of so many speakers, however many trials they have."""
    rate, samples, drawn = means_of(np.repeat([0.0, 1.0], [15, 5]))
    found = bootstrap.rate_interval(rate, samples, drawn, 20)
    exact = binomtest(5, 20).proportion_ci()
    assert (found.low, found.high) == (
        pytest.approx(exact.low, rel=0.15), pytest.approx(exact.high, rel=0.1)
    )  # fmt: skip


def test_errors_of_few_speakers_tell_less_than_those_of_many():
    """Equal rates and standard errors, and as many speakers; in one case all errors are two speakers'."""
    rng = np.random.default_rng(0)
    many = rng.normal(size=40)
    few = np.where(np.arange(40) < 2, 0.2, 0.0)
    many = 0.01 + few.std() * (many - many.mean()) / many.std()
    found = [bootstrap.rate_interval(0.01, *means_of(values)[1:], 40) for values in (many, few)]
    assert found[1].low < found[0].low and found[1].high > 1.3 * found[0].high


def test_no_error_leaves_possible_what_so_many_people_do():
    drawn = bootstrap.draw_multiplicities(20, 50, 0)
    none = bootstrap.rate_interval(0.0, np.zeros(50), drawn, 20)
    assert (none.low, none.high) == (0, pytest.approx(1 - 0.05 ** (1 / 20)))
    every = bootstrap.rate_interval(1.0, np.ones(50), drawn, 20)
    assert (every.low, every.high) == (pytest.approx(0.05 ** (1 / 20)), 1)
    same = bootstrap.rate_interval(0.25, np.full(50, 0.25), drawn, 20)  # as of one trial a person
    exact = binomtest(5, 20).proportion_ci()
    assert (same.low, same.high) == (pytest.approx(exact.low), pytest.approx(exact.high))


def test_people_and_pairs_are_counted_once():
    speakers = bootstrap.TrialSpeakers(
        enroll=np.array([0, 0, 1, 0, 1, 2, 3]), test=np.array([0, 0, 1, 1, 0, 3, 2]), num_speakers=4
    )
    labels = [1, 1, 1, 0, 0, 0, 0]
    assert (bootstrap.count_people(labels, speakers), bootstrap.count_pairs(labels, speakers)) == (2, 2)


def test_amounts_have_the_interval_of_rare_errors_and_no_upper_end():
    rate, samples, drawn = means_of((np.arange(2000) < 8).astype(float), 4000)
    as_rate = bootstrap.rate_interval(rate, samples, drawn, 2000)
    as_amount = bootstrap.amount_interval(1000 * rate, 1000 * samples, drawn)
    assert as_amount.low == pytest.approx(1000 * as_rate.low, rel=0.1)
    assert as_amount.high == pytest.approx(1000 * as_rate.high, rel=0.1)
    assert bootstrap.amount_interval(0.3, np.full(50, 0.3), drawn[:50]) is None


def test_a_cost_has_the_interval_that_its_rates_make():
    misses, accepts = (
        Interval(low=low, high=high, num_speakers=9, num_resamples=50)
        for low, high in ((0.07, 0.13), (0.008, 0.024))
    )
    found = bootstrap.sum_interval(lambda miss, accept: miss + 5 * accept, (0.1, misses), (0.016, accepts))
    assert (found.low, found.high) == (pytest.approx(0.18 - 0.05), pytest.approx(0.18 + 0.05))
    assert (found.num_speakers, found.num_resamples) == (9, 50)


@pytest.mark.parametrize("num_speakers", [8, 17, 300])
def test_p_below_five_per_cent_where_the_interval_leaves_zero_out(num_speakers):
    rng = np.random.default_rng(1)
    seen = set()
    for shift in np.linspace(0.5, 6, 60):
        differences = rng.normal(size=4000) + shift
        found = bootstrap.paired_difference(differences, np.zeros(4000), (shift, 0.0), num_speakers)
        seen.add(found.p_value < 0.05)
        assert (found.p_value <= 0.05) == (found.interval.low > 0)
    assert seen == {False, True}


@given(st.integers(0, 2**32 - 1))
def test_means_and_rates_equal_those_of_the_copied_trial_list(seed):
    rng = np.random.default_rng(seed)
    scores, labels, speakers = population(5, rng)
    drawn = bootstrap.draw_multiplicities(5, 4, seed)
    limits = [scores.min(), 0.7, scores.max() + 1]
    misses, accepts = bootstrap.resample_rates(scores, labels, speakers, drawn, limits)
    each = [lambda rows: scores[rows] ** 2, lambda rows: scores[rows]]
    costs = bootstrap.resample_means(each, labels.astype(bool), speakers, drawn)
    for row, multiplicity in enumerate(drawn):
        copied, copied_labels = copied_trials(scores, labels, speakers, multiplicity)
        for side, label, found in ((0, 1, misses), (1, 0, accepts)):
            mine = copied[copied_labels == label]
            if not len(mine):
                assert np.isnan(found[row]).all()
                continue
            errors = [(mine < limit) if label else (mine >= limit) for limit in limits]
            np.testing.assert_allclose(found[row], [np.mean(each) for each in errors], atol=1e-12)
            np.testing.assert_allclose(costs[side][row], [np.mean(mine**2), np.mean(mine)], atol=1e-9)


def test_trial_speakers_must_agree_with_the_labels():
    speakers = bootstrap.trial_speakers(np.array([2, 1, 0]), np.array([2, 0, 1]), [1, 0, 0])
    assert speakers.num_speakers == 3
    with pytest.raises(DataError, match="at trials 1, 3"):
        bootstrap.trial_speakers(np.array([0, 0, 0]), np.array([1, 1, 0]), [1, 0, 0])


def test_speakers_are_the_components_of_the_target_trials():
    speakers = bootstrap.speakers_from_trials(np.array([0, 1, 3]), np.array([1, 2, 4]), 6)
    assert speakers[0] == speakers[1] == speakers[2]
    assert speakers[3] == speakers[4]
    assert len({speakers[0], speakers[3], speakers[5]}) == 3
