"""Readers of audio on damaged files; see `test_readers.py`."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from svkit.store.audio_file import examine, probe, read_audio
from tests.hostile.mutations import damaged, examples
from tests.hostile.test_readers import survives

SOUNDS = {"a.wav": {"subtype": "PCM_16"}, "f.wav": {"subtype": "FLOAT"}}
SOUNDS |= {f"a.{kind}": {} for kind in ("flac", "ogg", "w64", "aiff", "au", "caf", "mp3")}


@pytest.fixture(scope="module")
def valid_sounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    directory, found = tmp_path_factory.mktemp("sounds"), {}
    wave = 0.1 * np.random.default_rng(0).standard_normal(400).astype(np.float32)
    for name, options in SOUNDS.items():
        soundfile.write(directory / name, wave, 16_000, **options)
        found[name] = (directory / name).read_bytes()
    return found


@pytest.mark.parametrize("name", SOUNDS)
@given(data=st.data())
@examples(40)
def test_damaged_audio(
    name: str, valid_sounds: dict[str, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / name
    path.write_bytes(data.draw(damaged(valid_sounds[name])))
    found = survives(lambda: probe(path), name)
    if found is not None:
        survives(lambda: examine(path), name)
        samples = survives(lambda: read_audio(path, num_samples=min(found.num_samples, 1000)), name)
        assert samples is None or (np.isfinite(samples).all() and len(samples) <= 1000)
