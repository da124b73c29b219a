"""Tables of text: TSV with a header (or parquet by suffix), where every cell stays the text it is.

pandas' defaults would turn the id `00123` into 123 and the speaker `NA` into a missing value; nothing here
guesses types.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv

from svkit.errors import DataError, first_five
from svkit.store.atomic import replacing, write_bytes

_TAB, _NEWLINE, _RETURN = 9, 10, 13


def read_bytes(path: Path) -> bytes:
    """Read a text file as bytes: UTF-8 checked, byte order mark dropped, LF line ends, last line ended.

    Raises:
        DataError: missing, a directory, unreadable, or not UTF-8 (with the line).
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: does not exist") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    data = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8 text: byte 0x{data[error.start]:02x}") from error
    if data and not data.endswith(b"\n"):
        data += b"\n"
    return data


def read_table(path: Path, required: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table whose cells are all text.

    Args:
        path: TSV with a header line, or parquet where the suffix is `.parquet`.
        required: columns that must be there; others are kept too.

    Raises:
        DataError: missing file, no header, a required column missing, or rows of another length.
    """
    if path.suffix == ".parquet":
        return _read_parquet(path, required)
    data = read_bytes(path).rstrip(b"\n") + b"\n"
    header, _, body = data.partition(b"\n")
    if b"\r" in header:
        raise DataError(f"{path}:1: a carriage return inside a line; expected LF or CRLF line ends")
    columns = header.decode().split("\t")
    if not header.strip():
        raise DataError(
            f"{path}:1: expected a header line with the columns {', '.join(required)}, found nothing"
        )
    _check_columns(path, columns, required)
    if not body:
        return pd.DataFrame({name: pd.Series([], dtype=str) for name in columns})
    _check_shape(path, body, len(columns))
    # ignore_empty_lines would drop the empty cells of a table with one column.
    table = pa_csv.read_csv(
        io.BytesIO(body),
        read_options=pa_csv.ReadOptions(
            column_names=columns, block_size=max(1 << 24, _longest_line(body) + 1)
        ),
        parse_options=pa_csv.ParseOptions(
            delimiter="\t", quote_char=False, double_quote=False, escape_char=False, ignore_empty_lines=False
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types={name: pa.string() for name in columns}, strings_can_be_null=False
        ),
    )
    frame: pd.DataFrame = table.to_pandas().astype(str)
    return frame


def _read_parquet(path: Path, required: Sequence[str]) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"{path}: does not exist")
    try:
        table = pd.read_parquet(path)
    except Exception as error:  # pyarrow and pandas raise many types for a bad file
        lines = str(error).splitlines() or [type(error).__name__]
        raise DataError(f"{path}: not a parquet file: {lines[0][:200]}") from error
    _check_columns(path, [str(name) for name in table.columns], required)
    if table.isna().to_numpy().any():
        row, column = np.argwhere(table.isna().to_numpy())[0]
        raise DataError(f"{path}: row {row + 1}: {table.columns[column]}: expected a value, found null")
    return table.astype(str)


def _check_columns(path: Path, columns: Sequence[str], required: Sequence[str]) -> None:
    missing = [name for name in required if name not in columns]
    if missing:
        raise DataError(f"{path}:1: missing column {', '.join(missing)}; found {first_five(columns)}")
    if len(set(columns)) != len(columns):
        twice = sorted({name for name in columns if columns.count(name) > 1})
        raise DataError(f"{path}:1: the column {twice[0]!r} is there twice")


def _line_ends(body: bytes) -> npt.NDArray[np.int64]:
    return np.flatnonzero(np.frombuffer(body, np.uint8) == _NEWLINE)


def _longest_line(body: bytes) -> int:
    return int(np.diff(_line_ends(body), prepend=-1).max())


def _check_shape(path: Path, body: bytes, num_columns: int) -> None:
    codes = np.frombuffer(body, np.uint8)
    ends = _line_ends(body)
    returns = np.flatnonzero(codes == _RETURN)
    if len(returns):
        line = int(np.searchsorted(ends, returns[0])) + 2
        raise DataError(f"{path}:{line}: a carriage return inside a line; expected LF or CRLF line ends")
    tabs_before = np.searchsorted(np.flatnonzero(codes == _TAB), ends)
    counts = np.diff(tabs_before, prepend=0) + 1
    bad = np.flatnonzero(counts != num_columns)
    if len(bad):
        rows = [f"line {row + 2} ({counts[row]})" for row in bad]
        raise DataError(
            f"{path}:{bad[0] + 2}: expected {num_columns} tab-separated columns as in the header, found"
            f" {first_five(rows)}"
        )


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table atomically: TSV, or parquet where the suffix is `.parquet`.

    Raises:
        DataError: a cell holds a tab or a line end, or text that UTF-8 cannot say.
    """
    if path.suffix == ".parquet":
        with replacing(path) as temporary:
            table.to_parquet(temporary, index=False)
        return
    columns = [[str(cell) for cell in table[name]] for name in table.columns]
    header = "\t".join(table.columns) + "\n"
    text = header + "".join([line + "\n" for line in map("\t".join, zip(*columns, strict=True))])
    cells = (len(table) + 1) * len(table.columns)
    if "\r" in text or text.count("\t") + text.count("\n") != cells:
        _refuse_cells(path, table)
    try:
        write_bytes(path, text.encode("utf-8"))
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}: text that is not valid Unicode (a file name in another encoding?)"
        ) from error


def _refuse_cells(path: Path, table: pd.DataFrame) -> None:
    for name in table.columns:
        for row, cell in enumerate(table[name]):
            if any(mark in str(cell) for mark in "\t\n\r"):
                raise DataError(f"{path}:{row + 2}: {name}: a tab or line end inside {cell!r}; rename it")
