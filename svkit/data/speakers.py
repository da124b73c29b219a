"""The speakers of a training list: their order, their rows, and draws of other speakers."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svkit.store.manifest import Manifest


class SpeakerIndex:
    """Speakers sorted by id; `row_speakers[row]` is the index of a row's speaker."""

    def __init__(self, manifest: Manifest) -> None:
        # Codes first, then the few distinct names: tens of millions of rows never become name objects.
        codes, names = pd.factorize(manifest.table["speaker_id"])
        self.speakers: list[str] = sorted(str(name) for name in names)
        place = {name: number for number, name in enumerate(self.speakers)}
        places = np.array([place[str(name)] for name in names], dtype=np.int32)
        self.row_speakers: NDArray[np.int32] = places[codes]
        self._rows = np.argsort(self.row_speakers, kind="stable").astype(np.int32)
        self._first = np.searchsorted(self.row_speakers[self._rows], np.arange(len(self.speakers) + 1))

    @property
    def num_speakers(self) -> int:
        """Number of speakers."""
        return len(self.speakers)

    def draw_other_rows(self, row: int, count: int, rng: np.random.Generator) -> list[int]:
        """Draw one row of each of `count` different other speakers (fewer if there are fewer)."""
        own = int(self.row_speakers[row])
        others = self.num_speakers - 1
        chosen = rng.choice(others, min(count, others), replace=False)
        chosen = chosen + (chosen >= own)
        return [int(self._rows[rng.integers(self._first[k], self._first[k + 1])]) for k in chosen]
