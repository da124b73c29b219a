"""Trial lists in the forms in use, recognised by their content, never by their name.

`label enroll test` (VoxCeleb, 1 or 0), `enroll test target|nontarget` (Kaldi), `enroll test tgt|imp` (VOiCES, SITW),
`enroll test 1|0` (CN-Celeb), with any mix of tabs and spaces between fields, and TSV with a header that has
`enroll_id`, `test_id` and `label`. Words may be in any case; blank lines and lines that begin with `#` are no trials.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from svkit.errors import DataError, first_five
from svkit.store.atomic import replacing
from svkit.store.coded import Coded, Coder, dictionary_block, encode
from svkit.store.tables import format_rows, line_blocks, open_text, parse_rows, table_blocks

HEADER = ("enroll_id", "test_id", "label")
_DIGITS = {"0": 0, "1": 1}
_WORDS = {"nontarget": 0, "target": 1}
_SHORT_WORDS = {"imp": 0, "tgt": 1}
_FORMS = (
    ("`label enroll test` with label 1 or 0", 0, _DIGITS),
    ("`enroll test target|nontarget`", 2, _WORDS),
    ("`enroll test tgt|imp`", 2, _SHORT_WORDS),
    ("`enroll test 1|0`", 2, _DIGITS),
)
_ANY_LABEL = {**_DIGITS, **_WORDS, **_SHORT_WORDS}
_COLUMNS = ("first", "second", "third")
_NEWLINE, _HASH = 10, 35
_TO_SPACES = bytes.maketrans(b"\t\r", b"  ")

Lines = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Trials:
    """Pairs of utterances and whether they are of one speaker; nine bytes a pair."""

    enroll: Coded
    """[N] enrollments: utterances, or names of an enrollment map."""
    test: Coded
    """[N] utterances."""
    labels: npt.NDArray[np.int8]
    """[N], 1 target, 0 nontarget."""

    @classmethod
    def of(
        cls,
        enroll_ids: npt.NDArray[np.object_],
        test_ids: npt.NDArray[np.object_],
        labels: npt.NDArray[np.int8],
    ) -> "Trials":
        """Make trials of ids that are in memory, [N] each."""
        return cls(encode(enroll_ids), encode(test_ids), labels)

    def __len__(self) -> int:
        """Return the number of trials."""
        return len(self.labels)

    @property
    def enroll_ids(self) -> npt.NDArray[np.object_]:
        """The enrollment of every trial, [N] str; made anew, eight bytes each."""
        return self.enroll[:]

    @property
    def test_ids(self) -> npt.NDArray[np.object_]:
        """The test utterance of every trial, [N] str; made anew, eight bytes each."""
        return self.test[:]

    @property
    def ids(self) -> npt.NDArray[np.object_]:
        """The distinct ids of both sides, each once."""
        return np.asarray(pd.unique(np.concatenate([self.enroll.values, self.test.values])), dtype=object)

    def renamed(self, enroll: Mapping[str, str], test: Mapping[str, str]) -> "Trials":
        """Return the same trials with other ids for some; two may become one."""
        return Trials(self.enroll.renamed(enroll), self.test.renamed(test), self.labels)

    def only(self, kept: npt.NDArray[np.bool_]) -> "Trials":
        """Return some of the trials, `kept` [N]."""
        return Trials(self.enroll.only(kept), self.test.only(kept), self.labels[kept])

    def equals(self, other: "Trials") -> bool:
        """Say whether these are the same trials in the same order."""
        same = np.array_equal(self.labels, other.labels)
        return same and self.enroll.equals(other.enroll) and self.test.equals(other.test)


def read_trials(path: Path) -> Trials:
    """Read a trial list in any of the forms, a block at a time.

    Raises:
        DataError: missing, empty, or a line that does not fit; a file that fits two forms or mixes them.
    """
    has_header, blocks = _open(path)
    coders, forms = [Coder() for _ in _COLUMNS], _FormFinder(path)
    for table, lines in blocks:
        columns = [dictionary_block(table.column(name)) for name in (HEADER if has_header else _COLUMNS)]
        if has_header:
            _check_cells(path, columns, lines)
        else:
            forms.look_at(columns, lines)
        for coder, column in zip(coders, columns, strict=True):
            coder.add(column)
    label_column, names = (2, _ANY_LABEL) if has_header else forms.found()
    # Labels first: their codes go before the others are joined.
    labels = _labels(coders.pop(label_column).finish(), names)
    if not len(labels):
        raise DataError(f"{path}: no trials below the header")
    enroll, test = (coder.finish() for coder in coders)
    return Trials(enroll, test, labels)


def find_lines(path: Path, rows: npt.NDArray[np.int64]) -> list[int]:
    """Return the lines of some trials of a list that was read, by their places in it, ascending."""
    found: list[int] = []
    start = 0
    for _, lines in _open(path)[1]:
        found += lines[rows[(rows >= start) & (rows < start + len(lines))] - start].tolist()
        start += len(lines)
        if len(found) == len(rows):
            break
    return found


def _open(path: Path) -> tuple[bool, Iterator[tuple[pa.Table, Lines]]]:
    """Say whether a list has a header, and return its rows a block at a time, with the line of each."""
    with open_text(path) as file:
        line, first = 1, file.readline()
        while first and (not first.strip() or first.lstrip().startswith(b"#")):
            line, first = line + 1, file.readline()
    if set(HEADER) <= set(first.rstrip(b"\r\n").decode(errors="replace").split("\t")):
        blocks = table_blocks(path, HEADER, header_line=line, has_comments=True)
        return True, ((table, np.arange(line, line + len(table))) for line, table in blocks)
    has_tabs = len([field for field in first.split(b"\t") if field.strip()]) == 3
    return False, _without_header(path, b"\t" if has_tabs else b" ")


def _without_header(path: Path, separator: bytes) -> Iterator[tuple[pa.Table, Lines]]:
    shapes: dict[str, int] = {}
    with open_text(path) as file:
        for line, block in line_blocks(path, file, 1):
            rows, lines, fault = _regular(path, block, line, separator, shapes)
            if len(lines):
                yield parse_rows(rows, _COLUMNS), lines
            if fault is not None:
                raise fault


def _labels(column: Coded, names: dict[str, int]) -> npt.NDArray[np.int8]:
    return column.look_up(np.array([names[text.strip().lower()] for text in column.values], np.int8))


def _check_cells(path: Path, columns: Sequence[pa.DictionaryArray], lines: Lines) -> None:
    """Raise DataError where a row of a table names no utterance or has no label."""
    for name, column in zip(HEADER[:2], columns[:2], strict=True):
        empty = _rows_of(column, [text == "" for text in column.dictionary.to_pylist()])
        if len(empty):
            raise DataError(f"{path}:{lines[empty[0]]}: {name}: expected an utterance, found nothing")
    texts = columns[2].dictionary.to_pylist()
    bad = _rows_of(columns[2], [text.strip().lower() not in _ANY_LABEL for text in texts])
    if len(bad):
        codes = columns[2].indices.to_numpy()
        found = first_five([f"{texts[codes[row]]!r} (line {lines[row]})" for row in bad])
        raise DataError(f"{path}:{lines[bad[0]]}: label: expected 1, 0, target or nontarget, found {found}")


def _rows_of(column: pa.DictionaryArray, is_wanted: Sequence[bool]) -> Lines:
    """Return the rows whose value is wanted."""
    if not any(is_wanted):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.array(is_wanted)[column.indices.to_numpy()])


def _regular(
    path: Path, block: bytes, line: int, separator: bytes, shapes: dict[str, int]
) -> tuple[bytes, Lines, DataError | None]:
    """Return the rows of a block with one tab between fields and nothing else, and the line of each row.

    Args:
        path: for messages.
        block: whole lines.
        line: the number of the first.
        separator: a tab where the first row has three fields between tabs, which may hold spaces; else a space.
        shapes: the first line with a space inside a field, and the first with spaces between fields; filled here.

    Returns:
        Also the error that comes after them: a line that has not three fields ends them, or one of the second
        shape in a list of the first.
    """
    tidy = _tidy(block, separator)
    if tidy is not None:
        if b" " in tidy:
            shapes.setdefault("inside", line + tidy.count(b"\n", 0, tidy.index(b" ")))
        if len(shapes) < 2:
            return tidy, np.arange(line, line + tidy.count(b"\n")), None
    rows, lines = [], []
    fault = None
    for number, text in enumerate(block[:-1].split(b"\n"), start=line):
        fields = _fields(text, separator, shapes, number)
        if not fields:
            continue
        if len(fields) != 3 or any(b"\r" in field for field in fields):
            fault = DataError(
                f"{path}:{number}: expected three fields, such as `1 enroll test`, found"
                f" {len(fields)}: {text.decode()[:80]!r}"
            )
            break
        if len(shapes) == 2 and number >= max(shapes.values()):
            fault = DataError(
                f"{path}:{number}: ambiguous: line {shapes['inside']} has a space inside a field, line"
                f" {shapes['between']} has spaces between fields; put a tab between any two fields"
            )
            break
        rows.append(b"\t".join(fields) + b"\n")
        lines.append(number)
    return b"".join(rows), np.array(lines, dtype=np.int64), fault


def _tidy(block: bytes, separator: bytes) -> bytes | None:
    """Return a block with tabs between fields where all of its lines have three and nothing is to be trimmed."""
    if b"\r" in block:
        return None
    if separator == b" ":
        block = block.replace(b"\t", b" ")
    elif block.startswith(b" ") or any(mark in block for mark in (b" \t", b"\t ", b" \n", b"\n ")):
        return None
    codes = np.frombuffer(block, np.uint8)
    ends, marks = np.flatnonzero(codes == _NEWLINE), np.flatnonzero(codes == separator[0])
    if len(marks) != 2 * len(ends):
        return None
    first, second = marks.reshape(-1, 2).T
    starts = np.concatenate([[0], ends[:-1] + 1])
    if not np.all((starts < first) & (first + 1 < second) & (second + 1 < ends) & (codes[starts] != _HASH)):
        return None
    return block if separator == b"\t" else block.replace(b" ", b"\t")


def _fields(line: bytes, separator: bytes, shapes: dict[str, int], number: int) -> list[bytes]:
    """Split a line; nothing of one that is blank or a comment."""
    line = line.translate(_TO_SPACES) if separator == b" " else line.strip(b" \t\r")
    fields = [field for field in line.translate(_TO_SPACES).split(b" ") if field]
    if not fields or fields[0].startswith(b"#"):
        return []
    if separator == b"\t":
        between_tabs = [field.strip(b" ") for field in line.split(b"\t")]
        if len(between_tabs) == 3 and all(between_tabs):
            if len(fields) > 3:
                shapes.setdefault("inside", number)
            return between_tabs
        if len(fields) == 3:
            shapes.setdefault("between", number)
    return fields


class _FormFinder:
    """Finds the form that all rows of a list have; they come in blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._first: tuple[int, str] | None = None
        """Line and fields of the first row."""
        self._misfits: dict[int, tuple[int, str]] = {}
        """Line and label of the first row that has not a form, by the number of the form."""

    def look_at(self, columns: Sequence[pa.DictionaryArray], lines: Lines) -> None:
        """Take rows, their three columns and lines; DataError where no form is left."""
        if self._first is None:
            self._first = int(lines[0]), " ".join(column[0].as_py() for column in columns)
        for number, (_, place, names) in enumerate(_FORMS):
            texts = columns[place].dictionary.to_pylist() if number not in self._misfits else []
            wrong = next((code for code, text in enumerate(texts) if text.lower() not in names), None)
            if wrong is not None:
                row = int(np.argmax(columns[place].indices.to_numpy() == wrong))
                self._misfits[number] = int(lines[row]), texts[wrong]
        if len(self._misfits) == len(_FORMS):
            raise self._no_form(*self._first)

    def _no_form(self, first_line: int, first_row: str) -> DataError:
        for number, (description, _, _) in enumerate(_FORMS):
            line, found = self._misfits[number]
            if line != first_line:
                return DataError(
                    f"{self._path}:{line}: line {first_line} has the form {description}, this one has {found!r}"
                    " for a label; one file has one form"
                )
        forms = ", ".join(description for description, _, _ in _FORMS)
        return DataError(
            f"{self._path}:{first_line}: expected {forms} or a TSV header `{' '.join(HEADER)}`, found"
            f" {first_row[:80]!r}"
        )

    def found(self) -> tuple[int, dict[str, int]]:
        """Return the column of the labels and what they mean; DataError where there are no rows or two forms fit."""
        if self._first is None:
            raise DataError(f"{self._path}: no trials; expected lines such as `1 enroll test`")
        fitting = [_FORMS[number][1:] for number in range(len(_FORMS)) if number not in self._misfits]
        if len(fitting) > 1:
            raise DataError(
                f"{self._path}:{self._first[0]}: ambiguous: both the first and the last column are labels; add a"
                f" header line `{' '.join(HEADER)}` separated by tabs"
            )
        return fitting[0]


def write_trials(path: Path, trials: Trials) -> None:
    """Write a trial list in the VoxCeleb form, or with a header and tabs where that would not be read back."""
    ids = trials.ids
    plain = all(str(name).split() == [name] for name in ids)
    # Utterances called 0 and 1 on the test side would be taken for labels.
    tests = {str(name).lower() for name in trials.test.values}
    plain = plain and not any(tests <= set(names) for names in (_DIGITS, _WORDS, _SHORT_WORDS))
    broken = [name for name in ids if not name or any(mark in name for mark in "\t\n\r")]
    if broken:
        raise DataError(
            f"{path}: utterance ids with a tab or a line end: {first_five([repr(b) for b in broken])}"
        )
    sides = [trials.enroll, trials.test]
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        if plain:
            file.writelines(format_rows("%d %s %s\n", [trials.labels, *sides]))
        else:
            file.write("\t".join(HEADER) + "\n")
            file.writelines(format_rows("%s\t%s\t%d\n", [*sides, trials.labels]))
