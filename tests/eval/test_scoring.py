"""Scoring against naive loops."""

import numpy as np
import pytest

from svkit.errors import ConfigError, DataError
from svkit.eval import scoring


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def cosine(a, b):
    return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


def test_cosine_scores_equal_a_loop_across_blocks(rng, monkeypatch):
    monkeypatch.setattr(scoring, "TRIALS_PER_BLOCK", 8)
    embeddings = rng.normal(size=(12, 5)).astype(np.float32) * rng.uniform(0.1, 9, size=(12, 1)).astype(
        np.float32
    )
    left, right = rng.integers(0, 12, 37), rng.integers(0, 12, 37)
    scores = scoring.cosine_scores(embeddings, embeddings, left, right)
    assert scores.dtype == np.float32
    expected = [cosine(embeddings[a], embeddings[b]) for a, b in zip(left, right, strict=True)]
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_cosine_scores_take_two_matrices(rng):
    models, tests = rng.normal(size=(3, 4)), rng.normal(size=(6, 4))
    scores = scoring.cosine_scores(models, tests, np.array([2, 0]), np.array([5, 1]))
    np.testing.assert_allclose(scores, [cosine(models[2], tests[5]), cosine(models[0], tests[1])], atol=1e-6)
    assert scoring.cosine_scores(models, tests, np.array([], dtype=int), np.array([], dtype=int)).shape == (
        0,
    )


def test_rows_outside_the_matrix_are_refused(rng):
    embeddings = rng.normal(size=(3, 4))
    for left, right in (([3], [0]), ([0], [3]), ([-1], [0])):
        with pytest.raises(DataError, match="outside"):
            scoring.cosine_scores(embeddings, embeddings, np.array(left), np.array(right))


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_embeddings_without_a_direction_are_named(rng, bad):
    embeddings = rng.normal(size=(4, 3))
    embeddings[2] = bad
    with pytest.raises(DataError, match="bad rows 2"):
        scoring.length_normalize(embeddings)


def test_center_subtracts_the_given_mean(rng):
    embeddings = rng.normal(size=(4, 3))
    np.testing.assert_allclose(scoring.center(embeddings, embeddings.mean(axis=0)).mean(axis=0), 0, atol=1e-6)
    with pytest.raises(DataError, match="expected 3 values"):
        scoring.center(embeddings, np.zeros(2))


def test_group_means_average_normalised_rows(rng):
    embeddings, groups = rng.normal(size=(6, 3)) * np.arange(1, 7)[:, None], np.array([2, 0, 2, 1, 0, 2])
    means = scoring.group_means(embeddings, groups, 3)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for group in range(3):
        np.testing.assert_allclose(means[group], unit[groups == group].mean(axis=0), atol=1e-6)
    with pytest.raises(DataError, match="without an utterance: 3"):
        scoring.group_means(embeddings, groups, 4)


def cohort_statistics(embeddings, cohort, top_n=None):
    unit, members = map(scoring.length_normalize, (embeddings, cohort))
    return scoring.product_statistics(unit, members, top_n)


@pytest.mark.parametrize("top_n", [None, 2, 5, 11])
def test_cohort_statistics_equal_a_loop_across_blocks(rng, monkeypatch, top_n):
    monkeypatch.setattr(scoring, "BLOCK_BYTES", 4 * 11 * 2)  # two rows a block
    embeddings, cohort = rng.normal(size=(7, 4)), rng.normal(size=(11, 4))
    found = cohort_statistics(embeddings, cohort, top_n)
    for row, embedding in enumerate(embeddings):
        against = sorted((cosine(embedding, member) for member in cohort), reverse=True)[: top_n or 11]
        mean = sum(against) / len(against)
        variance = sum((value - mean) ** 2 for value in against) / len(against)  # population
        assert found.mean[row] == pytest.approx(mean, abs=1e-6)
        assert found.std[row] == pytest.approx(variance**0.5, abs=1e-6)


def test_normalised_scores_average_both_sides():
    enroll = scoring.CohortStatistics(mean=np.array([0.1, 0.2]), std=np.array([0.5, 0.25]))
    test = scoring.CohortStatistics(mean=np.array([0.0, 0.3, 0.4]), std=np.array([1.0, 0.5, 0.1]))
    scores = scoring.normalize_scores(np.array([0.6, 0.9]), enroll, test, np.array([1, 0]), np.array([2, 1]))
    np.testing.assert_allclose(
        scores, [((0.6 - 0.2) / 0.25 + (0.6 - 0.4) / 0.1) / 2, (0.8 / 0.5 + 0.6 / 0.5) / 2]
    )


def test_bad_cohorts_are_refused(rng):
    embeddings = rng.normal(size=(3, 4))
    with pytest.raises(ConfigError, match="expected 2 to 5"):
        cohort_statistics(embeddings, rng.normal(size=(5, 4)), 6)
    with pytest.raises(ConfigError, match="found 1"):
        cohort_statistics(embeddings, rng.normal(size=(5, 4)), 1)
    with pytest.raises(DataError, match="size 4, found 3"):
        cohort_statistics(embeddings, rng.normal(size=(5, 3)))
    with pytest.raises(DataError, match="all give the same score"):
        cohort_statistics(embeddings, np.tile(rng.normal(size=4), (5, 1)))
