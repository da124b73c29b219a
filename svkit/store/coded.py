"""Columns of text whose distinct values are held once: a list of 100 million trials names some 100,000 utterances."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

ROWS_PER_BLOCK = 2**17
"""Rows looked up at once. NumPy first widens the codes to eight bytes each, which is too much for all rows."""


@dataclass(frozen=True, eq=False, slots=True)
class Coded:
    """A column of N texts, held as codes of four bytes each."""

    values: npt.NDArray[np.object_]
    """The distinct texts, [U] str. In a column that was read, each has a row, and they are in order of first rows."""
    codes: npt.NDArray[np.int32]
    """[N] places in `values`."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.codes)

    def __getitem__(self, rows: slice) -> npt.NDArray[np.object_]:
        """Return the texts of some rows; those of all rows take another eight bytes each."""
        return self.values[self.codes[rows]]

    def look_up(self, table: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return what `table` [U] holds for the text of each row, [N]."""
        found = np.empty(len(self), table.dtype)
        for rows in row_blocks(len(self)):
            found[rows] = table[self.codes[rows]]
        return found

    def only(self, kept: npt.NDArray[np.bool_]) -> "Coded":
        """Return some of the rows, `kept` [N]."""
        codes, places = pd.factorize(self.codes[kept])
        return Coded(self.values[places], codes.astype(np.int32))

    def renamed(self, names: Mapping[str, str]) -> "Coded":
        """Return the column with other texts for some; two may become one."""
        renamed = np.array([names.get(text, text) for text in self.values], dtype=object)
        places, values = pd.factorize(renamed)
        return Coded(values, self.look_up(places.astype(np.int32)))

    def equals(self, other: "Coded") -> bool:
        """Say whether the texts are the same row by row."""
        return np.array_equal(self.values, other.values) and np.array_equal(self.codes, other.codes)


def encode(texts: npt.NDArray[np.object_]) -> Coded:
    """Encode texts [N] that are in memory."""
    codes, values = pd.factorize(np.asarray(texts, dtype=object))
    return Coded(values, codes.astype(np.int32))


def row_blocks(num_rows: int) -> Iterator[slice]:
    """Cut rows into blocks of `ROWS_PER_BLOCK`."""
    return (slice(start, start + ROWS_PER_BLOCK) for start in range(0, num_rows, ROWS_PER_BLOCK))


class Coder:
    """Encodes a column that arrives in blocks."""

    def __init__(self) -> None:
        self._values = pa.array([], pa.string())
        self._blocks: list[npt.NDArray[Any]] = []

    @property
    def values(self) -> list[str]:
        """The distinct texts so far, in the order of their first rows."""
        return list(self._values.to_pylist())

    def add(self, column: pa.ChunkedArray) -> None:
        """Add rows of text."""
        block = column.combine_chunks().dictionary_encode()
        known = pa.DictionaryArray.from_arrays(pa.array([], block.indices.type), self._values)
        joined = pa.chunked_array([known, block]).unify_dictionaries().chunk(1)
        self._values, codes = joined.dictionary, joined.indices.to_numpy()
        # Two labels need one byte per row, and so do the first utterances.
        self._blocks.append(codes.astype(np.min_scalar_type(int(codes.max(initial=0)))))

    def finish(self) -> Coded:
        """Return the whole column; nothing can be added after that."""
        codes = np.empty(sum(map(len, self._blocks)), np.int32)
        end = len(codes)
        while self._blocks:  # frees each block once it is copied
            block = self._blocks.pop()
            codes[end - len(block) : end] = block
            end -= len(block)
        return Coded(np.array(self.values, dtype=object), codes)
