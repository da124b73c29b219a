"""From trials and embeddings to scores: look up rows, centre, compare, normalise."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svkit.errors import ConfigError, DataError, first_five
from svkit.eval import scoring
from svkit.eval.plda import Plda
from svkit.store.embeddings import Embeddings
from svkit.store.trials import Trials

TOP_N = 300
_BY_ROLE = ("train", "training", "cohort", "mean")
"""Names of material that say no more than what it is for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """How two embeddings become a score."""

    method: Literal["cosine", "plda"] = "cosine"
    """Cosine, or the log-likelihood ratio of a two-covariance PLDA model."""
    norm: Literal["none", "snorm", "asnorm"] = "none"
    top_n: int = TOP_N
    """Cohort members that count in adaptive S-norm."""
    center: bool = False
    """Subtract the mean of the cohort, or of the tests where there is no cohort."""
    cohort_speakers: bool = False
    """One cohort member a speaker (mean of the length-normalised embeddings) instead of one an utterance."""
    length_norm: bool = True
    """Of what PLDA sees; cosine has it always."""
    adapt_weight: float | None = None
    """Share, in the covariances, of the recordings that PLDA is adapted to; None: there are none, or as many say."""

    def __post_init__(self) -> None:
        if self.method == "plda" and self.center:
            raise ConfigError("--center: PLDA centres on its own training data; leave it out")
        if self.method != "plda" and not self.length_norm:
            raise ConfigError("--no-length-norm is of --backend plda: a cosine has no length")

    def changed(self) -> dict[str, Any]:
        """Return the settings by name; of those that earlier versions lacked, the ones that are not the default."""
        same = {"length_norm": True, "adapt_weight": None}
        return {name: value for name, value in asdict(self).items() if same.get(name, ...) != value}

    def name(self, inputs: Mapping[str, Path]) -> str:
        """Name the back-end in tables and directories by all that changes scores and is not the default.

        `inputs` has the system's `embeddings` and the directories of its material, which are named too, without the
        system's name in theirs, unless by their role.
        """
        system, has_norm = inputs["embeddings"].name if "embeddings" in inputs else "", self.norm != "none"

        def material(name: str) -> str:
            place = inputs.get(name, Path())
            own = place.name.removeprefix(system).removesuffix(system).strip("-_.")
            return "" if own in _BY_ROLE else own

        parts = ["plda", material("plda_training")] if self.method == "plda" else []
        parts += ["no-length-norm"] * (not self.length_norm)
        if "plda_adaptation" in inputs:
            parts += ["adapt", material("plda_adaptation")]
            parts += [] if self.adapt_weight is None else [f"w{self.adapt_weight:g}"]
        parts += ["mean", material("mean")] if "mean" in inputs else ["center"] * self.center
        parts += [self.norm] * has_norm
        if self.norm == "asnorm" and self.top_n != TOP_N:
            parts.append(f"top{self.top_n}")
        parts += ["speakers"] * (self.cohort_speakers and has_norm)
        if "cohort" in inputs and (has_norm or self.center):
            parts.append(material("cohort"))
        return "-".join(filter(None, parts)) or "cosine"


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Lookup:
    """Rows of the embeddings that a trial list needs, and each trial's place among them."""

    enroll: NDArray[np.float32]
    """[R, D]: the utterances of all enrollments."""
    enroll_groups: NDArray[np.int64]
    """[R] the enrollment, 0 to E - 1, that each belongs to."""
    test: NDArray[np.float32]
    """[U, D]."""
    enroll_rows: NDArray[np.int32]
    """[T] enrollment of each trial, 0 to E - 1."""
    test_rows: NDArray[np.int32]
    """[T]."""

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
        DataError: utterances or enrollments without an embedding; the first five are named.
    """
    enroll_ids, index = trials.enroll.values, pd.Index(embeddings.ids)
    test = embeddings.matrix[_rows(index, trials.test.values, source, "utterances")]
    if enrollment is None:
        rows = _rows(index, enroll_ids, source, "utterances")
        groups = np.arange(len(rows))
    else:
        needed = enrollment[enrollment["enroll_id"].isin(enroll_ids)]
        rows = _rows(index, np.asarray(needed["utterance_id"], dtype=object), source, "utterances")
        _rows(pd.Index(needed["enroll_id"].unique()), enroll_ids, "the enrollment map", "enrollments")
        groups = pd.Index(enroll_ids).get_indexer(pd.Index(needed["enroll_id"]))
    return Lookup(
        enroll=embeddings.matrix[rows],
        enroll_groups=groups.astype(np.int64),
        test=test,
        enroll_rows=trials.enroll.codes,
        test_rows=trials.test.codes,
    )


def has_embeddings(
    trials: Trials, embeddings: Embeddings, enrollment: pd.DataFrame | None = None
) -> NDArray[np.bool_]:
    """Say of every trial whether all of its utterances have embeddings, [T]; arguments as for `look_up`."""
    known = pd.Index(embeddings.ids)
    enrollments: pd.Index = known
    if enrollment is not None:
        is_whole = enrollment["utterance_id"].isin(known).groupby(enrollment["enroll_id"]).all()
        enrollments = is_whole[is_whole].index
    has_test = trials.test.look_up(pd.Index(trials.test.values).isin(known))
    has_enroll = trials.enroll.look_up(pd.Index(trials.enroll.values).isin(enrollments))
    return np.asarray(has_test & has_enroll, dtype=bool)


def _rows(index: pd.Index, ids: NDArray[np.object_], source: str, what: str) -> NDArray[np.int64]:
    rows = index.get_indexer(pd.Index(ids))
    missing = np.asarray(ids)[rows < 0]
    if len(missing):
        raise DataError(
            f"{source}: nothing for {len(missing)} of {len(ids)} {what} of the trials:"
            f" {first_five(missing.tolist())}; they must hold every utterance of the trials"
        )
    return np.asarray(rows, dtype=np.int64)


def score_trials(
    lookup: Lookup, backend: Backend, cohort: NDArray[np.float32] | None, plda: Plda | None = None
) -> tuple[NDArray[np.float64], CohortMeans | None]:
    """Score every trial with a cohort [C, D], needed for normalisation, and PLDA where that is the method.

    Returns:
        [T] scores, higher for the same speaker; what they were normalised by, where there is a cohort.
    """
    assert (backend.method == "plda") == (plda is not None), "a model for the method plda, and only for it"
    enroll, test = lookup.enroll, lookup.test
    # A score is an inner product of two factors: unit vectors, or what PLDA makes of both sides.
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
    # Against the cohort, a test stands where an enrollment of one utterance does.
    against = scoring.length_normalize(cohort) if plda is None else plda.test_factors(cohort)
    alone = right if plda is None else plda.enroll_factors(test, np.arange(len(test)), len(test))
    top_n = None if backend.norm == "snorm" else min(backend.top_n, len(cohort))
    of_enroll, of_test = (scoring.product_statistics(rows, against, top_n) for rows in (left, alone))
    if backend.norm == "none":  # the means are wanted for calibration
        scores = raw.astype(np.float64)
    else:
        scores = scoring.normalize_scores(raw, of_enroll, of_test, lookup.enroll_rows, lookup.test_rows)
    return scores, (of_enroll.mean, of_test.mean)
