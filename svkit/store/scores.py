"""Score directories: a score for each trial, its log-likelihood ratio if calibrated, and resampled error rates."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from svkit.errors import ArtifactError, DataError
from svkit.store.arrays import read_arrays, write_arrays
from svkit.store.atomic import replacing
from svkit.store.coded import Coder
from svkit.store.files import in_artifact
from svkit.store.provenance import check_outputs
from svkit.store.tables import Lines, format_rows, table_blocks
from svkit.store.trials import UNLABELLED, Trials

SCORES_NAME, RESAMPLES_NAME = "scores.tsv", "resamples.safetensors"
COLUMNS = ("enroll_id", "test_id", "score")
"""The columns that are always there. `label` is added if it is known, and `llr` if scores are calibrated."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Scored trials; a higher score is more evidence for the same speaker."""

    trials: Trials
    scores: npt.NDArray[np.float64]
    """[N]."""
    llrs: npt.NDArray[np.float64] | None
    """Calibrated natural-log likelihood ratios, [N], if there are any."""


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Resamples:
    """Results of a system in every resample of the speakers, for comparisons with others and for DET bands."""

    eer: npt.NDArray[np.float64]
    """[R]; NaN where a resample lacks a class."""
    band: npt.NDArray[np.float64]
    """[2, G] lower and upper ends of the miss rate at `eval.summary.BAND_RATES`."""
    draws: str
    """Identity of the draws (sha256 of speakers, seed and R); systems with equal draws can be compared in pairs."""
    seed: int
    num_speakers: int


def write_scores(
    directory: Path,
    trials: Trials,
    scores: npt.NDArray[np.floating],
    llrs: npt.NDArray[np.floating] | None = None,
) -> None:
    """Write `scores.tsv` with nine significant digits, from which float32 is read back exactly."""
    assert len(trials) == len(scores) and (llrs is None or len(llrs) == len(scores)), (
        "one score for each trial"
    )
    if any(mark in name for name in trials.ids for mark in "\t\n\r"):
        raise DataError(f"{directory / SCORES_NAME}: an utterance id holds a tab or a line end")
    columns: dict[str, tuple[str, Any]] = {"enroll_id": ("%s", trials.enroll), "test_id": ("%s", trials.test)}
    if trials.has_labels:
        columns["label"] = ("%d", trials.labels)
    columns["score"] = ("%.9g", scores)
    if llrs is not None:
        columns["llr"] = ("%.9g", llrs)
    forms, values = zip(*columns.values(), strict=True)
    with replacing(directory / SCORES_NAME) as temporary, temporary.open("wb") as file:
        file.write(("\t".join(columns) + "\n").encode())
        file.writelines(format_rows("\t".join(forms) + "\n", values))


@in_artifact()
def read_scores(directory: Path) -> Scores:
    """Read and check `scores.tsv`, a block at a time.

    Raises:
        ArtifactError: the file is missing, has a bad label or a score that is not a finite number (with the line), or
            has changed since it was finished.
    """
    path = directory / SCORES_NAME
    sides, labels = [Coder() for _ in COLUMNS[:2]], [np.zeros(0, np.int8)]
    numbers: dict[str, list[npt.NDArray[np.float64]]] = {}
    for table, lines in table_blocks(path, COLUMNS):
        is_labelled = "label" in table.column_names
        labels.append(
            labels_of(path, table.column("label"), lines, {"0": 0, "1": 1}, "1 or 0")
            if is_labelled
            else np.full(len(table), UNLABELLED, np.int8)
        )
        for name in ("score", "llr"):
            if name in table.column_names:
                numbers.setdefault(name, []).append(finite_numbers(path, table.column(name), name, lines))
        for coder, name in zip(sides, COLUMNS[:2], strict=True):
            coder.add(table.column(name))
    joined = {name: np.concatenate(blocks) for name, blocks in numbers.items()}
    enroll, test = (coder.finish() for coder in sides)
    check_outputs(directory, SCORES_NAME, in_full=True)  # takes far less time than parsing the text
    return Scores(Trials(enroll, test, np.concatenate(labels)), joined["score"], joined.get("llr"))


def labels_of(
    path: Path, column: pa.ChunkedArray, lines: Lines, meanings: Mapping[str, int], expected: str
) -> npt.NDArray[np.int8]:
    """Return the `meanings` of a column of labels [N], which are in these `lines` [N] (DataError: an unknown label)."""
    words = pc.utf8_lower(pc.utf8_trim_whitespace(column))
    places = pc.fill_null(pc.index_in(words, pa.array(list(meanings))), len(meanings))
    labels: npt.NDArray[np.int8] = np.array([*meanings.values(), UNLABELLED], np.int8)[np.asarray(places)]
    bad = np.flatnonzero(labels == UNLABELLED)
    if len(bad):
        found = column[int(bad[0])].as_py()
        raise DataError(f"{path}:{lines[bad[0]]}: label: expected {expected}, found {found!r}")
    return labels


def finite_numbers(path: Path, column: pa.ChunkedArray, name: str, lines: Lines) -> npt.NDArray[np.float64]:
    """Return a column of text [N] in these `lines` [N] as numbers (DataError: the first that is not a finite one)."""
    try:
        numbers = np.asarray(pc.cast(column, pa.float64()))
    except pa.ArrowInvalid:  # the error does not say which cell is wrong
        numbers = pd.to_numeric(column.to_pandas(), errors="coerce").to_numpy(dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        found = column[int(bad[0])].as_py()
        raise DataError(f"{path}:{lines[bad[0]]}: {name}: expected a finite number, found {found!r}")
    return numbers


def write_resamples(directory: Path, resamples: Resamples) -> None:
    """Write `resamples.safetensors`, from which a report compares systems without resampling again."""
    facts = {
        "draws": np.frombuffer(bytes.fromhex(resamples.draws), np.uint8),
        "numbers": np.array([resamples.seed, resamples.num_speakers]),
    }
    write_arrays(directory / RESAMPLES_NAME, {"eer": resamples.eer, "band": resamples.band, **facts})


def read_resamples(directory: Path) -> Resamples | None:
    """Read `resamples.safetensors`; None without, as in scores of earlier versions (ArtifactError: unfit, changed)."""
    path = directory / RESAMPLES_NAME
    if not path.exists():
        return None
    kinds = {"eer": ("float64", 1), "band": ("float64", 2), "draws": ("uint8", 1), "numbers": ("int64", 1)}
    found = read_arrays(path, kinds)
    if len(found["numbers"]) != 2 or len(found["band"]) != 2:
        raise ArtifactError(
            f"{path}: expected 2 rows in `band` and 2 numbers, found {len(found['band'])} and"
            f" {len(found['numbers'])}; score again"
        )
    check_outputs(directory, RESAMPLES_NAME, in_full=True)
    seed, num_speakers = map(int, found["numbers"])
    return Resamples(
        eer=found["eer"],
        band=found["band"],
        draws=found["draws"].tobytes().hex(),
        seed=seed,
        num_speakers=num_speakers,
    )
