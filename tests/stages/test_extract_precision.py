"""Weights that are cast once give the numbers that autocast gives."""

import numpy as np
import torch

from svkit.config.architecture import EncoderArchitecture, ModelArchitecture
from svkit.config.schema import HeadConfig
from svkit.nn.speaker import SpeakerNetwork
from svkit.stages.extract import cast_linear_layers
from svkit.stages.training import make_accelerator
from svkit.stages.validation import embed_batch
from tests.random_models import draw_weights


def test_cast_linear_layers_equal_autocast():
    encoder = EncoderArchitecture.uniform(num_layers=2, hidden_size=32, num_heads=2, ffn_dim=64)
    head = HeadConfig(adapter_dim=8, attention_dim=8, embedding_dim=16)
    network = SpeakerNetwork(ModelArchitecture(encoder=encoder, head=head)).eval()
    draw_weights(network, 1)
    rng = np.random.default_rng(0)
    waveforms = [rng.normal(scale=0.1, size=size).astype(np.float32) for size in (8000, 5000)]
    accelerator = make_accelerator("bf16")
    with torch.inference_mode():
        expected = embed_batch(network, waveforms, accelerator)
        full = network(torch.from_numpy(waveforms[0])[None])
        cast_linear_layers(network, torch.bfloat16)
        found = embed_batch(network, waveforms, accelerator)
    assert np.array_equal(found, expected)
    assert 1e-6 < np.abs(found[0] - full[0].numpy()).max() / np.abs(found).max() < 0.05
