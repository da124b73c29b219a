"""Features of exported graphs against those of the model."""

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from svkit.audio.features import MIN_SAMPLES, FeatureExtractor
from svkit.audio.graph_features import GraphFeatures
from tests.audio.test_features import waveform


@given(lengths=st.lists(st.integers(MIN_SAMPLES, 9000), min_size=1, max_size=4), seed=st.integers(0, 1000))
@example(lengths=[MIN_SAMPLES], seed=0)
@example(lengths=[400 + 160 * 4, 400 + 160 * 3, MIN_SAMPLES], seed=0)
@settings(max_examples=25, deadline=None)
def test_graph_features_equal_those_of_the_model(lengths, seed):
    wide = torch.from_numpy(np.stack([waveform(seed + row, max(lengths)) for row in range(len(lengths))]))
    expected, frames = FeatureExtractor()(wide, torch.tensor(lengths))
    found, found_frames = GraphFeatures()(wide, torch.tensor(lengths))
    assert found.shape == expected.shape and frames is not None
    assert found_frames.tolist() == frames.tolist()
    error = (found - expected).abs()
    # A band that is nearly empty in some frame shows the rounding of either spectrum; over a few frames, whose spread
    # is small, it shows more.
    for row, length in zip(error, lengths, strict=True):
        assert float(row.quantile(0.99)) <= (2e-3 if length >= 2000 else 0.05) and float(row.max()) <= 0.1
    assert all(not row[count:].any() for row, count in zip(found, frames.tolist(), strict=True))
