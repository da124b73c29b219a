"""`svkit doctor`: finds what is wrong with an environment, from inside it."""

import importlib.metadata
import json
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from typer.testing import CliRunner

from svkit import torch_pair
from svkit.cli.app import app
from svkit.tools import doctor


def run(tmp_path: Path) -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.run(tmp_path / "exp")}


def test_this_environment_is_ready(tmp_path):
    result = CliRunner().invoke(app, ["doctor", "--exp", str(tmp_path / "exp")])
    assert result.exit_code == 0, result.stdout
    assert "svkit can work here" in result.stdout
    result = CliRunner().invoke(app, ["doctor", "--json", "--exp", str(tmp_path / "exp")])
    facts = json.loads(result.stdout)
    names = [check["name"] for check in facts["checks"]]
    for name in ("python", "packages", "torch pair", "bf16", "disk", "ffmpeg", "audio formats", "encoder"):
        assert name in names
    assert facts["is_ready"] and facts["versions"]["libraries"]["torch"]
    assert not (tmp_path / "exp").exists()


def test_a_package_out_of_its_range_or_missing_is_an_error_with_the_command(tmp_path, monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "peft":
            raise importlib.metadata.PackageNotFoundError(name)
        return "4.40.0" if name == "transformers" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = run(tmp_path)
    assert "packages" not in found
    assert (
        found["transformers"].status == doctor.ERROR
        and "4.40.0, needs <6,>=5.17" in found["transformers"].found
    )
    assert found["peft"].remedy and found["peft"].remedy.startswith("pip install 'peft")
    result = CliRunner().invoke(app, ["doctor", "--exp", str(tmp_path)])
    assert result.exit_code == 2 and "problems to fix: 2" in result.stdout


@pytest.mark.parametrize(("torch", "torchaudio"), [("2.11.0", "2.8.0"), ("2.11.0+cu130", "2.11.1")])
def test_a_torch_and_torchaudio_that_do_not_fit(tmp_path, monkeypatch, torch, torchaudio):
    monkeypatch.setattr(torch_pair, "version", {"torch": torch, "torchaudio": torchaudio}.__getitem__)
    assert run(tmp_path)["torch pair"].status == doctor.ERROR
    result = CliRunner().invoke(app, ["info", str(tmp_path)])
    assert (
        result.exit_code == 2 and f"torchaudio {torchaudio}; install a pair from one index" in result.stderr
    )
    assert CliRunner().invoke(app, ["doctor", "--exp", str(tmp_path)]).exit_code == 2


def test_a_package_that_breaks_at_import_does_not_break_the_doctor(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    found = run(tmp_path)
    assert found["torch pair"].status == found["audio formats"].status == doctor.ERROR
    assert found["disk"].status != doctor.ERROR and found["python"].status == doctor.OK


@pytest.mark.parametrize("name", ["file", "loop"])
def test_a_file_or_a_dead_link_is_no_place_for_an_experiment(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for exp in (tmp_path / name, tmp_path / name / "exp"):
        [found] = [check for check in doctor._disk(exp) if check.name == "disk"]
        assert found.status == doctor.ERROR and "is no directory" in found.found


def test_small_disks_missing_ffmpeg_and_a_bad_experiment(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**28, 0, 2**28))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "config.toml").write_text("presett = 'tiny'\n")
    found = run(tmp_path)
    for name, word in (
        ("disk", "15 GB"),
        ("shared memory", "--shm-size"),
        ("ffmpeg", "apt-get install ffmpeg"),
    ):
        assert found[name].status == doctor.NOTE and word in (found[name].remedy or "")
    assert found["experiment"].status == doctor.ERROR and "presett" in found["experiment"].found
