"""The two-covariance model against Gaussians it was drawn from, and against their densities."""

import numpy as np
import pytest
from scipy.linalg import block_diag
from scipy.stats import multivariate_normal

from svkit.errors import DataError
from svkit.eval import plda
from svkit.eval.metrics import equal_error_rate, error_curve
from svkit.eval.scoring import cosine_scores, pair_products

DIM = 4


def covariance(rng, scale=1.0):
    root = rng.normal(size=(DIM, DIM))
    return scale * (root @ root.T / DIM + 0.2 * np.eye(DIM))


def draw(rng, model, counts):
    groups = np.repeat(np.arange(len(counts)), counts)
    voices = rng.multivariate_normal(model.mean, model.between, len(counts))
    return voices[groups] + rng.multivariate_normal(np.zeros(DIM), model.within, len(groups)), groups


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(1)
    return plda.TwoCovariance(mean=rng.normal(size=DIM), between=covariance(rng), within=covariance(rng, 0.5))


@pytest.mark.parametrize("unbalanced", [False, True])
def test_em_recovers_the_covariances(truth, unbalanced):
    rng = np.random.default_rng(2)
    counts = rng.integers(1, 9, 4000) if unbalanced else np.full(4000, 4)
    found = plda.fit(*draw(rng, truth, counts), len(counts))
    for name in ("between", "within"):
        expected = getattr(truth, name)
        assert np.linalg.norm(getattr(found, name) - expected) < 0.06 * np.linalg.norm(expected), name
    np.testing.assert_allclose(found.mean, truth.mean, atol=0.08)


def log_density(model, rows):
    """Log-density of all utterances of one speaker, from the joint covariance."""
    joint = np.kron(np.ones((len(rows), len(rows))), model.between) + block_diag(*[model.within] * len(rows))
    return multivariate_normal.logpdf(rows.ravel(), np.tile(model.mean, len(rows)), joint)


def test_em_climbs_the_exact_likelihood(truth):
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 5, 30)
    rows, groups = draw(rng, truth, counts)
    statistics = plda.gather(rows, groups, len(counts))
    model = plda.TwoCovariance(mean=np.zeros(DIM), between=np.eye(DIM), within=2 * np.eye(DIM))
    exact, stated = [], []
    for _ in range(6):
        exact.append(sum(log_density(model, rows[groups == speaker]) for speaker in range(len(counts))))
        model, likelihood = plda.em_step(model, statistics)
        stated.append(likelihood)
    np.testing.assert_allclose(np.diff(stated), np.diff(exact), rtol=1e-6)
    assert (np.diff(exact) > 0).all()


def factors(model, rows):
    """Both factors of single utterances."""
    return plda.enroll_factors(model, rows, np.ones(len(rows), dtype=int)), plda.test_factors(model, rows)


def test_scores_are_ratios_of_densities(truth):
    rows, _ = draw(np.random.default_rng(4), truth, np.full(5, 2))
    left, right = factors(truth, rows)
    pairs = np.array([(0, 1), (0, 9), (3, 3), (7, 2)])
    found = pair_products(left, right, pairs[:, 0], pairs[:, 1])
    expected = [
        log_density(truth, rows[[a, b]]) - log_density(truth, rows[[a]]) - log_density(truth, rows[[b]])
        for a, b in pairs
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    swapped = pair_products(left, right, pairs[:, 1], pairs[:, 0])
    np.testing.assert_allclose(swapped, found, rtol=1e-4, atol=1e-4)


def test_several_enrollment_utterances_are_counted_exactly(truth):
    """Log-density of n enrollment utterances and the test as one speaker's, against those of two speakers."""
    rng = np.random.default_rng(12)
    counts = np.array([1, 2, 3, 7])
    rows, groups = draw(rng, truth, counts)
    tests, _ = draw(rng, truth, np.array([1, 1, 1]))
    means = np.stack([rows[groups == group].mean(axis=0) for group in range(len(counts))])
    left, right = plda.enroll_factors(truth, means, counts), plda.test_factors(truth, tests)
    for group in range(len(counts)):
        for test in range(len(tests)):
            mine = rows[groups == group]
            together = log_density(truth, np.concatenate((mine, tests[[test]])))
            apart = log_density(truth, mine) + log_density(truth, tests[[test]])
            assert left[group] @ right[test] == pytest.approx(together - apart, rel=1e-4, abs=1e-4)


def test_more_enrollment_utterances_err_less():
    rng = np.random.default_rng(13)
    model = plda.TwoCovariance(mean=np.zeros(DIM), between=np.eye(DIM), within=2 * np.eye(DIM))
    rows, groups = draw(rng, model, np.full(300, 5))
    tests, enrolled = rows[4::5], np.arange(len(rows)) % 5 < 4
    eers = []
    for count in (1, 4):
        used = np.flatnonzero(enrolled & (np.arange(len(rows)) % 5 < count))
        means = rows[used].reshape(300, count, DIM).mean(axis=1)
        scores = plda.enroll_factors(model, means, np.full(300, count)) @ plda.test_factors(model, tests).T
        eers.append(equal_error_rate(error_curve(scores.ravel(), np.eye(300, dtype=int).ravel())))
    assert eers[1] < 0.9 * eers[0]


def test_beats_cosine_where_directions_differ_in_worth():
    rng = np.random.default_rng(5)
    dim, per_speaker = 12, 6
    noise = np.where(np.arange(dim) < 6, 3.0, 0.4)  # half of the dimensions say little about the speaker
    voices = rng.normal(size=(260, dim))[np.repeat(np.arange(260), per_speaker)]
    rows = (voices + noise * rng.normal(size=voices.shape) + 1.0).astype(np.float32)
    groups = np.repeat(np.arange(260), per_speaker)
    train = groups < 200
    model = plda.train_plda(rows[train], groups[train], 200)
    tests, speakers = rows[~train], groups[~train]
    a, b = np.triu_indices(len(tests), 1)
    labels = speakers[a] == speakers[b]
    left = model.enroll_factors(tests, np.arange(len(tests)), len(tests))
    right = model.test_factors(tests)
    eers = [
        equal_error_rate(error_curve(scores, labels))
        for scores in (pair_products(left, right, a, b), cosine_scores(tests, tests, a, b))
    ]
    assert eers[0] < 0.6 * eers[1]


def test_scale_of_embeddings_does_not_matter():
    rng = np.random.default_rng(6)
    rows = rng.normal(size=(60, DIM)).astype(np.float32) + 2
    groups = np.repeat(np.arange(12), 5)
    model = plda.train_plda(rows, groups, 12)
    stretched = rows * rng.uniform(0.1, 10, size=(60, 1)).astype(np.float32)
    other = plda.train_plda(stretched, groups, 12)
    index, everyone = np.arange(30), np.arange(60)
    found = [
        pair_products(
            trained.enroll_factors(used, everyone, 60), trained.test_factors(used), index, index + 30
        )
        for trained, used in ((model, rows), (other, stretched))
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-3)


def test_too_little_data_is_refused():
    rows = np.random.default_rng(7).normal(size=(8, DIM))
    with pytest.raises(DataError, match="at least 9 embeddings"):
        plda.fit(rows, np.arange(8) % 5, 5)
    with pytest.raises(DataError, match="two speakers or more"):
        plda.fit(rows, np.zeros(8, dtype=np.int64), 1)
    flat = np.zeros((40, DIM))
    flat[:, 0] = np.random.default_rng(8).normal(size=40)
    with pytest.raises(DataError, match="subspace"):
        plda.fit(flat, np.arange(40) % 4, 4)


def test_blocks_change_nothing(monkeypatch, truth):
    rows, groups = draw(np.random.default_rng(9), truth, np.full(20, 3))
    whole = plda.gather(rows, groups, 20)
    before = factors(truth, rows)
    monkeypatch.setattr(plda, "ROWS_PER_BLOCK", 7)
    np.testing.assert_allclose(plda.gather(rows, groups, 20).scatter, whole.scatter)
    for a, b in zip(factors(truth, rows), before, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def same(found, expected, **tolerance):
    for name in ("between", "within"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), **tolerance)


@pytest.fixture(scope="module")
def domains():
    """A trained model, and recordings of another domain: moved, and noisier in two of the dimensions."""
    rng = np.random.default_rng(20)
    source = plda.TwoCovariance(mean=np.full(DIM, 2.0), between=np.eye(DIM), within=0.3 * np.eye(DIM))
    noisier = np.diag([3.0, 3.0, 0.3, 0.3])
    target = plda.TwoCovariance(mean=np.array([-1.0, 2.0, 2.0, 4.0]), between=source.between, within=noisier)
    trained = {
        length_norm: plda.train_plda(*draw(rng, source, np.full(300, 6)), 300, length_norm=length_norm)
        for length_norm in (True, False)
    }
    return trained, *draw(rng, target, np.full(120, 4))


@pytest.mark.parametrize("length_norm", [True, False])
def test_adaptation_ends_at_the_covariances_of_both_sides(domains, length_norm):
    trained, rows, groups = domains
    own = trained[length_norm]
    for adapted in (
        plda.adapt_plda(own, rows, 0),
        plda.adapt_plda_to_speakers(own, rows, groups, 120, 0),
    ):
        same(adapted.model, own.model, rtol=1e-9, atol=1e-12)
        assert np.linalg.norm(adapted.prepare(rows).mean(axis=0) - adapted.model.mean) < 0.1
        assert np.linalg.norm(own.prepare(rows).mean(axis=0) - own.model.mean) > 0.5
    there = plda.adapt_plda_to_speakers(own, rows, groups, 120, 1)
    alone = plda.train_plda(rows, groups, 120, length_norm=length_norm)
    same(there.model, alone.model)
    np.testing.assert_array_equal(there.offset, alone.offset)


def test_coral_plus_of_diagonal_covariances(domains):
    """Both covariances are stretched where the total has grown, and stay where it has not."""
    rng = np.random.default_rng(21)
    rows = rng.normal(size=(2000, DIM))
    rows = (rows - rows.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(rows.T, bias=True))).T
    within, between = np.diag([1.0, 2.0, 0.5, 1.0]), np.diag([3.0, 2.0, 0.5, 1.0])
    own = plda.Plda(
        offset=np.zeros(DIM),
        model=plda.TwoCovariance(mean=np.zeros(DIM), between=between, within=within),
        length_norm=False,
    )
    growth = np.array([2.5, 1.5, 0.4, 1.0])
    adapted = plda.adapt_plda(own, rows * np.sqrt(growth * np.diag(within + between)), 0.8).model
    factor = np.diag([1 + 0.8 * 1.5, 1 + 0.8 * 0.5, 1.0, 1.0])
    same(adapted, plda.TwoCovariance(mean=own.offset, between=between * factor, within=within * factor),
         rtol=1e-5, atol=1e-5)  # fmt: skip


def test_a_few_recordings_of_known_speakers_are_weighed_against_the_training(domains):
    """Three speakers with two recordings say nothing of most directions, and still nothing degenerates."""
    trained, rows, groups = domains
    own = trained[False]
    few = np.flatnonzero((groups < 3) & (np.arange(len(rows)) % 4 < 2))
    adapted = plda.adapt_plda_to_speakers(own, rows[few], groups[few], 3, 0.3).model
    for name in ("between", "within"):
        floor = np.linalg.eigvalsh(getattr(adapted, name) - 0.699 * getattr(own.model, name))
        assert floor.min() > 0, name
    with pytest.raises(DataError, match="at least 7 embeddings"):
        plda.adapt_plda_to_speakers(own, rows[few], groups[few], 3, 1)
    with pytest.raises(DataError, match="two recordings"):
        plda.adapt_plda(own, rows[:1], 0.5)


def test_without_length_normalisation_lengths_count(domains):
    trained, rows, _ = domains
    own, everyone = trained[False], np.arange(40)
    first = own.enroll_factors(rows[:40], everyone, 40) @ own.test_factors(rows[:40]).T
    expected = factors(own.model, rows[:40] - own.offset)
    np.testing.assert_allclose(first, expected[0] @ expected[1].T, rtol=1e-3, atol=1e-3)
    pairs = own.enroll_factors(rows[:40], everyone // 2, 20)
    means = (rows[:40].reshape(20, 2, DIM) - own.offset).mean(axis=1)
    np.testing.assert_allclose(
        pairs, plda.enroll_factors(own.model, means, np.full(20, 2)), rtol=1e-3, atol=1e-3
    )
