"""Tables of text: TSV with a header, or parquet by suffix.

Every cell stays text. pandas' defaults would turn the id `00123` into 123 and the speaker `NA` into a missing value.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from svkit.errors import DataError, first_five, first_line
from svkit.store.atomic import replacing
from svkit.store.coded import Coded, row_blocks
from svkit.store.files import in_artifact, open_file

_TAB, _NEWLINE = 9, 10
_CARRIAGE_RETURN = "a carriage return inside a line; expected LF or CRLF line ends"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NO_ROW = re.compile(rb" *(#.*)?")
_BLOCK_BYTES = 1 << 24
"""Text read at once, so that a list of tens of millions of lines is never in memory both as text and as a table."""
_SMALL_BYTES = 1 << 20
"""Up to this size, tables are parsed without threads: a command that ends while they are still starting would abort."""
_TEXT = pa.large_string()
_POWERS = np.array([10.0**place for place in range(13)])
Lines = npt.NDArray[np.int64]
"""The line number of each row of a block in the file."""


@contextmanager
def open_text(path: Path) -> Iterator[BinaryIO]:
    """Open a text file after its byte order mark, if any (DataError: missing, unreadable, or no regular file)."""
    with open_file(path, DataError) as file:
        if file.read(len(_BYTE_ORDER_MARK)) != _BYTE_ORDER_MARK:
            file.seek(0)
        yield file


def read_bytes(path: Path) -> bytes:
    """Read text as bytes without a byte order mark, all lines ended by LF (DataError: as `open_text`, or not UTF-8)."""
    with open_text(path) as file:
        return b"".join(block for _, block in line_blocks(path, file, 1))


def read_table(path: Path, required: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table whose cells are all text: TSV with a header line, or parquet where the suffix is `.parquet`.

    Raises:
        DataError: missing file, no header, a required column missing, or rows of another length.
    """
    if path.suffix == ".parquet":
        return _read_parquet(path, required)
    return _frame(pa.concat_tables([block for block, _ in table_blocks(path, required)]))


def read_artifact_table(path: Path, required: Sequence[str]) -> pd.DataFrame:
    """Read a table that svkit wrote into an artifact, as `read_table`; what is wrong with it is an ArtifactError."""
    with in_artifact():
        return read_table(path, required)


def table_blocks(
    path: Path, required: Sequence[str] = (), *, header_line: int = 1, has_comments: bool = False
) -> Iterator[tuple[pa.Table, Lines]]:
    """Read a TSV with a header in line `header_line`, a block of rows at a time.

    With `has_comments`, these are left out: blank lines, and lines that begin with `#` and do not have the number of
    columns of a row.

    Yields:
        The columns, all text, and the lines of the rows; a table without rows has one block.

    Raises:
        DataError: as `read_table`; about the header with the first block, about a row with the block of that row.
    """
    with open_text(path) as file:
        for _ in range(header_line):
            header = file.readline().rstrip(b"\r\n")
        columns = _text(path, header, 1).split("\t")
        if not header.strip():
            raise DataError(
                f"{path}:1: expected a header line with the columns {', '.join(required)}, found nothing"
            )
        if b"\r" in header:
            raise DataError(f"{path}:1: {_CARRIAGE_RETURN}")
        _check_columns(path, columns, required)
        has_rows = False
        for line, block in line_blocks(path, file, header_line + 1):
            lines = np.arange(line, line + block.count(b"\n"))
            # Most lists have no such lines, and to check each of hundreds of millions would take minutes.
            if has_comments and any(mark in b"\n" + block for mark in (b"#", b"\n\n", b"\n ")):
                block, lines = _without_comments(block, lines, len(columns))
            if len(lines):
                _check_shape(path, block, len(columns), lines)
                yield parse_rows(block, columns), lines
                has_rows = True
        if not has_rows:
            yield pa.table({name: pa.array([], pa.string()) for name in columns}), np.zeros(0, np.int64)


def line_blocks(path: Path, file: BinaryIO, line: int) -> Iterator[tuple[int, bytes]]:
    """Yield blocks of whole lines with LF ends, each with the number of its first line; the file is at line `line`.

    Empty lines at the end of the file are left out.

    Raises:
        DataError: a line is not UTF-8; the lines before it are yielded first.
    """
    rest, is_end = b"", False
    while not is_end:
        data = file.read(_BLOCK_BYTES)
        is_end = not data
        rest += data
        end = len(rest) if is_end else rest.rfind(b"\n") + 1
        block = rest[:end].replace(b"\r\n", b"\n")
        length = len(block.rstrip(b"\n")) + 1
        if length == 1:
            continue  # only empty lines: kept for the next block, as they may end the file
        rest, block = block[length:] + rest[end:], block[: length - 1] + b"\n"
        try:
            block.decode()
        except UnicodeDecodeError as error:
            if before := block.rfind(b"\n", 0, error.start) + 1:
                yield line, block[:before]
            _text(path, block, line)
        yield line, block
        line += block.count(b"\n")


def _text(path: Path, data: bytes, first_line: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        raise DataError(f"{path}:{line}: not UTF-8 text: byte 0x{data[error.start]:02x}") from error


def _without_comments(block: bytes, lines: Lines, num_columns: int) -> tuple[bytes, Lines]:
    rows = block[:-1].split(b"\n")
    kept = [not _NO_ROW.fullmatch(row) or row.count(b"\t") == num_columns - 1 for row in rows]
    return b"".join(row + b"\n" for row, is_kept in zip(rows, kept, strict=True) if is_kept), lines[kept]


def parse_rows(block: bytes, columns: Sequence[str]) -> pa.Table:
    """Parse whole lines, with tabs between columns, into columns of text."""
    # ignore_empty_lines would drop the empty cells of a table with one column.
    return pa_csv.read_csv(
        io.BytesIO(block),
        read_options=pa_csv.ReadOptions(
            column_names=columns,
            block_size=len(block) + 1,
            use_threads=len(block) > _SMALL_BYTES,
        ),
        parse_options=pa_csv.ParseOptions(
            delimiter="\t", quote_char=False, double_quote=False, escape_char=False, ignore_empty_lines=False
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types={name: pa.string() for name in columns}, strings_can_be_null=False
        ),
    )


def _read_parquet(path: Path, required: Sequence[str]) -> pd.DataFrame:
    try:
        with open_file(path, DataError) as file:
            table = pa_parquet.read_table(file, use_threads=path.stat().st_size > _SMALL_BYTES)
        _check_columns(path, table.column_names, required)
        for number, name in enumerate(table.column_names):
            if table.column(number).null_count:
                row = int(np.argmax(table.column(number).is_null().to_numpy()))
                raise DataError(f"{path}: row {row + 1}: {name}: expected a value, found null")
            text = table.column(number).cast(pa.large_string())
            text.validate(full=True)  # Arrow has not checked yet that the bytes are UTF-8
            table = table.set_column(number, name, text)
    except DataError:
        raise
    except Exception as error:  # pyarrow raises many types for a bad file
        raise DataError(f"{path}: not a parquet file of text: {first_line(error)}") from error
    return _frame(table)


def _frame(table: pa.Table) -> pd.DataFrame:
    # From pandas 3.0 on, columns of text stay in Arrow's memory: a tenth of what Python objects take, and shared by
    # loader processes. Counting references to Python objects would copy their pages.
    frame: pd.DataFrame = table.replace_schema_metadata(None).to_pandas(self_destruct=True, split_blocks=True)
    return frame.astype(str)


def integers(column: pd.Series) -> npt.NDArray[np.int64]:
    """Return a column of text that is known to hold whole numbers as int64 `[N]`."""
    numbers: npt.NDArray[np.int64] = pa.array(column).cast(pa.int64()).to_numpy()
    return numbers


def _check_columns(path: Path, columns: Sequence[str], required: Sequence[str]) -> None:
    missing = [name for name in required if name not in columns]
    if missing:
        raise DataError(f"{path}:1: missing column {', '.join(missing)}; found {first_five(columns)}")
    if len(set(columns)) != len(columns):
        twice = sorted({name for name in columns if columns.count(name) > 1})
        raise DataError(f"{path}:1: the column {twice[0]!r} appears twice")


def _check_shape(path: Path, body: bytes, num_columns: int, lines: Lines) -> None:
    codes = np.frombuffer(body, np.uint8)
    ends = np.flatnonzero(codes == _NEWLINE)
    if b"\r" in body:
        line = lines[body.count(b"\n", 0, body.index(b"\r"))]
        raise DataError(f"{path}:{line}: {_CARRIAGE_RETURN}")
    tabs_before = np.searchsorted(np.flatnonzero(codes == _TAB), ends)
    counts = np.diff(tabs_before, prepend=0) + 1
    bad = np.flatnonzero(counts != num_columns)
    if len(bad):
        rows = [f"line {lines[row]} ({counts[row]})" for row in bad]
        raise DataError(
            f"{path}:{lines[bad[0]]}: expected {num_columns} tab-separated columns as in the header, found"
            f" {first_five(rows)}"
        )


def format_rows(form: str, columns: Sequence[Any]) -> Iterator[memoryview]:
    """Yield lines of a form as UTF-8, a block of rows at a time.

    Of columns [N], `%s` in the form is text (`Coded`), `%d` whole numbers and `%.9g` numbers, as Python writes them;
    arrow does it in half the time.
    """
    pieces = re.split(r"(%s|%d|%\.9g)", form)
    texts = [pa.array(column.values, _TEXT) if isinstance(column, Coded) else None for column in columns]
    for rows in row_blocks(len(columns[0])):
        cells: list[pa.Array | pa.Scalar] = [pa.scalar(piece, _TEXT) for piece in pieces]
        for place, column, text in zip(range(1, len(pieces), 2), columns, texts, strict=True):
            if text is not None:
                cells[place] = text.take(pa.array(column.codes[rows]))
            elif pieces[place] == "%d":
                cells[place] = pc.cast(pa.array(column[rows]), _TEXT)
            else:
                cells[place] = _nine_digits(np.asarray(column[rows], dtype=np.float64))
        lines = pc.binary_join_element_wise(*cells, pa.scalar("", _TEXT))
        _, offsets, data = lines.buffers()
        yield memoryview(data)[: np.frombuffer(offsets, np.int64)[len(lines)]]


def _nine_digits(numbers: npt.NDArray[np.float64]) -> pa.Array:
    """Return numbers [N] in the form `%.9g`."""
    sizes = np.abs(numbers)
    # What is left to Python: exponents, and digits that the rounding of a product could change.
    is_plain = (sizes >= 1e-4) & (sizes < 1e8)
    sizes = np.where(is_plain, sizes, 1.0)
    scales = _POWERS[8 - np.floor(np.log10(sizes)).astype(np.int8)]
    digits = sizes * scales
    is_plain &= np.abs(digits - np.floor(digits) - 0.5) > 1e-6
    # The closest number to these digits has them for its shortest form, which is what arrow writes.
    found = pc.cast(pa.array(np.copysign(np.rint(digits) / scales, numbers)), _TEXT)
    if is_plain.all():
        return found
    others = pa.array([f"{number:.9g}" for number in numbers[~is_plain].tolist()], _TEXT)
    return pc.replace_with_mask(found, ~is_plain, others)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table atomically: TSV, or `.parquet` (DataError: a tab, a line end or invalid Unicode in a cell)."""
    if path.suffix == ".parquet":
        with replacing(path) as temporary:
            table.to_parquet(temporary, index=False)
        return
    header = "\t".join(table.columns)
    if header.count("\t") != len(table.columns) - 1 or "\n" in header or "\r" in header:
        raise DataError(f"{path}:1: a tab or line end inside the name of a column; rename it")
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_encoded(path, header + "\n", 1))
        for rows in row_blocks(len(table)):
            block, first_line = table.iloc[rows], rows.start + 2
            columns = {name: [str(cell) for cell in block[name]] for name in table.columns}
            text = "".join([line + "\n" for line in map("\t".join, zip(*columns.values(), strict=True))])
            if "\r" in text or text.count("\t") + text.count("\n") != block.size:
                _refuse_cells(path, columns, first_line)
            file.write(_encoded(path, text, first_line))


def _refuse_cells(path: Path, columns: Mapping[str, Sequence[str]], first_line: int) -> NoReturn:
    cells = (
        (line, name, cell) for name, column in columns.items() for line, cell in enumerate(column, first_line)
    )
    line, name, cell = next(found for found in cells if any(mark in found[2] for mark in "\t\n\r"))
    raise DataError(f"{path}:{line}: {name}: a tab or line end inside {cell!r}; rename it")


def _encoded(path: Path, text: str, first_line: int) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        line = first_line + text.count("\n", 0, error.start)
        raise DataError(
            f"{path}:{line}: text that is not valid Unicode (a file name in another encoding?)"
        ) from error
