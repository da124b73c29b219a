"""Error rates against brute force, closed forms and invariances."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from svkit.errors import DataError
from svkit.eval import metrics

trial_sets = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=25).filter(
    lambda rows: len({label for _, label in rows}) == 2
)


def split(rows):
    scores, labels = zip(*rows, strict=True)
    return np.array(scores, dtype=float), np.array(labels, dtype=int)


def brute_points(scores, labels):
    """(false-accept rate, miss rate) at every distinct score and above all, by counting."""
    thresholds = [*sorted(set(scores.tolist())), np.inf]
    return [
        (float(np.mean(scores[labels == 0] >= t)), float(np.mean(scores[labels == 1] < t)))
        for t in thresholds
    ]


def lower_hull_eer(points):
    """EER of the hull as the best mixture of any two operating points (no hull is built)."""
    best = 1.0
    for a, b in points:
        for c, d in points:
            before, after = a - b, d - c
            if before >= 0 and after >= 0:
                share = before / (before + after) if before + after > 0 else 0.0
                best = min(best, b + share * (d - b))
    return best


def rates(curve):
    accepts, misses = curve.num_false_accepts / curve.num_nontargets, curve.num_misses / curve.num_targets
    return list(zip(accepts.tolist(), misses.tolist(), strict=True))


@given(trial_sets)
def test_counts_and_rates_equal_brute_force(rows):
    scores, labels = split(rows)
    curve = metrics.error_curve(scores, labels)
    points = brute_points(scores, labels)
    np.testing.assert_allclose(rates(curve), points)
    assert curve.thresholds[:-1].tolist() == sorted(set(scores.tolist()))


@given(trial_sets)
def test_eer_lies_on_the_segment_around_the_crossing(rows):
    scores, labels = split(rows)
    points = brute_points(scores, labels)
    crossing = next(index for index, (accept, miss) in enumerate(points) if miss >= accept)
    (a, b), (c, d) = points[crossing - 1], points[crossing]
    found = metrics.equal_error_rate(metrics.error_curve(scores, labels))
    share = (a - b) / ((a - b) + (d - c))
    assert found == pytest.approx(a + share * (c - a))
    assert found == pytest.approx(b + share * (d - b))


@given(trial_sets)
def test_hull_eer_is_the_best_mixture_of_two_thresholds(rows):
    scores, labels = split(rows)
    hull = metrics.convex_hull(metrics.error_curve(scores, labels))
    assert metrics.equal_error_rate(hull) == pytest.approx(
        lower_hull_eer(brute_points(scores, labels)), abs=1e-12
    )


@given(trial_sets, st.sampled_from([0.01, 0.05, 0.5, 0.9]))
def test_min_dcf_equals_brute_force_and_its_threshold_gives_it(rows, p_target):
    scores, labels = split(rows)
    curve = metrics.error_curve(scores, labels)
    cost, point = metrics.min_dcf(curve, p_target)
    norm_by = min(p_target, 1 - p_target)
    expected = min(p_target * b + (1 - p_target) * a for a, b in brute_points(scores, labels)) / norm_by
    assert cost == pytest.approx(expected)
    accepted = scores >= point.threshold
    again = p_target * np.mean(~accepted[labels == 1]) + (1 - p_target) * np.mean(accepted[labels == 0])
    assert again / norm_by == pytest.approx(cost)
    assert cost <= 1 + 1e-12
    assert metrics.min_dcf(metrics.convex_hull(curve), p_target)[0] == pytest.approx(cost)


@given(trial_sets)
def test_increasing_maps_change_nothing(rows):
    scores, labels = split(rows)
    curve, mapped = metrics.error_curve(scores, labels), metrics.error_curve(np.exp(scores) * 3 - 7, labels)
    assert metrics.equal_error_rate(curve) == metrics.equal_error_rate(mapped)
    assert metrics.min_dcf(curve, 0.05)[0] == metrics.min_dcf(mapped, 0.05)[0]


@given(trial_sets)
def test_swapping_the_classes_and_negating_keeps_the_eer(rows):
    scores, labels = split(rows)
    curve, swapped = metrics.error_curve(scores, labels), metrics.error_curve(-scores, 1 - labels)
    assert metrics.equal_error_rate(curve) == pytest.approx(metrics.equal_error_rate(swapped))
    hulls = metrics.convex_hull(curve), metrics.convex_hull(swapped)
    assert metrics.equal_error_rate(hulls[0]) == pytest.approx(metrics.equal_error_rate(hulls[1]))
    assert metrics.min_dcf(curve, 0.1)[0] == pytest.approx(metrics.min_dcf(swapped, 0.9)[0])


@pytest.mark.parametrize("d_prime", [0.5, 2.0, 3.5])
def test_two_gaussians_have_the_closed_form_eer(d_prime):
    quantiles = (np.arange(20_000) + 0.5) / 20_000
    nontargets = norm.ppf(quantiles)
    scores, labels = np.concatenate((nontargets, nontargets + d_prime)), np.repeat([0, 1], 20_000)
    curve = metrics.error_curve(scores, labels)
    assert metrics.equal_error_rate(curve) == pytest.approx(norm.cdf(-d_prime / 2), abs=1e-4)
    assert metrics.eer_point(curve).threshold == pytest.approx(d_prime / 2, abs=2e-3)
    # The optimum of two unit Gaussians is at log-odds(p) / d' + d' / 2.
    best = np.log(0.95 / 0.05) / d_prime + d_prime / 2
    cost = norm.cdf(best - d_prime) + 19 * norm.sf(best)
    assert metrics.min_dcf(curve, 0.05)[0] == pytest.approx(cost, rel=2e-2)


def test_equal_scores_stand_or_fall_together():
    curve = metrics.error_curve([0.0, 0.0, 0.0, 0.0], [1, 0, 0, 1])
    assert metrics.equal_error_rate(curve) == 0.5
    assert metrics.min_dcf(curve, 0.05)[0] == 1.0
    assert len(curve.thresholds) == 2


def test_perfect_and_reversed_scores():
    assert metrics.equal_error_rate(metrics.error_curve([0.1, 0.9], [0, 1])) == 0.0
    assert metrics.equal_error_rate(metrics.error_curve([0.9, 0.1], [0, 1])) == 1.0


def test_far_threshold_is_the_lowest_that_keeps_the_rate():
    scores = np.concatenate((np.arange(100.0), [50.5, 98.5, 200.0]))
    labels = np.repeat([0, 1], [100, 3])
    curve = metrics.error_curve(scores, labels)
    point = metrics.far_point(curve, 0.01)
    assert (point.threshold, point.false_accept_rate) == (98.5, 0.01)
    assert point.miss_rate == pytest.approx(1 / 3)
    assert metrics.far_point(curve, 0.07).threshold == 93.0  # 0.07 * 100 is just above 7 in floating point
    unresolved = metrics.far_point(curve, 0.001)
    assert (unresolved.threshold, unresolved.false_accept_rate) == (200.0, 0.0)


def test_threshold_above_all_scores_rejects_all_and_is_finite():
    curve = metrics.error_curve([3.0, 1.0], [0, 1])
    point = metrics.far_point(curve, 0.0)
    assert np.isfinite(point.threshold) and point.threshold > 3.0
    assert metrics.threshold_point(curve, 1e9).miss_rate == 1.0
    assert metrics.threshold_point(curve, -1e9).false_accept_rate == 1.0
    assert metrics.threshold_point(curve, 1.0).miss_rate == 0.0
    assert metrics.threshold_point(curve, 1.0 + 1e-9).miss_rate == 1.0


@given(trial_sets)
def test_det_corners_draw_the_same_curve(rows):
    curve = metrics.error_curve(*split(rows))
    accept, miss = metrics.det_corners(curve)
    # Every point of the full curve lies on a segment between two consecutive corners.
    for x, y in rates(curve):
        inside = [
            min(a, c) - 1e-12 <= x <= max(a, c) + 1e-12
            and b - 1e-12 <= y <= d + 1e-12
            and abs((c - a) * (y - b) - (d - b) * (x - a)) < 1e-12
            for a, b, c, d in zip(accept, miss, accept[1:], miss[1:], strict=False)
        ]
        assert any(inside)


def test_det_corners_leave_out_what_lies_between():
    accept, _ = metrics.det_corners(metrics.error_curve(np.arange(1000.0), np.arange(1000) >= 500))
    assert len(accept) == 3
    thin = metrics.thin_curve(np.linspace(1, 0, 10_000), np.linspace(0, 1, 10_000), 50, 1e-4)
    assert 25 <= len(thin[0]) <= 51
    assert (thin[0][0], thin[1][0], thin[0][-1], thin[1][-1]) == (1.0, 0.0, 0.0, 1.0)


def test_float32_scores_are_taken_exactly():
    scores = np.array([0.1, 0.2, 0.3], dtype=np.float32)
    assert metrics.error_curve(scores, [0, 1, 1]).thresholds[0] == float(scores[0])


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.5, 0.6], [1, 1], "2 targets and 0 nontargets"),
        ([0.5], [0], "0 targets and 1 nontargets"),
        ([], [], "0 targets and 0 nontargets"),
        ([0.5, np.nan, np.inf], [0, 1, 1], "2 of 3 that are not (the first is nan at trial 2)"),
        ([0.5, 0.6], [0, 1, 1], "found 2 scores, 3 labels"),
        ([0.5, 0.6], [0, 2], "found 2 at trial 2"),
    ],
)
def test_bad_trials_are_named(scores, labels, message):
    with pytest.raises(DataError) as caught:
        metrics.error_curve(scores, labels)
    assert message in str(caught.value)


def test_a_million_trials_take_a_moment():
    """The target is 10 M in 2 s; a tenth of it here, with room for a busy machine."""
    import time

    rng = np.random.default_rng(0)
    labels = rng.random(1_000_000) < 0.05
    scores = rng.normal(size=1_000_000) + 3 * labels
    start = time.process_time()
    curve = metrics.error_curve(scores, labels)
    metrics.equal_error_rate(curve)
    metrics.min_dcf(curve, 0.01)
    assert time.process_time() - start < 1.0
