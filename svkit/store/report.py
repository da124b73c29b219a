"""Report directories and what they are gathered from: finished outputs of an experiment, training logs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svkit.errors import ArtifactError
from svkit.store.atomic import write_json
from svkit.store.checkpoint import CONFIG_NAME, LOG_NAME, MODEL_NAME
from svkit.store.files import LOG_BYTES, read_file
from svkit.store.metrics import METRICS_NAME
from svkit.store.provenance import is_finished
from svkit.store.strict_json import read_json

FORMAT, VERSION = "svkit-report", 1
REPORT_NAME, MARKDOWN_NAME, PAGE_NAME, FIGURES_NAME = "report.json", "report.md", "report.html", "figures"

_CHECKPOINT_HOMES = ("finetune", "", "finetune-pruned")
_STAGE_ORDER = ("lora", "head", "joint", "lmft", "prune", "distill")


def find_scores(exp: Path) -> list[Path]:
    """Return the finished score directories `exp/scores/NAME/TRIALS`, sorted."""
    return sorted(path.parent for path in exp.glob(f"scores/*/*/{METRICS_NAME}") if is_finished(path.parent))


def find_checkpoints(exp: Path) -> list[Path]:
    """Return the finished checkpoints of an experiment in the order of the chain."""
    found = []
    for home in _CHECKPOINT_HOMES:
        children = [path.parent for path in (exp / home).glob(f"*/{MODEL_NAME}")]
        ready = [path for path in children if (path / CONFIG_NAME).exists() and is_finished(path)]
        found += sorted(ready, key=_place)
    return found


def _place(path: Path) -> tuple[int, str]:
    order = _STAGE_ORDER.index(path.name) if path.name in _STAGE_ORDER else len(_STAGE_ORDER)
    return order, path.name


def find_finished(exp: Path) -> list[Path]:
    """Return every finished output below an experiment, sorted, for the provenance of a report."""
    finished = (path.parent for path in exp.rglob("provenance.json") if is_finished(path.parent))
    return sorted(path for path in finished if "report" not in path.relative_to(exp).parts)


def read_log(directory: Path) -> list[dict[str, Any]]:
    """Read the records of `train_log.jsonl`; empty where there is none. A half-written last line is dropped.

    Raises:
        ArtifactError: a line that is not a JSON object.
    """
    path = directory / LOG_NAME
    if not path.exists():
        return []
    lines = read_file(path, ArtifactError, LOG_BYTES).splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise ArtifactError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ArtifactError(
                f"{path}:{number}: expected a JSON object, found {line[:60].decode(errors='replace')!r}"
            )
        records.append(record)
    return records


def write_report(directory: Path, report: Mapping[str, Any]) -> None:
    """Write `report.json`; the format and its version are added."""
    write_json(directory / REPORT_NAME, {"format": FORMAT, "format_version": VERSION, **report})


def read_report(directory: Path) -> dict[str, Any]:
    """Read `report.json`.

    Raises:
        ArtifactError: missing, not JSON, of another format or version.
    """
    return read_json(directory / REPORT_NAME, FORMAT, VERSION, dict[str, Any])
