"""What decide.py, which runs without svkit, refuses to decide; with a graph that needs no onnxruntime."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from svkit.store.exported import DECIDE_NAME
from svkit.tools import export

RUNTIME = """
import numpy as np
class InferenceSession:
    def __init__(self, *given, **more): pass
    def run(self, names, inputs):
        wave = inputs["waveforms"][0]
        return (np.array([[wave.mean(), wave.std()]], dtype="float32"),)
"""


@pytest.fixture
def decide(tmp_path):
    (tmp_path / "onnxruntime.py").write_text(RUNTIME)
    (tmp_path / "model.onnx").touch()
    shutil.copy(Path(export.__file__).with_name(DECIDE_NAME), tmp_path)
    waves = {"good": np.random.default_rng(0).normal(size=16_000) * 0.1}
    waves |= {"nan": np.where(np.arange(16_000) == 9, np.nan, waves["good"])}
    for name, wave in {**waves, "short": waves["good"][:500]}.items():
        soundfile.write(tmp_path / f"{name}.wav", wave, 16_000, subtype="FLOAT")

    def run(*words):
        command = [sys.executable, "-O", DECIDE_NAME, *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize(
    ("words", "said"),
    [(["nan.wav"], "undecided: nan.wav: shorter than 35 ms, or with samples that are not finite numbers"),
     (["short.wav"], "undecided: short.wav: shorter than 35 ms, or with samples that are not finite numbers"),
     (["good.wav", "1.0"], "PRIOR: expected a number above 0 and below 1, found '1.0'"),
     (["good.wav", "nan"], "PRIOR: expected a number above 0 and below 1, found 'nan'"),
     (["good.wav", "x"], "PRIOR: expected a number above 0 and below 1, found 'x'"),
     (["good.wav", "0.1"], "undecided: no calibration.json beside the model")],
)  # fmt: skip
def test_what_cannot_be_decided_is_one_line_and_no_rejection(decide, words, said):
    done = decide("good.wav", *words)
    assert done.returncode == 1 and done.stderr == said + "\n" and "reject" not in done.stdout
