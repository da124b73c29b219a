"""The exported form of the model is the model."""

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from svkit.config.architecture import EncoderArchitecture, ModelArchitecture
from svkit.config.schema import HeadConfig
from svkit.nn import relative
from svkit.nn.graph import GraphNetwork
from svkit.nn.relative import relative_bias
from svkit.nn.speaker import SpeakerNetwork
from tests.audio.test_features import waveform
from tests.random_models import SEEDS, architectures, draw_weights, relative_error


@given(frames=st.integers(1, 30), left=st.integers(0, 9), right=st.integers(0, 4))
@example(frames=1, left=0, right=0)
@settings(max_examples=60, deadline=None)
def test_relative_bias_of_any_length_is_relative_bias(frames, left, right):
    scores = torch.randn(2, 3, frames, left + right + 1)
    found = relative._relative_bias_of_any_length(scores, left)
    assert torch.equal(found, relative_bias(scores, left, right))


@given(
    encoder=architectures(with_absent=True),
    lengths=st.lists(st.integers(560, 9000), min_size=1, max_size=3),
    seed=SEEDS,
)
@settings(max_examples=10, deadline=None)
@torch.inference_mode()
def test_the_graph_gives_the_embeddings_of_the_model(as_exported, encoder, lengths, seed):
    head = HeadConfig(adapter_dim=4, attention_dim=3, embedding_dim=5)
    network = SpeakerNetwork(ModelArchitecture(encoder=replace(encoder, feature_dim=160), head=head)).eval()
    draw_weights(network, seed)
    wide = torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        wide[row, :length] = torch.from_numpy(waveform(row, length))
    expected = network(wide, torch.tensor(lengths))
    found = as_exported(GraphNetwork(network), wide, torch.tensor(lengths))
    assert relative_error(found, expected) <= 5e-3


@pytest.fixture(scope="module")
def as_exported():
    """Run a graph with the code paths that an export takes."""

    def run(graph, *inputs):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.compiler, "is_exporting", lambda: True)
            return graph(*inputs)

    return run


def test_half_precision_keeps_what_needs_the_bits():
    encoder = ModelArchitecture(
        encoder=EncoderArchitecture.uniform(num_layers=1, hidden_size=12, num_heads=3, ffn_dim=20),
        head=HeadConfig(adapter_dim=4, attention_dim=3, embedding_dim=5),
    )
    graph = GraphNetwork(SpeakerNetwork(encoder), torch.float16)
    kinds = {name: tensor.dtype for name, tensor in graph.state_dict(keep_vars=True).items()}
    assert kinds["network.encoder.feature_projection.projection.weight"] == torch.float16
    assert kinds["network.head.pooling.batch_norm.running_var"] == torch.float32
    assert graph.features.spectrum.dtype == graph.features.mel.dtype == torch.float32
