import numpy as np
import pytest

from svkit.audio.channel import FRAME_SAMPLES, TELEPHONE_BAND_HZ, clip_loudest, limit_band, lose_frames


def noise(num_samples: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=num_samples).astype(np.float32)


def lost_frames(signal: np.ndarray) -> np.ndarray:
    return ~signal[: len(signal) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES).any(axis=1)


@pytest.mark.parametrize(("share", "burst"), [(0.1, 2.0), (0.3, 5.0)])
def test_as_many_frames_are_lost_as_asked_for_in_bursts(share: float, burst: float) -> None:
    signal = noise(FRAME_SAMPLES * 20_000 + 7)
    heard = lose_frames(signal, np.random.default_rng(1), share, burst, repeat=False)
    is_lost = lost_frames(heard)
    bursts = np.count_nonzero(np.diff(is_lost.astype(int)) == 1)
    assert len(heard) == len(signal) and is_lost.mean() == pytest.approx(share, rel=0.1)
    assert is_lost.sum() / bursts == pytest.approx(burst, rel=0.1)
    kept = np.repeat(~is_lost, FRAME_SAMPLES)
    np.testing.assert_array_equal(heard[: len(kept)][kept], signal[: len(kept)][kept])


def test_a_repeated_frame_halves_each_time() -> None:
    signal = np.repeat(np.arange(1, 401, dtype=np.float32), FRAME_SAMPLES)
    silent, repeated = (
        lose_frames(signal, np.random.default_rng(2), 0.3, 3.0, repeat=repeat)[::FRAME_SAMPLES]
        for repeat in (False, True)
    )
    for frame in range(1, 400):
        assert repeated[frame] == (repeated[frame - 1] / 2 if silent[frame] == 0 else frame + 1)


def test_a_band_keeps_its_middle_and_its_place() -> None:
    time = np.arange(16_000) / 16_000
    inside, low, high = (np.sin(2 * np.pi * hz * time).astype(np.float32) for hz in (1000, 150, 4200))
    heard = limit_band(inside + low + high, TELEPHONE_BAND_HZ)
    np.testing.assert_allclose(heard[800:-800], inside[800:-800], atol=0.01)


def test_the_loudest_samples_are_clipped() -> None:
    signal = noise(10_000)
    heard = clip_loudest(signal, 0.05)
    assert np.mean(heard != signal) == pytest.approx(0.05, abs=1e-3)
    assert np.abs(heard).max() == pytest.approx(np.quantile(np.abs(signal), 0.95))
