"""`svkit prepare merge`: several lists become one, speakers of different corpora staying different people."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svkit.corpora.derived import derived_lists, rebased_table, write_derived
from svkit.errors import ConfigError, DataError, first_five
from svkit.progress import Progress
from svkit.store.manifest import SHARD_COLUMNS, Manifest, read_manifest

Prefix = Literal["collision", "always", "never"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeRequest:
    """What the user asked for."""

    lists: tuple[str, ...]
    """`[NAME=]PATH` each; NAME is the name space of its speakers (default: the file's stem)."""
    out: Path
    prefix: Prefix = "collision"
    """Which ids get `NAME/` in front: those in several lists, all, or none (equal ids are one person)."""
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeResult:
    """What was merged."""

    list: str
    """The list written."""
    speakers: int
    utterances: int
    hours: float
    renamed_speakers: int
    """Speakers that got the name of their list in front."""
    renamed_utterances: int


def run(request: MergeRequest, progress: Progress) -> MergeResult:
    """Merge lists.

    Columns that only some lists have are empty for the others. One list alone is converted (TSV to parquet).

    Raises:
        ConfigError: the output is there, or two lists have one name.
        DataError: a list is missing or bad, one recording is in two lists, or ids still collide.
    """
    named = _name_lists(request.lists)
    (output,) = derived_lists(
        {request.out: {"lists": list(named), "prefix": request.prefix}},
        command="prepare merge",
        inputs=named,
        overwrite=request.overwrite,
    )
    tables = []
    with progress.task("merging lists", len(named)) as task:
        for path in named.values():
            tables.append(rebased_table(read_manifest(path), request.out.parent))
            task.advance()
    sources = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    merged = pd.concat(tables, ignore_index=True).fillna("")
    _refuse_shared_recordings(merged, sources, list(named))
    renamed_speakers = _rename_speakers(merged, sources, list(named), request.prefix)
    renamed_utterances = _rename_utterances(merged, sources, list(named), request.prefix)
    write_derived(output, merged)
    manifest = Manifest(request.out, request.out.parent, merged)
    return MergeResult(
        list=str(request.out),
        speakers=int(merged["speaker_id"].nunique()),
        utterances=len(merged),
        hours=round(float(manifest.durations_seconds.sum()) / 3600, 4),
        renamed_speakers=renamed_speakers,
        renamed_utterances=renamed_utterances,
    )


def _name_lists(texts: Sequence[str]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for text in texts:
        name, sign, path = text.partition("=")
        if not sign or Path(text).exists():
            name, path = Path(text).stem, text
        if not name or "/" in name or any(mark in name for mark in "\t\n\r"):
            raise ConfigError(f"{text}: expected [NAME=]PATH, the name without / and tabs")
        if name in named:
            raise ConfigError(f"{text}: a second list called {name}; give it a name of its own: NAME={path}")
        named[name] = Path(path)
    return named


def _codes(column: "pd.Series[str]") -> tuple[NDArray[np.int64], int]:
    codes, names = pd.factorize(column)
    return codes.astype(np.int64), len(names)


def _in_several(codes: NDArray[np.int64], sources: NDArray[np.int64], num_sources: int) -> NDArray[np.bool_]:
    """Say of each row whether its value has more than one source, [N]."""
    pairs = np.unique(codes * num_sources + sources)
    counts = np.bincount(pairs // num_sources)
    return np.asarray(counts[codes] > 1)


def _refuse_shared_recordings(merged: pd.DataFrame, sources: NDArray[np.int64], names: list[str]) -> None:
    places = merged["path"]
    if SHARD_COLUMNS[0] in merged.columns:
        places = places + " " + merged[SHARD_COLUMNS[0]]
    codes, _ = _codes(places)
    shared = np.flatnonzero(_in_several(codes, sources, len(names)))
    if len(shared):
        first = {int(codes[row]): row for row in shared[::-1]}
        examples = [str(merged["path"].iloc[row]) for row in sorted(first.values())]
        lists = sorted({names[source] for source in sources[shared]})
        raise DataError(
            f"recordings that are in several of the lists {', '.join(lists)}: {first_five(examples)};"
            " leave them out of all but one"
        )


def _prefixed(merged: pd.DataFrame, column: str, rows: NDArray[np.bool_], owners: "pd.Series[str]") -> None:
    merged[column] = merged[column].where(~rows, owners + "/" + merged[column])


def _owners(sources: NDArray[np.int64], names: list[str]) -> "pd.Series[str]":
    return pd.Series(pd.Categorical.from_codes(sources, pd.Index(names))).astype(str)


def _rename_speakers(
    merged: pd.DataFrame, sources: NDArray[np.int64], names: list[str], prefix: Prefix
) -> int:
    if prefix == "never":
        return 0
    codes, _ = _codes(merged["speaker_id"])
    people, person = np.unique(codes * len(names) + sources, return_inverse=True)
    rows = np.ones(len(merged), bool) if prefix == "always" else _in_several(codes, sources, len(names))
    _prefixed(merged, "speaker_id", rows, _owners(sources, names))
    shared = _in_several(_codes(merged["speaker_id"])[0], person, len(people))
    if shared.any():
        raise DataError(
            "speakers whose names are in use with the name of their list in front:"
            f" {first_five(sorted(set(merged['speaker_id'][shared])))}; give the lists other names (NAME=PATH)"
        )
    return len(np.unique(person[rows]))


def _rename_utterances(
    merged: pd.DataFrame, sources: NDArray[np.int64], names: list[str], prefix: Prefix
) -> int:
    codes, num_ids = _codes(merged["utterance_id"])
    rows = np.ones(len(merged), bool) if prefix == "always" else _in_several(codes, sources, len(names))
    if prefix == "never":
        if num_ids != len(merged):
            twice = sorted(set(merged["utterance_id"][rows]))
            raise DataError(
                f"utterances that are in several lists: {first_five(twice)}; merge with --prefix collision"
            )
        return 0
    _prefixed(merged, "utterance_id", rows, _owners(sources, names))
    if merged["utterance_id"].nunique() != len(merged):
        again = sorted(merged["utterance_id"][merged["utterance_id"].duplicated()])
        raise DataError(
            f"utterances whose names are in use with the name of their list in front: {first_five(again)};"
            " give the lists other names (NAME=PATH)"
        )
    return int(rows.sum())
