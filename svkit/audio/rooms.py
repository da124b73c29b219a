"""Simulated room impulse responses by the image-source method (Allen and Berkley, 1979).

Rooms follow the published simulated set (Ko et al. 2017, "A study on data augmentation of reverberant speech
for robust speech recognition", section 3): small rooms are 1 to 10 m long and wide, medium ones 10 to 30 m,
all 2 to 5 m high, with an absorption coefficient uniform in [0.2, 0.8]. Here each response has its own room,
the six walls share one coefficient, and images are placed with linear interpolation between samples.
"""

from math import log

import numpy as np
from numpy.typing import NDArray

from svkit.audio.resample import SAMPLE_RATE_HZ

SPEED_OF_SOUND = 343.0
"""Metres per second at 20 degrees Celsius."""
MAX_SECONDS = 1.0
"""Longest response; those of the largest, hardest rooms are cut off at about -45 dB."""
NUM_RESPONSES = 200
"""Responses in a bank."""
_HIGH_PASS_HZ = 80.0
_WALL_GAP_METRES = 0.2


def reverberation_seconds(size: NDArray[np.float64], absorption: float) -> float:
    """Time in which sound decays by 60 dB (Eyring) in a box `size = (length, width, height)` in metres."""
    surface = 2.0 * (size[0] * size[1] + size[0] * size[2] + size[1] * size[2])
    return float(24 * log(10) / SPEED_OF_SOUND * np.prod(size) / (-surface * log(1 - absorption)))


def _axis_images(
    size: float, source: float, receiver: float, reach: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the distances along one axis from the receiver to all images within `reach`, and their wall hits."""
    count = int(reach / (2 * size)) + 1
    cells = np.arange(-count, count + 1)
    distances = np.concatenate([2 * size * cells + source, 2 * size * cells - source]) - receiver
    reflections = np.concatenate([np.abs(2 * cells), np.abs(2 * cells - 1)])
    inside = np.abs(distances) <= reach
    return distances[inside], reflections[inside]


def impulse_response(
    size: NDArray[np.float64],
    source: NDArray[np.float64],
    receiver: NDArray[np.float64],
    absorption: float,
    seconds: float,
) -> NDArray[np.float32]:
    """Impulse response of a box-shaped room.

    `size`, `source` and `receiver` are `[3]` in metres; `absorption` in (0, 1) is the share of the energy that every
    wall takes at each reflection.

    Returns:
        float32 `[seconds * 16000]`, high-passed at 80 Hz, because images of equal sign add up at low frequencies.
    """
    reach = seconds * SPEED_OF_SOUND
    axes = [_axis_images(size[i], source[i], receiver[i], reach) for i in range(3)]
    # Two axes are thinned to the disc within reach before the third one multiplies their images.
    plane = np.add.outer(axes[0][0] ** 2, axes[1][0] ** 2)
    near = plane <= reach**2
    plane_squares = plane[near]
    plane_hits = np.add.outer(axes[0][1], axes[1][1])[near]
    squares = np.add.outer(axes[2][0] ** 2, plane_squares)
    kept = squares <= reach**2
    distances = np.maximum(np.sqrt(squares[kept]), 0.1)
    hits = np.add.outer(axes[2][1], plane_hits)[kept]
    amplitudes = (1 - absorption) ** (0.5 * np.arange(hits.max() + 1))
    amplitudes = amplitudes[hits] / distances
    positions = distances * (SAMPLE_RATE_HZ / SPEED_OF_SOUND)
    first = positions.astype(np.int64)
    late = positions - first
    num_samples = round(seconds * SAMPLE_RATE_HZ)
    early = np.bincount(first, amplitudes * (1 - late), num_samples + 2)
    response = early[:num_samples].astype(np.float64)
    response[1:] += np.bincount(first, amplitudes * late, num_samples + 2)[: num_samples - 1]
    return _high_pass(response).astype(np.float32)


def _high_pass(response: NDArray[np.float64]) -> NDArray[np.float64]:
    """One zero at 0 Hz and one pole at 80 Hz, applied by FFT on the zero-padded response."""
    size = 2 * len(response)
    pole = 1 - 2 * np.pi * _HIGH_PASS_HZ / SAMPLE_RATE_HZ
    delay = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
    spectrum = np.fft.rfft(response, size) * (1 - delay) / (1 - pole * delay)
    filtered: NDArray[np.float64] = np.fft.irfft(spectrum, size)
    return filtered[: len(response)]


def draw_room(rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a small or medium room (equally likely) and two places in it; return the impulse response between them."""
    sides = (1.0, 10.0) if rng.random() < 0.5 else (10.0, 30.0)
    size = np.array([rng.uniform(*sides), rng.uniform(*sides), rng.uniform(2.0, 5.0)])
    absorption = rng.uniform(0.2, 0.8)
    source = rng.uniform(_WALL_GAP_METRES, size - _WALL_GAP_METRES)
    receiver = rng.uniform(_WALL_GAP_METRES, size - _WALL_GAP_METRES)
    direct = float(np.linalg.norm(source - receiver)) / SPEED_OF_SOUND
    seconds = min(max(reverberation_seconds(size, absorption) + direct, 0.05), MAX_SECONDS)
    return impulse_response(size, source, receiver, absorption, seconds)


class RoomBank:
    """Simulated responses; response i depends on (seed, i) alone and is made when first used."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._responses: list[NDArray[np.float32] | None] = [None] * NUM_RESPONSES

    def __len__(self) -> int:
        return len(self._responses)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        response = self._responses[index]
        if response is None:
            sequence = np.random.SeedSequence([self._seed, index % len(self)], spawn_key=(0x700,))
            response = draw_room(np.random.default_rng(sequence))
            self._responses[index] = response
        return response
