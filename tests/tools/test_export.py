"""`svkit export`: graphs that give torch's embeddings for any length, batch and structure."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

import svkit
from svkit.cli.app import app
from svkit.config.architecture import EncoderArchitecture, ModelArchitecture
from svkit.config.schema import HeadConfig
from svkit.nn.speaker import SpeakerNetwork
from svkit.store import checkpoint as store
from svkit.store.provenance import read_provenance, sha256_artifact
from svkit.tools import export as stage
from svkit.tools import onnx_graph
from tests.e2e.conftest import REPOSITORY
from tests.random_models import draw_weights
from tests.training_experiment import TEACHER, finish, make_teacher

pytestmark = pytest.mark.e2e

DENSE = EncoderArchitecture.uniform(num_layers=2, hidden_size=24, num_heads=3, ffn_dim=20)
CUT = DENSE.with_widths({"num_heads": [2, 0], "ffn1_dim": [0, 7], "ffn2_dim": [9, 1], "conv_dim": [5, 0]})
HEAD = HeadConfig(adapter_dim=6, attention_dim=5, embedding_dim=8)


def make_checkpoint(directory: Path, encoder: EncoderArchitecture, seed: int = 1) -> Path:
    widths = {name: tuple(values) for name, values in DENSE.widths().items()}
    architecture = ModelArchitecture(
        encoder=encoder, head=HEAD, dense_widths=None if encoder is DENSE else widths
    )
    network = SpeakerNetwork(architecture)
    draw_weights(network, seed)
    store.write_model(directory, architecture, network.state_dict())
    finish(directory)
    return directory


def export(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cut model in all precisions, where `svkit export` puts it without being told."""
    exp = tmp_path_factory.mktemp("export")
    make_checkpoint(exp / "finetune-pruned" / "lmft", CUT)
    result = export("--exp", exp)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == str(exp / "onnx" / "pruned")
    assert "onnx int8" in result.stdout and "times torch" in result.stdout
    return exp


def noise(seed: int, num_samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def cosines(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)


def test_files_and_facts(exported):
    out = exported / "onnx" / "pruned"
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert names == {
        "model.onnx", "model.fp16.onnx", "model.int8.onnx", "export.json", "provenance.json", "run.json",
    }  # fmt: skip
    facts = json.loads((out / "export.json").read_text())
    assert facts["checkpoint"]["sha256"] == sha256_artifact(exported / "finetune-pruned" / "lmft")
    assert facts["embedding_dim"] == 8 and facts["opset"] == onnx_graph.OPSET and facts["min_samples"] == 560
    for name, graph in facts["graphs"].items():
        assert (
            stage.MIN_COSINE[name]
            == graph["cosine"]["required"]
            <= graph["cosine"]["min"]
            <= graph["cosine"]["mean"]
        )
        assert (
            graph["real_time_factor"]["wall"] > 0
            and graph["size_bytes"] == (out / graph["file"]).stat().st_size
        )
    assert facts["torch"]["real_time_factor"]["cpu"] > 0 and facts["versions"]["onnxruntime"]
    assert [entry["name"] for entry in read_provenance(out)["inputs"]] == ["checkpoint"]


@pytest.mark.parametrize(
    "lengths", [(560,), (700, 560), (16_000,), (40_000, 1_600, 880), (4_000,) * 5, (130_001,)]
)
def test_any_length_and_batch_gives_torchs_embedding(exported, lengths):
    model = svkit.SpeakerModel.from_pretrained(exported / "finetune-pruned" / "lmft")
    waves = [noise(row, length) for row, length in enumerate(lengths)]
    expected = model.embed(waves)
    out = exported / "onnx" / "pruned"
    for name, limit in (("model.onnx", 0.9999), ("model.fp16.onnx", 0.999), ("model.int8.onnx", 0.9)):
        found = onnx_graph.OnnxModel(out / name, 1).embed(waves)
        assert found.shape == expected.shape and cosines(found, expected).min() >= limit, name


def test_the_consumer_example_needs_neither_torch_nor_svkit(exported, tmp_path):
    example = REPOSITORY / "docs" / "examples" / "onnx_embed.py"
    source = example.read_text()
    assert len(source.splitlines()) <= 30 and "import svkit" not in source and "torch\n" not in source
    waves = [noise(1, 16_000), noise(2, 24_000)]
    for name, wave in zip("ab", waves, strict=True):
        soundfile.write(tmp_path / f"{name}.wav", wave, 16_000, subtype="FLOAT")
    graph = exported / "onnx" / "pruned" / "model.onnx"
    command = [sys.executable, example, graph, tmp_path / "a.wav", tmp_path / "b.wav"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    model = svkit.load(exported / "finetune-pruned" / "lmft")
    a, b = model.embed(waves)
    assert abs(float(done.stdout.removeprefix("cosine ")) - cosines(a[None], b[None])[0]) < 1e-3


def test_linear_layers_are_int8_and_features_are_not(exported):
    import onnx

    out = exported / "onnx" / "pruned"
    graph = onnx.load(str(out / "model.int8.onnx")).graph
    floats = {item.name for item in graph.initializer if item.data_type == onnx.TensorProto.FLOAT}
    assert {"features.spectrum", "features.mel"} <= floats
    with_weights = [
        node for node in graph.node if node.op_type in ("MatMul", "Gemm") and set(node.input) & floats
    ]
    assert {name for node in with_weights for name in node.input if name in floats} == {
        "features.spectrum",
        "features.mel",
    }
    halves = [
        item
        for item in onnx.load(str(out / "model.fp16.onnx")).graph.initializer
        if item.name.startswith("network.")
    ]
    assert halves and all(
        item.data_type == onnx.TensorProto.FLOAT16 for item in halves if "batch_norm" not in item.name
    )


def test_a_dense_model_with_weights_in_a_file_of_their_own(tmp_path, monkeypatch):
    """As above 2 GB, int8 made from such a graph; a name outside the experiment, and two precisions."""
    monkeypatch.setattr(onnx_graph, "_SINGLE_FILE_BYTES", 1000)
    checkpoint = make_checkpoint(tmp_path / "model", DENSE)
    options = [checkpoint, "--exp", tmp_path / "exp", "--precision", "fp32", "--precision", "int8", "--json"]
    result = export(*options)
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    out = tmp_path / "exp" / "onnx" / "model"
    assert facts["directory"] == str(out) and list(facts["graphs"]) == ["fp32", "int8"]
    assert {path.name for path in out.glob("*.onnx*")} == {"model.onnx", "model.onnx.data", "model.int8.onnx"}
    data = out / "model.onnx.data"
    assert data.stat().st_size > 1000
    assert facts["graphs"]["fp32"]["size_bytes"] == (out / "model.onnx").stat().st_size + data.stat().st_size
    refused = export(*options)
    assert refused.exit_code == 2 and "--overwrite" in refused.stderr
    kept = export(*options, "--keep-finished")
    assert kept.exit_code == 0 and json.loads(kept.stdout) == facts


def test_int8_alone_leaves_no_other_graph(exported, tmp_path, monkeypatch):
    written = exported / "onnx" / "pruned" / "model.onnx"
    monkeypatch.setattr(onnx_graph, "write_graph", lambda network, path, dtype: shutil.copy(written, path))
    result = export(
        make_checkpoint(tmp_path / "model", CUT), "--out", tmp_path / "out", "--precision", "int8"
    )
    assert result.exit_code == 0, result.stderr
    assert [path.name for path in (tmp_path / "out").glob("*.onnx*")] == ["model.int8.onnx"]


def test_a_graph_that_gives_other_embeddings_is_refused(exported, tmp_path, monkeypatch):
    written = exported / "onnx" / "pruned" / "model.onnx"
    monkeypatch.setattr(onnx_graph, "write_graph", lambda network, path, dtype: shutil.copy(written, path))
    another = make_checkpoint(tmp_path / "model", CUT, seed=2)
    result = export(another, "--out", tmp_path / "out", "--precision", "fp32")
    assert result.exit_code == 4
    assert "model.onnx: expected torch's embeddings with a cosine of at least 0.9999" in result.stderr
    assert not (tmp_path / "out" / "provenance.json").exists()


def test_what_is_missing_is_said_first(tmp_path, monkeypatch):
    make_teacher(tmp_path / "model", TEACHER)
    assert "no finished model" in export("--exp", tmp_path).stderr
    nowhere = export(tmp_path / "nowhere")
    assert nowhere.exit_code == 4 and "no such checkpoint" in nowhere.stderr
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = export(tmp_path / "model", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "pip install 'svkit[export]'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_graph_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporters' own errors name no file."""
    checkpoint = make_checkpoint(tmp_path / "model", CUT)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx_graph, "write_graph", full)
    result = export(checkpoint, "--out", tmp_path / "onnx", "--precision", "fp32")
    assert result.exit_code == 4 and not (tmp_path / "onnx" / "provenance.json").exists()
    (line,) = result.stderr.splitlines()
    assert (
        line.startswith(f"error: {tmp_path}/onnx/") and "cannot be written: No space left on device" in line
    )
