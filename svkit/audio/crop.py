"""Crops of a wanted length; signals that are too short are repeated (arXiv 2510.04213)."""

from math import ceil

import numpy as np
from numpy.typing import NDArray


def kept_samples(num_samples: int, sample_rate_hz: int, max_seconds: float | None) -> int:
    """Return how many samples of a recording are used: those from its beginning up to `max_seconds`."""
    return num_samples if max_seconds is None else min(num_samples, round(max_seconds * sample_rate_hz))


def draw_start(length: int, num_samples: int, rng: np.random.Generator) -> int:
    """Draw where a crop begins, uniform over all places where it fits; 0 if the signal is too short."""
    return int(rng.integers(0, length - num_samples + 1)) if length > num_samples else 0


def repeat_to(
    signal: NDArray[np.float32], num_samples: int, seam_rng: np.random.Generator | None = None
) -> NDArray[np.float32]:
    """Return the first `num_samples` of the endlessly repeated signal; zeros for an empty one.

    With `seam_rng`, a signal that is too short is doubled until it is long enough, and cropped at random, as published,
    so that the seam may lie anywhere.
    """
    if len(signal) >= num_samples:
        return signal[:num_samples]
    if seam_rng is not None and len(signal):
        doublings = (ceil(num_samples / len(signal)) - 1).bit_length()
        signal = np.roll(signal, -draw_start(len(signal) << doublings, num_samples, seam_rng))
    return np.resize(signal, num_samples)


def random_crop(
    signal: NDArray[np.float32], num_samples: int, rng: np.random.Generator, *, random_seam: bool = False
) -> NDArray[np.float32]:
    """Crop `num_samples` at random, or repeat a signal that is shorter (`repeat_to`): float32 `[num_samples]`."""
    start = draw_start(len(signal), num_samples, rng)
    return repeat_to(signal[start:], num_samples, rng if random_seam else None)
