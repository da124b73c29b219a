"""The speaker model: a padded batch gives every utterance the embedding it has alone."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svkit.audio.features import MIN_SAMPLES
from svkit.config.architecture import EncoderArchitecture, ModelArchitecture
from svkit.config.schema import HeadConfig
from svkit.nn import encoder as encoder_module
from svkit.nn.speaker import SpeakerNetwork
from svkit.pruning.counting import head_parameters
from tests.random_models import SEEDS, architectures, draw_weights, relative_error

HEAD = HeadConfig(adapter_dim=6, attention_dim=5, embedding_dim=7)
ENCODER = EncoderArchitecture.uniform(num_layers=2, hidden_size=12, num_heads=3, ffn_dim=20)


def random_network(seed: int = 0, encoder: EncoderArchitecture = ENCODER) -> SpeakerNetwork:
    network = SpeakerNetwork(ModelArchitecture(encoder=encoder, head=HEAD)).eval()
    draw_weights(network, seed)
    return network


@given(
    lengths=st.lists(st.integers(MIN_SAMPLES, 12_000), min_size=2, max_size=4),
    seed=SEEDS,
    fused_on=st.sampled_from(((), ("cpu",))),
)
@settings(max_examples=15, deadline=None)
def test_an_utterance_has_the_embedding_it_has_alone(lengths, seed, fused_on):
    network = random_network(seed)
    generator = torch.Generator().manual_seed(seed)
    batch = 0.1 * torch.randn((len(lengths), max(lengths)), generator=generator)  # the padding is noise
    with torch.inference_mode(), mock.patch.object(encoder_module, "FUSED_ON", fused_on):
        together = network(batch, torch.tensor(lengths))
        for row, length in enumerate(lengths):
            assert relative_error(together[row], network(batch[row : row + 1, :length])[0]) <= 1e-4


def test_embeddings_have_their_size_and_are_not_normalised():
    embeddings = random_network()(0.1 * torch.randn(3, 4000))
    assert embeddings.shape == (3, 7) and embeddings.dtype == torch.float32
    assert float(embeddings.detach().norm(dim=1).std()) > 1e-3


@given(encoder=architectures(with_absent=True))
@settings(max_examples=10, deadline=None)
def test_the_head_is_counted_exactly(encoder):
    network = SpeakerNetwork(ModelArchitecture(encoder=encoder, head=HEAD))
    assert sum(p.numel() for p in network.head.parameters()) == head_parameters(network.architecture)


def test_the_head_starts_by_torchs_defaults():
    """Linear layers uniform within 1 / sqrt(inputs), norms at one and zero."""
    torch.manual_seed(0)
    for module in SpeakerNetwork(ModelArchitecture(encoder=ENCODER, head=HeadConfig())).head.modules():
        if isinstance(module, torch.nn.Linear):
            bound = module.in_features**-0.5
            assert module.weight.abs().max() <= bound and module.bias.abs().max() <= bound
            if module.weight.numel() > 500:
                assert float(module.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.1)
        elif isinstance(module, torch.nn.LayerNorm | torch.nn.BatchNorm1d):
            assert module.weight.eq(1).all() and module.bias.eq(0).all()


def test_every_hidden_state_reaches_the_embedding():
    network = random_network()
    network(0.1 * torch.randn(1, 8000)).sum().backward()
    assert len(network.head.layer_adapters) == 3
    for adapter in network.head.layer_adapters:
        assert float(adapter.down.weight.grad.norm()) > 0
