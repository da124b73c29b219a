"""`svkit prepare merge`: makes one list of several and keeps speakers of different corpora apart."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svkit.corpora.derived import Written, derived_lists, rebased_table, write_derived
from svkit.errors import ConfigError, DataError, first_five
from svkit.progress import Progress
from svkit.store.manifest import SHARD_COLUMNS, read_manifest

Prefix = Literal["collision", "always", "never"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeRequest:
    """Request to merge lists."""

    lists: tuple[str, ...]
    """Lists as `[NAME=]PATH`; NAME is put before ids that need a prefix (default: the file's stem)."""
    out: Path
    prefix: Prefix = "collision"
    """Which ids get the prefix `NAME/`: those in several lists, all, or none (then equal ids are one person)."""
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeResult(Written):
    """The merged list."""

    renamed_speakers: int
    """Number of speakers whose ids got the prefix of their list."""
    renamed_utterances: int


def run(request: MergeRequest, progress: Progress) -> MergeResult:
    """Merge lists.

    Columns that only some lists have are empty for the others. A single list is only converted (TSV to parquet).

    Raises:
        ConfigError: the output already exists, or two lists have one name.
        DataError: a list is missing or malformed, a recording is in two lists, or ids collide even with prefixes.
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
    # Owners of ids: a speaker id of one list is one person, whatever other lists use it for; an utterance is a row.
    people = np.unique(_codes(merged["speaker_id"]) * len(named) + sources, return_inverse=True)[1]
    renamed = [
        _rename(merged, column, sources, owners, list(named), request.prefix)
        for column, owners in (("speaker_id", people), ("utterance_id", np.arange(len(merged))))
    ]
    written = asdict(write_derived(output, merged))
    return MergeResult(**written, renamed_speakers=renamed[0], renamed_utterances=renamed[1])


def _name_lists(texts: Sequence[str]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for text in texts:
        name, sign, path = text.partition("=")
        if not sign or Path(text).exists():
            name, path = Path(text).stem, text
        if not name or "/" in name or any(mark in name for mark in "\t\n\r"):
            raise ConfigError(f"{text}: expected [NAME=]PATH with a name without / or tabs")
        if name in named:
            raise ConfigError(f"{text}: a second list is called {name}; give it another name: NAME={path}")
        named[name] = Path(path)
    return named


def _codes(column: "pd.Series[str]") -> NDArray[np.int64]:
    return pd.factorize(column)[0].astype(np.int64)


def _in_several(codes: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether the value of each row occurs in several groups, [N]."""
    num_groups = int(groups.max()) + 1
    counts = np.bincount(np.unique(codes * num_groups + groups) // num_groups)
    return np.asarray(counts[codes] > 1)


def _refuse_shared_recordings(merged: pd.DataFrame, sources: NDArray[np.int64], names: list[str]) -> None:
    places = merged["path"]
    if SHARD_COLUMNS[0] in merged.columns:
        places = places + " " + merged[SHARD_COLUMNS[0]]
    shared = _in_several(_codes(places), sources)
    if shared.any():
        lists = sorted({names[source] for source in sources[shared]})
        examples = merged["path"][shared & ~places.duplicated().to_numpy()]
        raise DataError(
            f"some recordings are in several of the lists {', '.join(lists)}: {first_five(list(examples))};"
            " leave them out of all but one"
        )


def _rename(
    merged: pd.DataFrame,
    column: str,
    sources: NDArray[np.int64],
    owners: NDArray[np.int64],
    names: list[str],
    prefix: Prefix,
) -> int:
    """Prefix ids with the name of their list where needed, by owners [N]; return how many owners have a new id."""
    what = {"speaker_id": "speakers", "utterance_id": "utterances"}[column]
    rows = _in_several(_codes(merged[column]), sources)
    if prefix == "never":
        if column == "utterance_id" and rows.any():
            twice = sorted(set(merged[column][rows]))
            raise DataError(
                f"utterance ids that are in several lists: {first_five(twice)}; merge with --prefix collision"
            )
        return 0
    if prefix == "always":
        rows[:] = True
    in_front = pd.Series(pd.Categorical.from_codes(sources, pd.Index(names))).astype(str)
    merged[column] = merged[column].where(~rows, in_front + "/" + merged[column])
    again = _in_several(_codes(merged[column]), owners)
    if again.any():
        raise DataError(
            f"{what} whose ids with the prefix of their list are already in use:"
            f" {first_five(sorted(set(merged[column][again])))}; give the lists other names (NAME=PATH)"
        )
    return len(np.unique(owners[rows]))
