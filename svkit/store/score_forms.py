"""Scores in the text forms that other toolkits read."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from svkit.errors import DataError, first_five
from svkit.store.atomic import write_text
from svkit.store.trials import Trials

FORMS = ("kaldi", "wespeaker")


def check_ids(form: str, trials: Trials) -> None:
    """Raise DataError naming ids with white space, which these forms cannot hold."""
    ids = pd.unique(np.concatenate([trials.enroll_ids, trials.test_ids]))
    spaced = [str(name) for name in ids if str(name).split() != [name]]
    if spaced:
        raise DataError(f"--format {form}: utterance ids with white space: {first_five(spaced)}")


def write_form(directory: Path, form: str, trials: Trials, scores: npt.NDArray[np.floating]) -> list[Path]:
    """Write scores and trials in another toolkit's form.

    `kaldi`: `trials` (`enroll test target|nontarget`) and `scores` (`enroll test score`). `wespeaker`:
    `trials.kaldi`, of the same form, and `scores.score` (`enroll test score target|nontarget`).

    Args:
        directory: they go into a directory below it with the name of the form.
        form: one of `FORMS`.
        trials: N trials.
        scores: [N].

    Raises:
        DataError: see `check_ids`.
    """
    check_ids(form, trials)
    words = np.where(trials.labels == 1, "target", "nontarget").tolist()
    rows = list(zip(trials.enroll_ids, trials.test_ids, scores.tolist(), words, strict=True))
    listed = "".join([f"{enroll} {test} {word}\n" for enroll, test, _, word in rows])
    if form == "kaldi":
        names = ("trials", "scores")
        scored = "".join([f"{enroll} {test} {score:.9g}\n" for enroll, test, score, _ in rows])
    else:
        names = ("trials.kaldi", "scores.score")
        scored = "".join([f"{enroll} {test} {score:.9g} {word}\n" for enroll, test, score, word in rows])
    paths = [directory / form / name for name in names]
    for path, text in zip(paths, (listed, scored), strict=True):
        write_text(path, text)
    return paths
