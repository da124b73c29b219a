"""Chooses the augmentation of a crop and the recordings for it (arXiv 2510.04213)."""

import numpy as np
from numpy.typing import NDArray

from svkit.audio.augment import add_noise, reverberate, sum_at_equal_power
from svkit.audio.crop import random_crop
from svkit.audio.rooms import RoomBank
from svkit.config.schema import AugmentConfig
from svkit.data.audio_source import AudioBank, decoded_bytes, read_crop
from svkit.data.conditions import change, require_condition
from svkit.data.speakers import SpeakerIndex
from svkit.errors import ConfigError, DataError
from svkit.store.manifest import Manifest

CATEGORIES = ("noise", "music", "speech")
"""Values of the `category` column of a noise list, as in MUSAN."""
_NEEDED = {
    "noise": ("noise",),
    "music": ("music",),
    "speech_music": ("speech", "music"),
    "babble": ("speech",),
}
_OR_WITHOUT = "or train without augmentation: svkit finetune --no-augment (under make: AUGMENT=none)"
_MAX_BANK_BYTES = 128 * 2**20
"""Limit for noise, music, speech and impulse responses together, in one process."""

Crop = NDArray[np.float32]


class Augmenter:
    """Applies noise, reverberation or nothing to a crop, then a condition such as a codec if the recipe names some.

    The caller's generator makes all choices.
    """

    def __init__(
        self,
        config: AugmentConfig,
        *,
        noise: Manifest | None,
        rirs: Manifest | None,
        train: Manifest,
        speakers: SpeakerIndex,
        seed: int,
        random_seam: bool = True,
    ) -> None:
        """Check that the recordings that the recipe needs are there.

        `noise` has an extra column `category`: noise, music or speech. If it has no speech and `allow_missing_noise`
        is set, babble comes from other speakers of `train`. `seed` is for the simulated rooms. `random_seam` is as in
        `DataConfig`, for recordings that are shorter than the crop.

        Raises:
            ConfigError: the recipe needs recordings or a codec that are not there.
            DataError: the noise list has no usable `category` column.
        """
        for name in config.conditions or ():
            require_condition(name)
        self._config, self._train, self._speakers = config, train, speakers
        self._random_seam = random_seam
        self._banks = _open_banks(noise, _MAX_BANK_BYTES * 3 // 4)
        self.noise_kinds = self._usable_kinds() if config.noise_probability > 0 else ()
        """The kinds of noise to draw from, all equally likely."""
        self._responses: AudioBank | RoomBank | None = None
        if config.reverb_probability > 0:
            self._responses = self._open_responses(rirs, seed)

    def __call__(self, crop: Crop, row: int, rng: np.random.Generator) -> Crop:
        """Augment one crop, float32 `[N]` at 16 kHz, of a row of the training list; `rng` makes all choices."""
        crop, conditions = self._disturb(crop, row, rng), self._config.conditions
        if conditions and rng.random() < (self._config.condition_probability or 0):
            return change(conditions[rng.integers(len(conditions))], crop, rng)
        return crop

    def _disturb(self, crop: Crop, row: int, rng: np.random.Generator) -> Crop:
        choice = rng.random()
        if choice < self._config.noise_probability:
            if not self.noise_kinds:  # `allow_missing_noise`, and no recordings for any kind
                return crop
            kind = self.noise_kinds[rng.integers(len(self.noise_kinds))]
            return self._add_noise(kind, crop, row, rng)
        if choice < self._config.noise_probability + self._config.reverb_probability:
            return reverberate(crop, self._draw_response(rng))
        return crop

    def _add_noise(self, kind: str, crop: Crop, row: int, rng: np.random.Generator) -> Crop:
        has_speech = kind in ("speech_music", "babble")
        snr_db = rng.uniform(*(self._config.speech_snr_db if has_speech else self._config.snr_db))
        if kind == "babble":
            parts = self._draw_babble(len(crop), row, rng)
        else:
            parts = [self._draw_from(category, len(crop), rng) for category in _NEEDED[kind]]
        if self._config.published_mix or len(parts) == 1:
            return add_noise(crop, np.sum(parts, axis=0), snr_db)
        return add_noise(crop, sum_at_equal_power(parts), snr_db)

    def _draw_from(self, category: str, num_samples: int, rng: np.random.Generator) -> Crop:
        bank = self._banks[category]
        return bank.crop(int(rng.integers(len(bank))), num_samples, rng, random_seam=self._random_seam)

    def _draw_babble(self, num_samples: int, row: int, rng: np.random.Generator) -> list[Crop]:
        low, high = self._config.babble_speakers
        count = int(rng.integers(low, high + 1))
        bank = self._banks.get("speech")
        if bank is not None and self._config.published_mix:
            return [self._draw_from("speech", num_samples, rng) for _ in range(count)]
        if bank is not None:
            chosen = rng.choice(len(bank), min(count, len(bank)), replace=False)
            return [
                bank.crop(int(index), num_samples, rng, random_seam=self._random_seam) for index in chosen
            ]
        rows = self._speakers.draw_other_rows(row, count, rng)
        crops = [read_crop(self._train, other, num_samples, rng) for other in rows]
        return [random_crop(crop, num_samples, rng, random_seam=self._random_seam) for crop in crops]

    def _draw_response(self, rng: np.random.Generator) -> Crop:
        assert self._responses is not None
        return self._responses[int(rng.integers(len(self._responses)))]

    def _usable_kinds(self) -> tuple[str, ...]:
        usable = []
        for kind in self._config.noise_types:
            missing = [category for category in _NEEDED[kind] if category not in self._banks]
            from_training = (
                kind == "babble" and self._config.allow_missing_noise and self._speakers.num_speakers > 1
            )
            if not missing or from_training:
                usable.append(kind)
            elif not self._config.allow_missing_noise:
                found = " and ".join(self._banks) or "none"
                raise ConfigError(
                    f"augment.noise_types: {kind!r} needs files of category {' and '.join(missing)}, but the"
                    f" noise list has {found}; run svkit prepare musan DIR, which has all of them, or svkit prepare"
                    " noise DIR and music DIR, and let each stage do without the rest (--set"
                    f" STAGE.augment.allow_missing_noise=true), {_OR_WITHOUT}"
                )
        return tuple(usable)

    def _open_responses(self, rirs: Manifest | None, seed: int) -> AudioBank | RoomBank:
        if rirs is not None and len(rirs) > 0:
            return AudioBank(rirs, np.arange(len(rirs)), _MAX_BANK_BYTES // 4)
        if self._config.allow_simulated_rooms:
            return RoomBank(seed)
        raise ConfigError(
            "augment.reverb_probability: the recipe needs impulse response files, found none; run svkit prepare rirs"
            " DIR, or let each stage simulate them (--set STAGE.augment.allow_simulated_rooms=true),"
            f" {_OR_WITHOUT}"
        )


def _open_banks(noise: Manifest | None, max_bytes: int) -> dict[str, AudioBank]:
    if noise is None or len(noise) == 0:
        return {}
    if "category" not in noise.table:
        raise DataError(
            f"{noise.source}:1: category: column missing; a noise list needs it: noise, music or speech"
        )
    categories = noise.table["category"].to_numpy(dtype=object)
    unknown = np.flatnonzero(~np.isin(categories, CATEGORIES))
    if len(unknown):
        # Line 1 is the header.
        where, value = f"{noise.source}:{unknown[0] + 2}", categories[unknown[0]]
        raise DataError(f"{where}: category: expected one of {', '.join(CATEGORIES)}, found {value!r}")
    # All banks are kept in memory, or none: what fits must not depend on which category is read first.
    limit = max_bytes if decoded_bytes(noise.durations_seconds) <= max_bytes else 0
    rows = {name: np.flatnonzero(categories == name) for name in CATEGORIES}
    return {name: AudioBank(noise, found, limit) for name, found in rows.items() if len(found)}
