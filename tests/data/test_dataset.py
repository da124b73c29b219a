from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import svkit.data.audio_source
from svkit.audio.resample import change_speed, resample
from svkit.config.schema import AugmentConfig, DataConfig
from svkit.data.dataset import CropDataset, CropKey
from svkit.errors import DataError
from svkit.store.manifest import Manifest
from tests.data.conftest import Row, tone

DATA = DataConfig(batch_size=2)
ANY_MATERIAL = AugmentConfig(allow_simulated_rooms=True, allow_missing_noise=True)
Make = Callable[[Sequence[Row]], Manifest]


def ramp(num_samples: int) -> np.ndarray:
    return (np.arange(num_samples) / 65_536).astype(np.float32)


def test_class_is_speaker_plus_speed_times_speakers(speakers: Manifest) -> None:
    dataset = CropDataset(speakers, DATA, None, seed=1)
    assert dataset.speakers == [f"s{number}" for number in range(6)]
    assert len(dataset) == 12
    # Row 4 is s5, row 2 is s0.
    assert [dataset[CropKey(0, 4, speed, 0, 800)][1] for speed in range(3)] == [5, 11, 17]
    assert dataset[CropKey(0, 2, 1, 0, 800)][1] == dataset.class_of(2, 1) == 6


def test_same_key_same_bits_in_any_order(speakers: Manifest) -> None:
    keys = [
        CropKey(epoch, row, speed, 0, 4000) for epoch in (0, 1) for row in range(12) for speed in range(3)
    ]
    first = CropDataset(speakers, DATA, ANY_MATERIAL, seed=1)
    second = CropDataset(speakers, DATA, ANY_MATERIAL, seed=1)
    expected = {key: first[key][0] for key in keys}
    for key in reversed(keys):
        waveform = second[key][0]
        assert waveform.dtype == torch.float32
        assert waveform.shape == (4000,)
        assert torch.equal(waveform, expected[key])


@pytest.mark.parametrize("change", [{"epoch": 1}, {"row": 2}, {"speed_index": 1}, {"visit": 1}])
def test_every_part_of_the_key_and_the_seed_changes_the_draw(
    speakers: Manifest, change: dict[str, int]
) -> None:
    key = CropKey(0, 3, 0, 0, 1000)
    dataset = CropDataset(speakers, DATA, None, seed=1)
    assert not torch.equal(dataset[key][0], dataset[key._replace(**change)][0])
    assert not torch.equal(dataset[key][0], CropDataset(speakers, DATA, None, seed=2)[key][0])


def test_augmentation_leaves_the_choice_of_crop_alone(speakers: Manifest) -> None:
    clean = AugmentConfig(noise_probability=0.0, reverb_probability=0.0)
    for speed in range(3):
        key = CropKey(0, 3, speed, 0, 1000)
        plain = CropDataset(speakers, DATA, None, seed=1)[key][0]
        assert torch.equal(plain, CropDataset(speakers, DATA, clean, seed=1)[key][0])


def test_augmentation_does_not_follow_the_place_of_the_crop(make_manifest: Make) -> None:
    manifest = make_manifest([("a.wav", "a", ramp(30_000), 16_000, "")])
    dataset = CropDataset(manifest, DATA, AugmentConfig(noise_probability=0, reverb_probability=0), seed=1)
    draws: list[int] = []

    def note(crop: np.ndarray, row: int, rng: np.random.Generator) -> np.ndarray:
        draws.append(rng.integers(30_000 - 1000 + 1))  # as the place of the crop is drawn
        return crop

    dataset._augmenter = note  # type: ignore[assignment]
    starts = [float(dataset[CropKey(0, 0, 0, visit, 1000)][0][0]) for visit in range(60)]
    assert abs(np.corrcoef(starts, draws)[0, 1]) < 0.4


def test_crop_is_a_piece_of_the_file(make_manifest: Make) -> None:
    dataset = CropDataset(make_manifest([("a.wav", "a", ramp(30_000), 16_000, "")]), DATA, None, seed=1)
    starts = set()
    for visit in range(20):
        crop = dataset[CropKey(0, 0, 0, visit, 5000)][0].numpy()
        np.testing.assert_array_equal(crop, ramp(30_000)[round(crop[0] * 65_536) :][:5000])
        starts.add(float(crop[0]))
    assert len(starts) == 20


@pytest.mark.parametrize("random_seam", [True, False])
def test_short_file_repeats_itself(make_manifest: Make, random_seam: bool) -> None:
    data = DataConfig(random_seam=random_seam)
    dataset = CropDataset(make_manifest([("a.wav", "a", ramp(700), 16_000, "")]), data, None, seed=1)
    crops = [dataset[CropKey(0, 0, 0, visit, 2000)][0].numpy() for visit in range(9)]
    starts = {round(crop[0] * 65_536) for crop in crops}
    assert len(starts) > 6 if random_seam else starts == {0}
    for crop in crops:
        np.testing.assert_array_equal(crop, np.tile(ramp(700), 4)[round(crop[0] * 65_536) :][:2000])


@pytest.mark.parametrize("random_seam", [True, False])
def test_speed_changes_the_crop_then_crops_or_repeats_to_the_same_length(
    make_manifest: Make, random_seam: bool
) -> None:
    """A file as long as the crop leaves no other choice than where to cut what 0.9 made longer."""
    signal = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    data = DataConfig(random_seam=random_seam)
    dataset = CropDataset(make_manifest([("a.wav", "a", signal, 16_000, "")]), data, None, seed=1)
    slow, fast = change_speed(signal, 0.9), change_speed(signal, 1.1)
    starts = set()
    for visit in range(12):
        found = dataset[CropKey(0, 0, 2, visit, 4000)][0].numpy()
        start = int(np.flatnonzero(fast == found[0])[0])
        np.testing.assert_array_equal(found, np.concatenate([fast, fast])[start : start + 4000])
        starts.add(start)
    assert len(starts) > 6 if random_seam else starts == {0}
    starts = set()
    for visit in range(12):
        found = dataset[CropKey(0, 0, 1, visit, 4000)][0].numpy()
        start = int(np.flatnonzero(slow == found[0])[0])
        np.testing.assert_array_equal(found, slow[start : start + 4000])
        starts.add(start)
    assert len(starts) > 6


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_stereo_files_of_any_rate_give_channel_zero_at_16_khz(make_manifest: Make, rate: int) -> None:
    left = tone(440, 1.0, rate)
    manifest = make_manifest([("a.wav", "a", np.stack([left, -0.5 * left], axis=1), rate, "")])
    crop = CropDataset(manifest, DATA, None, seed=1)[CropKey(0, 0, 0, 0, 6400)][0].numpy()
    assert crop.shape == (6400,)
    spectrum = np.abs(np.fft.rfft(crop * np.hanning(6400)))
    assert np.argmax(spectrum) * 16_000 / 6400 == pytest.approx(440, abs=3)
    assert np.sqrt(2 * np.mean(crop**2)) == pytest.approx(0.3, abs=0.01)
    # A resampled crop is the same stretch of the resampled file, its edges included.
    whole = resample(left, rate)
    start = np.argmin([np.abs(whole[k : k + 6400] - crop).max() for k in range(len(whole) - 6400 + 1)])
    np.testing.assert_allclose(crop, whole[start : start + 6400], atol=1e-3 if rate == 44_100 else 1e-5)


@pytest.mark.parametrize(("rate", "most"), [(16_000, 4000), (8000, 2000 + 128), (48_000, 12_000 + 130)])
def test_only_the_crop_is_read(
    make_manifest: Make, monkeypatch: pytest.MonkeyPatch, rate: int, most: int
) -> None:
    manifest = make_manifest([("a.wav", "a", tone(300, 4.0, rate), rate, "")])
    frames: list[int] = []
    read = soundfile.SoundFile.read

    def count(self: soundfile.SoundFile, *args: object, **kwargs: object) -> np.ndarray:
        samples = read(self, *args, **kwargs)
        frames.append(len(samples))
        return samples

    monkeypatch.setattr(soundfile.SoundFile, "read", count)
    dataset = CropDataset(manifest, DATA, None, seed=1)
    for visit in range(5):
        frames.clear()
        assert len(dataset[CropKey(0, 0, 1, visit, 4000)][0]) == 4000
        assert sum(frames) <= most


def test_silence_stays_finite(make_manifest: Make) -> None:
    silence = np.zeros(8000, np.float32)
    manifest = make_manifest([("a.wav", "a", silence, 16_000, ""), ("b.wav", "b", silence, 16_000, "")])
    dataset = CropDataset(manifest, DATA, ANY_MATERIAL, seed=1)
    for visit in range(30):
        assert torch.equal(dataset[CropKey(0, 0, 1, visit, 4000)][0], torch.zeros(4000))


def test_a_missing_file_and_an_empty_list_are_data_errors(make_manifest: Make, tmp_path: Path) -> None:
    manifest = make_manifest([("a.wav", "a", ramp(700), 16_000, "")])
    dataset = CropDataset(manifest, DATA, None, seed=1)
    (tmp_path / "a.wav").unlink()
    with pytest.raises(DataError, match=r"a\.wav"):
        dataset[CropKey(0, 0, 0, 0, 100)]
    with pytest.raises(DataError, match="at least one utterance"):
        CropDataset(Manifest(manifest.source, manifest.root, manifest.table[:0]), DATA, None, seed=1)


def test_kept_and_unkept_material_have_their_lengths(speakers: Manifest, make_manifest: Make) -> None:
    manifest = make_manifest([("n.wav", "n", ramp(3000), 16_000, "noise")])
    for max_bytes, is_kept in ((3000 * 4, True), (3000 * 4 - 1, False)):
        bank = svkit.data.audio_source.AudioBank(manifest, np.array([0]), max_bytes)
        assert bank.is_kept is is_kept
        rng = np.random.default_rng(0)
        crop = bank.crop(0, 1000, rng, random_seam=False)
        np.testing.assert_array_equal(crop, ramp(3000)[round(crop[0] * 65_536) :][:1000])
        long = bank.crop(0, 4000, rng, random_seam=False)
        np.testing.assert_array_equal(long, np.tile(ramp(3000), 2)[:4000])
        assert bank.crop(0, 4000, rng, random_seam=True)[0] > 0
        np.testing.assert_array_equal(bank[0], ramp(3000))
