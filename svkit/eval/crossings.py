"""EER, and miss rates at given false-accept rates, of the error curve in every resample of the speakers.

A thousand resamples of a long list are too much to weigh trial by trial. But each of these rates is found where the
curve crosses a line, and weights never fall along the curve: halving finds the place. The weight of half of the trials
needs no pass over them for every resample either. With n_ab of them between speakers a and b, it is the sum of
n_ab * m_a * m_b, a product of matrices that speakers make, however many trials there are. Trials are weighed one by
one only in the short piece where a resample crosses.

All weights are whole numbers that their type holds exactly: what is found is what the whole curve would give.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from svkit.eval.bootstrap import TrialSpeakers
from svkit.eval.metrics import check_trials, corner_points, error_curve

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Numbers = NDArray[np.integer[Any]]
Drawn = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

PIECE_VALUES = 2**20
"""Weights (trials x resamples) of a piece that is not halved any more, and of speakers x resamples in one go."""
CACHE_VALUES = 2**16
"""Weights held at once: they stay within a core's cache."""
BLOCK_TRIALS = 2**20
"""Trials counted for each pair of speakers in one go."""
BLOCK_SPEAKERS = 256
"""Speakers of one side whose pairs are held as a full matrix."""
FLOAT32_WHOLE = 2**24
"""Below it float32 holds every whole number."""
DENSE_SHARE = 1 / 20
"""Of pairs with trials: above it, a product of full matrices takes less time than one of sparse ones."""


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class _Trials:
    """Trials of one class by ascending score, and how many of them are below each corner of the error curve."""

    sides: tuple[Numbers, ...]
    """Speakers [N]: of target trials one side, of nontarget trials both."""
    num_below: Ints
    """[K], from 0 to N."""

    def weigh(self, drawn: Drawn, first: int, last: int) -> Floats:
        """Weigh the trials from one corner to another in resamples `drawn` [S, B], [B]."""
        start, stop = self.num_below[first], self.num_below[last]
        if len(self.sides) == 1:
            return np.asarray(
                np.bincount(self.sides[0][start:stop], minlength=len(drawn)) @ drawn.astype(float)
            )
        weights = np.zeros(drawn.shape[1])
        for begin in range(start, stop, BLOCK_TRIALS):
            block = slice(begin, min(begin + BLOCK_TRIALS, stop))
            weights += _weigh_pairs(drawn, self.sides[0][block], self.sides[1][block])
        return weights

    def weigh_each(self, drawn: Drawn, first: int, last: int) -> Floats:
        """Weigh the trials from one corner to each further one before another, [last - first, B]; first 0."""
        start = self.num_below[first]
        counts = self.num_below[first:last] - start
        sums = np.zeros((len(counts), drawn.shape[1]))
        total = np.zeros(drawn.shape[1])
        step = max(1, CACHE_VALUES // drawn.shape[1])
        for begin in range(0, counts[-1], step):
            end = min(begin + step, counts[-1])
            rows = slice(start + begin, start + end)
            weights = drawn.take(self.sides[0][rows], axis=0)
            for side in self.sides[1:]:
                weights *= drawn.take(side[rows], axis=0)
            running = np.cumsum(weights, axis=0, dtype=np.float64)
            running += total
            places = slice(*np.searchsorted(counts, (begin, end), side="right"))
            sums[places] = running[counts[places] - begin - 1]
            total = running[-1]
        return sums


def _weigh_pairs(drawn: Drawn, left: Numbers, right: Numbers) -> Floats:
    """Weigh trials between speakers [N] in resamples `drawn` [S, B], [B]."""
    size = len(drawn)
    counts = csr_array((np.ones(len(left), np.float32), (left, right)), shape=(size, size))
    if len(left) * drawn.max(initial=0) >= FLOAT32_WHOLE:
        counts = counts.astype(np.float64)
    weights = np.zeros(drawn.shape[1])
    for start in range(0, size, BLOCK_SPEAKERS):
        rows = counts[start : start + BLOCK_SPEAKERS]
        if rows.nnz > DENSE_SHARE * size * rows.shape[0]:
            rows = rows.toarray()
        others = np.asarray(rows @ drawn, dtype=np.float64)
        weights += np.einsum("sb,sb->b", others, drawn[start : start + BLOCK_SPEAKERS])
    return weights


@dataclass(frozen=True, eq=False, slots=True)
class _Piece:
    """Part of the curve from corner `first`, before what is sought, to corner `last`, at or behind it; B resamples."""

    first: int
    last: int
    resamples: Ints
    """[B]."""
    is_here: Bools
    """[B, 1 + G] which of the crossings are in this part."""
    missed: Floats
    """[2, B] weight of the targets below the two corners."""
    rejected: Floats
    """[2, B] weight of the nontargets below them."""


class _Search:
    """Looks for the crossings in R resamples `drawn` [S, R]; `limits` [G] are false-accept rates."""

    def __init__(self, targets: _Trials, others: _Trials, limits: Floats, drawn: Drawn) -> None:
        self._targets, self._others, self._limits, self._drawn = targets, others, limits, drawn
        self._num_below = targets.num_below + others.num_below
        last = len(self._num_below) - 1
        self._totals = targets.weigh(drawn, 0, last), others.weigh(drawn, 0, last)
        self.found = np.full((drawn.shape[1], 1 + len(limits)), np.nan)
        """[R, 1 + G] EER and miss rates."""
        defined = np.flatnonzero((self._totals[0] > 0) & (self._totals[1] > 0))
        if len(defined):
            ends = [np.stack([0 * total, total])[:, defined] for total in self._totals]
            self._look_into(_Piece(0, last, defined, np.ones((len(defined), 1 + len(limits)), bool), *ends))

    def _look_into(self, piece: _Piece) -> None:
        """Find the crossings of a piece."""
        below, first, last = self._num_below, piece.first, piece.last
        drawn = self._drawn.take(piece.resamples, axis=1)
        if (below[last - 1] - below[first]) * drawn.shape[1] <= PIECE_VALUES:
            self._finish(piece, drawn)
            return
        half = np.searchsorted(below, (below[first] + below[last]) // 2)
        middle = int(np.clip(half, first + 1, last - 1))
        missed = piece.missed[0] + self._targets.weigh(drawn, first, middle)
        rejected = piece.rejected[0] + self._others.weigh(drawn, first, middle)
        del drawn
        miss, accept = self._rates(missed, rejected, piece.resamples)
        is_passed = np.column_stack([miss >= accept, accept[:, None] <= self._limits])
        for start, end, is_here in (
            (first, middle, piece.is_here & is_passed),
            (middle, last, piece.is_here & ~is_passed),
        ):
            rows = np.flatnonzero(is_here.any(axis=1))
            if len(rows):
                ends = [
                    np.stack([known[0], found] if end == middle else [found, known[1]])[:, rows]
                    for known, found in ((piece.missed, missed), (piece.rejected, rejected))
                ]
                self._look_into(_Piece(start, end, piece.resamples[rows], is_here[rows], *ends))

    def _finish(self, piece: _Piece, drawn: Drawn) -> None:
        """Find the crossings of a piece by looking at each of its corners."""
        missed, rejected = (
            np.concatenate([ends[0] + trials.weigh_each(drawn, piece.first, piece.last), ends[1:]])
            for trials, ends in ((self._targets, piece.missed), (self._others, piece.rejected))
        )
        every_miss, every_accept = self._rates(missed, rejected, piece.resamples)
        for place in np.flatnonzero(piece.is_here.any(axis=0)):
            here = np.flatnonzero(piece.is_here[:, place])
            miss, accept = every_miss[:, here], every_accept[:, here]
            is_passed = accept <= self._limits[place - 1] if place else miss >= accept
            # Rates never turn back along the curve: corners behind the first that has passed have passed too.
            after, column = len(miss) - np.count_nonzero(is_passed, axis=0), np.arange(len(here))
            found = miss[after, column]
            if not place:  # on the line between two corners
                before = miss[after - 1, column]
                gap_before = accept[after - 1, column] - before
                gap_after = found - accept[after, column]
                found = before + gap_before / (gap_before + gap_after) * (found - before)
            self.found[piece.resamples[here], place] = found

    def _rates(self, missed: Floats, rejected: Floats, resamples: Ints) -> tuple[Floats, Floats]:
        """Return miss and false-accept rates [..., B] of weights."""
        return missed / self._totals[0][resamples], 1.0 - rejected / self._totals[1][resamples]


def resample_crossings(
    scores: ArrayLike,
    labels: ArrayLike,
    speakers: TrialSpeakers,
    multiplicities: Ints,
    false_accept_rates: Sequence[float] = (),
) -> tuple[Floats, Floats]:
    """Find the plain EER (see `metrics.equal_error_rate`) and points of given false-accept rates in every resample.

    Args:
        scores: [N].
        labels: [N] 1 for target, 0 for nontarget.
        speakers: speakers of the N trials.
        multiplicities: [R, S] from `bootstrap.draw_multiplicities`; hand the same to every system that is compared.
        false_accept_rates: G of them, below 1.

    Returns:
        EERs [R], and miss rates [R, G] at the lowest threshold within each false-accept rate; NaN where a resample has
        no target or no nontarget trial left.
    """
    values, is_target = check_trials(scores, labels)
    # Only corners of the error curve matter: how many targets, and how many nontargets, are below each.
    curve = error_curve(values, is_target)
    points = corner_points(curve)
    num_misses = curve.num_misses[points]
    num_rejected = curve.num_nontargets - curve.num_false_accepts[points]
    del curve, points
    # By ascending score, a resample's weight of the trials below a corner is that of the first so many.
    order = np.argsort(values)
    is_target = is_target[order]
    targets, others = order[is_target], order[~is_target]
    del order, is_target, values
    sides = speakers.enroll[others], speakers.test[others]
    of_targets = _Trials(sides=(speakers.enroll[targets],), num_below=num_misses)
    of_others = _Trials(sides=sides, num_below=num_rejected)
    del targets, others, num_misses, num_rejected
    # As tolerant of rounding as `metrics.far_point`.
    limits = np.asarray(false_accept_rates, dtype=np.float64) * (1 + 1e-12) + 1e-15
    step = max(1, PIECE_VALUES // multiplicities.shape[1])
    # Weights of single trials are products of two; half as many bytes take half the time.
    kind = np.float32 if int(multiplicities.max()) ** 2 < FLOAT32_WHOLE else np.float64
    blocks = (multiplicities[start : start + step] for start in range(0, len(multiplicities), step))
    found = np.concatenate(
        [_Search(of_targets, of_others, limits, block.T.astype(kind, order="C")).found for block in blocks]
    )
    return found[:, 0], found[:, 1:]
