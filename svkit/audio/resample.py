"""Change of sampling rate and of speed by a windowed sinc, with the filters of a ratio kept.

The filter is the Hann-windowed sinc of `torchaudio.functional.resample` at its default settings (six zero
crossings, roll-off 0.99), so both give the same signal; it is evaluated here by small matrix products over
blocks of samples. That is several times faster, needs no torch in a reader, and gives the same bits whatever
the number of threads: no product is large enough for BLAS to share it out.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
"""Sampling rate of everything the models see."""

_ZERO_CROSSINGS = 6
_ROLL_OFF = 0.99
_MAX_PRODUCT = 200_000
"""Multiplications in one matrix product; OpenBLAS starts threads above 262,144."""


@dataclass(frozen=True, slots=True)
class _FilterGroup:
    """Filters of consecutive outputs of a block, which look at the same stretch of its input."""

    first_target: int
    first_source: int
    """Relative to the beginning of the block's context, `reach` samples before the block."""
    filters: NDArray[np.float32]
    """`[sources, targets]`."""


def _filter(offset: NDArray[np.float64], cutoff: float) -> NDArray[np.float64]:
    """Hann-windowed sinc at `offset` input samples from its centre; `cutoff` is relative to Nyquist."""
    phase = offset * cutoff
    window = np.where(
        np.abs(phase) < _ZERO_CROSSINGS, np.cos(np.pi * phase / (2 * _ZERO_CROSSINGS)) ** 2, 0.0
    )
    return cutoff * np.sinc(phase) * window


def _reach(num_in: int, num_out: int) -> tuple[float, int]:
    """Relative cut-off and one-sided filter length in input samples."""
    cutoff = min(1.0, num_out / num_in) * _ROLL_OFF
    return cutoff, ceil(_ZERO_CROSSINGS / cutoff)


@lru_cache(maxsize=64)
def _filter_groups(num_in: int, num_out: int) -> tuple[_FilterGroup, ...]:
    """Filters that turn a block of `num_in` samples, with its context, into `num_out` samples."""
    cutoff, reach = _reach(num_in, num_out)
    # About as many input samples inside a group as in its context: few products and few useless zeros.
    size = min(num_out, ceil(2 * reach * num_out / num_in))
    groups = []
    for start in range(0, num_out, size):
        targets = np.arange(start, min(start + size, num_out), dtype=np.float64) * (num_in / num_out)
        sources = np.arange(int(targets[0]) - reach, int(targets[-1]) + reach + 2)
        filters = _filter(sources[:, None] - targets, cutoff).astype(np.float32)
        groups.append(_FilterGroup(start, int(sources[0]) + reach, filters))
    return tuple(groups)


def resample(signal: NDArray[np.float32], from_hz: int, to_hz: int = SAMPLE_RATE_HZ) -> NDArray[np.float32]:
    """Resample a signal.

    Args:
        signal: float32 `[N]`.
        from_hz: its sampling rate.
        to_hz: the wanted sampling rate.

    Returns:
        float32 `[ceil(N * to_hz / from_hz)]`; the signal itself where the rates are equal.
    """
    if from_hz == to_hz or len(signal) == 0:
        return signal
    ratio = Fraction(from_hz, to_hz)
    _, reach = _reach(ratio.numerator, ratio.denominator)
    # Short periods of the two rates are joined until a block is as long as its context.
    periods = ceil(2 * reach / ratio.numerator)
    num_in, num_out = ratio.numerator * periods, ratio.denominator * periods
    length = ceil(len(signal) * num_out / num_in)
    groups = _filter_groups(num_in, num_out)
    num_blocks = ceil(length / num_out)
    padded = np.zeros((num_blocks + 1) * num_in + 2 * reach + 2, dtype=np.float32)
    padded[reach : reach + len(signal)] = signal
    blocks = np.empty((num_blocks, num_out), dtype=np.float32)
    for group in groups:
        num_sources, num_targets = group.filters.shape
        windows = np.lib.stride_tricks.sliding_window_view(padded, num_sources)[group.first_source :: num_in]
        targets = slice(group.first_target, group.first_target + num_targets)
        rows = max(1, _MAX_PRODUCT // group.filters.size)
        for first in range(0, num_blocks, rows):
            last = min(first + rows, num_blocks)
            # The copy is what makes it a fast matrix product: overlapping rows have no BLAS layout.
            blocks[first:last, targets] = np.ascontiguousarray(windows[first:last]) @ group.filters
    return blocks.reshape(-1)[:length]


def change_speed(signal: NDArray[np.float32], speed: float) -> NDArray[np.float32]:
    """Play a signal faster (`speed` > 1, shorter and higher) or slower, as `sox speed` does.

    Args:
        signal: float32 `[N]`.
        speed: factor, rounded to a thousandth.

    Returns:
        float32 `[ceil(N / speed)]`.

    Source: speed perturbation, Ko et al. 2015; speeds as new speakers, method.md section 2.
    """
    ratio = Fraction(round(speed * 1000), 1000)
    return resample(signal, ratio.numerator, ratio.denominator)
