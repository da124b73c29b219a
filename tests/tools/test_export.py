"""`svkit export`: graphs that give torch's embeddings for any length, batch and structure."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
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
from svkit.errors import ArtifactError
from svkit.eval.llr import bayes_threshold
from svkit.eval.results import OperatingPoint
from svkit.nn.speaker import SpeakerNetwork
from svkit.scoring.backend import Backend, describe_backend
from svkit.scoring.ratio import PAIR_FEATURES
from svkit.store import checkpoint as store
from svkit.store.calibration import CalibrationRecord, Decision, read_calibration, write_calibration
from svkit.store.metrics import ListId
from svkit.store.provenance import read_provenance, sha256_artifact, sha256_file
from svkit.tools import export as stage
from svkit.tools import onnx_graph
from tests.processes import fork_server
from tests.random_models import draw_weights
from tests.tools.decide_script import run_script
from tests.training_experiment import TEACHER, finish, make_teacher

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

DENSE = EncoderArchitecture.uniform(num_layers=2, hidden_size=24, num_heads=3, ffn_dim=20)
CUT = DENSE.with_widths({"num_heads": [2, 0], "ffn1_dim": [0, 7], "ffn2_dim": [9, 1], "conv_dim": [5, 0]})
HEAD = HeadConfig(adapter_dim=6, attention_dim=5, embedding_dim=8)


def make_checkpoint(directory: Path, encoder: EncoderArchitecture, seed: int = 1) -> Path:
    widths = {name: tuple(values) for name, values in DENSE.widths().items()}
    architecture = ModelArchitecture(
        encoder=encoder, head=HEAD, dense_widths=widths if encoder is CUT else None
    )
    network = SpeakerNetwork(architecture)
    draw_weights(network, seed)
    store.write_model(directory, architecture, network.state_dict())
    finish(directory)
    return directory


@pytest.fixture(autouse=True)
def write_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faster, and tests may replace the writer."""
    monkeypatch.setattr(stage, "_alone", lambda call, *arguments: call(*arguments))


def invoke(*arguments: Any) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def export(*arguments: Any) -> Result:
    return invoke("export", *arguments)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cut model in all precisions, where `svkit export` puts it without being told.

    Each graph is written by a process of its own, which is forked: one that is spawned takes seconds to import torch.
    """
    exp = tmp_path_factory.mktemp("export")
    make_checkpoint(exp / "finetune-pruned" / "lmft", CUT)
    calibrate(exp)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "get_context", lambda method: {"spawn": fork_server()}[method])
        result = export("--exp", exp)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == str(exp / "onnx" / "pruned")
    assert "onnx int8" in result.stdout and "times torch" in result.stdout
    return exp


def calibrate(exp: Path, path: Path | None = None, **changes: Any) -> None:
    """Write a calibration of the pruned model, whose scores of noise are near 1."""
    directory = exp / "finetune-pruned" / "lmft"
    facts = {
        "features": ("score",), "weights": (12.0,), "offset": -10.0, "prior": 0.05,
        "backend": describe_backend(Backend()), "checkpoint_sha256": sha256_artifact(directory),
        "trials": ListId(name="held-out", sha256="0"), "num_targets": 100, "num_nontargets": 900,
        "bounds": (-20.0, 20.0), "is_separable": False,
    }  # fmt: skip
    write_calibration(path or directory / "calibration.json", CalibrationRecord(**(facts | changes)))


def noise(seed: int, num_samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def cosines(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)


def test_files_and_facts(exported):
    out = exported / "onnx" / "pruned"
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert names == {
        "model.onnx", "model.fp16.onnx", "model.int8.onnx", "export.json", "provenance.json", "run.json",
        "calibration.json", "decide.py",
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
    assert [entry["name"] for entry in read_provenance(out)["inputs"]] == ["checkpoint", "calibration"]


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


def record(path: Path, seed: int, rate: int = 44_100, seconds: float = 1.6) -> Path:
    """Write 16-bit stereo; the second channel is another voice."""
    rng = np.random.default_rng(seed)
    wave = rng.standard_normal((round(rate * seconds), 2))
    smooth = np.stack(
        [np.convolve(wave[:, side], np.ones(3 + seed % 5 + 2 * side), "same") for side in (0, 1)], axis=1
    )
    soundfile.write(path, 0.05 * smooth, rate, subtype="PCM_16")
    return path


DECISION = Decision(point=OperatingPoint(threshold=1.5, miss_rate=0.1, false_accept_rate=0.01))


@pytest.mark.parametrize(
    ("changes", "prior"),
    [
        ({}, None),
        ({"bounds": None, "is_separable": None}, 0.2),
        ({"features": PAIR_FEATURES, "weights": (9.0, 0.5, -0.4, 2.0, -1.0)}, None),
        ({"decision": replace(DECISION, false_accepts=0.01)}, None),
        ({"decision": replace(DECISION, p_target=0.01, c_fa=10.0), "bounds": (-3.0, 2.0)}, None),
        ({"decision": DECISION}, 0.9),
    ],
)
def test_the_script_in_the_folder_decides_as_verify_does(exported, tmp_path, changes, prior):
    """Files of 44.1 kHz and 22.05 kHz, stereo, one beyond 60 s: score to 1e-4, ratio to 2e-3."""
    if changes.get("decision") and changes["decision"].c_fa > 1:
        limit = bayes_threshold(0.01, 1.0, 10.0)
        changes["decision"] = replace(changes["decision"], point=replace(DECISION.point, threshold=limit))
    checkpoint = exported / "finetune-pruned" / "lmft"
    calibrate(exported, path=tmp_path / "mine.json", **changes)
    folder = tmp_path / "folder"
    shutil.copytree(exported / "onnx" / "pruned", folder)
    written = stage._write_calibration(
        folder, (tmp_path / "mine.json", read_calibration(tmp_path / "mine.json"))
    )
    assert written is not None
    pair = [
        record(tmp_path / "a.wav", 1),
        record(tmp_path / "b.flac", 2, rate=22_050, seconds=61.5 if not changes else 2.0),
    ]
    asked = ["verify", *pair, "--model", checkpoint, "--calibration", tmp_path / "mine.json", "--json"]
    done = invoke(*asked, *([] if prior is None else ["--prior", prior]))
    assert done.exit_code == 0, done.stderr
    expected = json.loads(done.stdout)
    words = [*pair, *([] if prior is None else [prior])]
    said = decide(folder, *words)
    if not changes:
        assert alone(folder, *words) == said
    score, ratio, verdict = re.fullmatch(
        r"score (.+)\nlog-likelihood ratio (.+)\n(accept|reject) .*\n", said
    ).groups()
    assert float(score) == pytest.approx(expected["score"], abs=1e-4)
    assert float(ratio) == pytest.approx(expected["llr"], abs=2e-3)
    assert (verdict == "accept") == expected["is_accepted"]


_ALONE = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    assert not {"torch", "svkit"} & set(sys.modules)
"""


def alone(folder: Path, *words: Any) -> str:
    """Return what the script says in a process of its own, where it must import neither torch nor svkit."""
    command = [sys.executable, "-c", _ALONE, folder / "decide.py", *words]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout


def decide(folder: Path, *words: Any, code: int = 0) -> str:
    found, said = run_script(folder, *words)
    assert found == code, said
    return said


def test_what_the_folder_says_of_itself(exported):
    import onnxruntime

    out, checkpoint = exported / "onnx" / "pruned", exported / "finetune-pruned" / "lmft"
    facts = json.loads((out / "export.json").read_text())
    assert read_calibration(out / "calibration.json") == read_calibration(checkpoint / "calibration.json")
    assert facts["calibration"]["sha256"] == sha256_file(out / "calibration.json")
    for name in ("model.onnx", "model.fp16.onnx", "model.int8.onnx"):
        session = onnxruntime.InferenceSession(out / name, providers=["CPUExecutionProvider"])
        found = session.get_modelmeta().custom_metadata_map
        assert facts["metadata"].items() <= found.items(), name
    assert facts["metadata"]["calibration_sha256"] == facts["calibration"]["sha256"]
    known = {"framework": "svkit", "format_version": "1", "sample_rate": "16000", "output_dim": "8"}
    known |= {"normalize_samples": "1", "checkpoint_sha256": sha256_artifact(checkpoint)}
    assert known.items() <= facts["metadata"].items() and "waveforms" in facts["metadata"]["input"]
    lines = (out / "decide.py").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("folder ="))
    assert sum(bool(line.strip()) for line in lines[start:]) <= 60


def test_a_calibration_that_cannot_come_along_is_left_out_and_that_is_said(exported, tmp_path, monkeypatch):
    written = exported / "onnx" / "pruned" / "model.onnx"
    monkeypatch.setattr(onnx_graph, "write_graph", lambda network, path, *_: shutil.copy(written, path))
    source = exported / "finetune-pruned" / "lmft"
    checkpoint = tmp_path / "model"
    shutil.copytree(source, checkpoint)
    asked = [checkpoint, "--out", tmp_path / "out", "--precision", "fp32"]
    calibrate(
        exported,
        path=checkpoint / "calibration.json",
        features=("score", "cohort_mean_low"),
        weights=(1.0, 1.0),
    )
    result = export(*asked)
    assert result.exit_code == 0 and "the calibration is left out" in result.stderr
    assert "cohort_mean_low" in result.stderr
    out = tmp_path / "out"
    assert not (out / "calibration.json").exists()
    assert json.loads((out / "export.json").read_text())["calibration"] is None
    pair = [record(tmp_path / "a.wav", 1), record(tmp_path / "b.wav", 2)]
    assert "undecided" in decide(out, *pair, code=1)
    assert "usage: decide.py A.wav B.wav" in decide(out, pair[0], code=1)
    (tmp_path / "text.wav").write_text("no audio")
    record(tmp_path / "short.wav", 3, seconds=0.02)
    for name, why in (
        ("nowhere.wav", ": No such file or directory\n"),
        ("text.wav", "not recognised"),
        ("short.wav", "shorter than 35 ms"),
    ):
        said = decide(out, pair[0], tmp_path / name, code=1)
        assert said.startswith("undecided: ") and name in said and why in said and said.count("\n") == 1
    # One that is given has to fit; one that fits makes the folder anew, with another it is another folder.
    given = export(*asked, "--calibration", checkpoint / "calibration.json", "--overwrite")
    assert given.exit_code == 4 and "two sides and no cohort" in given.stderr
    (checkpoint / "calibration.json").unlink()
    kept = export(*asked, "--keep-finished")
    assert kept.exit_code == 0 and "svkit calibrate PEOPLE --model" in kept.stderr
    calibrate(exported, path=checkpoint / "calibration.json")
    assert export(*asked, "--keep-finished").exit_code == 2
    assert export(*asked, "--keep-finished", "--overwrite").exit_code == 0
    said = decide(out, *pair)
    assert "log-likelihood ratio" in said and ("accept" in said) != ("reject" in said)
    content = json.loads((out / "calibration.json").read_text())
    (out / "calibration.json").write_text(json.dumps(content | {"checkpoint_sha256": "0" * 64}))
    assert "of another model" in decide(out, *pair, code=1)


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


def test_products_that_share_their_weights_share_them_in_int8(tmp_path):
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = rng.standard_normal((16, 16)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("Gemm", ["b", "w"], ["y"], transB=1),
    ]
    kinds = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4, 16]) for name in "xy"]
    graph = helper.make_graph(nodes, "shared", kinds[:1], kinds[1:], [numpy_helper.from_array(weights, "w")])
    opsets = [helper.make_opsetid("", onnx_graph.OPSET)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(tmp_path / "float.onnx"))
    onnx_graph.quantise(tmp_path / "float.onnx", tmp_path / "int8.onnx")
    made = onnx.load(str(tmp_path / "int8.onnx")).graph.initializer
    assert sum(item.data_type == onnx.TensorProto.INT8 for item in made) == 2  # one for each orientation
    assert not [item.name for item in made if item.name == "w"]
    x = rng.standard_normal((4, 16)).astype(np.float32)
    (found,) = onnxruntime.InferenceSession(tmp_path / "int8.onnx").run(None, {"x": x})
    assert cosines(found, x @ weights @ weights @ weights.T).min() > 0.99


def test_a_dense_model_with_weights_in_a_file_of_their_own(tmp_path, monkeypatch):
    """As above 2 GB, int8 made from such a graph; a name outside the experiment, and two precisions."""
    monkeypatch.setattr(onnx_graph, "_SINGLE_FILE_BYTES", 1000)
    one_layer = EncoderArchitecture.uniform(num_layers=1, hidden_size=24, num_heads=3, ffn_dim=20)
    checkpoint = make_checkpoint(tmp_path / "model", one_layer)
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
    monkeypatch.setattr(onnx_graph, "write_graph", lambda network, path, *_: shutil.copy(written, path))
    result = export(
        make_checkpoint(tmp_path / "model", CUT), "--out", tmp_path / "out", "--precision", "int8"
    )
    assert result.exit_code == 0, result.stderr
    assert [path.name for path in (tmp_path / "out").glob("*.onnx*")] == ["model.int8.onnx"]


def test_a_graph_that_gives_other_embeddings_is_refused(exported, tmp_path, monkeypatch):
    written = exported / "onnx" / "pruned" / "model.onnx"
    monkeypatch.setattr(onnx_graph, "write_graph", lambda network, path, *_: shutil.copy(written, path))
    another = make_checkpoint(tmp_path / "model", CUT, seed=2)
    result = export(another, "--out", tmp_path / "out", "--precision", "fp32")
    assert result.exit_code == 4
    assert "model.onnx: expected torch's embeddings with a cosine of at least 0.9999" in result.stderr
    assert not (tmp_path / "out" / "provenance.json").exists()


@pytest.mark.parametrize("damage", ["cut short", "no graph", "empty", "weights cut short"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_graph_damaged_after_it_was_written_is_one_line(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, precision: str
) -> None:
    """As by another process, or a disk that gives other bytes: int8 is made from the float32 graph."""
    import onnx

    whole = (exported / "onnx" / "pruned" / "model.onnx").read_bytes()

    def write(network: object, path: Path, *_: object) -> None:
        if damage == "weights cut short":
            onnx.save_model(
                onnx.load_from_string(whole),
                path,
                save_as_external_data=True,
                location="data",
                size_threshold=0,
            )
            os.truncate(path.with_name("data"), 100)
        else:
            path.write_bytes(
                {"cut short": whole[: len(whole) // 2], "no graph": b"words", "empty": b""}[damage]
            )

    monkeypatch.setattr(onnx_graph, "write_graph", write)
    checkpoint = exported / "finetune-pruned" / "lmft"
    done = export(checkpoint, "--out", tmp_path / "out", "--precision", precision)
    assert done.exit_code == 4 and done.stderr.splitlines()[-1].startswith("error: ")
    assert ".onnx: cannot be used: " in done.stderr and "export it again" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out" / "provenance.json").exists()


def test_what_is_missing_is_said_first(tmp_path, monkeypatch):
    make_teacher(tmp_path / "model", TEACHER)
    assert "no finished model" in export("--exp", tmp_path).stderr
    nowhere = export(tmp_path / "nowhere")
    assert nowhere.exit_code == 4 and "a name on the hub (OWNER/NAME)" in nowhere.stderr
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = export(tmp_path / "model", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "pip install 'svkit[export]'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_killed_writer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(ArtifactError, match="was killed; is there enough memory"):
        stage._alone(signal.raise_signal, signal.SIGKILL)


def test_an_error_of_the_writer_keeps_its_type_and_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match="/no/where") as found:
        stage._alone(os.stat, "/no/where")
    assert "call(*arguments)" in str(found.value.__cause__)


class Stop(BaseException):
    """As signals raise."""


def test_a_signal_does_not_wait_for_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    def stop(*_: Any) -> None:
        raise Stop

    previous, start = signal.signal(signal.SIGALRM, stop), time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 1)
        with pytest.raises(Stop):
            stage._alone(time.sleep, 120)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert time.monotonic() - start < 60 and not multiprocessing.active_children()


def test_a_graph_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporters' own errors name no file."""
    checkpoint = make_checkpoint(tmp_path / "model", CUT)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx_graph, "write_graph", full)
    result = export(checkpoint, "--out", tmp_path / "onnx", "--precision", "fp32")
    assert result.exit_code == 4 and not (tmp_path / "onnx" / "provenance.json").exists()
    line = result.stderr.splitlines()[-1]
    assert (
        line.startswith(f"error: {tmp_path}/onnx/") and "cannot be written: No space left on device" in line
    )
