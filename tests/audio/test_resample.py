import numpy as np
import pytest
import torch
import torchaudio.functional
from threadpoolctl import threadpool_limits

from svkit.audio.resample import change_speed, resample


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(num_samples).astype(np.float32)


@pytest.mark.parametrize(
    ("from_hz", "to_hz"),
    [(8000, 16000), (11025, 16000), (22050, 16000), (44100, 16000), (48000, 16000), (9, 10), (11, 10)],
)
@pytest.mark.parametrize("num_samples", [1, 37, 4000])
def test_resample_equals_torchaudio(from_hz: int, to_hz: int, num_samples: int) -> None:
    signal = noise(num_samples)
    expected = torchaudio.functional.resample(torch.from_numpy(signal).double(), from_hz, to_hz).numpy()
    found = resample(signal, from_hz, to_hz)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_ratio_of_large_coprime_numbers_gives_the_same_signal() -> None:
    signal = noise(3000)
    expected = torchaudio.functional.resample(torch.from_numpy(signal).double(), 2003, 1999).numpy()
    np.testing.assert_allclose(resample(signal, 2003, 1999), expected, atol=2e-5)


@pytest.mark.parametrize("from_hz", [14_400, 44_100])
def test_bits_do_not_depend_on_the_number_of_threads(from_hz: int) -> None:
    """A loader process and the training process, or another machine, may use other numbers of threads."""
    signal, found = noise(300_001), []
    for num_threads in (1, 2, 4):
        with threadpool_limits(num_threads):
            found.append(resample(signal, from_hz))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_equal_rates_and_empty_signals_are_left_alone() -> None:
    signal = noise(10)
    assert resample(signal, 16_000) is signal
    assert len(resample(signal[:0], 8000)) == 0


@pytest.mark.parametrize(("speed", "num_samples"), [(0.9, 17_778), (1.1, 14_546), (1.25, 12_800)])
def test_speed_moves_pitch_up_and_shortens(speed: float, num_samples: int) -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    found = change_speed(tone, speed)
    assert len(found) == num_samples
    spectrum = np.abs(np.fft.rfft(found * np.hanning(len(found))))
    assert np.argmax(spectrum) * 16_000 / len(found) == pytest.approx(1000 * speed, abs=2)
    middle = found[1000:-1000]
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(1.0, abs=0.01)
