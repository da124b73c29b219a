"""Features against transformers' extractor; a padded batch equals its utterances alone."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import SeamlessM4TFeatureExtractor

from svkit.audio.features import MIN_SAMPLES, FeatureExtractor, num_frames, spec_augment

ORACLE = SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, stride=2)
TOLERANCE = 1e-3


def waveform(seed: int, num_samples: int, level: float = 0.1) -> np.ndarray:
    """Coloured noise of changing level over a floor of white noise, with an offset."""
    rng = np.random.default_rng(seed)
    white = rng.standard_normal(num_samples)
    envelope = 0.2 + np.abs(np.sin(np.arange(num_samples) / 1500 + rng.uniform(0, 6)))
    coloured = envelope * np.convolve(white, rng.standard_normal(6), "same") / 2
    return (level * (coloured + 0.3 * rng.standard_normal(num_samples) + 0.1)).astype(np.float32)


def features_of_transformers(wave: np.ndarray) -> np.ndarray:
    """Features without the frame that transformers fills up with padding."""
    made = ORACLE(wave, sampling_rate=16_000, return_tensors="np")
    return made["input_features"][0][made["attention_mask"][0].astype(bool)]


@given(
    num_samples=st.integers(MIN_SAMPLES, 20_000),
    seed=st.integers(0, 1000),
    level=st.sampled_from([1e-3, 0.1, 1.0]),
)
@example(num_samples=MIN_SAMPLES, seed=0, level=0.1)
@example(num_samples=400 + 160 * 2, seed=0, level=0.1)
@settings(max_examples=12, deadline=None)
def test_features_equal_those_of_transformers(num_samples, seed, level):
    wave = waveform(seed, num_samples, level)
    expected = features_of_transformers(wave)
    found, real = FeatureExtractor()(torch.from_numpy(wave)[None])
    assert real is None and found.shape[1] == num_frames(num_samples) == len(expected)
    error = np.abs(found[0].numpy() - expected)
    if len(expected) >= 10:
        # transformers computes in float64: a band that is empty in some frame shows the rounding of our spectrum.
        assert float(np.quantile(error, 0.99)) <= TOLERANCE and float(error.max()) <= 0.1


@pytest.mark.parametrize("offset", [0.0144, -0.3])
def test_frames_of_a_constant_are_empty_as_in_transformers(offset):
    """A pause of a recording with an offset: what rounding leaves there must stay below the floor of the logarithm."""
    wave = waveform(3, 24_000)
    wave[8000:14_000] = offset
    error = FeatureExtractor()(torch.from_numpy(wave)[None])[0][0].numpy() - features_of_transformers(wave)
    assert np.abs(error).max() <= 5e-3


@given(lengths=st.lists(st.integers(MIN_SAMPLES, 9000), min_size=1, max_size=5), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_a_padded_batch_equals_its_utterances_alone(lengths, seed):
    extractor = FeatureExtractor()
    batch = torch.from_numpy(np.stack([waveform(seed + row, max(lengths)) for row in range(len(lengths))]))
    found, real = extractor(batch, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone, _ = extractor(batch[row : row + 1, :length])
        assert int(real[row]) == alone.shape[1] == num_frames(length)
        assert torch.allclose(
            found[row, : alone.shape[1]], alone[0], atol=TOLERANCE if length >= 1600 else 0.03
        )
        assert bool((found[row, alone.shape[1] :] == 0).all())


def test_long_audio_is_transformed_in_pieces_with_the_same_result(monkeypatch):
    from svkit.audio import features

    wave = torch.from_numpy(waveform(0, 30_000))[None]
    whole = FeatureExtractor()(wave)[0]
    monkeypatch.setattr(features, "_CPU_CHUNK_FRAMES", 37)
    assert torch.allclose(FeatureExtractor()(wave)[0], whole, atol=1e-5)


def test_silence_gives_finite_features_and_too_short_audio_is_refused():
    extractor = FeatureExtractor()
    assert bool(torch.isfinite(extractor(torch.zeros(1, 4000))[0]).all())
    with pytest.raises(ValueError, match="559 samples is too short: expected at least 560"):
        extractor(torch.zeros(1, 559))
    with pytest.raises(ValueError, match="559"):
        extractor(torch.zeros(2, 4000), torch.tensor([4000, 559]))


def test_the_extractor_has_no_state_to_save_and_ignores_autocast():
    extractor = FeatureExtractor()
    assert extractor.state_dict() == {}
    wave = torch.from_numpy(waveform(0, 8000))[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(extractor(wave)[0], extractor(wave)[0].float())
        inside = extractor(wave)[0]
    assert torch.equal(inside, extractor(wave)[0])


def test_spec_augment_masks_whole_spans_and_bands_only():
    torch.manual_seed(3)
    masked = spec_augment(
        torch.ones(6, 40, 160), time_masks=2, time_frames=9, frequency_masks=2, frequency_bins=12
    )
    silent_frames = (masked == 0).all(2)
    bands = masked.view(6, 40, 2, 80)
    silent_bands = (bands == 0).all(2).all(1)
    rebuilt = ~silent_frames[:, :, None, None] & ~silent_bands[:, None, None, :]
    assert torch.equal(bands, rebuilt.expand(6, 40, 2, 80).float())
    assert 0 < int(silent_frames.sum(1).max()) <= 18 and 0 < int(silent_bands.sum(1).max()) <= 24
    untouched = spec_augment(
        torch.ones(2, 9, 160), time_masks=0, time_frames=9, frequency_masks=0, frequency_bins=12
    )
    assert bool((untouched == 1).all())
