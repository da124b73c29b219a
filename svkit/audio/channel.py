"""Effects of a line on a 16 kHz waveform, other than those of a codec: lost packets, a narrow band, clipping."""

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from svkit.audio.resample import SAMPLE_RATE_HZ

FRAME_SAMPLES = SAMPLE_RATE_HZ // 50
"""Samples of a packet of 20 ms, the usual length in telephony over IP."""
TELEPHONE_BAND_HZ = (200.0, 300.0, 3400.0, 4000.0)
"""Nothing passes below the first and above the last, everything between the middle two."""


def lose_frames(
    signal: NDArray[np.float32], rng: np.random.Generator, share: float, burst: float, *, repeat: bool
) -> NDArray[np.float32]:
    """Lose a `share` of the frames of a signal `[N]`, in bursts of `burst` on average: float32 `[N]`.

    With `repeat`, the last frame that arrived replaces a lost one, at half the level of the frame before; without it,
    silence does.

    Source: E. N. Gilbert, "Capacity of a burst-noise channel", 1960: one state loses every frame, the other none.
    """
    num_frames = -(-len(signal) // FRAME_SAMPLES)
    frames = np.resize(np.append(signal, np.zeros(FRAME_SAMPLES, np.float32)), (num_frames, FRAME_SAMPLES))
    leave = 1 / burst
    enter = share * leave / (1 - share)
    is_lost = bool(rng.random() < share)
    for number, draw in enumerate(rng.random(num_frames)):
        if is_lost:
            frames[number] = 0.5 * frames[number - 1] if repeat and number else 0.0
        is_lost = draw >= leave if is_lost else draw < enter
    return frames.reshape(-1)[: len(signal)]


def limit_band(signal: NDArray[np.float32], edges_hz: tuple[float, ...]) -> NDArray[np.float32]:
    """Keep a band of a signal `[N]` without a delay; `edges_hz` as `TELEPHONE_BAND_HZ`: float32 `[N]`."""
    size = next_fast_len(len(signal) + SAMPLE_RATE_HZ // 10, real=True)  # the filter rings into the padding
    gains = np.interp(np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ), edges_hz, (0, 1, 1, 0))
    return np.asarray(irfft(rfft(signal, size) * gains, size)[: len(signal)], dtype=np.float32)


def clip_loudest(signal: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Clip a `share` of the samples, the loudest, to the level of the softest of them: float32 `[N]`."""
    level = np.quantile(np.abs(signal), 1 - share)
    return np.clip(signal, -level, level).astype(np.float32, copy=False)
