"""Sort trials into groups by a column of a sidecar or of the manifest, or by duration."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svkit.errors import ConfigError, DataError
from svkit.scoring.trial_speakers import recorded_manifest, trial_seconds
from svkit.store.coded import Coded, Coder, row_blocks
from svkit.store.enrollment import first_utterances
from svkit.store.places import Artifact
from svkit.store.tables import table_blocks
from svkit.store.trials import HEADER, Trials

DURATION = "duration"
"""Not a column, but bins of the duration of the trial's shorter side."""
DURATION_EDGES = (2.0, 5.0, 10.0, 20.0)
"""Seconds."""
DURATION_NAMES = ("under 2 s", "2 to 5 s", "5 to 10 s", "10 to 20 s", "20 s or more")
MAX_GROUPS = 50


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Grouping:
    """The group of every trial."""

    column: str
    values: tuple[str, ...]
    """Names of the groups, in the order of tables."""
    codes: NDArray[np.int8]
    """[T] index of each trial's group in `values`."""


def read_sidecar(path: Path, trials: Trials) -> dict[str, Coded]:
    """Read the columns [T] that go with a trial list: one row per trial, in its order, with `enroll_id` and `test_id`.

    Raises:
        DataError: the file is missing, or its rows are not those trials.
    """
    coders: dict[str, Coder] = {}
    num_rows = 0
    for table, lines in table_blocks(path, HEADER[:2]):
        for name in table.column_names:
            coders.setdefault(name, Coder()).add(table.column(name))
        rows = slice(num_rows, num_rows + len(table))
        for name, side in zip(HEADER[:2], (trials.enroll, trials.test), strict=True):
            expected, found = side[rows], np.asarray(table.column(name).to_pandas(), dtype=object)
            wrong = np.flatnonzero(found[: len(expected)] != expected)
            if len(wrong):
                row = int(wrong[0])
                raise DataError(
                    f"{path}:{lines[row]}: {name}: expected {expected[row]}, as in trial {row + num_rows + 1}, found"
                    f" {found[row]}"
                )
        num_rows += len(table)
    if num_rows != len(trials):
        raise DataError(f"{path}: expected a row for each of {len(trials)} trials, found {num_rows}")
    return {name: coder.finish() for name, coder in coders.items()}


def group_trials(
    column: str,
    trials: Trials,
    sidecar: Mapping[str, Coded] | None,
    manifest: Artifact | None,
    enrollment: pd.DataFrame | None,
) -> Grouping:
    """Find the group of every trial by a column of the sidecar, else of the manifest, or by `duration`.

    With a column of the manifest, a group is the value that both sides share, or `a / b` if they differ. The value of
    an enrollment of several utterances is that of the first.

    Raises:
        ConfigError: there is no such column, or it has more than 50 values.
        DataError: the manifest is gone or changed, or lacks an utterance.
    """
    if sidecar is not None and column in sidecar:
        return _grouping(column, sidecar[column])
    table = recorded_manifest(manifest)
    if column == DURATION:
        enroll, test = trial_seconds(trials, table, enrollment)
        codes = np.zeros(len(trials), np.int8)
        for edge in DURATION_EDGES:
            codes += (enroll >= edge) & (test >= edge)
        return Grouping(column=column, values=DURATION_NAMES, codes=codes)
    if column not in table.table.columns:
        known = [*(sidecar or ()), *table.table.columns, DURATION]
        raise ConfigError(f"--by {column}: no such column; found {', '.join(dict.fromkeys(known))}")
    value = dict(zip(table.utterance_ids, table.column(column), strict=True))
    enroll_ids = pd.Series(trials.enroll.values)
    if enrollment is not None:
        enroll_ids = enroll_ids.map(first_utterances(enrollment))
    found = [enroll_ids.map(value), pd.Series(trials.test.values).map(value)]
    if found[0].isna().any() or found[1].isna().any():
        raise DataError(f"{table.source}: no {column} for some utterances of the trials")
    numbers, names = pd.factorize(pd.concat(found).to_numpy(dtype=object), sort=True)
    if len(names) > 2 * MAX_GROUPS:  # a group names at most two values
        raise _too_many(column, f"at least {-(-len(names) // 2)}")
    left, right = (
        side.look_up(part.astype(np.int32))
        for side, part in zip((trials.enroll, trials.test), np.split(numbers, [len(enroll_ids)]), strict=True)
    )
    return _grouping(column, _pairs(left, right, names))


def _pairs(left: NDArray[np.int32], right: NDArray[np.int32], names: NDArray[np.object_]) -> Coded:
    """Name the unordered pairs of both sides' values, [T] each: one value, or `a / b` if they differ."""
    # Number all possible pairs, then keep those that occur: a list of millions of trials has few different ones.
    texts = [low if low == high else f"{low} / {high}" for low in names for high in names]
    pairs, is_there = np.minimum(left, right), np.zeros(len(texts), dtype=bool)
    pairs *= len(names)
    pairs += np.maximum(left, right)
    for rows in row_blocks(len(pairs)):
        is_there[pairs[rows]] = True
    places = (np.cumsum(is_there) - 1).astype(np.int32)
    every = Coded(np.array(texts, dtype=object), pairs)
    return Coded(every.values[is_there], every.look_up(places))


def _grouping(column: str, groups: Coded) -> Grouping:
    if len(groups.values) > MAX_GROUPS:
        raise _too_many(column, str(len(groups.values)))
    places, values = pd.factorize(groups.values, sort=True)
    codes = groups.look_up(places.astype(np.int8))
    return Grouping(column=column, values=tuple(str(value) for value in values), codes=codes)


def _too_many(column: str, found: str) -> ConfigError:
    return ConfigError(f"--by {column}: expected at most {MAX_GROUPS} values, found {found}")
