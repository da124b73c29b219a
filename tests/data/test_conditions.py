"""Every condition on something like speech: its length, its place, its draws; and ffmpeg as it is found."""

from pathlib import Path

import numpy as np
import pytest

from svkit.config.conditions import CHANNELS, CUTS
from svkit.data import conditions
from svkit.data.conditions import change, changer, require_condition
from svkit.errors import ConfigError
from svkit.store.manifest import Manifest

DRAWN = {"loss10", "loss10-repeat", "far"}


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    """Harmonics of a gliding pitch that come and go, with some noise: 1.2 s, no whole number of frames."""
    time = np.arange(19_237) / 16_000
    phase = 2 * np.pi * (120 * time + 15 * time**2)
    tones = sum(np.sin(k * phase) / k for k in range(1, 25))
    loud = 0.5 + 0.5 * np.sin(2 * np.pi * 3.1 * time)
    rng = np.random.default_rng(0)
    return (0.2 * loud * tones + 0.005 * rng.normal(size=len(time))).astype(np.float32)


def heard(name: str, signal: np.ndarray, seed: int = 0) -> np.ndarray:
    try:
        require_condition(name)
    except ConfigError as error:
        pytest.skip(str(error))
    return change(name, signal, np.random.default_rng(seed))


def lag(signal: np.ndarray, later: np.ndarray) -> int:
    size = 2 * len(signal)
    products = np.fft.irfft(np.conj(np.fft.rfft(signal, size)) * np.fft.rfft(later, size), size)
    found = int(np.argmax(products))
    return found if found < len(signal) else found - size


@pytest.mark.parametrize("name", CHANNELS)
def test_length_and_place_stay_and_something_changes(name: str, voice: np.ndarray) -> None:
    found = heard(name, voice)
    assert found.dtype == np.float32 and found.shape == voice.shape and np.isfinite(found).all()
    keeps_phase = not name.startswith("amr")
    assert abs(lag(voice, found)) <= (4 if keeps_phase else 100)  # of 16 in a millisecond
    assert (0.4 if keeps_phase else -1) < np.corrcoef(voice, found)[0, 1] < 0.99999
    np.testing.assert_array_equal(found, heard(name, voice))
    assert np.array_equal(found, heard(name, voice, seed=5)) == (name not in DRAWN)


@pytest.mark.parametrize("name", ["alaw", "gsm", "opus16k", "mp3-16k"])
def test_what_is_louder_than_a_file_can_be_is_coded_in_its_range(name: str, voice: np.ndarray) -> None:
    full = voice / np.abs(voice).max()
    np.testing.assert_array_equal(heard(name, 2**14 * full) / 2**14, heard(name, full))


@pytest.mark.parametrize("name", sorted(set(CHANNELS) - set(conditions._EXTERNAL)))
def test_silence_and_a_single_frame_stay_finite(name: str) -> None:
    for signal in (np.zeros(3000, np.float32), np.full(641, 0.1, np.float32)):
        found = heard(name, signal)
        assert found.shape == signal.shape and np.isfinite(found).all()


def test_telephones_let_nothing_through_above_4_khz(voice: np.ndarray) -> None:
    for name in ("alaw", "ulaw", "gsm", "narrowband"):
        power = np.abs(np.fft.rfft(heard(name, voice))) ** 2
        high = np.fft.rfftfreq(len(voice), 1 / 16_000) > 4200
        assert power[high].sum() < 1e-3 * power.sum()


def test_draws_follow_from_the_seed_and_the_utterance(speakers: Manifest, voice: np.ndarray) -> None:
    first, again, other = (changer("loss10", seed, speakers) for seed in (1, 1, 2))
    assert first and again and other
    np.testing.assert_array_equal(first(voice, 3), again(voice, 3))
    assert not np.array_equal(first(voice, 3), first(voice, 4))
    assert not np.array_equal(first(voice, 3), other(voice, 3))
    assert changer(None, 1, speakers) is None and all(changer(name, 1, speakers) is None for name in CUTS)


def test_without_its_codec_a_condition_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho ' A....D aac  AAC'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    require_condition("aac-24k")
    require_condition("gsm")
    with pytest.raises(
        ConfigError,
        match=r"condition amr-wb: needs an ffmpeg with the encoder libvo_amrwbenc, which .*ffmpeg lacks",
    ):
        require_condition("amr-wb")
    with pytest.raises(ConfigError, match="ffmpeg failed to code speech: "):
        program.write_text("#!/bin/sh\necho broken >&2; exit 1\n")
        change("aac-24k", np.zeros(800, np.float32), np.random.default_rng(0))
