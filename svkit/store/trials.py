"""Trial lists in the four forms in use, recognised by their content, never by their name.

`label enroll test` (VoxCeleb, 1 or 0), `enroll test target|nontarget` (Kaldi), `enroll test 1|0` (CN-Celeb),
and TSV with a header that has `enroll_id`, `test_id` and `label`.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv

from svkit.errors import DataError, first_five
from svkit.store.atomic import write_text
from svkit.store.tables import read_bytes, read_table

HEADER = ("enroll_id", "test_id", "label")
_DIGITS = {"0": 0, "1": 1}
_WORDS = {"nontarget": 0, "target": 1}
_FORMS = (
    ("`label enroll test` with label 1 or 0", 0, _DIGITS),
    ("`enroll test target|nontarget`", 2, _WORDS),
    ("`enroll test 1|0`", 2, _DIGITS),
)
_NEWLINE, _SPACE, _TAB = 10, 32, 9


@dataclass(frozen=True, eq=False)
class Trials:
    """Pairs of utterances and whether they are of one speaker."""

    enroll_ids: npt.NDArray[np.object_]
    """[N] str."""
    test_ids: npt.NDArray[np.object_]
    """[N] str."""
    labels: npt.NDArray[np.int8]
    """[N], 1 target, 0 nontarget."""

    def __len__(self) -> int:
        """Return the number of trials."""
        return len(self.labels)


def read_trials(path: Path) -> Trials:
    """Read a trial list in any of the four forms.

    Raises:
        DataError: missing, empty, or a line that does not fit; a file that fits two forms or mixes them.
    """
    data = read_bytes(path)
    first = data.partition(b"\n")[0].decode().split("\t")
    if set(HEADER) <= set(first):
        return _read_with_header(path)
    if not data.strip():
        raise DataError(f"{path}: no trials; expected lines such as `1 enroll test`")
    data, lines = _regular(path, data)
    columns = _columns(data)
    fitting = [(column, names) for _, column, names in _FORMS if set(columns[column].uniques) <= set(names)]
    if len(fitting) > 1:
        raise DataError(
            f"{path}:{lines[0]}: ambiguous: both the first and the last column are labels; add a header line"
            f" `{' '.join(HEADER)}` separated by tabs"
        )
    if not fitting:
        raise _no_form(path, columns, lines)
    label_column, names = fitting[0]
    labels = np.array([names[text] for text in columns[label_column].uniques], np.int8)[
        columns[label_column].codes
    ]
    enroll, test = [columns[number] for number in range(3) if number != label_column]
    return Trials(enroll.uniques[enroll.codes], test.uniques[test.codes], labels)


def _read_with_header(path: Path) -> Trials:
    table = read_table(path, HEADER)
    if not len(table):
        raise DataError(f"{path}: no trials below the header")
    for name in HEADER[:2]:
        empty = np.flatnonzero(table[name].eq("").to_numpy(dtype=bool))
        if len(empty):
            raise DataError(f"{path}:{empty[0] + 2}: {name}: expected an utterance, found nothing")
    names = {**_DIGITS, **_WORDS}
    labels = table["label"].map(names)
    bad = np.flatnonzero(labels.isna())
    if len(bad):
        found = first_five([f"{table['label'].iloc[row]!r} (line {row + 2})" for row in bad])
        raise DataError(f"{path}:{bad[0] + 2}: label: expected 1, 0, target or nontarget, found {found}")
    return Trials(
        np.asarray(table["enroll_id"], object),
        np.asarray(table["test_id"], object),
        np.asarray(labels, np.int8),
    )


def _regular(path: Path, data: bytes) -> tuple[bytes, npt.NDArray[np.int64]]:
    """Return the list with one tab between fields and no blank lines, and the original line of each row."""
    codes = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(codes == _NEWLINE)
    separator = _TAB if _TAB in codes[: ends[0]] else _SPACE
    marks = np.flatnonzero(codes == separator)
    other = b" " if separator == _TAB else b"\t"
    if len(marks) == 2 * len(ends) and b"\r" not in data and (separator == _TAB or other not in data):
        first, second = marks.reshape(-1, 2).T
        starts = np.concatenate([[0], ends[:-1] + 1])
        if np.all((starts < first) & (first + 1 < second) & (second + 1 < ends)):
            plain = data if separator == _TAB else data.replace(b" ", b"\t")
            return plain, np.arange(1, len(ends) + 1)
    rows, lines = [], []
    for number, line in enumerate(data.split(b"\n"), start=1):
        fields = line.strip(b" \t\r").split(b"\t") if separator == _TAB else line.split()
        if not line.strip():
            continue
        if len(fields) != 3 or not all(field.strip() for field in fields):
            raise DataError(
                f"{path}:{number}: expected three fields, such as `1 enroll test`, found"
                f" {len(fields)}: {line.decode()[:80]!r}"
            )
        rows.append(b"\t".join(field.strip() for field in fields))
        lines.append(number)
    return b"\n".join(rows) + b"\n", np.array(lines)


@dataclass(frozen=True, eq=False)
class _Column:
    codes: npt.NDArray[np.int32]
    uniques: npt.NDArray[np.object_]


def _columns(data: bytes) -> list[_Column]:
    # Dictionary-encoded: a list of 10 million trials names some 100,000 utterances.
    names = ["first", "second", "third"]
    longest = int(np.diff(np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE), prepend=-1).max())
    table = pa_csv.read_csv(
        io.BytesIO(data),
        read_options=pa_csv.ReadOptions(column_names=names, block_size=max(1 << 24, longest + 1)),
        parse_options=pa_csv.ParseOptions(
            delimiter="\t", quote_char=False, double_quote=False, escape_char=False
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types={name: pa.dictionary(pa.int32(), pa.string()) for name in names},
            strings_can_be_null=False,
        ),
    ).unify_dictionaries()
    columns = []
    for name in names:
        chunks = table.column(name).chunks
        codes = np.concatenate([chunk.indices.to_numpy(zero_copy_only=False) for chunk in chunks])
        columns.append(_Column(codes, np.array(chunks[0].dictionary.to_pylist(), dtype=object)))
    return columns


def _no_form(path: Path, columns: list[_Column], lines: npt.NDArray[np.int64]) -> DataError:
    for description, column, names in _FORMS:
        is_label = np.isin(
            columns[column].codes, np.flatnonzero([u in names for u in columns[column].uniques])
        )
        if is_label[0]:
            row = int(np.argmin(is_label))
            found = columns[column].uniques[columns[column].codes[row]]
            return DataError(
                f"{path}:{lines[row]}: line {lines[0]} has the form {description}, this one has {found!r}"
                " for a label; one file has one form"
            )
    row_text = " ".join(str(column.uniques[column.codes[0]]) for column in columns)
    forms = ", ".join(description for description, _, _ in _FORMS)
    return DataError(
        f"{path}:{lines[0]}: expected {forms} or a TSV header `{' '.join(HEADER)}`, found {row_text[:80]!r}"
    )


def write_trials(path: Path, trials: Trials) -> None:
    """Write a trial list in the VoxCeleb form, or with a header and tabs where that would not be read back."""
    ids = pd.unique(np.concatenate([trials.enroll_ids, trials.test_ids]))
    plain = all(str(name).split() == [name] for name in ids)
    # Utterances called 0 and 1 on the test side would be taken for labels.
    plain = plain and not any(set(trials.test_ids) <= set(names) for names in (_DIGITS, _WORDS))
    if plain:
        rows = zip(trials.labels.tolist(), trials.enroll_ids, trials.test_ids, strict=True)
        write_text(path, "".join([f"{label} {enroll} {test}\n" for label, enroll, test in rows]))
        return
    broken = [name for name in ids if not name or any(mark in name for mark in "\t\n\r")]
    if broken:
        raise DataError(
            f"{path}: utterance ids with a tab or a line end: {first_five([repr(b) for b in broken])}"
        )
    rows = zip(trials.enroll_ids, trials.test_ids, trials.labels.tolist(), strict=True)
    write_text(path, "\t".join(HEADER) + "\n" + "".join([f"{a}\t{b}\t{label}\n" for a, b, label in rows]))
