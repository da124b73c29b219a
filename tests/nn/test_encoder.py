"""The encoder against transformers' own, and the mistakes that this comparison must catch."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

from svkit.nn import encoder as encoder_module
from svkit.nn.encoder import (
    KINDS,
    CausalDepthwiseConv,
    Encoder,
    attend_in_blocks,
    initialise,
    relative_bias,
)
from svkit.store.upstream import encoder_tensors, model_architecture
from tests.random_models import (
    SEEDS,
    architectures,
    draw_weights,
    random_encoder,
    random_gates,
    relative_error,
)

TOLERANCE = 1e-5


@st.composite
def configurations(draw) -> Wav2Vec2BertConfig:
    """Small configurations of transformers' encoder, layer drop and dropout off."""
    heads, head_size = draw(st.sampled_from([(1, 6), (2, 3), (2, 6), (3, 4), (4, 2), (4, 5)]))
    return Wav2Vec2BertConfig(
        hidden_size=heads * head_size,
        num_hidden_layers=draw(st.integers(1, 3)),
        num_attention_heads=heads,
        intermediate_size=draw(st.integers(1, 40)),
        feature_projection_input_dim=draw(st.integers(2, 12)),
        conv_depthwise_kernel_size=draw(st.sampled_from([1, 3, 7])),
        left_max_position_embeddings=draw(st.integers(0, 9)),
        right_max_position_embeddings=draw(st.integers(0, 4)),
        layerdrop=0.0,
        conformer_conv_dropout=0.0,
    )


def both_models(config: Wav2Vec2BertConfig, seed: int) -> tuple[Encoder, Wav2Vec2BertModel]:
    """Build transformers' model with random weights, and ours from its state."""
    oracle = Wav2Vec2BertModel(config).eval()
    draw_weights(oracle, seed)
    ours = Encoder(model_architecture(config.to_dict(), "config.json").encoder).eval()
    ours.load_state_dict(encoder_tensors(oracle.state_dict()), strict=True)
    return ours, oracle


@torch.inference_mode()
def worst_error(
    ours: Encoder, oracle: Wav2Vec2BertModel, features: Tensor, lengths: list[int] | None
) -> float:
    """Largest relative error of any hidden state over the real frames."""
    total = features.shape[1]
    real = torch.arange(total)[None, :] < torch.tensor(lengths or [total] * len(features))[:, None]
    mask = None if lengths is None else real.long()
    expected = oracle(features, attention_mask=mask, output_hidden_states=True).hidden_states
    found = ours(features, None if lengths is None else torch.tensor(lengths))
    assert len(found) == len(expected) == oracle.config.num_hidden_layers + 1
    return max(relative_error(a[real], b[real]) for a, b in zip(found, expected, strict=True))


@given(
    config=configurations(),
    seed=SEEDS,
    lengths=st.lists(st.integers(1, 24), min_size=1, max_size=3),
    block=st.sampled_from((5, 256)),
    fused_on=st.sampled_from(((), ("cpu",))),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_hidden_states_equal_those_of_transformers_with_and_without_padding(
    config, seed, lengths, block, fused_on
):
    """Attended at once, in blocks as long inputs are, or by torch's kernel as on a GPU."""
    with mock.patch.multiple(encoder_module, _BLOCK_FRAMES=block, FUSED_ON=fused_on):
        compare_with_transformers(config, seed, lengths)


def compare_with_transformers(config: Wav2Vec2BertConfig, seed: int, lengths: list[int]) -> None:
    ours, oracle = both_models(config, seed)
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn((len(lengths), max(lengths), ours.architecture.feature_dim), generator=generator)
    assert worst_error(ours, oracle, features, None) <= TOLERANCE
    for row, length in enumerate(lengths):
        features[row, length:] = 0
    assert worst_error(ours, oracle, features, lengths) <= TOLERANCE


CONFIG = Wav2Vec2BertConfig(
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=20,
    feature_projection_input_dim=8,
    conv_depthwise_kernel_size=5,
    left_max_position_embeddings=6,
    right_max_position_embeddings=3,
    layerdrop=0.0,
)


def shift_distances(ours: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(scores: Tensor, left: int, right: int) -> Tensor:
        return relative_bias(scores.roll(1, dims=-1), left, right)

    monkeypatch.setattr(encoder_module, "relative_bias", shifted)


def swap_glu_halves(ours: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in ours.encoder.layers:
        weight = layer.conv_module.pointwise_conv1.weight
        weight.data = weight.data.roll(len(weight) // 2, dims=0)


def pad_both_sides(ours: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def centred(conv: CausalDepthwiseConv, hidden: Tensor) -> Tensor:
        channels, _, kernel_size = conv.weight.shape
        padded = nn.functional.pad(hidden.transpose(1, 2), (kernel_size // 2, kernel_size // 2))
        return nn.functional.conv1d(padded, conv.weight, groups=channels).transpose(1, 2)

    monkeypatch.setattr(CausalDepthwiseConv, "forward", centred)


def ignore_padding(ours: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    states = ours.states
    monkeypatch.setattr(ours, "states", lambda features, num_frames, gates: states(features, None, gates))


def zero_distances(ours: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in ours.encoder.layers:
        layer.self_attn.distance_embedding.weight.data.zero_()


@pytest.mark.parametrize(
    "mutate", [shift_distances, swap_glu_halves, pad_both_sides, ignore_padding, zero_distances]
)
def test_the_comparison_with_transformers_catches(mutate, monkeypatch):
    ours, oracle = both_models(CONFIG, 1)
    features, lengths = torch.randn((2, 15, 8), generator=torch.Generator().manual_seed(2)), [15, 9]
    features[1, 9:] = 0
    assert worst_error(ours, oracle, features, lengths) <= TOLERANCE
    mutate(ours, monkeypatch)
    assert worst_error(ours, oracle, features, lengths) > 1e-3


@given(
    frames=st.integers(1, 40),
    left=st.integers(0, 12),
    right=st.integers(0, 12),
    block=st.integers(1, 17),
    seed=SEEDS,
    num_padded=st.integers(0, 20),
)
@settings(max_examples=100, deadline=None)
def test_attention_in_blocks_is_attention(frames, left, right, block, seed, num_padded):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn((3, 2, 2, frames, 8), dtype=torch.float64, generator=generator)
    scores = torch.randn((2, 2, frames, left + right + 1), dtype=torch.float64, generator=generator)
    key_bias = torch.zeros((2, 1, 1, frames), dtype=torch.float64)
    key_bias[1, ..., max(1, frames - num_padded) :] = float("-inf")
    bias = relative_bias(scores, left, right) + key_bias
    expected = torch.softmax(query @ key.transpose(2, 3) + bias, dim=-1) @ value
    with mock.patch.object(encoder_module, "_BLOCK_FRAMES", block):
        found = attend_in_blocks(query, key, value, scores, left, right, key_bias)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)


@given(architecture=architectures(with_absent=True), seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_gradients_do_not_depend_on_the_kernel(architecture, seed):
    """With gradients attention is written out, without it is done in blocks: both give the same states."""
    encoder = random_encoder(architecture, seed)
    features = torch.randn((2, 11, architecture.feature_dim), generator=torch.Generator().manual_seed(seed))
    lengths = torch.tensor([11, 6])
    with_gradients = encoder(features, lengths)
    with torch.inference_mode(), mock.patch.object(encoder_module, "_BLOCK_FRAMES", 4):
        without = encoder(features, lengths)
    for a, b in zip(with_gradients, without, strict=True):
        assert relative_error(a[1, :6].detach(), b[1, :6]) <= TOLERANCE
        assert relative_error(a[0].detach(), b[0]) <= TOLERANCE


@given(
    architecture=architectures(with_absent=True),
    kinds=st.sets(st.sampled_from(tuple(KINDS))),
    is_padded=st.booleans(),
    seed=SEEDS,
)
@settings(max_examples=15, deadline=None)
def test_torchs_kernel_has_the_gradients_of_the_products(architecture, kinds, is_padded, seed):
    """What trains on a GPU: gates and distance embeddings get their gradients through the kernel's bias."""
    encoder = random_encoder(architecture, seed)
    features = torch.randn((2, 11, architecture.feature_dim), generator=torch.Generator().manual_seed(seed))
    lengths = torch.tensor([11, 6]) if is_padded else None
    found = []
    for fused_on in ((), ("cpu",)):
        gates = random_gates(architecture, kinds, 0.3, seed)
        values = [value.requires_grad_() for layer in gates for value in layer if value is not None]
        encoder.zero_grad()
        with mock.patch.object(encoder_module, "FUSED_ON", fused_on):
            states = torch.stack(encoder(features, lengths, gates))
        (states[:, 0].sin().sum() + states[:, 1, :6].sin().sum()).backward()
        leaves = [*encoder.parameters(), *values]
        found.append(torch.cat([leaf.grad.flatten() for leaf in leaves if leaf.grad is not None]))
    assert relative_error(found[1], found[0]) <= TOLERANCE


def test_recomputed_layers_give_the_same_gradients():
    encoder = random_encoder(model_architecture(CONFIG.to_dict(), "config.json").encoder, 3).train()
    encoder.set_conv_dropout(0.1)
    features = torch.randn((2, 9, 8), generator=torch.Generator().manual_seed(4))
    gradients = []
    for encoder.checkpoint_layers in (False, True):
        encoder.zero_grad()
        torch.manual_seed(5)
        encoder(features)[-1].square().sum().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_dropout_after_the_convolution_is_the_only_dropout():
    encoder = random_encoder(model_architecture(CONFIG.to_dict(), "config.json").encoder, 3).train()
    features = torch.randn((2, 9, 8), generator=torch.Generator().manual_seed(4))
    assert torch.equal(encoder(features)[-1], encoder(features)[-1])  # neither dropout nor layer drop
    encoder.set_conv_dropout(0.1)
    assert not torch.equal(encoder(features)[-1], encoder(features)[-1])
    assert torch.equal(encoder.eval()(features)[-1], encoder(features)[-1])
    kinds = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)
    assert [module.p for module in encoder.modules() if isinstance(module, kinds)] == [
        0.1
    ] * CONFIG.num_hidden_layers


def test_random_initialisation_depends_on_its_generator_alone():
    architecture = model_architecture(CONFIG.to_dict(), "config.json").encoder
    states = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        encoder = Encoder(architecture)
        initialise(encoder, torch.Generator().manual_seed(7))
        states.append(encoder.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    features = torch.randn((1, 50, 8), generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        last = encoder(features)[-1]
    assert 0.8 < float(last.std()) < 1.2  # the final layer norm starts as an identity
