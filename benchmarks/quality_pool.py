"""Error rates of methods over several folds, with pooled trials, resampled speakers and paired differences."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from evidence import Evidence, check_trials
from folds import fold_trials
from numpy.typing import NDArray

from svkit.eval import bootstrap
from svkit.eval.bootstrap import TrialSpeakers
from svkit.eval.crossings import resample_crossings
from svkit.eval.metrics import equal_error_rate, error_curve
from svkit.store.scores import Scores
from svkit.store.trials import Trials

NUM_RESAMPLES = 4000
SEED = 24
OURS = "ours"

Floats = NDArray[np.float64]


class Pool:
    """The trials of some folds as one list; no trial has speakers of two folds."""

    def __init__(self, found: Sequence[TrialSpeakers]) -> None:
        """Number the speakers of all folds; `found` has the speakers of each fold's trials."""
        counts = [speakers.num_speakers for speakers in found]
        starts = np.cumsum([0, *counts])
        self.num_speakers = int(starts[-1])
        self.parts = [slice(start, start + count) for start, count in zip(starts, counts, strict=False)]
        self.of_folds = found
        self.speakers = TrialSpeakers(
            enroll=np.concatenate([s.enroll + start for s, start in zip(found, starts, strict=False)]),
            test=np.concatenate([s.test + start for s, start in zip(found, starts, strict=False)]),
            num_speakers=self.num_speakers,
        )
        self.drawn = bootstrap.draw_multiplicities(self.num_speakers, NUM_RESAMPLES, SEED)
        self.num_trials = len(self.speakers.enroll)

    def pooled(self, folds: Sequence[Scores]) -> tuple[float, Floats]:
        """Return the EER of all trials at one threshold, and in every resample, [R]."""
        scores = np.concatenate([fold.scores for fold in folds])
        labels = np.concatenate([fold.trials.labels for fold in folds])
        eers, _ = resample_crossings(scores, labels, self.speakers, self.drawn)
        return equal_error_rate(error_curve(scores, labels == 1)), eers

    def mean(self, folds: Sequence[Scores]) -> tuple[float, Floats]:
        """Return the mean of the folds' EERs, each at its own threshold, and in every resample, [R]."""
        points = [equal_error_rate(error_curve(fold.scores, fold.trials.labels == 1)) for fold in folds]
        resampled = [
            resample_crossings(fold.scores, fold.trials.labels, speakers, self.drawn[:, part])[0]
            for fold, speakers, part in zip(folds, self.of_folds, self.parts, strict=True)
        ]
        return float(np.mean(points)), np.mean(resampled, axis=0)


def speakers_of(trials: Trials) -> TrialSpeakers:
    """Number the speakers of the trials of a fold; ids are `SPEAKER/RECORDING`."""
    sides = [[name.split("/")[0] for name in side[:]] for side in (trials.enroll, trials.test)]
    number, names = pd.factorize(np.array([*sides[0], *sides[1]], dtype=object), sort=True)
    enroll, test = number[: len(trials)], number[len(trials) :]
    return TrialSpeakers(enroll=enroll, test=test, num_speakers=len(names))


def pool_methods(
    found: Mapping[str, Mapping[int, Evidence]], trials: Mapping[int, Trials]
) -> list[dict[str, Any]]:
    """Pool the final model of every method over the folds that it has in common with ours, and compare the two there.

    Args:
        found: the evidence of each method in each fold.
        trials: the trials of each of these folds.
    """
    facts = []
    for method in sorted(found, key=lambda name: (name != OURS, name)):
        folds = sorted(set(found.get(OURS, {})) & set(found[method]))
        if not folds:
            continue
        pool = Pool([speakers_of(trials[fold]) for fold in folds])
        own, ours = (
            [Scores(trials=trials[fold], scores=found[name][fold].scores, llrs=None) for fold in folds]
            for name in (method, OURS)
        )
        one: dict[str, Any] = {
            "method": method,
            "folds": folds,
            "num_speakers": pool.num_speakers,
            "num_trials": pool.num_trials,
        }
        for name, measure in (("pooled", pool.pooled), ("mean", pool.mean)):
            eer, resampled = measure(own)
            interval = bootstrap.rate_interval(eer, resampled, pool.drawn, pool.num_speakers)
            one[name] = {"eer": eer, "low": interval.low, "high": interval.high}
            if method != OURS:
                our_eer, our_resampled = measure(ours)
                difference = bootstrap.paired_difference(
                    our_resampled, resampled, (our_eer, eer), pool.num_speakers
                )
                one[name]["ours_minus_it"] = {
                    "difference": difference.difference,
                    "low": difference.interval.low,
                    "high": difference.interval.high,
                    "p_value": difference.p_value,
                }
        facts.append(one)
    return facts


MADE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "dates": lambda made: made["date"],
    "processors": lambda made: made["machine"]["processor"],
    "precisions": lambda made: made["precision"],
    "teachers": lambda made: made["teacher"],
}


def gather(known: Mapping[str, Mapping[int, Evidence | None]], voices: Path) -> dict[str, Any]:
    """Pool the evidence on each method in each fold."""
    found = {method: {fold: one for fold, one in folds.items() if one} for method, folds in known.items()}
    everything = sorted((one for folds in found.values() for one in folds.values()), key=lambda one: one.fold)
    trials = {fold: fold_trials(voices, fold)[1] for fold in sorted({one.fold for one in everything})}
    made = []
    for fold in trials:
        members = [one for one in everything if one.fold == fold]
        check_trials(members, trials[fold])
        facts = {name: sorted({str(get(one.made)) for one in members}) for name, get in MADE.items()}
        made.append({"fold": fold, **facts})
    pooled = pool_methods(found, trials)
    return {
        "made": made,
        "rows": [{"fold": one.fold, **row} for one in everything for row in one.rows],
        "pooled": pooled,
        "in_all_folds": [one for one in pooled if len(one["folds"]) == len(trials)],
    }
