"""What decide.py, which runs without svkit, refuses to decide; with a graph that needs no onnxruntime."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from svkit.eval.results import OperatingPoint
from svkit.scoring.backend import Backend, describe_backend
from svkit.store.calibration import CalibrationRecord, Decision
from svkit.store.exported import DECIDE_NAME
from svkit.store.metrics import ListId
from svkit.tools import export
from tests.tools.decide_script import run_script


class Session:
    """Takes mean and level for an embedding."""

    def __init__(self, graph, **more):
        if graph.read_bytes():
            raise RuntimeError("not a graph")

    def get_modelmeta(self):
        return SimpleNamespace(custom_metadata_map={"checkpoint_sha256": "aa"})

    def run(self, names, inputs):
        wave = inputs["waveforms"][0]
        return (np.array([[wave.mean(), wave.std()]], dtype="float32"),)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").touch()
    shutil.copy(Path(export.__file__).with_name(DECIDE_NAME), tmp_path)
    waves = {"good": np.random.default_rng(0).normal(size=16_000) * 0.1}
    waves |= {"nan": np.where(np.arange(16_000) == 9, np.nan, waves["good"])}
    waves |= {"short": waves["good"][:500], "silent": 0 * waves["good"]}
    for name, wave in waves.items():
        soundfile.write(tmp_path / f"{name}.wav", wave, 16_000, subtype="FLOAT")
    whole = (tmp_path / "good.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[:30_000])
    (tmp_path / "pipe.wav").write_bytes(whole[:4] + b"\xff" * 4 + whole[8:])
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [(["nan.wav"], "undecided: nan.wav: shorter than 35 ms, or with samples that are not finite numbers"),
     (["short.wav"], "undecided: short.wav: shorter than 35 ms, or with samples that are not finite numbers"),
     (["silent.wav"], "undecided: silent.wav: the model gives no usable embedding; check the audio"),
     (["cut.wav"], "undecided: cut.wav: truncated: shorter than its header says; copy it again"),
     (["none.wav"], "undecided: none.wav: No such file or directory"),
     (["pipe.wav"], "undecided: no calibration.json beside the model"),
     (["good.wav", "1.0"], "PRIOR: expected a number above 0 and below 1, found '1.0'"),
     (["good.wav", "nan"], "PRIOR: expected a number above 0 and below 1, found 'nan'"),
     (["good.wav", "x"], "PRIOR: expected a number above 0 and below 1, found 'x'"),
     (["good.wav", "0.1"], "undecided: no calibration.json beside the model")],
)  # fmt: skip
def test_what_cannot_be_decided_is_one_line_and_no_rejection(folder, words, said):
    code, found = run_script(folder, "good.wav", *words)
    assert code == 1 and found.endswith(said + "\n") and "reject" not in found
    assert found.count("\n") == (2 if "calibration" in said else 1)  # the score can be told even so


CALIBRATION = {
    "checkpoint_sha256": "aa", "features": ["score"], "weights": [10.0], "offset": -5.0,
    "bounds": [-3, 3], "decision": None,
}  # fmt: skip


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", *(json.dumps(CALIBRATION | change) for change in (
        {"weights": "x"}, {"weights": []}, {"bounds": None}, {"decision": 1}, {"offset": float("nan")}
    ))],
)  # fmt: skip
def test_a_damaged_calibration_decides_nothing_and_that_is_one_line(folder, content):
    (folder / "calibration.json").write_text(json.dumps(CALIBRATION))
    code, found = run_script(folder, "good.wav", "good.wav")
    assert code == 0 and found.endswith("ratio >= +3.0000\naccept (from a ratio of +0.00 on)\n")
    (folder / "calibration.json").write_text(content)
    code, found = run_script(folder, "good.wav", "good.wav")
    assert code == 1 and found.count("\n") == 2
    assert "score 1.00000\n" in found and "undecided: calibration.json is damaged; export it again: " in found


def test_a_graph_that_is_damaged_or_gone_is_one_line(folder):
    for spoil in (lambda path: path.write_text("x"), Path.unlink):
        spoil(folder / "model.onnx")
        code, found = run_script(folder, "good.wav", "good.wav")
        assert code == 1 and found.count("\n") == 1
        assert "expected model.onnx, whole, beside this script; export it again" in found


def test_what_limits_the_calibration_goes_along_with_the_graph_and_is_said(folder, monkeypatch, capsys):
    record = CalibrationRecord(
        features=("score",), weights=(10.0,), offset=-5.0, prior=0.5, backend=describe_backend(Backend()),
        checkpoint_sha256="aa", trials=ListId(name="held-out", sha256="0"), num_targets=100, num_nontargets=900,
        bounds=(-3.0, 3.0), is_separable=False, cautions=("seen before",),
    )  # fmt: skip
    point = OperatingPoint(threshold=-3.0, miss_rate=0.1, false_accept_rate=0.05)
    missed = replace(record, decision=Decision(point=point, false_accepts=0.01))
    place = folder / "calibration.json"
    known = export._metadata(2, "aa", {"sha256": "b"}, (place, missed))
    trusted = export._metadata(2, "aa", {"sha256": "b"}, (place, replace(record, cautions=())))
    assert not {"calibration_warnings", "calibration_limits"} & set(trusted)
    monkeypatch.setattr(Session, "get_modelmeta", lambda self: SimpleNamespace(custom_metadata_map=known))
    place.write_text(json.dumps(CALIBRATION))
    for prior, limits in (([], ["note: the target of 1 % false accepts was missed"]), (["0.5"], [])):
        code, found = run_script(folder, "good.wav", "good.wav", *prior)
        assert code == 0 and "note" not in found  # for scripts, which read the other lines
        warning, *others = capsys.readouterr().err.splitlines()
        assert warning == "note: the calibration was learnt in spite of a warning: seen before"
        assert [line[:48] for line in others] == limits
    often = Decision(point=replace(point, threshold=9.0, miss_rate=0.43), false_accepts=0.1)
    known = export._metadata(2, "aa", {"sha256": "b"}, (place, replace(missed, decision=often, cautions=())))
    for threshold, notes in (
        (9.0, 1),
        (-3.0, 0),
    ):  # its misses matter to a rejection
        decision = {"false_accepts": 0.1, "point": {"threshold": threshold}}
        place.write_text(json.dumps(CALIBRATION | {"decision": decision}))
        code, found = run_script(folder, "good.wav", "good.wav")
        assert code == 0 and ("reject" in found) == (notes == 1)
        assert capsys.readouterr().err.count("note: a rejection alone is weak evidence: where it") == notes
