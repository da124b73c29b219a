import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import fftconvolve

from svkit.audio.augment import add_noise, mean_power, reverberate, sum_at_equal_power

RNG = np.random.default_rng(3)


def noise(num_samples: int, level: float = 1.0) -> np.ndarray:
    return (level * RNG.standard_normal(num_samples)).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.floats(-10, 40), st.floats(1e-3, 1.0), st.floats(1e-3, 10.0))
def test_noise_comes_at_the_wanted_ratio_and_the_signal_keeps_its_level(
    snr_db: float, signal_level: float, noise_level: float
) -> None:
    signal, disturbance = noise(2000, signal_level), noise(2000, noise_level)
    mixed = add_noise(signal, disturbance, snr_db)
    added = mixed.astype(np.float64) - signal
    assert 10 * np.log10(mean_power(signal) / np.mean(added**2)) == pytest.approx(snr_db, abs=0.02)
    assert np.corrcoef(added, disturbance)[0, 1] > 0.99


@pytest.mark.parametrize("level", [0.0, 1e-30])
def test_silence_stays_as_it_is(level: float) -> None:
    silence = np.full(100, level, np.float32)
    loud = noise(100)
    np.testing.assert_array_equal(add_noise(silence, loud, 5.0), silence)
    np.testing.assert_array_equal(add_noise(loud, silence, 5.0), loud)
    np.testing.assert_array_equal(reverberate(silence, noise(30)), silence)
    np.testing.assert_array_equal(reverberate(loud, silence * 0), loud)
    np.testing.assert_array_equal(sum_at_equal_power([silence, silence]), np.zeros(100))


def test_parts_of_a_mix_weigh_the_same() -> None:
    quiet, loud = noise(5000, 0.01), noise(5000, 3.0)
    mix = sum_at_equal_power([quiet, loud])
    for part in (quiet, loud):
        assert np.dot(mix, part) / len(mix) / np.sqrt(mean_power(part)) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("num_samples", "response_length", "direct"), [(800, 300, 0), (800, 300, 40), (200, 900, 60)]
)
def test_reverberation_is_convolution_with_the_direct_path_at_zero(
    num_samples: int, response_length: int, direct: int
) -> None:
    signal, response = noise(num_samples, 0.1), noise(response_length, 0.05)
    response[direct] = -2.0
    wet = fftconvolve(signal.astype(np.float64), response)[direct : direct + num_samples]
    wet *= np.sqrt(mean_power(signal) / np.mean(wet**2))
    found = reverberate(signal, response)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wet, atol=1e-5)


def test_reverberation_does_not_depend_on_the_scale_of_the_response() -> None:
    signal, response = noise(500), noise(50)
    response[3] = 5
    np.testing.assert_allclose(reverberate(signal, response * 1e-6), reverberate(signal, response), atol=1e-5)
