"""Crossings found by halving against explicitly copied trial lists, whatever the sizes of pieces and blocks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svkit.eval import bootstrap, crossings, metrics

RATES = (0.05, 0.2, 0.5)


def random_trials(rng, num_speakers, num_trials, *, tied):
    """Trials between random speakers, and their scores; with `tied`, both classes share few distinct ones."""
    left, right = rng.integers(0, num_speakers, (2, num_trials))
    right = np.where(rng.random(num_trials) < 0.3, left, right)
    left[:2], right[:2] = (0, 0), (0, 1)  # both classes are there
    labels = (left == right).astype(np.int8)
    scores = rng.normal(size=num_trials) + 1.5 * labels
    speakers = bootstrap.TrialSpeakers(enroll=left, test=right, num_speakers=num_speakers)
    return np.round(scores) if tied else scores, labels, speakers


def by_copying(scores, labels, speakers, multiplicity):
    """EER and miss rates of the list with each trial as often as it occurs; None where a class is missing."""
    copies = multiplicity[speakers.enroll] * np.where(labels, 1, multiplicity[speakers.test])
    copied, copied_labels = np.repeat(scores, copies), np.repeat(labels, copies)
    if len(np.unique(copied_labels)) < 2:
        return None
    curve = metrics.error_curve(copied, copied_labels)
    return metrics.equal_error_rate(curve), [metrics.far_point(curve, rate).miss_rate for rate in RATES]


@given(
    seed=st.integers(0, 2**32 - 1),
    num_speakers=st.integers(5, 9),
    num_trials=st.integers(2, 120),
    tied=st.booleans(),
    piece=st.sampled_from([1, 8, 64, crossings.PIECE_VALUES]),
    dense_share=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_every_resample_equals_the_copied_trial_list(
    seed, num_speakers, num_trials, tied, piece, dense_share
):
    rng = np.random.default_rng(seed)
    trials = random_trials(rng, num_speakers, num_trials, tied=tied)
    drawn = bootstrap.draw_multiplicities(num_speakers, 6, seed)
    sizes = {
        "PIECE_VALUES": piece, "DENSE_SHARE": dense_share, "CACHE_VALUES": 7, "BLOCK_TRIALS": 5, "BLOCK_SPEAKERS": 3
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(crossings, name, size)
        eers, misses = crossings.resample_crossings(*trials, drawn, RATES)
    for row, multiplicity in enumerate(drawn):
        expected = by_copying(*trials, multiplicity)
        if expected is None:
            assert np.isnan([eers[row], *misses[row]]).all()
            continue
        assert eers[row] == pytest.approx(expected[0], abs=1e-12)
        assert misses[row] == pytest.approx(expected[1], abs=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_halving_finds_exactly_what_the_whole_curve_gives(monkeypatch, tied):
    trials = random_trials(np.random.default_rng(3), 40, 4000, tied=tied)
    drawn = bootstrap.draw_multiplicities(40, 50, 0)
    whole = crossings.resample_crossings(*trials, drawn, RATES)
    monkeypatch.setattr(crossings, "PIECE_VALUES", 500)
    for found, expected in zip(crossings.resample_crossings(*trials, drawn, RATES), whole, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_weights_beyond_float32_are_exact(monkeypatch):
    """A speaker drawn 5,000 times makes weights of 25 million, between which float32 has gaps."""
    trials = random_trials(np.random.default_rng(4), 6, 300, tied=False)
    drawn = np.array([[5000, 4999, 1, 3, 4001, 7], [2, 0, 1, 1, 1, 1]])
    whole = crossings.resample_crossings(*trials, drawn, RATES)
    monkeypatch.setattr(crossings, "PIECE_VALUES", 1)
    for found, expected in zip(crossings.resample_crossings(*trials, drawn, RATES), whole, strict=True):
        np.testing.assert_array_equal(found, expected)
