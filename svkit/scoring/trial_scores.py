"""Find the embeddings that a trial list needs, and score its trials."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svkit.errors import DataError, first_five
from svkit.eval import scoring
from svkit.eval.plda import Plda
from svkit.scoring.backend import Backend
from svkit.store.embeddings import Embeddings
from svkit.store.trials import Trials


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Lookup:
    """Rows of the embeddings that a trial list needs, and each trial's place among them."""

    enroll: NDArray[np.float32]
    """[R, D]: the utterances of all enrollments."""
    enroll_groups: NDArray[np.int64]
    """[R] the enrollment, 0 to E - 1, that each belongs to."""
    test: NDArray[np.float32]
    """[U, D]: the test utterances."""
    enroll_rows: NDArray[np.int32]
    """[T] enrollment of each trial, 0 to E - 1."""
    test_rows: NDArray[np.int32]
    """[T] test utterance of each trial, 0 to U - 1."""

    def centered(self, mean: NDArray[np.float64]) -> "Lookup":
        """Subtract a mean [D] from both sides."""
        return replace(self, enroll=scoring.center(self.enroll, mean), test=scoring.center(self.test, mean))


CohortMeans = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Mean cohort score of each enrollment [E] and of each test [U]."""


def look_up(
    trials: Trials, embeddings: Embeddings, source: str, enrollment: pd.DataFrame | None = None
) -> Lookup:
    """Find the embeddings, called `source` in messages, of both sides of every trial.

    Raises:
        DataError: utterances or enrollments have no embedding; the message names the first five of each side.
    """
    enroll_ids, test_ids = trials.enroll.values, trials.test.values
    utterances, groups = enroll_ids, np.arange(len(enroll_ids))
    if enrollment is not None:
        needed = enrollment[enrollment["enroll_id"].isin(enroll_ids)]
        utterances = np.asarray(needed["utterance_id"], dtype=object)
        known = pd.Index(needed["enroll_id"].unique())
        _refuse_missing(
            "the enrollment map", (known.get_indexer(pd.Index(enroll_ids)), enroll_ids, "enrollments")
        )
        groups = pd.Index(enroll_ids).get_indexer(pd.Index(needed["enroll_id"]))
    index = pd.Index(embeddings.ids)
    enroll_rows, test_rows = (index.get_indexer(pd.Index(ids)) for ids in (utterances, test_ids))
    _refuse_missing(
        source, (enroll_rows, utterances, "enrollment utterances"), (test_rows, test_ids, "test utterances")
    )
    return Lookup(
        enroll=embeddings.matrix[enroll_rows],
        enroll_groups=groups.astype(np.int64),
        test=embeddings.matrix[test_rows],
        enroll_rows=trials.enroll.codes,
        test_rows=trials.test.codes,
    )


def has_embeddings(
    trials: Trials, embeddings: Embeddings, enrollment: pd.DataFrame | None = None
) -> NDArray[np.bool_]:
    """Return whether all utterances of each trial have embeddings, [T]; the arguments are those of `look_up`."""
    known = pd.Index(embeddings.ids)
    enrollments: pd.Index = known
    if enrollment is not None:
        is_whole = enrollment["utterance_id"].isin(known).groupby(enrollment["enroll_id"]).all()
        enrollments = is_whole[is_whole].index
    has_test = trials.test.look_up(pd.Index(trials.test.values).isin(known))
    has_enroll = trials.enroll.look_up(pd.Index(trials.enroll.values).isin(enrollments))
    return np.asarray(has_test & has_enroll, dtype=bool)


def _refuse_missing(source: str, *sides: tuple[NDArray[np.int64], NDArray[np.object_], str]) -> None:
    """Raise DataError for ids [N] whose row [N] is -1; a side is its rows, its ids and their name in the message."""
    found = []
    for rows, ids, what in sides:
        if len(missing := ids[rows < 0].tolist()):
            shown = first_five(missing[:5]) + (", ..." if len(missing) > 5 else "")
            found.append(f"{len(missing)} of {len(ids)} {what} ({shown})")
    if found:
        raise DataError(f"{source}: nothing for {' and '.join(found)} of the trials; all are needed")


def score_trials(
    lookup: Lookup, backend: Backend, cohort: NDArray[np.float32] | None, plda: Plda | None = None
) -> tuple[NDArray[np.float64], CohortMeans | None]:
    """Score every trial; normalisation needs a cohort [C, D], and the method `plda` needs its model.

    Returns:
        [T] scores, higher for the same speaker, and the mean scores against the cohort, if there is one.
    """
    assert (backend.method == "plda") == (plda is not None), "a model for the method plda, and for no other"
    enroll, test = lookup.enroll, lookup.test
    # A score is the inner product of two factors: unit vectors for cosine, or PLDA's factors of both sides.
    num_enrollments = int(lookup.enroll_groups.max()) + 1
    if plda is not None:
        left = plda.enroll_factors(enroll, lookup.enroll_groups, num_enrollments)
        right = plda.test_factors(test)
    else:
        left = scoring.length_normalize(scoring.group_means(enroll, lookup.enroll_groups, num_enrollments))
        right = scoring.length_normalize(test)
    raw = scoring.pair_products(left, right, lookup.enroll_rows, lookup.test_rows)
    if cohort is None:
        return raw.astype(np.float64), None
    # Against the cohort, a test takes the place of an enrollment of one utterance.
    against = scoring.length_normalize(cohort) if plda is None else plda.test_factors(cohort)
    alone = right if plda is None else plda.enroll_factors(test, np.arange(len(test)), len(test))
    top_n = None if backend.norm == "snorm" else min(backend.top_n, len(cohort))
    of_enroll, of_test = (scoring.product_statistics(rows, against, top_n) for rows in (left, alone))
    if backend.norm == "none":  # the means are wanted for calibration
        scores = raw.astype(np.float64)
    else:
        scores = scoring.normalize_scores(raw, of_enroll, of_test, lookup.enroll_rows, lookup.test_rows)
    return scores, (of_enroll.mean, of_test.mean)
