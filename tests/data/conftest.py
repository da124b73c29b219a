from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from svkit.store.manifest import COLUMNS, Manifest

Row = tuple[str, str, np.ndarray, int, str]
"""Name of the file, speaker, samples `[N]` or `[N, channels]`, rate, category."""


@pytest.fixture
def make_manifest(tmp_path: Path) -> Callable[[Sequence[Row]], Manifest]:
    """Write audio files (32-bit float, so that samples come back as they are) and list them."""

    def make(rows: Sequence[Row]) -> Manifest:
        table = []
        for name, speaker, samples, rate, category in rows:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / name, samples, rate, subtype="FLOAT")
            table.append((name, speaker, name, str(rate), str(len(samples)), "", category))
        return Manifest(tmp_path / "list.tsv", tmp_path, pd.DataFrame(table, columns=[*COLUMNS, "category"]))

    return make


def tone(hz: float, seconds: float = 0.6, rate: int = 16_000, level: float = 0.3) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def speakers(make_manifest: Callable[[Sequence[Row]], Manifest]) -> Manifest:
    """Six speakers with two noisy tones each, not listed in the order of their names."""
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for number in (3, 0, 5, 1, 4, 2):
        for take in range(2):
            samples = tone(200 + 150 * number) + 0.01 * rng.standard_normal(9600).astype(np.float32)
            rows.append((f"s{number}/{take}.wav", f"s{number}", samples, 16_000, ""))
    return make_manifest(rows)
