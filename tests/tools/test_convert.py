"""`svkit convert`: published checkpoints and transformers directories, on to the same embeddings; nothing unsafe."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertForCTC, Wav2Vec2BertModel
from typer.testing import CliRunner, Result

import svkit
from svkit.cli.app import app
from svkit.store.checkpoint import read_architecture, read_classifier
from svkit.store.provenance import read_provenance, sha256_file
from tests.random_models import draw_weights

GOLDEN = Path(__file__).parents[1] / "golden"


def convert(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


@pytest.mark.parametrize("name", ["plain", "lora", "pruned"])
def test_a_published_checkpoint_gives_the_published_embeddings(tmp_path, name):
    out, config = tmp_path / "out", GOLDEN / f"{'pruned' if name == 'pruned' else 'plain'}_config.json"
    result = convert(GOLDEN / f"{name}.pth", out, "--config", config)
    assert result.exit_code == 0 and result.stdout == f"{out}\n"
    files = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert files == {
        "classifier.safetensors", "config.json", "model.safetensors", "provenance.json", "run.json", "speakers.tsv",
        "README.md",
    }  # fmt: skip
    waves, expected = np.load(GOLDEN / "plain.npz"), np.load(GOLDEN / f"{name}.npz")
    found = svkit.SpeakerModel.from_pretrained(out).embed([waves["wav_w0"], waves["wav_w1"]])
    for row, key in enumerate(("emb_w0", "emb_w1")):
        error = np.linalg.norm(found[row] - expected[key]) / np.linalg.norm(expected[key])
        assert error <= 1e-4
    architecture = read_architecture(out)
    assert architecture.is_pruned == (name == "pruned")
    if name == "pruned":
        assert architecture.encoder.num_heads == (3, 2, 0) and architecture.encoder.ffn2_dim[1] == 0
        assert architecture.dense_encoder().num_heads == (4, 4, 4)
    classifier = read_classifier(out)
    assert (
        classifier is not None
        and classifier.weight.shape == (15, 32)
        and classifier.speakers[14] == "class-000014"
    )
    inputs = {entry["name"]: entry["sha256"] for entry in read_provenance(out)["inputs"]}
    assert inputs == {"source": sha256_file(GOLDEN / f"{name}.pth"), "config": sha256_file(config)}


def small_config() -> Wav2Vec2BertConfig:
    return Wav2Vec2BertConfig(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20, conv_depthwise_kernel_size=7,
        layerdrop=0.0,
    )  # fmt: skip


def test_a_transformers_directory(tmp_path):
    model = Wav2Vec2BertModel(small_config()).eval()
    draw_weights(model, 1)
    model.save_pretrained(tmp_path / "hub")
    result = convert(tmp_path / "hub", tmp_path / "out")
    assert result.exit_code == 0 and "head is new and untrained" in result.stderr
    ours = svkit.SpeakerModel.from_pretrained(tmp_path / "out")
    features = torch.randn(1, 9, 160)
    with torch.inference_mode():
        expected = model(features, output_hidden_states=True).hidden_states
        for found, target in zip(ours.encoder(features), expected, strict=True):
            assert torch.allclose(found, target, atol=1e-4)
    # The head is drawn from a fixed seed: converting again gives the same bytes.
    convert(tmp_path / "hub", tmp_path / "again")
    assert sha256_file(tmp_path / "out/model.safetensors") == sha256_file(
        tmp_path / "again/model.safetensors"
    )


def test_weights_that_the_encoder_has_not_are_named(tmp_path):
    Wav2Vec2BertForCTC(
        Wav2Vec2BertConfig(**{**small_config().to_diff_dict(), "vocab_size": 5})
    ).save_pretrained(tmp_path / "hub")
    result = convert(tmp_path / "hub", tmp_path / "out")
    assert result.exit_code == 4 and "lm_head" in result.stderr
    assert not (tmp_path / "out").exists()


def test_finished_output_and_overwrite(tmp_path):
    arguments = (GOLDEN / "plain.pth", tmp_path / "out", "--config", GOLDEN / "plain_config.json")
    assert convert(*arguments).exit_code == 0
    refused = convert(*arguments)
    assert refused.exit_code == 2 and "--overwrite" in refused.stderr
    assert convert(*arguments, "--overwrite").exit_code == 0


class _Executes:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_exit_4_and_nothing_runs(tmp_path):
    torch.save({"modules": {"spk_model": _Executes(tmp_path / "trap")}}, tmp_path / "bad.pth")
    result = convert(tmp_path / "bad.pth", tmp_path / "out", "--config", GOLDEN / "plain_config.json")
    assert result.exit_code == 4 and result.stderr.count("\n") == 1
    assert not (tmp_path / "trap").exists() and not (tmp_path / "out").exists()


def edited(tmp_path: Path, change) -> Path:
    content = torch.load(GOLDEN / "plain.pth", weights_only=True)  # noqa: TID251 - the published format
    change(content["modules"]["spk_model"])
    torch.save(content, tmp_path / "edited.pth")
    return tmp_path / "edited.pth"


NAME = "front.encoder.encoder.layers.1.ffn1.output_dense.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(NAME), "missing encoder.encoder.layers.1.ffn1.output_dense.weight (1)"),
        (
            lambda s: s.update({f"{NAME}s": torch.zeros(1)}),
            "unexpected encoder.encoder.layers.1.ffn1.output_dense",
        ),
        (lambda s: s.update({NAME: torch.zeros(64, 127)}), "is [64, 127], expected [64, 128]"),
        (lambda s: s.update({"lda.weight": torch.zeros(1)}), "unknown keys lda.weight"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_exit_4_naming_the_keys(tmp_path, change, message):
    result = convert(edited(tmp_path, change), tmp_path / "out", "--config", GOLDEN / "plain_config.json")
    assert result.exit_code == 4 and message in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_configuration_of_another_model_is_exit_4(tmp_path):
    result = convert(GOLDEN / "pruned.pth", tmp_path / "out", "--config", GOLDEN / "plain_config.json")
    assert result.exit_code == 4 and "missing encoder.encoder.layers.1.ffn2" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.pth", "out"], 4, "none.pth: does not exist"),
        (["none.pth", "out", "--file", "a.pth"], 2, "--file a.pth: is only for a model on the hub"),
        ([GOLDEN / "plain.pth", "out", "--config", "none.json"], 4, "none.json: does not exist"),
        ([GOLDEN, "out"], 4, "cannot be loaded"),
        ([GOLDEN, "out", "--config", GOLDEN / "plain_config.json"], 2, "has its own config.json"),
    ],
)
def test_wrong_arguments(tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    result = convert(*arguments)
    assert result.exit_code == code and message in result.stderr and result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_converted_checkpoint_is_described(tmp_path):
    convert(GOLDEN / "pruned.pth", tmp_path / "out", "--config", GOLDEN / "pruned_config.json")
    facts = json.loads(CliRunner().invoke(app, ["info", str(tmp_path / "out"), "--json"]).stdout)
    assert facts["encoder_parameters"] == sum(
        parameter.numel()
        for parameter in svkit.SpeakerModel.from_pretrained(tmp_path / "out").encoder.parameters()
    )
    assert facts["widths"]["conv_dim"] == [44, 47, 46] and 0 < facts["sparsity"] < 1
