"""What systems lose under conditions, such as a telephone: differences on the same trials and resampled speakers."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svkit.config.conditions import NAMES, plain_name
from svkit.errors import DataError
from svkit.eval.bootstrap import paired_difference
from svkit.eval.results import PairedDifference
from svkit.progress import Progress
from svkit.scoring.comparison import find_resamples
from svkit.store.metrics import ConditionRates, Metrics
from svkit.store.scores import Resamples

_Eer = tuple[float, NDArray[np.float64]]
"""EER on all trials and in each resample, or a difference of two of these."""
_Found = dict[str | None, dict[str, tuple[Metrics, Resamples | None]]]
"""Systems by condition and name."""


def compare_conditions(
    measured: Sequence[tuple[Path, Metrics]], seed: int, progress: Progress
) -> tuple[ConditionRates, ...]:
    """Return a row for each system and condition; no rows if no scores are under a condition.

    `measured` has metrics with their directories of scores, including those of recordings as they are; `seed` is that
    of the bootstrap.
    """
    lists: dict[tuple[object, ...], _Found] = defaultdict(lambda: defaultdict(dict))
    for directory, metrics in measured:
        if metrics.condition is None:
            continue
        resamples = find_resamples(directory, metrics, seed, progress)
        found = lists[(*_key(metrics), metrics.condition.sides)]
        found[metrics.condition.name][plain_name(metrics.name)] = (metrics, resamples)
    for directory, metrics in measured:
        if metrics.condition is not None:
            continue
        for key in (key for key in lists if key[:-1] == _key(metrics)):
            resamples = find_resamples(directory, metrics, seed, progress)
            lists[key][None][metrics.name] = (metrics, resamples)
    return tuple(row for key, found in lists.items() for row in _rows(found, str(key[-1])))


def _key(metrics: Metrics) -> tuple[object, ...]:
    return metrics.trials.sha256, metrics.trials.left_out, metrics.backend.name


def _rows(found: _Found, sides: str) -> list[ConditionRates]:
    names = sorted({name for systems in found.values() for name in systems})
    reference = "dense" if "dense" in names else names[0]
    drawn = {
        (condition, name): (metrics.eer, resamples)
        for condition, systems in found.items()
        for name, (metrics, resamples) in systems.items()
        if resamples is not None
    }
    # If other speakers were drawn, nothing is paired.
    if len({resamples.draws for _, resamples in drawn.values()}) > 1:
        drawn = {}
    eers = {key: (eer, resamples.eer) for key, (eer, resamples) in drawn.items()}
    num_speakers = max((resamples.num_speakers for _, resamples in drawn.values()), default=0)
    rows = []
    for condition in (name for name in (None, *NAMES) if name in found):
        for name in sorted(found[condition], key=lambda name: (name != reference, name)):
            metrics, _ = found[condition][name]
            own, base = eers.get((condition, name)), eers.get((None, name))
            other, other_base = eers.get((condition, reference)), eers.get((None, reference))
            # How much further apart the two systems are under the condition than without it: what one loses more.
            gaps = _minus(own, other), _minus(base, other_base)
            is_other, is_changed = name != reference, condition is not None
            rows.append(
                ConditionRates(
                    trials=metrics.trials.name,
                    backend=metrics.backend.name,
                    sides=sides,
                    condition=condition,
                    system=name,
                    reference=reference,
                    eer=metrics.eer,
                    eer_interval=metrics.eer_interval,
                    lost=_difference(own, base, num_speakers) if is_changed else None,
                    gap=_difference(own, other, num_speakers) if is_other else None,
                    lost_more=_difference(*gaps, num_speakers) if is_other and is_changed else None,
                )
            )
    return rows


def _minus(first: _Eer | None, second: _Eer | None) -> _Eer | None:
    return None if first is None or second is None else (first[0] - second[0], first[1] - second[1])


def _difference(first: _Eer | None, second: _Eer | None, num_speakers: int) -> PairedDifference | None:
    if first is None or second is None:
        return None
    try:
        return paired_difference(first[1], second[1], (first[0], second[0]), num_speakers)
    except DataError:  # most resamples lack a class
        return None
