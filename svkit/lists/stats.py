"""`svkit prepare stats`: counts what is in a list, without reading any audio."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svkit.corpora.derived import hours
from svkit.store.manifest import COLUMNS, SHARD_COLUMNS, read_manifest

_SECONDS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 60, 300)
_COUNTS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)
"""Lower edges of bins; a bin excludes the next edge, and the last one has no end."""
_MOST_VALUES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """One bar of a histogram."""

    low: float
    high: float | None
    """None: the bin has no end."""
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """Summary of a quantity over speakers or utterances."""

    minimum: float
    median: float
    mean: float
    maximum: float
    histogram: tuple[Bin, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """Counts and durations of a list."""

    list: str
    speakers: int
    utterances: int
    sessions: int
    """Number of different (speaker, session) pairs among rows with a session."""
    hours: float
    sample_rates_hz: dict[str, int]
    """Rate -> number of utterances."""
    in_shards: int
    """Number of utterances whose audio is in tar files."""
    seconds: Distribution
    """Durations of utterances."""
    utterances_per_speaker: Distribution
    minutes_per_speaker: Distribution
    columns: dict[str, dict[str, int]]
    """Extra columns with few values (gender, category): value -> number of utterances."""


def run(path: Path) -> Stats:
    """Count what is in a list (DataError: it is missing or malformed)."""
    manifest = read_manifest(path)
    table, seconds = manifest.table, manifest.durations_seconds
    speakers, names = pd.factorize(table["speaker_id"])
    counts = np.bincount(speakers)
    minutes = np.bincount(speakers, seconds) / 60
    known = table["session_id"].ne("")
    rates, rate_counts = np.unique(manifest.sample_rates_hz, return_counts=True)
    others = (name for name in table.columns if name not in (*COLUMNS, *SHARD_COLUMNS))
    values = {str(name): table[name].value_counts() for name in others}
    return Stats(
        list=str(path),
        speakers=len(names),
        utterances=len(table),
        sessions=table[known].groupby(["speaker_id", "session_id"], sort=False).ngroups,
        hours=hours(table),
        sample_rates_hz={str(rate): int(count) for rate, count in zip(rates, rate_counts, strict=True)},
        in_shards=int(table[SHARD_COLUMNS[0]].ne("").sum()) if SHARD_COLUMNS[0] in table.columns else 0,
        seconds=_distribution(seconds, _SECONDS),
        utterances_per_speaker=_distribution(counts, _COUNTS),
        minutes_per_speaker=_distribution(minutes, (0, *_COUNTS)),
        columns={
            name: {str(value): int(count) for value, count in found.items()}
            for name, found in values.items()
            if len(found) <= _MOST_VALUES
        },
    )


def _distribution(values: NDArray[Any], edges: tuple[float, ...]) -> Distribution:
    ends: list[float | None] = [*edges[1:], None]
    counts = np.bincount(np.searchsorted(np.asarray(edges), values, side="right") - 1, minlength=len(edges))
    used = np.flatnonzero(counts)
    bins = [Bin(low=edges[k], high=ends[k], count=int(counts[k])) for k in range(used[0], used[-1] + 1)]
    return Distribution(
        minimum=round(float(values.min()), 3),
        median=round(float(np.median(values)), 3),
        mean=round(float(values.mean()), 3),
        maximum=round(float(values.max()), 3),
        histogram=tuple(bins),
    )
