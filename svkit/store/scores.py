"""Score directories: a score a trial, and the metrics computed from them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from svkit.errors import ArtifactError, DataError
from svkit.store.atomic import read_json, replacing, write_json
from svkit.store.strict_json import NUMBER, OPTIONAL_NUMBER, check_fields
from svkit.store.tables import read_table
from svkit.store.trials import Trials

FORMAT, VERSION = "svkit-metrics", 1
SCORES_NAME, METRICS_NAME = "scores.tsv", "metrics.json"
COLUMNS = ("enroll_id", "test_id", "label", "score")
ROWS_PER_BLOCK = 2**17


@dataclass(frozen=True, eq=False)
class Scores:
    """Scored trials; higher means rather the same speaker."""

    trials: Trials
    scores: npt.NDArray[np.float64]
    """[N]."""
    llrs: npt.NDArray[np.float64] | None
    """Calibrated natural-log likelihood ratios, [N], where there are any."""


def write_scores(
    directory: Path,
    trials: Trials,
    scores: npt.NDArray[np.floating],
    llrs: npt.NDArray[np.floating] | None = None,
) -> None:
    """Write `scores.tsv`, nine significant digits a number (float32 comes back exactly)."""
    assert len(trials) == len(scores) and (llrs is None or len(llrs) == len(scores)), "one score a trial"
    ids = pd.unique(np.concatenate([trials.enroll_ids, trials.test_ids]))
    if any(mark in name for name in ids for mark in "\t\n\r"):
        raise DataError(f"{directory / SCORES_NAME}: an utterance id holds a tab or a line end")
    header, form = "\t".join(COLUMNS), "%s\t%s\t%d\t%.9g\n"
    columns = [trials.enroll_ids, trials.test_ids, trials.labels, scores]
    if llrs is not None:
        columns.append(llrs)
        header, form = header + "\tllr", "%s\t%s\t%d\t%.9g\t%.9g\n"
    with replacing(directory / SCORES_NAME) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(header + "\n")
        for lines in format_rows(form, columns):
            file.write(lines)


def format_rows(form: str, columns: Sequence[npt.NDArray[Any]]) -> Iterator[str]:
    """Yield lines of text, a block of rows at a time: Python numbers of all trials would not fit in memory."""
    for start in range(0, len(columns[0]), ROWS_PER_BLOCK):
        blocks = [column[start : start + ROWS_PER_BLOCK].tolist() for column in columns]
        yield "".join([form % row for row in zip(*blocks, strict=True)])


def read_scores(directory: Path) -> Scores:
    """Read and check `scores.tsv`.

    Raises:
        ArtifactError: missing, a bad label, or a score that is not a finite number (the line is named).
    """
    path = directory / SCORES_NAME
    try:
        table = read_table(path, COLUMNS)
    except DataError as error:
        raise ArtifactError(str(error)) from error
    bad = np.flatnonzero(~table["label"].isin(["0", "1"]).to_numpy(dtype=bool))
    if len(bad):
        raise ArtifactError(
            f"{path}:{bad[0] + 2}: label: expected 1 or 0, found {table['label'].iloc[bad[0]]!r}"
        )
    trials = Trials(
        np.asarray(table["enroll_id"], object),
        np.asarray(table["test_id"], object),
        table["label"].eq("1").to_numpy(dtype=bool).astype(np.int8),
    )
    llrs = _numbers(path, table, "llr") if "llr" in table.columns else None
    return Scores(trials, _numbers(path, table, "score"), llrs)


def _numbers(path: Path, table: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
    numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        found = table[name].iloc[bad[0]]
        raise ArtifactError(
            f"{path}:{bad[0] + 2}: {name}: expected a finite number, found {found!r} ({len(bad)} in all)"
        )
    return numbers


def write_metrics(directory: Path, metrics: Mapping[str, Any]) -> None:
    """Write `metrics.json`; the format and its version are added."""
    write_json(directory / METRICS_NAME, {"format": FORMAT, "format_version": VERSION, **metrics})


def read_metrics(directory: Path) -> dict[str, Any]:
    """Read `metrics.json`.

    Raises:
        ArtifactError: missing, not JSON, of another format or version.
    """
    path = directory / METRICS_NAME
    metrics = read_json(path, FORMAT, VERSION)
    check_fields(path, metrics, _FIELDS)
    if metrics["eer"] is not None:
        check_fields(path, metrics, _RATES)
    if metrics["eer_interval"] is not None:
        check_fields(path, metrics["eer_interval"], _INTERVAL, "eer_interval")
    if metrics["trials"].get("left_out") is not None:
        check_fields(
            path, metrics["trials"]["left_out"], {"num_trials": int, "sha256": str}, "trials.left_out"
        )
    check_fields(path, metrics.get("unchecked", []), [str], "unchecked")
    if metrics["name"] != Path(metrics["name"]).name or metrics["name"] in ("", ".", ".."):
        raise ArtifactError(f"{path}: name: expected a plain name, found {metrics['name'][:80]!r}")
    return metrics


_POINT = {"threshold": NUMBER, "miss_rate": NUMBER, "false_accept_rate": NUMBER}
_INTERVAL = {"low": NUMBER, "high": NUMBER, "num_speakers": int, "num_resamples": int}
_FIELDS = {
    "name": str,
    "trials": {"name": str, "sha256": str},
    "backend": {"name": str},
    "num_targets": int,
    "num_nontargets": int,
    "eer": OPTIONAL_NUMBER,
    "eer_interval": (dict, NoneType),
    "breakdown": [{"column": str, "groups": [{"value": str, "num_targets": int, "num_nontargets": int}]}],
    "calibration": (dict, NoneType),
    "cautions": [str],
}
_RATES = {"min_dcf": [{"p_target": NUMBER, "value": NUMBER, **_POINT}], "thresholds": {"eer": _POINT}}
