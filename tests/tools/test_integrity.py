"""Finished outputs are what they were: commands that read one refuse changed content, `info --check` finds it."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

from svkit.cli.app import app
from svkit.store.checkpoint import read_tensors
from svkit.store.embeddings import write_embeddings
from svkit.store.manifest import read_manifest
from svkit.store.output import Output
from svkit.store.provenance import read_provenance
from tests.training_experiment import make_teacher, prepare, set_options

pytestmark = pytest.mark.usefixtures("fresh_process", "plain_reports")


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


def record(exp: Path, directory: Path, **inputs: Path) -> Path:
    """Finish a checkpoint as a command does."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != "provenance.json"]
    Output(directory, command="finetune", config={}, inputs=inputs, experiment=exp).finish(files=files)
    return directory


def overwrite_floats(path: Path, number: int = 200) -> tuple[int, int]:
    """Overwrite so many floats in the middle of a file, in place; size and time of change stay."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size // 2 // 4 * 4)
        file.write(np.full(number, 0.5, np.float32).tobytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    return after.st_size, after.st_mtime_ns


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment with two finished checkpoints, the second made from the first."""
    exp = prepare(tmp_path_factory.mktemp("integrity") / "exp")
    teacher = record(exp, make_teacher(exp / "finetune" / "joint"), train=exp / "data" / "train.tsv")
    record(exp, make_teacher(exp / "prune", seed=2), teacher=teacher)
    return exp


@pytest.fixture
def exp(home: Path, tmp_path: Path) -> Path:
    """A copy of it as `cp -r` makes it: other times of change."""
    copied = Path(shutil.copytree(home, tmp_path / "exp", copy_function=shutil.copyfile))
    entry = read_provenance(copied / "prune")["outputs"][0]
    assert (copied / "prune" / entry["name"]).stat().st_mtime_ns != entry["mtime_ns"]
    return copied


COMMANDS = {
    "finetune": ["finetune", "--from", "CKPT", "--stage", "lmft"],
    "prune": ["prune", "--teacher", "CKPT"],
    "distill": ["distill", "--student", "CKPT", "--teacher", "CKPT"],
    "extract": ["extract", "--model", "CKPT", "--manifest", "EXP/data/valid.tsv"],
    "verify": ["verify", "EXP/a.wav", "EXP/b.wav", "--model", "CKPT"],
    "export": ["export", "CKPT"],
    "info --check": ["info", "--check", "CKPT"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_overwritten_weights_are_refused(exp: Path, command: str) -> None:
    """Of equal size and time of change, which `read_tensors` takes as they are."""
    if command == "export":
        pytest.importorskip("onnx")
    for name in ("a.wav", "b.wav"):
        soundfile.write(exp / name, 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    weights = exp / "finetune" / "joint" / "model.safetensors"
    recorded = read_provenance(weights.parent)["outputs"]
    os.utime(weights, ns=(1, next(entry["mtime_ns"] for entry in recorded if entry["name"] == weights.name)))
    overwrite_floats(weights)
    read_tensors(weights)
    words = [word.replace("EXP", str(exp)).replace("CKPT", str(weights.parent)) for word in COMMANDS[command]]
    recipe = (
        ["--preset", "smoke", *set_options()]
        if command in ("finetune", "prune", "distill", "extract")
        else []
    )
    out = exp / "out"
    places = ["--out", out] if recipe or command == "export" else []
    result = run(*words, *(["--exp", exp]), *recipe, *places)
    assert result.exit_code == 4, result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ") and f"{weights}: expected sha256 " in line, result.output
    assert "it has changed since it was finished" in line and "--overwrite" in line and not out.exists()


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Path, list[object]]:
    """Two systems, scored by the command that is returned with the experiment."""
    exp = prepare(tmp_path / "scored")
    ids = list(read_manifest(exp / "data" / "valid.tsv").utterance_ids)
    for number, name in enumerate(("one", "two")):
        matrix = np.random.default_rng(number).standard_normal((len(ids), 64)).astype(np.float32)
        write_embeddings(exp / "embeddings" / name, ids, matrix, {"model": name})
        record(exp, exp / "embeddings" / name)
    words: list[object] = ["score", exp / "data" / "valid_trials.txt", "--exp", exp]
    assert run(*words).exit_code == 0
    return exp, words


def test_overwritten_embeddings_are_refused(scored: tuple[Path, list[object]]) -> None:
    exp, words = scored
    matrix = exp / "embeddings" / "two" / "embeddings.safetensors"
    overwrite_floats(matrix)
    for more in (["--overwrite"], ["--keep-finished"], ["--embeddings", matrix.parent, "--overwrite"]):
        result = run(*words, *more)
        assert result.exit_code == 4 and f"{matrix}: expected sha256 " in result.stderr, result.output


def test_changed_scores_are_refused(scored: tuple[Path, list[object]]) -> None:
    """By fusion, report and the comparison of a system that is kept with one that is scored again."""
    exp, words = scored
    scores = exp / "scores" / "one" / "valid_trials" / "scores.tsv"
    before = scores.stat()
    text = scores.read_text()
    line = next(line for line in text.splitlines() if line.endswith(("1", "2", "3")))
    scores.write_text(text.replace(line, line[:-1] + "7"))
    os.utime(scores, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert scores.stat().st_size == before.st_size
    shutil.rmtree(exp / "scores" / "two")
    assert run(*words, "--embeddings", exp / "embeddings" / "two").exit_code == 0
    both = ["--fuse", scores.parent, "--fuse", exp / "scores" / "two" / "valid_trials"]
    for command in ([*words, *both], ["report", "--exp", exp], [*words, "--keep-finished"]):
        result = run(*command)
        assert result.exit_code == 4 and f"{scores}: expected sha256 " in result.stderr, result.output
    assert not (exp / "report" / "provenance.json").exists()


def test_plain_info_looks_at_size_and_time(exp: Path) -> None:
    weights = exp / "prune" / "model.safetensors"
    assert run("info", weights.parent).exit_code == 0  # a copy: another time, equal bytes
    overwrite_floats(weights)
    result = run("info", weights.parent)
    assert result.exit_code == 4 and f"{weights}: expected sha256 " in result.stderr


def test_a_whole_experiment_is_checked(exp: Path) -> None:
    result = run("info", "--check", exp)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"ok     {exp}/finetune/joint: 4 files, 1 input",
        f"ok     {exp}/prune: 4 files, 1 input",
    ]
    for name in ("finetune/joint/README.md", "finetune/joint/calibration.json", "prune/train_log.jsonl"):
        (exp / name).write_text("later")
    os.utime(exp / "prune" / "config.json")
    assert run("info", "--check", "--exp", exp).exit_code == 0
    overwrite_floats(exp / "finetune" / "joint" / "classifier.safetensors", 3)
    (exp / "prune" / "speakers.tsv").unlink()
    result = run("info", "--check", exp)
    assert result.exit_code == 4
    teacher, student = result.stdout.splitlines()
    classifier = exp / "finetune" / "joint" / "classifier.safetensors"
    assert teacher.startswith(f"FAILED {exp}/finetune/joint: {classifier}: expected sha256 ")
    assert f"{exp}/prune/speakers.tsv: does not exist" in student
    # The chain: what the student was made from no longer exists.
    assert f"{exp}/finetune/joint: expected sha256 " in student and "since this was made (teacher)" in student
    assert f"error: {exp}: 2 of 2 finished outputs have changed" in result.stderr
    facts = json.loads(run("info", "--check", exp, "--json").stdout)
    assert [len(one["faults"]) for one in facts] == [1, 2] and facts[0]["command"] == "finetune"


def test_an_output_that_is_not_finished_is_named(exp: Path) -> None:
    (exp / "prune" / "provenance.json").rename(exp / "prune" / "run.json")
    result = run("info", "--check", exp)
    assert result.exit_code == 0 and result.stdout.splitlines()[1] == f"open   {exp}/prune: not finished"
    assert [one["is_finished"] for one in json.loads(run("info", "--check", exp, "--json").stdout)] == [
        True,
        False,
    ]


def test_what_was_made_before_hashes_is_said_and_read(exp: Path) -> None:
    path = exp / "prune" / "provenance.json"
    old = json.loads(path.read_text())
    del old["outputs"]
    path.write_text(json.dumps(old))
    shutil.rmtree(exp / "finetune")
    overwrite_floats(exp / "prune" / "model.safetensors")
    result = run("info", "--check", exp)
    assert result.exit_code == 0, result.output
    assert "0 files, 0 inputs; made by an earlier svkit, which recorded no hashes" in result.stdout
    assert "input teacher no longer exists" in result.stdout
    assert run("info", exp / "prune").exit_code == 0


def test_lists_with_a_provenance_of_their_own_are_checked(tmp_path: Path) -> None:
    for name in ("a.tsv", "b.tsv"):
        (tmp_path / name).write_text("rows")
    inputs = {"list": tmp_path / "b.tsv"}
    with Output(tmp_path / "out", command="test", config={}, inputs=inputs).open() as output:
        output.finish()
    Output(tmp_path / "a.tsv", command="x", config={}, inputs={}, kind="list").finish(
        files=[tmp_path / "a.tsv"]
    )
    assert run("info", "--check", tmp_path).exit_code == 0
    for name in ("a.tsv", "b.tsv"):
        (tmp_path / name).write_text("ROWS")
    result = run("info", "--check", tmp_path)
    assert result.exit_code == 4 and [line[:6] for line in result.stdout.splitlines()] == ["FAILED", "FAILED"]
    (tmp_path / "a.provenance.json").write_text("{")
    result = run("info", "--check", tmp_path)
    assert result.exit_code == 4 and "a.provenance.json: not a JSON file" in result.stdout


def test_nothing_to_check_is_said(tmp_path: Path) -> None:
    for words in (["--check", tmp_path], ["--check", tmp_path / "none"]):
        result = run("info", *words)
        assert result.exit_code == 4 and "no finished output there or below" in result.stderr
    result = run("info", "--exp", tmp_path)
    assert (
        result.exit_code == 3 and "no experiment of svkit there; begin with `svkit prepare`" in result.stderr
    )
