"""Reading parts of a manifest's audio at 16 kHz, with a bounded memory of whole files where they fit."""

from math import ceil, gcd

import numpy as np
from numpy.typing import NDArray

from svkit.audio.crop import draw_start, kept_samples, random_crop
from svkit.audio.resample import SAMPLE_RATE_HZ, resample
from svkit.errors import DataError
from svkit.store.audio_file import AudioError, read_audio
from svkit.store.manifest import Manifest

CONTEXT_SAMPLES = 64
"""At least this many native samples are read on each side of a crop to resample, so that it has no edge effects."""


def read_crop(
    manifest: Manifest, row: int, num_samples: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Read a crop of `num_samples` at 16 kHz from a random place of one utterance, and nothing else of its file.

    `rng` draws the place: one draw, or none if the file is too short.

    Returns:
        float32 `[min(num_samples, length of the file)]` at 16 kHz, of the manifest's channel (0 if it names none).

    Raises:
        DataError: the file is missing, unreadable, shorter or of another rate than its manifest says.
    """
    rate, length = int(manifest.sample_rates_hz[row]), int(manifest.num_samples[row])
    wanted = ceil(num_samples * rate / SAMPLE_RATE_HZ)
    start = draw_start(length, wanted, rng)
    wanted = min(wanted, length)
    if rate == SAMPLE_RATE_HZ:
        return _read(manifest, row, start, wanted)
    # The context begins whole periods of the two rates before the crop, so that no sample is shifted by a fraction.
    period = rate // gcd(rate, SAMPLE_RATE_HZ)
    periods = min(ceil(CONTEXT_SAMPLES / period), start // period)
    first = start - periods * period
    last = min(length, start + wanted + CONTEXT_SAMPLES)
    signal = resample(_read(manifest, row, first, last - first), rate)
    skipped = periods * period * SAMPLE_RATE_HZ // rate
    return signal[skipped : skipped + min(num_samples, ceil(wanted * SAMPLE_RATE_HZ / rate))]


def read_whole(manifest: Manifest, row: int, max_seconds: float | None = None) -> NDArray[np.float32]:
    """Read one utterance from its beginning, cut at `max_seconds`: float32 `[N]` at 16 kHz (errors as `read_crop`)."""
    rate, length = int(manifest.sample_rates_hz[row]), int(manifest.num_samples[row])
    return resample(_read(manifest, row, 0, kept_samples(length, rate, max_seconds)), rate)


def _read(manifest: Manifest, row: int, start: int, num_samples: int) -> NDArray[np.float32]:
    """Read a part of one utterance at the rate of its file, `[num_samples]`."""
    try:
        return read_audio(
            manifest.audio(row),
            start,
            num_samples,
            channel=manifest.channel(row),
            sample_rate_hz=int(manifest.sample_rates_hz[row]),
            length=int(manifest.num_samples[row]),
        )
    except AudioError as error:
        if error.reason != "missing":
            raise
        raise DataError(f"{error}; if the recordings were moved, prepare again with --overwrite") from error


class AudioBank:
    """Recordings for augmentation: some rows of a manifest, decoded once and kept if together they are small.

    The manifest's lengths decide for the whole bank whether files are kept, not what was read before, so that a draw
    gives the same samples in every process.
    """

    def __init__(self, manifest: Manifest, rows: NDArray[np.int64], max_bytes: int) -> None:
        """Keep the decoded files if they need at most `max_bytes`; otherwise read crops."""
        self._manifest, self._rows = manifest, rows
        self.is_kept = decoded_bytes(manifest.durations_seconds[rows]) <= max_bytes
        self._kept: dict[int, NDArray[np.float32]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """Return the whole file `index` of the bank: float32 `[N]`."""
        if index in self._kept:
            return self._kept[index]
        signal = read_whole(self._manifest, int(self._rows[index]))
        if self.is_kept:
            self._kept[index] = signal
        return signal

    def crop(
        self, index: int, num_samples: int, rng: np.random.Generator, *, random_seam: bool
    ) -> NDArray[np.float32]:
        """Return a random crop of file `index`, repeated if the file is too short: float32 `[num_samples]`."""
        row = int(self._rows[index])
        signal = self[index] if self.is_kept else read_crop(self._manifest, row, num_samples, rng)
        return random_crop(signal, num_samples, rng, random_seam=random_seam)


def decoded_bytes(seconds: NDArray[np.float64]) -> float:
    """Return the size of recordings of these lengths as float32 at 16 kHz."""
    return float(seconds.sum()) * SAMPLE_RATE_HZ * 4
