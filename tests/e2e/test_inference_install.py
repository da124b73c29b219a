"""What docs/inference_install.md leaves out of an installation is not needed to embed, verify, extract and score."""

import importlib
import re
from pathlib import Path

import pytest
import soundfile
from packaging.requirements import Requirement

from tests.e2e.conftest import REPOSITORY, speech
from tests.test_project_files import PROJECT
from tests.training_experiment import make_teacher


@pytest.mark.e2e
@pytest.mark.slow
def test_inference_works_without_what_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    script = importlib.import_module("install_size")
    page = (REPOSITORY / "docs" / "inference_install.md").read_text("utf-8")
    (block,) = [text for text in re.findall(r"```text\n(.*?)```", page, re.DOTALL) if "--no-deps ." in text]
    named = {Requirement(word.strip("'")).name for word in block.split() if re.match("'?[a-z]", word)}
    assert named - {"pip", "install"} == set(script.INFERENCE)

    asked = {Requirement(text).name.replace("_", "-") for text in PROJECT["dependencies"]}
    assert set(script.INFERENCE) < asked
    left_out = script.closure(["svkit"]) - script.closure(script.INFERENCE) - {"svkit"}
    assert {"transformers", "peft", "scikit-learn", "matplotlib", "tensorboard"} <= left_out

    checkpoint = make_teacher(tmp_path / "model")
    audio = tmp_path / "audio"
    for number, speaker in enumerate("uvw"):
        (audio / speaker).mkdir(parents=True)
        for take in range(2):
            soundfile.write(audio / speaker / f"{take}.wav", speech(number, take, 0.8), 16_000)
    ids = [f"{speaker}/{take}.wav" for speaker in "uvw" for take in range(2)]
    pairs = [(a, b) for place, a in enumerate(ids) for b in ids[place + 1 :]]
    trials = tmp_path / "trials.txt"
    trials.write_text("".join(f"{int(a[0] == b[0])} {a} {b}\n" for a, b in pairs))
    hidden = script.modules_of(left_out)
    assert len(script.try_without(hidden, checkpoint, audio, trials)) == 4

    # It is the hiding that is tested: without what is needed, the same fails.
    with pytest.raises(RuntimeError, match="safetensors"):
        script.try_without(["safetensors"], checkpoint, audio, trials)
