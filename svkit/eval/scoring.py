"""Scores from embeddings: cosine, centring, multi-enrollment, S-norm and adaptive S-norm, in bounded memory.

Everything works on rows of a matrix `[N, D]`; trials are pairs of row numbers. Temporary memory is bounded by
`BLOCK_BYTES` whatever the number of trials, utterances or cohort members.

Source: P. Matejka et al., "Analysis of score normalization in multilingual speaker recognition", Interspeech
2017 (S-norm and adaptive S-norm with the most similar part of the cohort).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svkit.errors import ConfigError, DataError, first_five

Floats32 = NDArray[np.float32]
Floats = NDArray[np.float64]
Ints = NDArray[np.integer[Any]]

BLOCK_BYTES = 128 * 2**20
"""Size of the largest temporary matrix (utterances against the cohort)."""

TRIALS_PER_BLOCK = 1024
"""Pairs gathered at once; two blocks of rows of 256 floats stay within a core's cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CohortStatistics:
    """Mean and population standard deviation of each utterance's scores against its part of the cohort."""

    mean: Floats
    """[N]."""
    std: Floats
    """[N], positive."""


def length_normalize(embeddings: NDArray[np.floating]) -> Floats32:
    """Scale every row `[N, D]` to length 1 (DataError: a row is zero or not finite)."""
    norms = np.sqrt(np.einsum("nd,nd->n", embeddings, embeddings, dtype=np.float64))
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(bad):
        raise DataError(
            f"embeddings: expected finite rows other than zero, found bad rows {first_five(bad.tolist())}"
        )
    unit = np.empty(embeddings.shape, dtype=np.float32)
    np.divide(embeddings, norms[:, None], out=unit, casting="same_kind")
    return unit


def center(embeddings: NDArray[np.floating], mean: NDArray[np.floating]) -> Floats32:
    """Subtract a mean embedding `[D]` from every row `[N, D]` (DataError: the sizes differ)."""
    if mean.shape != embeddings.shape[1:]:
        raise DataError(f"mean embedding: expected {embeddings.shape[1]} values, found {mean.shape}")
    return np.asarray(embeddings - mean, dtype=np.float32)


def group_means(
    embeddings: NDArray[np.floating], groups: Ints, num_groups: int, *, length_norm: bool = True
) -> Floats32:
    """Average the length-normalised rows [N, D] of each group [N]: multi-enrollment models, or speakers of a cohort.

    Returns:
        [num_groups, D], not length-normalised.

    Raises:
        DataError: a group has no row.

    Source: NIST SRE practice (average of length-normalised embeddings; concatenating the audio is worse).
    """
    counts = np.bincount(groups, minlength=num_groups)
    if np.any(counts == 0):
        raise DataError(f"groups without an utterance: {first_five(np.flatnonzero(counts == 0).tolist())}")
    order = np.argsort(groups, kind="stable")
    rows = (length_normalize(embeddings) if length_norm else embeddings)[order]
    if len(rows) == num_groups:  # one row per group
        return np.asarray(rows, dtype=np.float32)
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    sums = np.add.reduceat(rows, starts, axis=0, dtype=np.float64)
    sums /= counts[:, None]
    return np.asarray(sums, dtype=np.float32)


def cosine_scores(
    enroll: NDArray[np.floating], test: NDArray[np.floating], enroll_rows: Ints, test_rows: Ints
) -> Floats32:
    """Score pairs of rows, [T] of `enroll` [N, D] with [T] of `test` [M, D], by the cosine of their angle: [T]."""
    left = length_normalize(enroll)
    right = left if test is enroll else length_normalize(test)
    return pair_products(left, right, enroll_rows, test_rows)


def pair_products(left: Floats32, right: Floats32, left_rows: Ints, right_rows: Ints) -> Floats32:
    """Return the inner products [T] of pairs of rows: `left_rows` [T] of `left` with `right_rows` of `right`.

    Raises:
        DataError: a row number outside the matrix.
    """
    num_trials = len(left_rows)
    if num_trials and (
        min(left_rows.min(), right_rows.min()) < 0
        or left_rows.max() >= len(left)
        or right_rows.max() >= len(right)
    ):
        raise DataError("trials: a row number lies outside the embeddings")
    scores = np.empty(num_trials, dtype=np.float32)
    block = min(TRIALS_PER_BLOCK, num_trials)
    left_block = np.empty((block, left.shape[1]), dtype=np.float32)
    right_block = np.empty_like(left_block)
    for start in range(0, num_trials, TRIALS_PER_BLOCK):
        stop = min(start + TRIALS_PER_BLOCK, num_trials)
        a, b = left_block[: stop - start], right_block[: stop - start]
        # Rows were checked above; `clip` lets take() write straight into the buffer.
        np.take(left, left_rows[start:stop], axis=0, out=a, mode="clip")
        np.take(right, right_rows[start:stop], axis=0, out=b, mode="clip")
        np.einsum("td,td->t", a, b, out=scores[start:stop])
    return scores


def product_statistics(rows: Floats32, cohort: Floats32, top_n: int | None = None) -> CohortStatistics:
    """Measure the inner products of each row [N, D] with the rows of a cohort [C, D].

    Args:
        rows: factors of utterances.
        cohort: factors of speakers who are not in the trials.
        top_n: how many of the highest products count (adaptive S-norm); None: all of them (S-norm).

    Raises:
        ConfigError: top_n is not between 2 and C.
        DataError: sizes differ, or a row has the same score against all of its cohort.
    """
    if rows.shape[1] != cohort.shape[1]:
        raise DataError(f"cohort: expected embeddings of size {rows.shape[1]}, found {cohort.shape[1]}")
    size = len(cohort)
    kept = size if top_n is None else top_n
    if not 2 <= kept <= size:
        raise ConfigError(f"top-n: expected 2 to {size} (the cohort's size), found {kept}")
    means, stds = np.empty(len(rows)), np.empty(len(rows))
    step = max(1, BLOCK_BYTES // (4 * size))
    for start in range(0, len(rows), step):
        scores = rows[start : start + step] @ cohort.T
        if kept < size:
            scores.partition(size - kept, axis=1)
            scores = scores[:, size - kept :]
        means[start : start + step] = scores.mean(axis=1, dtype=np.float64)
        stds[start : start + step] = scores.std(axis=1, dtype=np.float64)
    bad = np.flatnonzero(~(stds > 1e-9))
    if len(bad):
        raise DataError(
            f"cohort: expected different embeddings, but all give the same score to rows {first_five(bad.tolist())}"
        )
    return CohortStatistics(mean=means, std=stds)


def normalize_scores(
    scores: NDArray[np.floating],
    enroll: CohortStatistics,
    test: CohortStatistics,
    enroll_rows: Ints,
    test_rows: Ints,
) -> Floats:
    """Normalise raw scores [T] by the cohort statistics of each side (its rows [T]), and average the two results."""
    normed = np.empty(len(scores))
    for start in range(0, len(scores), TRIALS_PER_BLOCK):
        block = slice(start, start + TRIALS_PER_BLOCK)
        left, right = enroll_rows[block], test_rows[block]
        from_enroll = (scores[block] - enroll.mean[left]) / enroll.std[left]
        from_test = (scores[block] - test.mean[right]) / test.std[right]
        normed[block] = (from_enroll + from_test) / 2
    return normed
