"""Says whether a decision can trust a recording: its length, how much of it has sound, how much is clipped."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FRAME_SECONDS = 0.03
SILENCE_DB = -60.0
"""A frame below this level (RMS against full scale, without its mean) is silent in any recording."""
RANGE_DB = 40.0
"""A frame this far below the loudest one is a pause."""
SHORT_SECONDS = 1.0
"""Less sound than this gives an embedding that depends on the words more than on the voice."""
LOUDER_DB = 10.0
"""A channel this much louder than the one used is more likely to have the voice."""
CLIPPED_SHARE = 0.001
FULL_SCALE = 0.99
_STEP = 1 / 65536
"""Half a step of 16-bit samples: closer values are equal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """Measurements of one recording."""

    seconds: float
    sound_seconds: float
    """Time in frames that are neither silent nor a pause."""
    level_db: float
    """RMS of the loudest frame against full scale; -inf for digital silence."""
    clipped_share: float
    """Share of samples on a plateau (three or more in a row) at full scale or at the signal's own extremes."""

    def warnings(self) -> list[str]:
        """Return why the recording should not be trusted; empty for a good one."""
        found = []
        if self.level_db < SILENCE_DB:
            found.append(f"silent: nothing above {SILENCE_DB:g} dB of full scale")
        elif self.seconds < SHORT_SECONDS:
            found.append(f"short: {self.seconds:.2f} s, at least {SHORT_SECONDS:g} s can be trusted")
        elif self.sound_seconds < SHORT_SECONDS:
            found.append(f"mostly silent: {self.sound_seconds:.2f} s of sound in {self.seconds:.2f} s")
        if self.clipped_share > CLIPPED_SHARE:
            found.append(f"clipped: {100 * self.clipped_share:.1f} % of the samples are cut off")
        return found


def measure(signal: NDArray[np.float32], sample_rate_hz: int) -> Quality:
    """Measure a recording, float32 `[N]`, N >= 1, at the rate of its file (resampling rounds plateaus)."""
    size = min(len(signal), max(1, round(FRAME_SECONDS * sample_rate_hz)))
    frames = signal[: len(signal) // size * size].reshape(-1, size).astype(np.float64)
    power = frames.var(axis=1)
    loudest = float(power.max())
    floor = max(10 ** (SILENCE_DB / 10), loudest * 10 ** (-RANGE_DB / 10))
    return Quality(
        seconds=len(signal) / sample_rate_hz,
        sound_seconds=float(np.count_nonzero(power >= floor) * size / sample_rate_hz),
        level_db=float(10 * np.log10(loudest)) if loudest > 0 else float("-inf"),
        clipped_share=_clipped_share(signal),
    )


class QualityMeter:
    """Measures level and clipping of a recording of any length, block by block; one block gives those of `measure`."""

    def __init__(self) -> None:
        self.level_db = float("-inf")
        """RMS of the loudest frame so far."""
        self._clipped, self._seconds = 0.0, 0.0

    def add(self, block: NDArray[np.float32], sample_rate_hz: int) -> None:
        """Measure the next block: float32 `[N]`, N >= 1."""
        quality = measure(block, sample_rate_hz)
        self.level_db = max(self.level_db, quality.level_db)
        self._clipped += quality.clipped_share * quality.seconds
        self._seconds += quality.seconds

    @property
    def clipped_share(self) -> float:
        """Share of samples on a plateau at full scale or at the extremes of their block."""
        return self._clipped / self._seconds if self._seconds else 0.0


def louder_channel(levels_db: NDArray[np.float64], used: int) -> str:
    """Say which channel is clearly louder than the one used, by the RMS of each in dB; empty if none is."""
    loudest = int(np.argmax(levels_db))
    if levels_db[loudest] <= max(SILENCE_DB, levels_db[used] + LOUDER_DB):
        return ""
    difference = levels_db[loudest] - levels_db[used]
    if not np.isfinite(difference):
        return f"channel {loudest} has sound, channel {used} is silent"
    return f"channel {loudest} is {difference:.0f} dB louder than channel {used}"


def _clipped_share(signal: NDArray[np.float32]) -> float:
    low, high = float(signal.min()), float(signal.max())
    if high - low <= 8 * _STEP:
        return 0.0  # silence, whatever its offset
    on_top = (signal >= min(high - _STEP, FULL_SCALE)).astype(np.int8)
    at_bottom = (signal <= max(low + _STEP, -FULL_SCALE)).astype(np.int8)
    count = 0
    for flat in (on_top, at_bottom):
        turns = np.flatnonzero(np.diff(flat, prepend=0, append=0))
        lengths = turns[1::2] - turns[::2]
        count += int(lengths[lengths >= 3].sum())
    return count / len(signal)
