"""Every form of the head is one model: alone as in a batch, counted exactly, exported, saved and read again."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from svkit.config.architecture import EncoderArchitecture, ModelArchitecture
from svkit.config.schema import HeadConfig
from svkit.errors import ArtifactError, ConfigError
from svkit.models.load import load_model
from svkit.nn.graph import GraphNetwork
from svkit.nn.pooling import AttentiveStatisticsPooling, StatisticsPooling
from svkit.nn.speaker import SpeakerNetwork
from svkit.pruning.counting import head_parameters, macs
from svkit.store import checkpoint as store
from tests.random_models import draw_weights, relative_error

ENCODER = EncoderArchitecture.uniform(num_layers=3, hidden_size=12, num_heads=3, ffn_dim=20)
SIZES = {"adapter_dim": 6, "attention_dim": 5, "embedding_dim": 7}
FORMS = {
    "published": {},
    "last two states": {"states": (-1, -2)},
    "without the last layer": {"states": (1, 2)},
    "no adapters": {"layer_adapters": False},
    "sum of adapters": {"aggregation": "sum"},
    "sum of states": {"aggregation": "sum", "layer_adapters": False, "states": (0, 3)},
    "mean and deviation": {"pooling": "mean-std"},
    "multi-head": {"pooling": "multi-head", "pooling_heads": 4},
}


def architecture(**head) -> ModelArchitecture:
    return ModelArchitecture(encoder=ENCODER, head=HeadConfig(**SIZES, **head))


def random_network(**head) -> SpeakerNetwork:
    network = SpeakerNetwork(architecture(**head)).eval()
    draw_weights(network, 0)
    return network


@pytest.mark.parametrize("head", FORMS.values(), ids=FORMS)
@torch.inference_mode()
def test_a_padded_batch_and_the_exported_form_give_the_embedding_of_one_alone(head, monkeypatch):
    network, lengths = random_network(**head), torch.tensor([3000, 8000, 900])
    batch = 0.1 * torch.randn((3, 8000), generator=torch.Generator().manual_seed(1))
    together = network(batch, lengths)
    for row, length in enumerate(lengths.tolist()):
        assert relative_error(together[row], network(batch[row : row + 1, :length])[0]) <= 1e-4
    graph = GraphNetwork(network)
    batch *= torch.arange(8000) < lengths[:, None]
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert relative_error(graph(batch, lengths), together) <= 5e-3


@pytest.mark.parametrize("head", FORMS.values(), ids=FORMS)
def test_it_is_counted_exactly(head):
    network = random_network(**head)
    assert sum(p.numel() for p in network.head.parameters()) == head_parameters(network.architecture)
    if head.get("aggregation") == "sum":
        return  # a weighted sum is no matrix product
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network.embed_features(torch.randn(1, 11, ENCODER.feature_dim))
    work = macs(network.architecture, 11)
    assert counter.get_total_flops() == 2 * (work.total + work.positional)


@pytest.mark.parametrize("head", FORMS.values(), ids=FORMS)
def test_it_is_what_config_json_says(head, tmp_path):
    network = random_network(**head)
    store.write_model(tmp_path, network.architecture, network.state_dict())
    written = json.loads((tmp_path / "config.json").read_text())["head"]
    assert set(written) == set(SIZES) | set(head), "an earlier svkit reads the published form"
    model, wave = load_model(tmp_path), 0.1 * torch.randn(1, 4000)
    assert model.architecture == network.architecture
    with torch.inference_mode():
        assert relative_error(model(wave), network(wave)) <= 1e-5


def test_layers_above_the_highest_state_are_not_computed():
    network = random_network(states=(0, 1))
    network.encoder.encoder.layers[1].forward = None
    assert network(0.1 * torch.randn(1, 4000)).shape == (1, 7)


def test_groups_of_one_channel_are_attentive_statistics_pooling():
    torch.manual_seed(0)
    one, other = AttentiveStatisticsPooling(6, 4, 6).eval(), AttentiveStatisticsPooling(6, 4, 2).eval()
    features, num_frames = torch.randn(2, 9, 6), torch.tensor([9, 5])
    state = one.state_dict()
    state |= {name: value[[0, 3]] for name, value in state.items() if name.startswith("attention_out")}
    other.load_state_dict(state)
    found, expected = other(features, num_frames), one(features, num_frames)
    assert torch.allclose(found[:, [0, 3, 6, 9]], expected[:, [0, 3, 6, 9]], atol=1e-6)
    torch.nn.init.zeros_(other.attention_out.weight)
    torch.nn.init.zeros_(other.attention_out.bias)
    assert torch.allclose(StatisticsPooling()(features, num_frames), other(features, num_frames), atol=1e-6)


@pytest.mark.parametrize(
    ("head", "text"),
    [
        ({"states": (4,)}, "head.states: expected distinct hidden states from -4 to 3, found [4]"),
        ({"states": (3, -1)}, "found [3, -1]"),
        ({"pooling": "multi-head", "pooling_heads": 5}, "a divisor of the 24 channels"),
        ({"pooling": "max"}, "pooling"),
    ],
)
def test_what_cannot_be_built_is_refused(head, text, tmp_path):
    with pytest.raises(ConfigError, match=".*" + text.replace("[", r"\[")):
        architecture(**head)
    store.write_model(tmp_path, architecture(), random_network().state_dict())
    content = json.loads((tmp_path / "config.json").read_text())
    content["head"] |= head
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="config.json"):
        store.read_architecture(tmp_path)
