"""Enrollment maps: the utterances that each speaker model is enrolled with (`enroll_id`, `utterance_id`)."""

from pathlib import Path

import pandas as pd

from svkit.errors import DataError, first_five
from svkit.store.tables import read_bytes, read_table
from svkit.store.trials import NIST_HEADER

COLUMNS = ("enroll_id", "utterance_id")


def read_enrollment(path: Path) -> pd.DataFrame:
    """Read a map from enrollment ids to their utterances, one row per pair, as text.

    A TSV has a header with these two columns, or with `modelid` and `segmentid` as in NIST's evaluations. A file
    without a header is read as CN-Celeb's `enroll.map` or Kaldi's `spk2utt`: `enroll utterance utterance ...`.

    Raises:
        DataError: missing, empty, a line without an utterance, or a repeated pair.
    """
    data = read_bytes(path).decode()
    header = set(data.partition("\n")[0].rstrip("\r").split("\t"))
    names = next((names for names in (COLUMNS, NIST_HEADER[:2]) if set(names) <= header), None)
    if names:
        table = read_table(path, names)[list(names)].set_axis(list(COLUMNS), axis=1)
    else:
        rows = []
        for number, line in enumerate(data.split("\n"), start=1):
            fields = line.split()
            if len(fields) == 1:
                raise DataError(
                    f"{path}:{number}: expected `enroll utterance ...`, found one field: {fields[0]!r}"
                )
            rows += [(fields[0], utterance) for utterance in fields[1:]]
        table = pd.DataFrame(rows, columns=list(COLUMNS), dtype=str)
    if not len(table):
        raise DataError(f"{path}: no enrollments")
    twice = table.duplicated()
    if twice.any():
        pairs = [" ".join(row) for row in table[twice].itertuples(index=False)]
        raise DataError(f"{path}: repeated pairs: {first_five(pairs)}")
    return table


def first_utterances(table: pd.DataFrame) -> dict[str, str]:
    """Return the first utterance of each enrollment."""
    first = table.drop_duplicates("enroll_id")
    return dict(zip(first["enroll_id"], first["utterance_id"], strict=True))
