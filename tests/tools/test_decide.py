"""What decide.py, which runs without svkit, refuses to decide; with a graph that needs no onnxruntime."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from svkit.store.exported import DECIDE_NAME
from svkit.tools import export
from tests.tools.decide_script import run_script


class Session:
    """Takes mean and level for an embedding."""

    def __init__(self, *given, **more):
        pass

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
    for name, wave in {**waves, "short": waves["good"][:500]}.items():
        soundfile.write(tmp_path / f"{name}.wav", wave, 16_000, subtype="FLOAT")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [(["nan.wav"], "undecided: nan.wav: shorter than 35 ms, or with samples that are not finite numbers"),
     (["short.wav"], "undecided: short.wav: shorter than 35 ms, or with samples that are not finite numbers"),
     (["good.wav", "1.0"], "PRIOR: expected a number above 0 and below 1, found '1.0'"),
     (["good.wav", "nan"], "PRIOR: expected a number above 0 and below 1, found 'nan'"),
     (["good.wav", "x"], "PRIOR: expected a number above 0 and below 1, found 'x'"),
     (["good.wav", "0.1"], "undecided: no calibration.json beside the model")],
)  # fmt: skip
def test_what_cannot_be_decided_is_one_line_and_no_rejection(folder, words, said):
    code, found = run_script(folder, "good.wav", *words)
    assert code == 1 and found.endswith(said + "\n") and "reject" not in found
    assert found.count("\n") == (2 if "calibration" in said else 1)  # the score can be told even so
