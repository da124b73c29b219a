import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svkit.errors import DataError
from svkit.store import coded, tables
from svkit.store.coded import Coder, encode
from svkit.store.tables import format_rows, read_table, write_table

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r"), max_size=8)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS.filter(bool)), max_size=6),
    suffix=st.sampled_from(["tsv", "parquet"]),
)
def test_every_cell_comes_back_as_the_text_it_was(tmp_path_factory, rows, suffix):
    path = tmp_path_factory.mktemp("t") / f"a.{suffix}"
    write_table(path, pd.DataFrame({"a": [row[0] for row in rows], "b": [row[1] for row in rows]}, dtype=str))
    table = read_table(path, ["a", "b"])
    assert list(zip(table["a"], table["b"], strict=True)) == rows


def test_nothing_is_guessed(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('id\tx\n00123\tNA\n007\t\n"q\t1e5\nTrue\tnan\n')
    table = read_table(path)
    assert table.to_numpy().tolist() == [["00123", "NA"], ["007", ""], ['"q', "1e5"], ["True", "nan"]]


def test_crlf_and_a_byte_order_mark_and_a_missing_last_line_end_are_accepted(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"\xef\xbb\xbfa\tb\r\n1\t2\r\n3\t4")
    assert read_table(path, ["a"]).to_numpy().tolist() == [["1", "2"], ["3", "4"]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "a.tsv: does not exist"),
        (b"", "a.tsv:1: expected a header"),
        (b"a\tc\n", "a.tsv:1: missing column b"),
        (b"a\tb\ta\n", "a.tsv:1: the column 'a' appears twice"),
        (b"a\tb\n1\t2\n1\n1\t2\t3\n", r"a.tsv:3: expected 2 .* found line 3 \(1\), line 4 \(3\)"),
        (b"a\tb\n1\t2\n\n1\t2\n", r"a.tsv:3: expected 2 .* line 3 \(1\)"),
        (b"a\tb\n1\t2\n1\t\xff\n", "a.tsv:3: not UTF-8 text: byte 0xff"),
        (b"a\tb\n1\t2\n1\r2\t3\n", "a.tsv:3: a carriage return"),
    ],
)
def test_faults_are_named_with_their_line(tmp_path, data, message):
    path = tmp_path / "a.tsv"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_table(path, ["a", "b"])


@pytest.mark.parametrize(("cell", "line"), [("x\ty", 3), ("x\n", 3), ("x\r", 3), ("\udcff", 3)])
def test_cells_that_would_break_the_table_are_refused(tmp_path, cell, line):
    with pytest.raises(DataError, match=f"a.tsv:{line}: "):
        write_table(tmp_path / "a.tsv", pd.DataFrame({"a": ["1", cell], "b": ["2", "3"]}, dtype=object))
    assert list(tmp_path.iterdir()) == []


def test_a_directory_and_a_broken_parquet_are_one_line(tmp_path):
    with pytest.raises(DataError, match="is a directory"):
        read_table(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1nothing")
    with pytest.raises(DataError, match="not a parquet file"):
        read_table(tmp_path / "a.parquet")
    pd.DataFrame({"a": ["1", None]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match="row 2: a: expected a value, found null"):
        read_table(tmp_path / "b.parquet")


def test_a_long_line_is_read(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("a\tb\n1\t" + "x" * (17_000_000) + "\n")
    assert len(read_table(path)["b"].iloc[0]) == 17_000_000


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_blocks_of_any_size_give_the_same_rows_and_lines(tmp_path, monkeypatch, size):
    monkeypatch.setattr(tables, "_BLOCK_BYTES", size)
    path = tmp_path / "a.tsv"
    path.write_bytes("\ufeffa\tb\r\n1\t\u00e9\r\n3\t\n5\t6\n\r\n\n".encode())
    assert read_table(path).to_numpy().tolist() == [["1", "\u00e9"], ["3", ""], ["5", "6"]]
    for data, message in (
        (b"a\tb\n1\t2\n\n3\t4\n", "a.tsv:3: expected 2"),
        (b"a\tb\n1\t2\n3\t4\n5", "a.tsv:4: expected 2"),
        (b"a\tb\n1\t2\n3\t\xff\n", "a.tsv:3: not UTF-8"),
        (b"a\tb\n1\t2\n3\t4\n5\t\r6\n", "a.tsv:4: a carriage return"),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=message):
            read_table(path)


def test_rows_are_written_in_blocks(tmp_path, monkeypatch):
    table = pd.DataFrame({"a": list("12345"), "b": list("vwxyz")})
    write_table(tmp_path / "whole.tsv", table)
    monkeypatch.setattr(coded, "ROWS_PER_BLOCK", 2)
    write_table(tmp_path / "blocks.tsv", table)
    assert (tmp_path / "blocks.tsv").read_bytes() == (tmp_path / "whole.tsv").read_bytes()
    table.loc[4, "b"] = "z\n"
    with pytest.raises(DataError, match="blocks.tsv:6: b: a tab or line end"):
        write_table(tmp_path / "blocks.tsv", table)
    with pytest.raises(DataError, match="blocks.tsv:1: a tab or line end inside the name"):
        write_table(tmp_path / "blocks.tsv", table.rename(columns={"a": "a\tc"}))
    assert (tmp_path / "blocks.tsv").read_bytes() == (tmp_path / "whole.tsv").read_bytes()


@given(
    st.lists(
        st.one_of(
            st.floats(width=32),
            st.floats(),
            st.floats(-2.0, 2.0),
            # Near the middle between two numbers of nine digits.
            st.builds(
                lambda digits, places: (digits + 0.5) / 10**places,
                st.integers(-(10**9), 10**9),
                st.integers(0, 13),
            ),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_rows_are_written_as_python_writes_them(numbers):
    words = encode(np.array([f"ü {len(str(number))}" for number in numbers], dtype=object))
    counts = np.arange(len(numbers), dtype=np.int8)
    found = b"".join(format_rows("%s\t%d (%.9g)\n", [words, counts, np.array(numbers)]))
    rows = zip(words[:].tolist(), counts.tolist(), numbers, strict=True)
    assert found.decode() == "".join(f"{word}\t{count} ({number:.9g})\n" for word, count, number in rows)


def test_rows_are_written_block_by_block(monkeypatch):
    texts, numbers = encode(np.array(["a", "b", "a", "", "b"], dtype=object)), np.arange(5) / 8
    whole = b"".join(format_rows("%s %.9g\n", [texts, numbers]))
    monkeypatch.setattr(coded, "ROWS_PER_BLOCK", 2)
    assert b"".join(format_rows("%s %.9g\n", [texts, numbers])) == whole
    assert whole == b"a 0\nb 0.125\na 0.25\n 0.375\nb 0.5\n"


def test_a_column_is_coded_over_blocks_in_the_order_of_first_rows():
    coder = Coder()
    blocks = (["b", "a", "b"], [], ["a", "ü", "", "b"], ["a"])
    for block in blocks:
        coder.add(pa.chunked_array([block], pa.string()))
    assert coder.values == ["b", "a", "ü", ""]
    column = coder.finish()
    assert column[:].tolist() == [text for block in blocks for text in block]
    assert column.codes.dtype == np.int32
