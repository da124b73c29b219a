"""The results of a method in a fold, kept as small files with the code, so that no fold must be trained twice.

`docs/results/folds/fold-N/METHOD.json` holds the rows of the table, and the final model's score of every trial. It has
only the sha256 of the trials, because `folds.make_trials` always draws the same ones.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svkit.store.atomic import write_json
from svkit.store.trials import Trials

FORMAT, VERSION = "svkit-fold-evidence", 1
DIGITS = 6
"""Digits of a cosine score: as many as float32 has."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One method in one fold."""

    fold: int
    method: str
    settings: dict[str, Any]
    """Preset, seed and so on. Only evidence with equal settings is pooled."""
    made: dict[str, Any]
    """Date, machine, precision, and sha256 of the teacher's weights."""
    rows: list[dict[str, Any]]
    """One row for each stage; the last is the final model's."""
    scores: NDArray[np.float64]
    """Scores of the final model, [N], in the order of the trials."""
    trials_sha256: str


def trials_sha256(trials: Trials) -> str:
    """Return the hash of a trial list."""
    lines = zip(trials.labels.tolist(), trials.enroll[:], trials.test[:], strict=True)
    return hashlib.sha256("".join(f"{label} {a} {b}\n" for label, a, b in lines).encode()).hexdigest()


def path_of(home: Path, fold: int, method: str) -> Path:
    """Return the file with the evidence on a method in a fold."""
    return home / "folds" / f"fold-{fold}" / f"{method}.json"


def write_evidence(home: Path, found: Evidence) -> None:
    """Write evidence below `home`, which is docs/results."""
    facts = {
        "format": FORMAT,
        "format_version": VERSION,
        **{
            name: getattr(found, name)
            for name in ("fold", "method", "settings", "made", "trials_sha256", "rows")
        },
        "scores": " ".join(f"{score:.{DIGITS}f}" for score in found.scores),
    }
    path = path_of(home, found.fold, found.method)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, facts)


def read_evidence(home: Path, fold: int, method: str, settings: dict[str, Any]) -> Evidence | None:
    """Read the evidence on a method in a fold; None if there is none.

    Ends the script if it was made with other settings, because such evidence must not be pooled.
    """
    path = path_of(home, fold, method)
    if not path.exists():
        return None
    facts = json.loads(path.read_text(encoding="utf-8"))
    if (facts["format"], facts["format_version"]) != (FORMAT, VERSION):
        sys.exit(f"{path}: expected {FORMAT} {VERSION}, found {facts['format']} {facts['format_version']}")
    if facts["settings"] != settings:
        sys.exit(f"{path}: made with {facts['settings']}, not with {settings}; use those, or another --out")
    scores = np.array(facts["scores"].split(), dtype=np.float64)
    names = ("fold", "method", "settings", "made", "trials_sha256", "rows")
    return Evidence(scores=scores, **{name: facts[name] for name in names})


def check_trials(found: Sequence[Evidence], trials: Trials) -> None:
    """End the script if this evidence was made on other trials."""
    for one in found:
        if one.trials_sha256 != trials_sha256(trials) or len(one.scores) != len(trials):
            sys.exit(
                f"fold {one.fold}, {one.method}: not of the trials that folds.py draws from these voices"
            )
