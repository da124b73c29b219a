"""Scores in the text forms that other toolkits read."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from svkit.errors import DataError, first_five
from svkit.store.atomic import replacing
from svkit.store.coded import Coded
from svkit.store.tables import format_rows
from svkit.store.trials import Trials

FORMS = ("kaldi", "wespeaker")


def check_ids(form: str, trials: Trials) -> None:
    """Raise DataError naming ids with white space, which these forms cannot hold."""
    spaced = [str(name) for name in trials.ids if str(name).split() != [name]]
    if spaced:
        raise DataError(f"--format {form}: utterance ids with white space: {first_five(spaced)}")


def write_form(directory: Path, form: str, trials: Trials, scores: npt.NDArray[np.floating]) -> list[Path]:
    """Write scores [N] and trials in another toolkit's form, one of `FORMS`, into the directory of its name below.

    Trials without labels have no word for them.

    `kaldi`: `trials` (`enroll test target|nontarget`) and `scores` (`enroll test score`). `wespeaker`:
    `trials.kaldi`, of the same form, and `scores.score` (`enroll test score target|nontarget`).

    Raises:
        DataError: see `check_ids`.
    """
    check_ids(form, trials)
    words = [Coded(np.array(["nontarget", "target"], dtype=object), trials.labels.astype(np.int32))]
    words = words if trials.has_labels else []
    names = ("trials", "scores") if form == "kaldi" else ("trials.kaldi", "scores.score")
    sides: list[Any] = [trials.enroll, trials.test]
    kept = words if form == "wespeaker" else []
    lines = [
        ("%s %s" + " %s" * len(words) + "\n", [*sides, *words]),
        ("%s %s %.9g" + " %s" * len(kept) + "\n", [*sides, scores, *kept]),
    ]
    paths = [directory / form / name for name in names]
    for path, (line, columns) in zip(paths, lines, strict=True):
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(format_rows(line, columns))
    return paths
