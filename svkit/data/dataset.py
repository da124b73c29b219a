"""Training crops, each addressed by a key from which all of its random draws follow."""

from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from svkit.audio.crop import random_crop
from svkit.audio.resample import change_speed
from svkit.config.schema import AugmentConfig, DataConfig
from svkit.data.audio_source import read_crop
from svkit.data.augmenter import Augmenter
from svkit.data.speakers import SpeakerIndex
from svkit.errors import DataError
from svkit.store.manifest import Manifest


class CropKey(NamedTuple):
    """Address of one training crop."""

    epoch: int
    row: int
    """Row of the training list."""
    speed_index: int
    """Index into `DataConfig.speeds`."""
    visit: int
    """Which of the `crops_per_utterance` visits of the epoch."""
    num_samples: int
    """Length at 16 kHz."""


class CropDataset(Dataset[tuple[torch.Tensor, int]]):
    """Crops of a training list with speed change and augmentation.

    An item depends on the seed and its key alone, not on the worker that makes it or on earlier items, so that a
    resumed run and one with another number of workers or processes see the same data.
    """

    def __init__(
        self,
        train: Manifest,
        data: DataConfig,
        augment: AugmentConfig | None,
        *,
        seed: int,
        noise: Manifest | None = None,
        rirs: Manifest | None = None,
    ) -> None:
        """Index the speakers and check the recordings for augmentation.

        Only speeds and seam of `data` are used. `augment` None means no augmentation. All draws derive from `seed`.

        Raises:
            ConfigError: the recipe needs recordings for augmentation that are not there.
            DataError: the list is empty, or the noise list has no usable `category` column.
        """
        if len(train) == 0:
            raise DataError(f"{train.source}: expected at least one utterance to train on, found none")
        self._train, self._speeds, self._seed = train, data.speeds, seed
        self._random_seam = data.random_seam
        train.index()
        self._index = SpeakerIndex(train)
        self._augmenter = None
        if augment is not None:
            self._augmenter = Augmenter(
                augment, noise=noise, rirs=rirs, train=train, speakers=self._index, seed=seed,
                random_seam=data.random_seam,
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self._train)

    @property
    def speakers(self) -> list[str]:
        """Speaker ids in the order of the classes."""
        return self._index.speakers

    def class_of(self, row: int, speed_index: int) -> int:
        """Class of a row at a speed: the speaker's number + speed index x number of speakers."""
        return int(self._index.row_speakers[row]) + speed_index * self._index.num_speakers

    def __getitem__(self, key: CropKey) -> tuple[torch.Tensor, int]:
        """Return the waveform, float32 `[num_samples]` at 16 kHz, and its class."""
        # Two random streams, so that switching augmentation on or off does not change the crops.
        entropy = [self._seed, key.epoch, key.row, key.speed_index, key.visit]
        crop_rng = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(1,)))
        signal = read_crop(self._train, key.row, key.num_samples, crop_rng)
        signal = random_crop(signal, key.num_samples, crop_rng, random_seam=self._random_seam)
        # The first speed is 1 (`DataConfig`). Faster speech is too short now, and slower speech too long.
        if key.speed_index:
            signal = change_speed(signal, self._speeds[key.speed_index])
            signal = random_crop(signal, key.num_samples, crop_rng, random_seam=self._random_seam)
        if self._augmenter is not None:
            augment_rng = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(2,)))
            signal = self._augmenter(signal, key.row, augment_rng)
        return torch.from_numpy(np.ascontiguousarray(signal)), self.class_of(key.row, key.speed_index)
