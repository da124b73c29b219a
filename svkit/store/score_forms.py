"""Scores in the text forms that other toolkits read and write.

These forms are read: lines of scores alone, in the order of the trials; lines with labels (`label score`); with the
trial (`enroll test score` as in Kaldi and many others, or `score enroll test` as in VoxSRC); with both (`enroll test
label score` as in SpeechBrain, `enroll test score target|nontarget` as in WeSpeaker, or `label enroll test score`); and
TSV with a header that has `enroll_id`, `test_id` and `score`. The form is recognised by content, never by name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from svkit.errors import DataError, first_five
from svkit.store.atomic import replacing
from svkit.store.coded import Coded, Coder
from svkit.store.files import in_artifact
from svkit.store.scores import COLUMNS, finite_numbers, labels_of
from svkit.store.tables import Lines, format_rows, table_blocks
from svkit.store.trials import ANY_LABEL, Trials, field_blocks, first_row

FORMS = ("kaldi", "wespeaker")
_READABLE = tuple(
    tuple(form.split())
    for form in (
        "score", "label score", "score label", "enroll_id test_id score", "score enroll_id test_id",
        "enroll_id test_id score label", "enroll_id test_id label score", "label enroll_id test_id score",
    )
)  # fmt: skip
"""The columns of lines without a header."""
_ADVICE = f"name the columns in a header line `{' '.join(COLUMNS)}` separated by tabs"

_LARGEST_SCORE = 1e100
"""Largest absolute value: calibration sums squares of scores, and larger ones would overflow float64."""


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class ForeignScores:
    """Scores that another toolkit wrote, M lines of them."""

    path: Path
    scores: npt.NDArray[np.float64]
    """[M]."""
    lines: npt.NDArray[np.int64]
    """[M] line numbers."""
    enroll: Coded | None
    """[M]; None, also for `test`: the lines are in the order of the trials and do not name them."""
    test: Coded | None
    labels: npt.NDArray[np.int8] | None
    """[M] 1 target, 0 nontarget; None: the lines have no labels."""


@in_artifact()
def read_form(path: Path, trials: Trials) -> ForeignScores:
    """Read scores of another toolkit, a block at a time; the ids of the trials tell similar forms apart.

    Raises:
        ArtifactError: the file is missing, empty, of an unknown or ambiguous form, or has a line that does not fit.
    """
    sides, scores, labels, lines = (Coder(), Coder()), [], [], []
    columns: Sequence[str] = ()
    for table, numbers in _blocks(path):
        if not columns:  # the first block decides, so that a later misfit can be given with its line
            columns = table.column_names if "score" in table.column_names else _columns(path, table, trials)
        table = table.rename_columns(columns)
        scores.append(finite_numbers(path, table.column("score"), "score", numbers))
        if len(beyond := np.flatnonzero(np.abs(scores[-1]) > _LARGEST_SCORE)):
            first = int(beyond[0])
            raise DataError(
                f"{path}:{numbers[first]}: score: expected an absolute value up to {_LARGEST_SCORE:g}, found"
                f" {scores[-1][first]:g}"
            )
        lines.append(numbers)
        if "label" in columns:
            labels.append(
                labels_of(path, table.column("label"), numbers, ANY_LABEL, "1, 0, target or nontarget")
            )
        for coder, name in zip(sides, COLUMNS[:2], strict=True):
            if name in columns:
                coder.add(table.column(name))
    if not sum(map(len, lines)):
        raise DataError(f"{path}: no scores; expected lines such as `enroll test score`")
    enroll, test = (coder.finish() for coder in sides)
    has_ids = COLUMNS[0] in columns
    return ForeignScores(
        path=path,
        scores=np.concatenate(scores),
        lines=np.concatenate(lines),
        enroll=enroll if has_ids else None,
        test=test if has_ids else None,
        labels=np.concatenate(labels) if labels else None,
    )


def _blocks(path: Path) -> Iterator[tuple[pa.Table, Lines]]:
    line, first = first_row(path)
    if set(COLUMNS) <= set(first.rstrip(b"\r\n").decode(errors="replace").split("\t")):
        yield from table_blocks(path, COLUMNS, header_line=line, has_comments=True)
        return
    num_fields = len(first.split())
    if num_fields > max(map(len, _READABLE)):  # ids may hold spaces if tabs separate the fields
        num_fields = len([*filter(None, map(bytes.strip, first.split(b"\t")))])
    names = [str(place) for place in range(max(1, num_fields))]
    yield from field_blocks(path, names, f"{num_fields} fields, as in line {line}")


def _columns(path: Path, table: pa.Table, trials: Trials) -> Sequence[str]:
    """Find the form that most rows of the first block fit (DataError: there is none, or more than one)."""
    found = [column.to_pandas() for column in table.columns]
    kinds = [{"enroll_id", "test_id"} | _kinds(texts) for texts in found]
    fitting = [
        form
        for form in _READABLE
        if len(form) == len(found) and all(name in of for name, of in zip(form, kinds, strict=True))
    ]
    if len(fitting) > 1:  # an id may be a number
        known = {"enroll_id": trials.enroll.values, "test_id": trials.test.values}
        fitting = [
            form
            for form in fitting
            if all(
                texts.isin(known[name]).any()
                for name, texts in zip(form, found, strict=True)
                if name in known
            )
        ]
    line, first = first_row(path)
    if len(fitting) == 1:
        word = str(found[fitting[0].index("score")].iloc[0])
        if word.isidentifier() and word.lower() not in ("nan", "inf", "infinity"):
            raise DataError(
                f"{path}:{line}: score: expected a finite number, found {word!r}; if it is a heading, {_ADVICE}"
            )
        return fitting[0]
    others = [form for form in _READABLE if len(form) == len(found) > 1] or _READABLE
    forms = " or ".join(" ".join(form) for form in fitting or others)
    words = "ambiguous: it could be" if fitting else "expected"
    only = "" if fitting else " (0 or 1 in every line cannot be a score)"
    shown = first.decode(errors="replace").strip()[:80]
    raise DataError(f"{path}:{line}: {words} {forms}{only}, found {shown!r}; {_ADVICE}")


def _kinds(texts: pd.Series) -> set[str]:
    """Return what most texts of an unnamed column can be: `label`, `score`, both or neither."""
    labels = texts.str.lower().isin(list(ANY_LABEL)).mean()
    is_number = pd.to_numeric(texts, errors="coerce").notna().mean() > 0.5 and labels < 1
    return {name for name, fits in (("label", labels > 0.5), ("score", is_number)) if fits}


def check_ids(form: str, trials: Trials) -> None:
    """Raise DataError naming ids with white space, which these forms cannot hold."""
    spaced = [str(name) for name in trials.ids if str(name).split() != [name]]
    if spaced:
        raise DataError(f"--format {form}: utterance ids with white space: {first_five(spaced)}")


def write_form(directory: Path, form: str, trials: Trials, scores: npt.NDArray[np.floating]) -> list[Path]:
    """Write scores [N] and trials in another toolkit's form, one of `FORMS`, into a subdirectory of that name.

    `kaldi`: `trials` (`enroll test target|nontarget`) and `scores` (`enroll test score`). `wespeaker`:
    `trials.kaldi`, of the same form, and `scores.score` (`enroll test score target|nontarget`). If the trials have no
    labels, the last word of such lines is left out.

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
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.writelines(format_rows(line, columns))
    return paths
