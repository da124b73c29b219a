"""Weights of others: every key is used or named, and nothing in a pickle is executed."""

import json
import os
import pickle  # noqa: TID251 - the attack
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

from svkit.config.architecture import W2V_BERT_2
from svkit.errors import ArtifactError
from svkit.store.upstream import merge_lora, model_architecture, read_published
from tests.pruning.published import PRUNED, PRUNED_CONFIGURATION, STOCK_CONFIGURATION
from tests.random_models import draw_weights, relative_error

GOLDEN = Path(__file__).parents[1] / "golden"
PLAIN_CONFIG = GOLDEN / "plain_config.json"


def record() -> dict:
    loaded: dict = torch.load(GOLDEN / "plain.pth", weights_only=True)  # noqa: TID251 - the published format
    return loaded


def saved(tmp_path: Path, content: object) -> Path:
    torch.save(content, tmp_path / "model.pth")
    return tmp_path / "model.pth"


def test_stock_and_published_configurations():
    assert model_architecture(STOCK_CONFIGURATION, "x").encoder == W2V_BERT_2
    assert model_architecture(Wav2Vec2BertConfig().to_dict(), "x").encoder == W2V_BERT_2
    assert model_architecture(PRUNED_CONFIGURATION, "x").encoder == PRUNED
    cut = model_architecture(PRUNED_CONFIGURATION, "x")
    assert cut.encoder == PRUNED and cut.is_pruned and cut.dense_encoder() == W2V_BERT_2
    assert not model_architecture(STOCK_CONFIGURATION, "x").is_pruned


def test_groups_of_dense_widths_are_no_cut():
    """The published configuration of a dense model has the groups too."""
    config = json.loads(PLAIN_CONFIG.read_text())
    assert "num_attention_heads_group" in config
    assert not model_architecture(config, "x").is_pruned


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"position_embeddings_type": "rotary"},
            "position_embeddings_type: expected 'relative_key', found 'rotary'",
        ),
        ({"hidden_act": "gelu"}, "hidden_act: expected 'swish'"),
        ({"add_adapter": True}, "add_adapter: expected false"),
        (
            {"hidden_size": None},
            "config.json: hidden_size: expected a whole number >= 1 and <= 16,777,216, found null",
        ),
        ({"num_hidden_layers": 10**9}, "layers: expected a whole number"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers: expected a whole number >= 1 and <= 1,000"),
        ({"num_attention_heads": 0}, "heads: expected a whole number >= 1"),
        ({"conv_group": [[1, 1.5]] * 24}, r"conv_group\[0\]\[1\]: expected a whole number"),
        ({"num_attention_heads": 7}, "not a multiple of 7 heads"),
        ({"num_attention_heads_group": [1] * 23}, "num_attention_heads_group: expected 24 layers, found 23"),
        ({"conv_group": [[1, 1]] * 25}, "conv_group: expected 24 layers, found 25"),
        (
            {"intermediate_size_group": [[1]] * 24},
            r"intermediate_size_group\[0\]: expected a list of 2 values",
        ),
        ({"conv_group": None}, "conv_group: expected a list of a list"),
        (
            {"num_attention_heads_group": [-1] * 24},
            r"num_attention_heads_group\[0\]: expected a whole number >= 0",
        ),
    ],
)
def test_configurations_that_ask_for_something_else(change, message):
    with pytest.raises(ArtifactError, match=message):
        model_architecture({**PRUNED_CONFIGURATION, **change}, "config.json")


def test_a_missing_key_of_the_configuration_is_named():
    without = {key: value for key, value in STOCK_CONFIGURATION.items() if key != "intermediate_size"}
    with pytest.raises(ArtifactError, match="intermediate_size"):
        model_architecture(without, "config.json")


def test_disabled_branches_have_no_width():
    layers = {
        "use_attention": [False] + [True] * 23,
        "use_feed_forward": [[True, False]] + [[True, True]] * 23,
    }
    architecture = model_architecture({**PRUNED_CONFIGURATION, **layers}, "x").encoder
    assert architecture.num_heads[0] == architecture.ffn2_dim[0] == 0
    assert architecture.ffn1_dim == PRUNED.ffn1_dim


@given(rank=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_lora_is_merged_as_peft_merges_it_with_an_alpha_of_twice_the_rank(rank, seed):
    config = Wav2Vec2BertConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=6, layerdrop=0.0
    )
    wrapped = get_peft_model(
        Wav2Vec2BertModel(config),
        PeftLoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["linear_q", "linear_v"]),
    )
    draw_weights(wrapped, seed)
    merged = merge_lora(wrapped.state_dict(), "x")
    expected = wrapped.merge_and_unload().state_dict()
    assert set(merged) == set(expected)
    for name, tensor in expected.items():
        assert relative_error(merged[name], tensor) <= 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("q.lora_B.default.weight"), "q: expected lora_A, lora_B and base weight, found"),
        (lambda s: s.pop("q.base_layer.weight"), "q: expected lora_A, lora_B and base weight"),
        (
            lambda s: s.update({"q.lora_A.default.weight": torch.ones(3, 5)}),
            "q: weight, lora_B and lora_A do not fit",
        ),
    ],
)
def test_lora_that_does_not_fit_is_named(change, message):
    state = {
        "q.base_layer.weight": torch.zeros(2, 2), "q.lora_A.default.weight": torch.ones(3, 2),
        "q.lora_B.default.weight": torch.ones(2, 3),
    }  # fmt: skip
    change(state)
    with pytest.raises(ArtifactError, match=message):
        merge_lora(state, "x")


def test_every_tensor_of_the_source_is_used(tmp_path):
    published = read_published(saved(tmp_path, record()), PLAIN_CONFIG)
    source = record()["modules"]
    assert len(published.tensors) == len(source["spk_model"])
    assert sum(t.numel() for t in published.tensors.values()) == sum(
        t.numel() for t in source["spk_model"].values()
    )
    assert torch.equal(published.classifier, source["classifier"]["weight"])


def test_the_mask_embedding_of_pre_training_is_the_one_key_left_out(tmp_path):
    content = record()
    content["modules"]["spk_model"]["front.encoder.masked_spec_embed"] = torch.zeros(64)
    published = read_published(saved(tmp_path, content), PLAIN_CONFIG)
    assert len(published.tensors) == len(content["modules"]["spk_model"]) - 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["spk_model"].update(extra=torch.zeros(1)), "unknown keys extra"),
        (
            lambda m: m["spk_model"].update({"pooling.attention.9.weight": torch.zeros(1)}),
            "unknown keys pooling",
        ),
        (lambda m: m["spk_model"].pop("bottleneck.weight"), "missing key for 'head.embedding.weight'"),
        (lambda m: m["classifier"].update(bias=torch.zeros(1)), "unknown classifier keys bias"),
        (lambda m: m.update(discriminator={}), "unknown modules discriminator"),
        (lambda m: m.pop("spk_model"), "expected modules.spk_model, found epoch_idx, modules"),
        (
            lambda m: m.update(spk_model=torch.zeros(2)),
            "modules.spk_model: expected named tensors, found Tensor",
        ),
        (lambda m: m.update(spk_model={"bottleneck.weight": 3}), "modules.spk_model: expected named tensors"),
    ],
)
def test_what_is_missing_or_unknown_is_named(tmp_path, change, message):
    content = record()
    change(content["modules"])
    with pytest.raises(ArtifactError, match=message):
        read_published(saved(tmp_path, content), PLAIN_CONFIG)


@pytest.mark.parametrize("content", [torch.zeros(2), [1, 2], {"model": {}}, {"modules": 3}, {1: 2}])
def test_another_layout_is_said(tmp_path, content):
    with pytest.raises(ArtifactError, match="expected modules.spk_model, found"):
        read_published(saved(tmp_path, content), PLAIN_CONFIG)


class _Executes:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, writer):
    path, trap = tmp_path / "model.pth", tmp_path / "trap"
    content = {"modules": {"spk_model": _Executes(trap)}}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(ArtifactError, match="model.pth: not a checkpoint that can be read safely") as raised:
        read_published(path, PLAIN_CONFIG)
    assert "\n" not in str(raised.value) and not trap.exists()
    assert "which may be code" in str(raised.value) and "weights_only" not in str(raised.value)


def test_files_that_are_no_checkpoint(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        read_published(tmp_path / "none.pth", PLAIN_CONFIG)
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ArtifactError, match=r"not a checkpoint .* \(no file of torch, or"):
        read_published(tmp_path / "text.pth", PLAIN_CONFIG)
    with pytest.raises(ArtifactError, match="does not exist"):
        read_published(GOLDEN / "plain.pth", tmp_path / "none.json")
    with pytest.raises(ArtifactError, match="not a JSON file"):
        read_published(GOLDEN / "plain.pth", tmp_path / "text.pth")
