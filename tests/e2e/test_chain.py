"""From audio to the report through make, on miniature corpora of the real layouts (preset `smoke`)."""

import json
import os
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest

from svkit.progress import SilentProgress
from tests.e2e.conftest import MakeRun, run_make, speech, stage_files, write_audio, write_noise, write_rir

pytestmark = pytest.mark.e2e

STAGES = ("lora", "joint", "lmft")


def _write_trials(path: Path, utterances: Sequence[tuple[str, int]]) -> None:
    pairs = list(combinations(utterances, 2))
    path.write_text("".join(f"{int(a[1] == b[1])} {a[0]} {b[0]}\n" for a, b in pairs))


def _assert_complete(exp: Path, done: MakeRun) -> dict:
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in STAGES:
        assert (exp / "finetune" / stage / "provenance.json").is_file()
    for folder in (
        "prune",
        "distill",
        "finetune-pruned/head",
        "finetune-pruned/joint",
        "finetune-pruned/lmft",
    ):
        names = {path.name for path in (exp / folder).iterdir()}
        assert {"config.json", "model.safetensors", "provenance.json", "train_log.jsonl"} <= names, folder
    for name in ("dense", "pruned"):
        assert (exp / "embeddings" / name / "provenance.json").is_file()
    for name in ("report.json", "report.md", "report.html"):
        assert (exp / "report" / name).stat().st_size > 500
    # The last words are the table and where the report is.
    assert "report" in done.stdout.splitlines()[-1]
    assert "dense" in done.stdout and "pruned" in done.stdout
    # make runs the next stage itself, so only what follows the last one is said.
    assert [line.split()[2] for line in done.stderr.splitlines() if line.startswith("next: ")] == ["verify"]
    _assert_recorded(exp)
    report: dict = json.loads((exp / "report" / "report.json").read_text())
    return report


def _assert_recorded(exp: Path) -> None:
    """Every file is recorded with its hash, but for logs, cards and recordings; and all are what they were."""
    from svkit.tools.integrity import run

    recorded = set()
    for path in exp.rglob("*provenance.json"):
        outputs = json.loads(path.read_text())["outputs"]
        assert outputs, path
        recorded |= {path.parent / entry["name"] for entry in outputs}
    beside = ("run.json", "train_log.jsonl", "README.md", "calibration.json", "config.toml", "bad_files.tsv")
    others = {path.relative_to(exp) for path in exp.rglob("*") if path.is_file() and path not in recorded}
    assert not {
        path
        for path in others
        if not path.name.endswith(("provenance.json", *beside))
        and not any(part.startswith(".") or part == "tensorboard" for part in path.parts)
    }
    assert {tuple(one.faults) for one in run(exp, SilentProgress())} == {()}


def _sparsity(exp: Path) -> float:
    return float(json.loads((exp / "prune" / "provenance.json").read_text())["sparsity"])


def _voxceleb(root: Path) -> Path:
    """VoxCeleb1 test and VoxCeleb2 dev, 2 videos of 2 utterances a speaker; one path has a space in it."""
    for index in range(12):
        for take in range(4):
            name = f"voxceleb2/dev/wav/id{index + 12:05d}/video{take // 2}/{take % 2 + 1:05d}.wav"
            write_audio(root / name, speech(index, take, 1.6 + 0.2 * take))
    utterances = []
    for index in range(4):
        for take in range(4):
            identity = f"id{10270 + index}/video{take // 2}/{take % 2 + 1:05d}.wav"
            write_audio(root / "voxceleb1/test/wav" / identity, speech(100 + index, take, 2.0))
            utterances.append((identity, index))
    _write_trials(root / "mini-O.txt", utterances)
    return root


def _material(root: Path) -> None:
    for index in range(3):
        write_noise(root / f"musan/noise/free-sound/noise-{index}.wav", index)
        write_noise(root / f"musan/music/fma/music-{index}.wav", 10 + index)
        write_audio(root / f"musan/speech/librivox/speech-{index}.wav", speech(200 + index, 0, 3.0))
        write_rir(root / f"RIRS_NOISES/simulated_rirs/smallroom/Room001/rir-{index}.wav", index)
        write_rir(root / f"RIRS_NOISES/simulated_rirs/mediumroom/Room001/rir-{index}.wav", 10 + index)
    annotations = "".join(f"music-{index} pop {'Y' if index == 2 else 'N'} artist\n" for index in range(3))
    (root / "musan/music/fma/ANNOTATIONS").write_text(annotations)


@pytest.mark.slow
def test_voxceleb_chain(tmp_path: Path, encoder_directory: Path, quick_svkit: str) -> None:
    root = _voxceleb(tmp_path / "Vox Celeb")
    _material(tmp_path)
    settings = [
        "all", "CORPUS=voxceleb", f"VOXCELEB={root}", f"MUSAN={tmp_path / 'musan'}",
        f"RIRS={tmp_path / 'RIRS_NOISES'}", f"TRIALS={root / 'mini-O.txt'}", "PRESET=smoke",
        f"ENCODER={encoder_directory}", "SEED=5", quick_svkit,
    ]  # fmt: skip
    done = run_make(tmp_path, *settings)
    exp = tmp_path / "exp-voxceleb"
    report = _assert_complete(exp, done)
    assert "mini-O" in json.dumps(report)
    assert 0.8 <= _sparsity(exp) <= 0.81
    assert json.loads((exp / "finetune/joint/provenance.json").read_text())["seed"] == 5
    noise = (exp / "data/noise.tsv").read_text()
    assert "music-1" in noise and "music-2" not in noise  # with vocals

    # Nothing is made again while nothing has changed; the report and its path are printed all the same.
    before = stage_files(exp)
    again = run_make(tmp_path, *settings)
    assert again.returncode == 0, again.stderr
    assert "svkit finetune" not in again.stdout and "svkit prune" not in again.stdout
    assert stage_files(exp) == before
    assert "report" in again.stdout.splitlines()[-1]

    # Normalised and calibrated on the validation speakers, both models are judged beside their plain cosines.
    done = run_make(tmp_path, "calibrated", *settings[1:])
    assert done.returncode == 0, done.stderr
    report = json.loads((exp / "report/report.json").read_text())
    learnt_on = [one["calibration"]["trials"]["name"] for one in report["systems"] if one["calibration"]]
    assert learnt_on == ["valid_trials", "valid_trials"]
    before = stage_files(exp)

    # Nor where it was moved and renamed, everything looks new to make, and inputs are named from another directory.
    place = tmp_path / "elsewhere"
    place.mkdir()
    moved = exp.rename(place / "renamed")
    for path in moved.rglob("*"):
        path.touch()
    settings = [
        f"{key}={os.path.relpath(value, place)}" if Path(value).is_absolute() else setting
        for setting in settings
        for key, _, value in [setting.partition("=")]
    ]
    again = run_make(place, *settings, "EXP=renamed")
    assert again.returncode == 0, again.stderr
    assert (
        "svkit finetune" in again.stdout and "svkit prune" in again.stdout
    )  # which find their output finished
    assert {name: number for name, (number, _) in stage_files(moved).items()} == {
        name: number for name, (number, _) in before.items()
    }
    for path in moved.rglob("*.json"):
        record = json.loads(path.read_text())
        record.pop("argv", None)  # the user's words
        assert str(exp) not in json.dumps(record), path

    # Another sparsity: the pruned half is made again, the dense half is not.
    last = "renamed/finetune-pruned/lmft/provenance.json"
    before = stage_files(moved)
    again = run_make(place, last, *settings[1:], "EXP=renamed", "SPARSITY=0.6")
    assert again.returncode == 0, again.stderr
    after = stage_files(moved)
    changed = {name for name in before if before[name] != after[name]}
    assert not {name for name in changed if name.startswith(("finetune/", "data/"))}
    assert "prune/model.safetensors" in changed and "finetune-pruned/lmft/model.safetensors" in changed
    assert 0.6 <= _sparsity(moved) <= 0.62


def test_a_published_recipe_without_material_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    for extra in ([], ["NOISE=noise"], ["RIRS=rirs"]):
        done = run_make(
            tmp_path, "all", "CORPUS=folder", "ROOT=recordings", "PRESET=w2v-bert-2.0-no-lora", *extra
        )
        assert done.returncode == 2 and "AUGMENT=none" in done.stderr
    # Said to be meant, it goes on to the next complaint: there is no audio.
    done = run_make(
        tmp_path, "all", "CORPUS=folder", "ROOT=recordings", "PRESET=w2v-bert-2.0", "AUGMENT=none"
    )
    assert done.returncode == 2 and "AUGMENT=none" not in done.stderr and "recordings" in done.stderr


def test_folder_without_root_says_so(tmp_path: Path) -> None:
    done = run_make(tmp_path, "all", "CORPUS=folder", "PRESET=tiny")
    assert done.returncode == 2 and "ROOT=DIR" in done.stderr
