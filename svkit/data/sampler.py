"""Order of the training crops: a pure function of the seed and the step, so that any step can be resumed."""

import numpy as np
from numpy.typing import NDArray

from svkit.audio.resample import SAMPLE_RATE_HZ
from svkit.config.schema import DataConfig
from svkit.data.dataset import CropKey

LENGTH_STEP_SAMPLES = 320
"""Crop lengths are multiples of one encoder frame (20 ms), so there are about 50 between 2 and 3 s, not 16,000."""

_ORDER, _LENGTH = 3, 4


class EpochBatches:
    """Batches of one process; together, the processes make the same global batches as a single one would.

    An epoch visits every (row, speed, visit) once in a random order, in global batches of `batch_size` x
    `num_processes`, of which rank r takes the r-th part. The last, incomplete global batch is dropped; an
    epoch smaller than one global batch is repeated (in its order) until it fills one. All crops of a global
    batch have one length.
    """

    def __init__(
        self, num_rows: int, data: DataConfig, seed: int, *, rank: int = 0, num_processes: int = 1
    ) -> None:
        assert num_rows > 0 and 0 <= rank < num_processes
        self._num_rows, self._data, self._seed = num_rows, data, seed
        self._rank, self._global_size = rank, data.batch_size * num_processes
        self._num_crops = num_rows * len(data.speeds) * data.crops_per_utterance
        self._last_order: tuple[int, NDArray[np.int64]] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Number of global batches in an epoch, at least 1."""
        return max(1, self._num_crops // self._global_size)

    def count_steps(self, epochs: float) -> int:
        """Number of steps in `epochs` epochs, at least 1."""
        return max(1, round(epochs * self.steps_per_epoch))

    def batch(self, step: int) -> list[CropKey]:
        """Return this process's batch of a step counted from the beginning of training: `batch_size` keys."""
        epoch, index = divmod(step, self.steps_per_epoch)
        batch_size = self._data.batch_size
        first = index * self._global_size + self._rank * batch_size
        places = np.arange(first, first + batch_size) % self._num_crops
        numbers = self._order(epoch)[places]
        rests, rows = np.divmod(numbers, self._num_rows)
        visits, speeds = np.divmod(rests, len(self._data.speeds))
        num_samples = self.num_samples(step)
        columns = zip(rows.tolist(), speeds.tolist(), visits.tolist(), strict=True)
        return [CropKey(epoch, row, speed, visit, num_samples) for row, speed, visit in columns]

    def num_samples(self, step: int) -> int:
        """Crop length of a step at 16 kHz, uniform over the range in steps of 20 ms."""
        low, high = (round(bound * SAMPLE_RATE_HZ) for bound in self._data.crop_seconds)
        choices = (high - low) // LENGTH_STEP_SAMPLES + 1
        epoch, index = divmod(step, self.steps_per_epoch)
        sequence = np.random.SeedSequence([self._seed, epoch, index], spawn_key=(_LENGTH,))
        return low + LENGTH_STEP_SAMPLES * int(np.random.default_rng(sequence).integers(choices))

    def _order(self, epoch: int) -> NDArray[np.int64]:
        # Kept for the epoch: permuting millions of crops anew for every batch would be slow.
        if self._last_order is None or self._last_order[0] != epoch:
            sequence = np.random.SeedSequence([self._seed, epoch], spawn_key=(_ORDER,))
            self._last_order = epoch, np.random.default_rng(sequence).permutation(self._num_crops)
        return self._last_order[1]
