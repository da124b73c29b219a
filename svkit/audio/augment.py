"""Noise at a signal-to-noise ratio and reverberation, on one waveform.

Source: method.md, section 2 (noise, music, speech with music, babble; simulated rooms).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

SILENCE = 1e-10
"""Mean power (full scale 1) under which a signal counts as silent: one 16-bit step has a power of 9e-10."""


def mean_power(signal: NDArray[np.float32]) -> float:
    """Mean square of a signal `[N]`, accumulated in double precision; 0 for an empty one."""
    return float(np.square(signal, dtype=np.float64).mean()) if len(signal) else 0.0


def sum_at_equal_power(signals: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Add signals `[N]` of one length after bringing each to a mean power of 1; silent ones add nothing."""
    total = np.zeros(len(signals[0]), dtype=np.float32)
    for signal in signals:
        power = mean_power(signal)
        if power > SILENCE:
            total += signal * np.float32(power**-0.5)
    return total


def add_noise(signal: NDArray[np.float32], noise: NDArray[np.float32], snr_db: float) -> NDArray[np.float32]:
    """Add noise at a signal-to-noise ratio; the signal keeps its level.

    Args:
        signal: float32 `[N]`.
        noise: float32 `[N]`.
        snr_db: ratio of the mean powers over the whole crop.

    Returns:
        float32 `[N]`; the signal itself where it or the noise is silent (no ratio exists).
    """
    signal_power, noise_power = mean_power(signal), mean_power(noise)
    if signal_power <= SILENCE or noise_power <= SILENCE:
        return signal
    gain = (signal_power / noise_power / 10 ** (snr_db / 10)) ** 0.5
    return signal + noise * np.float32(gain)


def reverberate(signal: NDArray[np.float32], impulse_response: NDArray[np.float32]) -> NDArray[np.float32]:
    """Convolve with a room impulse response.

    The strongest tap is taken for the direct path and put at time 0, so that speech stays where it was; the
    result is cut to the signal's length and brought back to its mean power.

    Args:
        signal: float32 `[N]`.
        impulse_response: float32 `[K]`, any scale.

    Returns:
        float32 `[N]`; the signal itself where it or the response is silent.
    """
    num_samples, signal_power = len(signal), mean_power(signal)
    if signal_power <= SILENCE or len(impulse_response) == 0:
        return signal
    direct = int(np.argmax(np.abs(impulse_response)))
    # Taps later than the crop is long cannot be heard in it.
    response = impulse_response[: direct + num_samples]
    energy = float(np.square(response, dtype=np.float64).sum())
    if not energy > 0:
        return signal
    size = next_fast_len(num_samples + len(response) - 1, real=True)
    spectrum = rfft(signal, size)
    spectrum *= rfft(response * np.float32(energy**-0.5), size)
    wet = irfft(spectrum, size)[direct : direct + num_samples]
    wet_power = mean_power(wet)
    if wet_power <= SILENCE * 1e-3:
        return signal
    return np.asarray(wet * np.float32((signal_power / wet_power) ** 0.5), dtype=np.float32)
