"""Crops of a wanted length; short signals repeat themselves (method.md, section 2)."""

import numpy as np
from numpy.typing import NDArray


def draw_start(length: int, num_samples: int, rng: np.random.Generator) -> int:
    """Draw where a crop begins, uniform over all places where it fits; 0 where the signal is too short."""
    return int(rng.integers(0, length - num_samples + 1)) if length > num_samples else 0


def repeat_to(signal: NDArray[np.float32], num_samples: int) -> NDArray[np.float32]:
    """Return the first `num_samples` of the signal repeated without end: float32 `[num_samples]`."""
    if len(signal) >= num_samples:
        return signal[:num_samples]
    if len(signal) == 0:
        return np.zeros(num_samples, dtype=np.float32)
    return np.tile(signal, -(-num_samples // len(signal)))[:num_samples]


def random_crop(
    signal: NDArray[np.float32], num_samples: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Crop `num_samples` at random, or repeat a signal that is shorter: float32 `[num_samples]`."""
    start = draw_start(len(signal), num_samples, rng)
    return repeat_to(signal[start:], num_samples)
