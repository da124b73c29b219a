"""Sorts trials into groups by a column of the trial list, of a sidecar or of the manifest, or by duration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svkit.errors import ConfigError, DataError
from svkit.stages.trial_speakers import recorded_manifest, trial_seconds
from svkit.store.tables import read_table
from svkit.store.trials import HEADER, Trials

DURATION = "duration"
"""Not a column but the shorter side of the trial, in bins."""
DURATION_EDGES = (2.0, 5.0, 10.0, 20.0)
"""Seconds."""
MAX_GROUPS = 50


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Grouping:
    """The group of every trial."""

    column: str
    values: tuple[str, ...]
    """Names of the groups, in the order of tables."""
    codes: NDArray[np.int64]
    """[T] number of each trial's group."""


def read_sidecar(path: Path, trials: Trials) -> pd.DataFrame:
    """Read the columns that go with a trial list: a row a trial, in its order, with `enroll_id` and `test_id`.

    Raises:
        DataError: missing, or rows that are not those trials.
    """
    table = read_table(path, HEADER[:2])
    if len(table) != len(trials):
        raise DataError(f"{path}: expected a row for each of {len(trials)} trials, found {len(table)}")
    for name, ids in zip(HEADER[:2], (trials.enroll_ids, trials.test_ids), strict=True):
        wrong = np.flatnonzero(np.asarray(table[name], dtype=object) != ids)
        if len(wrong):
            row = int(wrong[0])
            raise DataError(
                f"{path}:{row + 2}: {name}: expected {ids[row]} as in trial {row + 1}, found {table[name].iloc[row]}"
            )
    return table


def group_trials(
    column: str,
    trials: Trials,
    sidecar: pd.DataFrame | None,
    manifest: dict[str, Any] | None,
    enrollment: pd.DataFrame | None,
) -> Grouping:
    """Find the group of every trial.

    Args:
        column: of the sidecar, else of the manifest (both sides: one value, or `a / b` where they differ),
            or `duration`.
        trials: T trials.
        sidecar: columns with a row a trial, where there are any.
        manifest: `{path, sha256}` as recorded with the embeddings.
        enrollment: utterances of each enrollment, where enrollments are not utterances; the first one's
            value counts.

    Raises:
        ConfigError: no such column, or one with more than 50 values.
        DataError: the manifest is gone or changed, or lacks an utterance.
    """
    if sidecar is not None and column in sidecar.columns:
        return _grouping(column, np.asarray(sidecar[column], dtype=object))
    table = recorded_manifest(manifest)
    if column == DURATION:
        enroll, test = trial_seconds(trials, table, enrollment)
        codes = np.searchsorted(DURATION_EDGES, np.minimum(enroll, test), side="right")
        return Grouping(column=column, values=_duration_names(), codes=codes.astype(np.int64))
    if column not in table.table.columns:
        known = [*(() if sidecar is None else sidecar.columns), *table.table.columns, DURATION]
        raise ConfigError(f"--by {column}: no such column; found {', '.join(dict.fromkeys(known))}")
    value = dict(zip(table.utterance_ids, table.column(column), strict=True))
    enroll_ids = pd.Series(trials.enroll_ids)
    if enrollment is not None:
        first = enrollment.drop_duplicates("enroll_id")
        enroll_ids = enroll_ids.map(dict(zip(first["enroll_id"], first["utterance_id"], strict=True)))
    sides = [enroll_ids.map(value), pd.Series(trials.test_ids).map(value)]
    if sides[0].isna().any() or sides[1].isna().any():
        raise DataError(f"{table.source}: no {column} for some utterances of the trials")
    left, right = (side.to_numpy(dtype=object) for side in sides)
    low, high = np.where(left <= right, left, right), np.where(left <= right, right, left)
    return _grouping(column, np.where(left == right, left, low + " / " + high))


def _grouping(column: str, names: NDArray[np.object_]) -> Grouping:
    codes, values = pd.factorize(names, sort=True)
    if len(values) > MAX_GROUPS:
        raise ConfigError(f"--by {column}: expected at most {MAX_GROUPS} values, found {len(values)}")
    return Grouping(column=column, values=tuple(str(value) for value in values), codes=codes.astype(np.int64))


def _duration_names() -> tuple[str, ...]:
    edges = [f"{edge:g}" for edge in DURATION_EDGES]
    inner = [f"{low} to {high} s" for low, high in zip(edges[:-1], edges[1:], strict=True)]
    return (f"under {edges[0]} s", *inner, f"{edges[-1]} s or more")
