"""Error rates of methods over folds: trials pooled, speakers resampled, differences paired."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svkit.eval import bootstrap
from svkit.eval.bootstrap import TrialSpeakers
from svkit.eval.metrics import equal_error_rate, error_curve
from svkit.scoring.trial_speakers import find_speakers
from svkit.store.metrics import read_metrics
from svkit.store.scores import Scores, read_scores

NUM_RESAMPLES = 4000
SEED = 24
OURS = "ours"

Floats = NDArray[np.float64]


class Pool:
    """The trials of some folds as one list; their speakers never meet across folds."""

    def __init__(self, found: Sequence[TrialSpeakers]) -> None:
        """Number the speakers of all folds; `found` are those of each fold's trials."""
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
        """EER of all trials at one threshold, and in every resample, [R]."""
        scores = np.concatenate([fold.scores for fold in folds])
        labels = np.concatenate([fold.trials.labels for fold in folds])
        eers = bootstrap.resample(scores, labels, self.speakers, self.drawn, bootstrap.eer_statistic)
        return equal_error_rate(error_curve(scores, labels == 1)), eers

    def mean(self, folds: Sequence[Scores]) -> tuple[float, Floats]:
        """Mean of the folds' EERs, each at a threshold of its own, and in every resample, [R]."""
        points = [equal_error_rate(error_curve(fold.scores, fold.trials.labels == 1)) for fold in folds]
        resampled = [
            bootstrap.resample(
                fold.scores, fold.trials.labels, speakers, self.drawn[:, part], bootstrap.eer_statistic
            )
            for fold, speakers, part in zip(folds, self.of_folds, self.parts, strict=True)
        ]
        return float(np.mean(points)), np.mean(resampled, axis=0)


def pool_methods(home: Path, rows: dict[int, dict[str, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Pool the final model of every method over the folds that it shares with ours, and compare the two there."""
    found = []
    for method in sorted(
        {name for methods in rows.values() for name in methods}, key=lambda name: (name != OURS, name)
    ):
        folds = [fold for fold, methods in rows.items() if OURS in methods and method in methods]
        if not folds:
            continue
        directories = {
            name: [home / f"fold-{fold}" / rows[fold][name][-1]["scores"] for fold in folds]
            for name in (method, OURS)
        }
        own, ours = ([read_scores(path) for path in directories[name]] for name in (method, OURS))
        manifests = [read_metrics(path).manifest for path in directories[method]]
        pool = Pool(
            [find_speakers(fold.trials, manifest)[0] for fold, manifest in zip(own, manifests, strict=True)]
        )
        facts: dict[str, Any] = {
            "method": method,
            "folds": folds,
            "num_speakers": pool.num_speakers,
            "num_trials": pool.num_trials,
        }
        for name, measure in (("pooled", pool.pooled), ("mean", pool.mean)):
            eer, resampled = measure(own)
            interval = bootstrap.percentile_interval(resampled, pool.num_speakers)
            facts[name] = {"eer": eer, "low": interval.low, "high": interval.high}
            if method != OURS:
                our_eer, our_resampled = measure(ours)
                difference = bootstrap.paired_difference(
                    our_resampled, resampled, (our_eer, eer), pool.num_speakers
                )
                facts[name]["ours_minus_it"] = {
                    "difference": difference.difference,
                    "low": difference.interval.low,
                    "high": difference.interval.high,
                    "p_value": difference.p_value,
                }
        found.append(facts)
    return found
