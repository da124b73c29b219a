"""A model prepared for embedding gives the embeddings it gave before."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings

from svkit.config.architecture import EncoderArchitecture, ModelArchitecture
from svkit.config.schema import HeadConfig
from svkit.errors import ConfigError
from svkit.models.session import make_accelerator
from svkit.nn import inference
from svkit.nn.speaker import SpeakerNetwork
from tests.random_models import SEEDS, architectures, draw_weights, relative_error

HEAD = HeadConfig(adapter_dim=8, attention_dim=8, embedding_dim=16)
CPU = torch.device("cpu")
needs_packing = pytest.mark.skipif(
    not inference.can_pack(CPU, torch.float32), reason="oneDNN packs no matrices on this processor"
)


def make_network(encoder: EncoderArchitecture, seed: int) -> SpeakerNetwork:
    network = SpeakerNetwork(ModelArchitecture(encoder=encoder, head=HEAD)).eval()
    draw_weights(network, seed)
    return network


def small_network() -> SpeakerNetwork:
    return make_network(
        EncoderArchitecture.uniform(num_layers=2, hidden_size=32, num_heads=2, ffn_dim=64), seed=1
    )


def waveforms() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(scale=0.1, size=size).astype(np.float32) for size in (8000, 5000)]


def embedded(network: SpeakerNetwork, accelerator: Accelerator) -> np.ndarray:
    with accelerator.autocast():
        return network.embed_padded(waveforms())


def test_weights_cast_once_give_what_autocast_gives(monkeypatch):
    monkeypatch.setattr(inference, "can_pack", lambda device, dtype: False)
    network, accelerator = small_network(), make_accelerator("bf16")
    with torch.inference_mode():
        expected = embedded(network, accelerator)
        full = network(torch.from_numpy(waveforms()[0])[None])
        inference.prepare(network, torch.bfloat16)
        found = embedded(network, accelerator)
    assert np.array_equal(found, expected)
    assert 1e-6 < np.abs(found[0] - full[0].numpy()).max() / np.abs(found).max() < 0.05


@needs_packing
@given(encoder=architectures(with_absent=True), seed=SEEDS)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_packed_layers_give_the_same_embeddings(encoder, seed):
    network = make_network(encoder, seed)
    features = torch.randn((2, 30, encoder.feature_dim), generator=torch.Generator().manual_seed(seed))
    lengths = torch.tensor([30, 21])
    with torch.inference_mode():
        expected = network.embed_features(features, lengths)
        inference.prepare(network, torch.float32)
        assert not any(isinstance(module, torch.nn.Linear) for module in network.modules())
        assert relative_error(network.embed_features(features, lengths), expected) < 1e-4


@pytest.mark.skipif(not inference.can_pack(CPU, torch.bfloat16), reason="no bf16 products in oneDNN")
def test_packed_layers_in_bf16_stay_near_fp32():
    network, accelerator = small_network(), make_accelerator("bf16")
    with torch.inference_mode():
        full = np.stack([network(torch.from_numpy(waveform)[None])[0].numpy() for waveform in waveforms()])
        inference.prepare(network, torch.bfloat16)
        found = embedded(network, accelerator)
    assert 1e-6 < np.abs(found - full).max() / np.abs(full).max() < 0.05


@pytest.mark.skipif(not inference.can_pack(CPU, torch.int8), reason="no int8 products in oneDNN")
def test_int8_stays_near_fp32_and_leaves_the_setting_of_torch_alone():
    network, engine = small_network(), torch.backends.quantized.engine
    arrays = [torch.from_numpy(waveform)[None] for waveform in waveforms()]
    with torch.inference_mode():
        full = torch.cat([network(array) for array in arrays])
        inference.prepare(network, torch.int8)
        found = torch.cat([network(array) for array in arrays])
    assert torch.backends.quantized.engine == engine
    assert isinstance(network.encoder.encoder.layers[0].ffn1.intermediate_dense, inference.QuantisedLinear)
    assert 1e-6 < relative_error(found, full) < 0.05
    assert torch.nn.functional.cosine_similarity(found, full).min() > 0.999


def test_int8_is_refused_where_there_are_no_such_products(monkeypatch):
    monkeypatch.setattr(inference, "can_pack", lambda device, dtype: False)
    with pytest.raises(ConfigError, match="int8: expected an x86 processor, found cpu"):
        inference.prepare(small_network(), torch.int8)
