"""Trial lists in all common forms, which are recognised by content, never by name.

The forms are `label enroll test` (VoxCeleb, 1 or 0), `enroll test target|nontarget` (Kaldi), `enroll test tgt|imp`
(VOiCES, SITW) and `enroll test 1|0` (CN-Celeb), with any mix of tabs and spaces between fields; and TSV with a header
that has `enroll_id`, `test_id` and `label` or, in NIST's keys, `modelid`, `segmentid` and `targettype`. Labels may
be in any case. Blank lines and lines that begin with `#` are skipped. A list without labels, as in a blind evaluation,
has `enroll test` in every line, or a header with only these two columns (and NIST's `side`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from svkit.errors import DataError, first_five
from svkit.store.atomic import replacing
from svkit.store.coded import Coded, Coder, encode
from svkit.store.tables import Lines, format_rows, line_blocks, open_text, parse_rows, table_blocks

HEADER = ("enroll_id", "test_id", "label")
NIST_HEADER = ("modelid", "segmentid", "targettype")
"""The same columns in NIST's speaker recognition evaluations, whose enrollment map has the first two."""
_DIGITS = {"0": 0, "1": 1}
_WORDS = {"nontarget": 0, "target": 1}
_SHORT_WORDS = {"imp": 0, "tgt": 1}
_FORMS = (
    ("`label enroll test` with label 1 or 0", 0, _DIGITS),
    ("`enroll test target|nontarget`", 2, _WORDS),
    ("`enroll test tgt|imp`", 2, _SHORT_WORDS),
    ("`enroll test 1|0`", 2, _DIGITS),
)
"""Each form in words, with the column of its labels and their meanings."""
ANY_LABEL = {**_DIGITS, **_WORDS, **_SHORT_WORDS}
"""Meaning of every label, in lower case."""
_COLUMNS = ("first", "second", "third")
UNLABELLED = -1
_EXPECTED = {
    2: "two fields in every line, as in the first: a list has labels in all lines or in none",
    3: "three fields, such as `1 enroll test`, in every line",
}
_NEWLINE, _TAB, _HASH = 10, 9, 35


@dataclass(frozen=True, eq=False)
class Trials:
    """Pairs of utterances and whether they are of one speaker; nine bytes per pair."""

    enroll: Coded
    """[N] enrollments: utterances, or names of an enrollment map."""
    test: Coded
    """[N] utterances."""
    labels: npt.NDArray[np.int8]
    """[N], 1 target, 0 nontarget; all `UNLABELLED` if it is not known which are which."""

    @classmethod
    def of(
        cls,
        enroll_ids: npt.NDArray[np.object_],
        test_ids: npt.NDArray[np.object_],
        labels: npt.NDArray[np.int8],
    ) -> "Trials":
        """Make trials from ids in memory, [N] each."""
        return cls(encode(enroll_ids), encode(test_ids), labels)

    def __len__(self) -> int:
        """Return the number of trials."""
        return len(self.labels)

    @property
    def has_labels(self) -> bool:
        """Whether it is known which trials are targets: of all of them, or of none."""
        return not len(self) or bool(self.labels[0] != UNLABELLED)

    @property
    def enroll_ids(self) -> npt.NDArray[np.object_]:
        """The enrollment of every trial, [N] str; made at each access, eight bytes each."""
        return self.enroll[:]

    @property
    def test_ids(self) -> npt.NDArray[np.object_]:
        """The test utterance of every trial, [N] str; made at each access, eight bytes each."""
        return self.test[:]

    @property
    def ids(self) -> npt.NDArray[np.object_]:
        """The distinct ids of both sides."""
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


def read_trials(path: Path, *, needs_labels: bool = True) -> Trials:
    """Read a trial list in any of the forms, a block at a time.

    Raises:
        DataError: the file is missing or empty, has a line that does not fit, fits two forms or mixes them, or lacks
            labels that are needed.
    """
    names, blocks = _open(path)
    has_header = names[0] in (HEADER[0], NIST_HEADER[0])
    coders = [Coder() for _ in names]
    for table, _ in blocks:
        for coder, name in zip(coders, names, strict=True):
            coder.add(table.column(name))
    if not coders[0].values:
        where = " below the header" if has_header else "; expected lines such as `1 enroll test`"
        raise DataError(f"{path}: no trials{where}")
    if has_header:
        for name, coder in zip(names[:2], coders[:2], strict=True):
            for line, _ in _find(path, coder, lambda text: text == ""):
                raise DataError(f"{path}:{line}: {name}: expected an utterance, found nothing")
        marks = coders[2:]
        if bad := marks and _find(path, marks[0], lambda text: text.strip().lower() not in ANY_LABEL):
            found = first_five([f"{text[:80]!r} (line {line})" for line, text in bad])
            raise DataError(
                f"{path}:{bad[0][0]}: {names[2]}: expected 1, 0, target or nontarget, found {found}"
            )
    if len(coders) == 2:
        if needs_labels:
            (line,) = find_lines(path, np.zeros(1, np.int64))
            raise DataError(
                f"{path}:{line}: expected trials with labels, such as `1 enroll test`, found none"
            )
        enroll, test = (coder.finish() for coder in coders)
        return Trials(enroll, test, np.full(len(enroll), UNLABELLED, np.int8))
    place, meanings = (2, ANY_LABEL) if has_header else _form(path, coders)
    # Labels first: their codes are freed before those of the ids are joined.
    column = coders.pop(place).finish()
    labels = column.look_up(np.array([meanings[text.strip().lower()] for text in column.values], np.int8))
    enroll, test = (coder.finish() for coder in coders)
    return Trials(enroll, test, labels)


def _find(path: Path, coder: Coder, is_wanted: Callable[[str], bool]) -> list[tuple[int, str]]:
    """Return line and text of the rows whose text is wanted, in the order of the list."""
    wanted = [code for code, text in enumerate(coder.values) if is_wanted(text)]
    if not wanted:
        return []
    column = coder.finish()
    rows = np.flatnonzero(np.isin(column.codes, wanted))
    return list(zip(find_lines(path, rows), column.values[column.codes[rows]].tolist(), strict=True))


def _form(path: Path, coders: Sequence[Coder]) -> tuple[int, dict[str, int]]:
    """Return the column of the labels and what they mean (DataError: not exactly one form fits)."""
    first_line, *_ = find_lines(path, np.zeros(1, np.int64))
    fitting = [
        (place, meanings)
        for _, place, meanings in _FORMS
        if all(text.lower() in meanings for text in coders[place].values)
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise DataError(
            f"{path}:{first_line}: ambiguous: both the first and the last column are labels; add a header line"
            f" `{' '.join(HEADER)}` separated by tabs"
        )
    for description, place, meanings in _FORMS:
        if coders[place].values[0].lower() in meanings:
            line, text = _find(path, coders[place], lambda text: text.lower() not in meanings)[0]  # noqa: B023
            raise DataError(
                f"{path}:{line}: line {first_line} has the form {description}, this one has "
                f"{text[:80]!r} for a label; a file must have one format"
            )
    forms = ", ".join(description for description, _, _ in _FORMS)
    shown = " ".join(coder.values[0] for coder in coders)
    raise DataError(
        f"{path}:{first_line}: expected {forms} or a TSV header `{' '.join(HEADER)}`, found {shown[:80]!r}"
    )


def find_lines(path: Path, rows: npt.NDArray[np.int64]) -> list[int]:
    """Return the line numbers of some trials of a list that was read; `rows`, their places in it, are ascending."""
    found: list[int] = []
    start = 0
    for _, lines in _open(path)[1]:
        found += lines[rows[(rows >= start) & (rows < start + len(lines))] - start].tolist()
        start += len(lines)
        if len(found) == len(rows):
            break
    return found


def _open(path: Path) -> tuple[Sequence[str], Iterator[tuple[pa.Table, Lines]]]:
    """Return the columns of a list, by its header if it has one, and its rows a block at a time, with their lines."""
    line, first = first_row(path)
    found = set(first.rstrip(b"\r\n").decode(errors="replace").split("\t"))
    for header in (HEADER, NIST_HEADER):
        if set(header) <= found or found - {"side"} == set(header[:2]):
            names = header if header[2] in found else header[:2]
            return names, table_blocks(path, names, header_line=line, has_comments=True)
    counts = {len([*filter(None, map(bytes.strip, first.split(b"\t")))]), len(first.split())}
    names = _COLUMNS[:2] if 2 in counts and 3 not in counts else _COLUMNS
    return names, field_blocks(path, names, _EXPECTED[len(names)])


def first_row(path: Path) -> tuple[int, bytes]:
    """Return the first line that is neither blank nor a comment, and its number; an empty one if there is none."""
    with open_text(path) as file:
        line, first = 1, file.readline()
        while first and (not first.strip() or first.lstrip().startswith(b"#")):
            line, first = line + 1, file.readline()
    return line, first


def field_blocks(path: Path, names: Sequence[str], expected: str) -> Iterator[tuple[pa.Table, Lines]]:
    """Yield rows of fields between blanks or tabs, one per name, and the line of each row, a block at a time.

    Raises:
        DataError: a line does not fit; the message says what was `expected`. Earlier blocks have been yielded.
    """
    shapes: dict[str, int] = {}
    """The first line with a space inside a field, and the first with spaces between fields; both is an error."""
    with open_text(path) as file:
        for line, block in line_blocks(path, file, 1):
            # A tidy block is checked as a whole; to split line by line in Python takes far longer.
            tidy, found = _tidy(block, len(names)), dict[str, int]()
            if tidy is not None and b"\t" not in block:
                found["between"] = line
            elif tidy is not None and b" " in tidy:
                found["inside"] = line + tidy.count(b"\n", 0, tidy.index(b" "))
            if tidy is not None and len(shapes.keys() | found) < 2:
                shapes = {**found, **shapes}
                yield parse_rows(tidy, names), np.arange(line, line + tidy.count(b"\n"))
                continue
            rows, lines = [], []
            for number, text in enumerate(block[:-1].split(b"\n"), start=line):
                fields, shape = _fields(text.strip(b" \t\r"), len(names))
                if not fields:
                    continue
                if b"\r" in text.strip(b" \t\r"):
                    raise DataError(
                        f"{path}:{number}: expected lines that end in LF, found CR alone; make them with tr '\\r' '\\n'"
                    )
                if len(fields) != len(names):
                    shown = text.decode()[:80]
                    raise DataError(f"{path}:{number}: expected {expected}, found {len(fields)}: {shown!r}")
                if shape:
                    shapes.setdefault(shape, number)
                if len(shapes) == 2:
                    raise DataError(
                        f"{path}:{number}: ambiguous: line {shapes['inside']} has a space inside a field, line"
                        f" {shapes['between']} has spaces between fields; put a tab between any two fields"
                    )
                rows.append(b"\t".join(fields) + b"\n")
                lines.append(number)
            if rows:
                yield parse_rows(b"".join(rows), names), np.array(lines, dtype=np.int64)


def _tidy(block: bytes, num_fields: int) -> bytes | None:
    """Return a block with tabs between fields; None unless all lines have `num_fields` and need no trimming."""
    if b"\t" not in block:
        block = block.replace(b" ", b"\t")
    elif block.startswith(b" ") or any(mark in block for mark in (b" \t", b"\t ", b" \n", b"\n ")):
        return None
    codes = np.frombuffer(block, np.uint8)
    ends, marks = np.flatnonzero(codes == _NEWLINE), np.flatnonzero(codes == _TAB)
    if b"\r" in block or len(marks) != (num_fields - 1) * len(ends):
        return None
    before = np.concatenate([[-1], ends[:-1]])
    edges = np.column_stack([before, marks.reshape(len(ends), -1), ends])
    is_tidy = (np.diff(edges, axis=1) > 1).all() and (codes[before + 1] != _HASH).all()
    return block if is_tidy else None


def _fields(line: bytes, num_fields: int) -> tuple[list[bytes], str]:
    """Split a line at tabs if that gives `num_fields` fields, which may hold spaces, else at any blanks.

    Returns:
        The fields (none for a blank line or a comment), and where there are spaces: `inside` or `between` fields.
    """
    if not line or line.startswith(b"#"):
        return [], ""
    fields = [field.strip(b" ") for field in line.split(b"\t")]
    if len(fields) == num_fields and all(fields):
        return fields, "inside" if b" " in b"".join(fields) else ""
    return [field for field in line.replace(b"\t", b" ").split(b" ") if field], "between"


def write_trials(path: Path, trials: Trials) -> None:
    """Write a trial list in the VoxCeleb form, or with a header and tabs if that form would be read back wrongly.

    Without labels, either form leaves them out.
    """
    ids = trials.ids
    plain = all(str(name).split() == [name] for name in ids)
    # Utterances called 0 and 1 on the test side would be taken for labels.
    tests = {str(name).lower() for name in trials.test.values}
    plain = plain and not any(tests <= set(names) for names in (_DIGITS, _WORDS, _SHORT_WORDS))
    plain = plain and (trials.has_labels or not any(name.startswith("#") for name in trials.enroll.values))
    broken = [name for name in ids if not name or any(mark in name for mark in "\t\n\r")]
    if broken:
        raise DataError(
            f"{path}: utterance ids with a tab or a line end: {first_five([repr(b) for b in broken])}"
        )
    sides: list[Any] = [trials.enroll, trials.test]
    labels: list[Any] = [trials.labels] if trials.has_labels else []
    with replacing(path) as temporary, temporary.open("wb") as file:
        if plain:
            file.writelines(format_rows("%d " * len(labels) + "%s %s\n", [*labels, *sides]))
        else:
            file.write(("\t".join(HEADER[: 2 + len(labels)]) + "\n").encode())
            file.writelines(format_rows("%s\t%s" + "\t%d" * len(labels) + "\n", [*sides, *labels]))
