"""PLDA as the two-covariance model: an embedding is a speaker plus a session, both Gaussian.

    x = y + e,    y ~ N(mean, between),    e ~ N(0, within)

Embeddings are length-normalised, centred and length-normalised again before the model sees them, or only centred. In
the basis that makes `within` the identity and `between` diagonal (`psi`), every posterior and every score is a sum over
dimensions, so that EM costs a few matrix products per iteration and a score costs one inner product.

Source: N. Brummer and E. de Villiers, "The speaker partitioning problem", Odyssey 2010 (two-covariance model);
S. Ioffe, "Probabilistic linear discriminant analysis", ECCV 2006 (simultaneous diagonalisation); D.
Garcia-Romero and C. Espy-Wilson, "Analysis of i-vector length normalization", Interspeech 2011. Of adaptation: K. A.
Lee, Q. Wang and T. Koshinaka, "The CORAL+ algorithm for unsupervised domain adaptation of PLDA", ICASSP 2019 (without
labels); D. Garcia-Romero and A. McCree, "Supervised domain adaptation for i-vector based speaker recognition", ICASSP
2014 (with labels: MAP estimates, interpolation of covariances).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from svkit.errors import DataError
from svkit.eval.scoring import Floats32, center, group_means, length_normalize

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NUM_ITERATIONS = 50
TOLERANCE = 1e-7
"""EM stops when the log-likelihood of an embedding grows by less than this, in nats."""
ROWS_PER_BLOCK = 16384


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class TwoCovariance:
    """The model of embeddings that have been normalised."""

    mean: Floats
    """[D]."""
    between: Floats
    """[D, D] covariance of speakers."""
    within: Floats
    """[D, D] covariance of the utterances of a speaker."""


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Plda:
    """A two-covariance model together with the normalisation before it."""

    offset: Floats
    """[D] mean of the embeddings that it was trained on, or adapted to, after the first length normalisation."""
    model: TwoCovariance
    length_norm: bool = True

    def prepare(self, embeddings: NDArray[np.floating]) -> NDArray[np.floating]:
        """Length-normalise, centre, length-normalise: [N, D]; without length normalisation, centre."""
        return _normalized(center(_normalized(embeddings, self.length_norm), self.offset), self.length_norm)

    def enroll_factors(self, embeddings: NDArray[np.floating], groups: Ints, num_groups: int) -> Floats32:
        """Return the factors [num_groups, 2 D + 1] of enrollments, from rows [N, D] and their `groups` [N]."""
        means = group_means(self.prepare(embeddings), groups, num_groups, length_norm=self.length_norm)
        return enroll_factors(self.model, means, np.bincount(groups, minlength=num_groups))

    def test_factors(self, embeddings: NDArray[np.floating]) -> Floats32:
        """Return factors [N, 2 D + 1] whose inner products with those of enrollments are log-likelihood ratios."""
        return test_factors(self.model, self.prepare(embeddings))


def train_plda(
    embeddings: NDArray[np.floating], groups: Ints, num_speakers: int, *, length_norm: bool = True
) -> Plda:
    """Train on extracted embeddings [N, D] of speakers [N], 0 to S - 1, who do not occur in the trials.

    Raises:
        DataError: see `fit`.
    """
    first = _normalized(embeddings, length_norm)
    offset = first.mean(axis=0, dtype=np.float64)
    model = fit(_normalized(center(first, offset), length_norm), groups, num_speakers)
    return Plda(offset=offset, model=model, length_norm=length_norm)


def _normalized(embeddings: NDArray[np.floating], length_norm: bool) -> NDArray[np.floating]:
    return length_normalize(embeddings) if length_norm else embeddings


def _moved(plda: Plda, embeddings: NDArray[np.floating]) -> Plda:
    """Return the model with the mean of these embeddings [N, D] as its offset."""
    offset = _normalized(embeddings, plda.length_norm).mean(axis=0, dtype=np.float64)
    return replace(plda, offset=offset)


def adapt_plda(plda: Plda, embeddings: NDArray[np.floating], weight: float) -> Plda:
    """Adapt to unlabelled extracted embeddings [N, D] of another domain by CORAL+.

    Their mean replaces that of the training. Each covariance of the model is carried to their domain, by C^1/2 T^-1/2
    on both sides (C: their total covariance, T: that of the model). Wherever it is then larger, in the basis that
    diagonalises both, `weight` (0 to 1) of the growth is added; 0 changes the mean only. Nothing ever shrinks. The two
    covariances have separate weights in the paper, one weight here. C is taken around the embeddings' own mean.
    ASV-Subtools adds the shift of the mean to C, although it is no variance of the embeddings.

    Raises:
        DataError: there are fewer than two embeddings, or the model cannot be diagonalised.
    """
    if len(embeddings) < 2:
        raise DataError(f"plda: expected at least two recordings to adapt to, found {len(embeddings)}")
    plda = _moved(plda, embeddings)
    prepared, model = plda.prepare(embeddings).astype(np.float64), plda.model
    total = _power(np.cov(prepared, rowvar=False, bias=True), 0.5)
    carry = total @ _power(model.between + model.within, -0.5)

    def grown(covariance: Floats) -> Floats:
        carried = TwoCovariance(mean=model.mean, between=carry @ covariance @ carry.T, within=covariance)
        basis, ratio = diagonalize(carried)
        back = np.linalg.inv(basis)
        return np.asarray(covariance + weight * (back.T * np.maximum(ratio - 1, 0)) @ back)

    adapted = TwoCovariance(
        mean=prepared.mean(axis=0), between=grown(model.between), within=grown(model.within)
    )
    return replace(plda, model=adapted)


def adapt_plda_to_speakers(
    plda: Plda, embeddings: NDArray[np.floating], groups: Ints, num_speakers: int, weight: float
) -> Plda:
    """Adapt to extracted embeddings [N, D] of another domain with known speakers [N], 0 to S - 1; a few suffice.

    Their mean replaces that of the training. The covariances are MAP estimates: those of the training are the centres
    of inverse Wishart priors, scaled so that the data weigh `weight`: after each iteration of EM, the new covariances
    are interpolated with those of the training. At 0 they stay as trained. At 1 they are those that training on these
    recordings alone would give, which takes many recordings.

    Raises:
        DataError: see `gather`; for a weight below 1, only fewer than two speakers, or a speaker without an utterance.
    """
    plda = _moved(plda, embeddings)
    model = fit(plda.prepare(embeddings), groups, num_speakers, plda.model, weight)
    return replace(plda, model=model)


def _power(covariance: Floats, exponent: float) -> Floats:
    """Return a power of a symmetric matrix [D, D] without negative eigenvalues."""
    values, basis = eigh(covariance)
    return np.asarray((basis * np.maximum(values, 0.0) ** exponent) @ basis.T)


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Statistics:
    """The statistics of the training data that EM needs."""

    counts: Floats
    """[S] utterances of each speaker."""
    means: Floats
    """[S, D] mean of each speaker."""
    scatter: Floats
    """[D, D] sum over all utterances of the outer products of their differences from their speaker's mean."""


def gather(
    embeddings: NDArray[np.floating], groups: Ints, num_speakers: int, *, has_prior: bool = False
) -> Statistics:
    """Sum up training data [N, D] of speakers [N], 0 to S - 1, in bounded memory.

    Raises:
        DataError: a speaker has no utterance, there are fewer than two speakers, or, unless `has_prior`, fewer
            utterances beyond the first of each speaker than dimensions (the covariance within speakers would be
            singular).
    """
    num_rows, dim = embeddings.shape
    counts = np.bincount(groups, minlength=num_speakers).astype(np.float64)
    if num_speakers < 2 or np.any(counts == 0):
        raise DataError(
            f"plda: expected two speakers or more, each with an utterance, found {np.count_nonzero(counts)}"
        )
    if num_rows - num_speakers < dim and not has_prior:
        raise DataError(
            f"plda: expected at least {dim + num_speakers} embeddings ({dim} dimensions and {num_speakers}"
            f" speakers), found {num_rows}; give more training data"
        )
    order = np.argsort(groups, kind="stable")
    starts = np.concatenate(([0], np.cumsum(counts.astype(np.int64))[:-1]))
    means = np.add.reduceat(embeddings[order], starts, axis=0, dtype=np.float64) / counts[:, None]
    scatter = np.zeros((dim, dim))
    for start in range(0, num_rows, ROWS_PER_BLOCK):
        rows = slice(start, start + ROWS_PER_BLOCK)
        distance = embeddings[rows] - means[groups[rows]]
        scatter += distance.T @ distance
    return Statistics(counts=counts, means=means, scatter=scatter)


def fit(
    embeddings: NDArray[np.floating],
    groups: Ints,
    num_speakers: int,
    prior: TwoCovariance | None = None,
    weight: float = 1.0,
) -> TwoCovariance:
    """Fit to training data [N, D] of speakers [N] by EM from its moments, to convergence or `NUM_ITERATIONS`.

    With a `prior`, the data have the share `weight` in both covariances after every iteration.

    Raises:
        DataError: see `gather`; or the embeddings lie in a subspace.
    """
    statistics = gather(embeddings, groups, num_speakers, has_prior=weight < 1)

    def shared(new: TwoCovariance) -> TwoCovariance:
        if prior is None:
            return new
        between = weight * new.between + (1 - weight) * prior.between
        return replace(new, between=between, within=weight * new.within + (1 - weight) * prior.within)

    num_rows = statistics.counts.sum()
    within = statistics.scatter / max(num_rows - num_speakers, 1)
    spread = statistics.means - statistics.means.mean(axis=0)
    # EM never leaves a direction in which `between` is 0, as it is where speakers are fewer than dimensions.
    ridge = 1e-6 * np.trace(within) / len(within) * np.eye(len(within))
    between = spread.T @ spread / num_speakers + ridge
    model = shared(TwoCovariance(mean=statistics.means.mean(axis=0), between=between, within=within))
    previous = -np.inf
    for _ in range(NUM_ITERATIONS):
        new, likelihood = em_step(model, statistics)
        model = shared(new)
        if abs(likelihood - previous) < TOLERANCE * num_rows:  # with a prior it may fall
            break
        previous = likelihood
    return model


def em_step(model: TwoCovariance, statistics: Statistics) -> tuple[TwoCovariance, float]:
    """Do one EM iteration.

    Returns:
        The next model, and the log-likelihood of the data under the given one (up to a constant).
    """
    basis, psi = diagonalize(model)
    counts = statistics.counts[:, None]
    means = (statistics.means - model.mean) @ basis
    scatter = basis.T @ statistics.scatter @ basis
    posterior_variance = psi / (1 + counts * psi)
    speakers = counts * posterior_variance * means
    likelihood = -0.5 * (
        np.sum(np.log1p(counts * psi) + counts * means**2 / (1 + counts * psi))
        + np.trace(scatter)
        - 2 * statistics.counts.sum() * np.linalg.slogdet(basis)[1]
    )
    shift = speakers.mean(axis=0)
    deviation = speakers - shift
    between = deviation.T @ deviation / len(counts) + np.diag(posterior_variance.mean(axis=0))
    residual = means - speakers
    within = scatter + (counts * residual).T @ residual + np.diag((counts * posterior_variance).sum(axis=0))
    within /= statistics.counts.sum()
    back = np.linalg.inv(basis)
    return (
        TwoCovariance(
            mean=model.mean + shift @ back, between=back.T @ between @ back, within=back.T @ within @ back
        ),
        float(likelihood),
    )


def diagonalize(model: TwoCovariance) -> tuple[Floats, Floats]:
    """Return a basis V [D, D] with V' within V = I and V' between V = diag(psi), and psi [D].

    Raises:
        DataError: the covariance within speakers is singular.
    """
    try:
        psi, basis = eigh((model.between + model.between.T) / 2, (model.within + model.within.T) / 2)
    except np.linalg.LinAlgError as error:
        raise DataError(
            "plda: the utterances of the speakers vary in a subspace only; give more training data"
        ) from error
    return np.asarray(basis), np.maximum(np.asarray(psi), 0.0)


def enroll_factors(
    model: TwoCovariance, means: NDArray[np.floating], counts: NDArray[np.integer]
) -> Floats32:
    """Return rows whose inner products with `test_factors` are natural-log ratios of one speaker against two.

    n utterances of an enrollment with the mean a, in the basis of `diagonalize`, leave the speaker with the variance
    psi / (1 + n psi) around n psi a / (1 + n psi); a test b is one more utterance of that speaker, or of an unknown
    one with the variance psi around 0. The ratio is the sum over dimensions of

        n psi / (1 + (n + 1) psi) a b  -  n psi^2 / (2 (1 + psi) (1 + (n + 1) psi)) b^2
        -  n^2 psi^2 / (2 (1 + n psi) (1 + (n + 1) psi)) a^2  +  log((1 + psi) (1 + n psi) / (1 + (n + 1) psi)) / 2,

    which is exact for any number of utterances. With n = 1 it is symmetric in a and b.

    Args:
        model: fitted.
        means: [E, D] mean of each enrollment's utterances, normalised as in training.
        counts: [E] number of utterances of each enrollment.

    Returns:
        [E, 2 D + 1]: the coefficients of b, b^2 and 1.
    """
    basis, psi = diagonalize(model)
    dim = len(psi)
    factors = np.empty((len(means), 2 * dim + 1), dtype=np.float32)
    for start in range(0, len(means), ROWS_PER_BLOCK):
        block = slice(start, start + ROWS_PER_BLOCK)
        mean = (means[block] - model.mean) @ basis
        count = np.asarray(counts[block], dtype=np.float64)[:, None]
        known, joint = 1 + count * psi, 1 + (count + 1) * psi
        factors[block, :dim] = count * psi / joint * mean
        factors[block, dim:-1] = -count * psi**2 / (2 * (1 + psi) * joint)
        constant = np.log1p(psi) + np.log(known) - np.log(joint) - (count * psi * mean) ** 2 / (known * joint)
        factors[block, -1] = constant.sum(axis=1) / 2
    return factors


def test_factors(model: TwoCovariance, tests: NDArray[np.floating]) -> Floats32:
    """Return [N, 2 D + 1] of test embeddings [N, D]: b, b^2 and 1 in the basis of `diagonalize`."""
    basis, psi = diagonalize(model)
    dim = len(psi)
    factors = np.empty((len(tests), 2 * dim + 1), dtype=np.float32)
    for start in range(0, len(tests), ROWS_PER_BLOCK):
        block = slice(start, start + ROWS_PER_BLOCK)
        projected = (tests[block] - model.mean) @ basis
        factors[block, :dim] = projected
        factors[block, dim:-1] = projected**2
    factors[:, -1] = 1.0
    return factors
