"""A pipe, or /dev/zero, in the place of any file that a verb reads: one line, never a hang."""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
import torch
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.errors import ArtifactError
from svkit.store import checkpoint as store
from tests.fake_experiment import make_experiment
from tests.training_experiment import make_teacher, one_process, prepare

pytestmark = pytest.mark.usefixtures("plain_reports")

LONGEST_SECONDS = 30


@contextmanager
def time_limit() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("hangs")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def replaced(path: Path, kind: str) -> Iterator[None]:
    """Put a pipe, a link to a device, or one to itself ("loop") in the place of a file."""
    kept = path.rename(path.with_name(".kept"))
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if kind == "loop" else kind)
    try:
        yield
    finally:
        path.unlink()
        kept.rename(path)


def run(*words: str | Path) -> tuple[int, str]:
    """Run a verb; return its exit code and what it says, which must be one error of one line, or none."""
    with time_limit(), one_process():
        done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr and len(errors) == (done.exit_code != 0), done.stderr
    return done.exit_code, errors[0] if errors else ""


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment up to its scores."""
    exp = tmp_path_factory.mktemp("scored") / "exp"
    make_experiment(exp)
    assert run("score", exp / "data" / "trials" / "all.txt", "--exp", exp)[0] == 0
    return exp


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment that can be trained, with a teacher, noise, and an unfinished training."""
    exp = prepare(tmp_path_factory.mktemp("trained") / "exp")
    make_teacher(exp / "joint")
    shutil.copy(exp / "data" / "train.tsv", exp / "data" / "noise.tsv")
    for name in ("plain.pth", "plain_config.json"):
        shutil.copy(Path(__file__).parents[1] / "golden" / name, exp)
    (exp / "recipe.toml").write_text("seed = 3\n")
    return exp


MODEL = ("config.json", "model.safetensors")
FILES = {
    "score TRIALS --exp EXP --overwrite": {
        4: [f"embeddings/dense/{name}" for name in ("embeddings.json", "embeddings.safetensors", "ids.tsv")],
        3: ["data/trials/all.txt"],
    },
    "score TRIALS --exp EXP --overwrite --calibration EXP/c.json": {4: ["c.json"]},
    "score TRIALS --exp EXP --overwrite --enroll EXP/map": {3: ["map"]},
    "score TRIALS --exp EXP --overwrite --sidecar EXP/by.tsv": {3: ["by.tsv"]},
    "report --exp EXP --overwrite": {
        4: [
            *(
                "scores/dense/all/metrics.json",
                "scores/dense/all/scores.tsv",
                "scores/dense/all/provenance.json",
            ),
            *(
                "embeddings/dense/embeddings.json",
                "distill/classifier.safetensors",
                "distill/provenance.json",
            ),
            *(f"finetune/lmft/{name}" for name in (*MODEL, "speakers.tsv")),
        ]
    },
    "info EXP/joint": {4: [f"joint/{name}" for name in MODEL]},
    "export EXP/joint --exp EXP": {4: [f"joint/{name}" for name in MODEL]},
    "verify EXP/audio/carol/0.wav EXP/audio/carol/1.wav --model EXP/joint": {
        4: [f"joint/{name}" for name in (*MODEL, "speakers.tsv", "provenance.json", "calibration.json")],
        3: ["audio/carol/1.wav"],
    },
    "extract --model EXP/joint --manifest EXP/data/valid.tsv --exp EXP": {
        4: [f"joint/{name}" for name in (*MODEL, "speakers.tsv", "classifier.safetensors")],
        3: ["data/valid.tsv", "audio/val-1/0.wav"],
        2: ["config.toml"],
    },
    "finetune --from EXP/joint --stage lmft --config EXP/recipe.toml --exp EXP": {
        4: [f"joint/{name}" for name in (*MODEL, "speakers.tsv", "classifier.safetensors")],
        3: ["data/train.tsv", "data/valid.tsv", "data/valid_trials.txt"],
        2: ["config.toml", "recipe.toml"],
    },
    "finetune --stage head --encoder tiny --noise EXP/data/noise.tsv --exp EXP": {3: ["data/noise.tsv"]},
    "finetune --stage head --encoder EXP/hub --exp EXP": {
        4: ["hub/config.json", "hub/model.safetensors", "hub/preprocessor_config.json"]
    },
    "prune --teacher EXP/joint --exp EXP": {
        4: [f"joint/{name}" for name in (*MODEL, "speakers.tsv", "classifier.safetensors")],
        3: ["data/train.tsv", "data/valid.tsv"],
        2: ["config.toml"],
    },
    "convert EXP/plain.pth EXP/converted --config EXP/plain_config.json": {
        4: ["plain.pth", "plain_config.json"]
    },
    "prepare csv EXP/list.csv --exp EXP/other": {3: ["list.csv"]},
    "prepare folder EXP/audio --exp EXP/other --min-seconds 0 --eval-speakers EXP/who.txt": {3: ["who.txt"]},
    "prepare folder EXP/audio --exp EXP/other --min-seconds 0 --trials EXP/trials.txt": {3: ["trials.txt"]},
    "prepare stats EXP/data/train.tsv": {3: ["data/train.tsv"]},
    "prepare shards EXP/data/train.tsv --out EXP/shards": {3: ["data/train.tsv", "audio/carol/0.wav"]},
}
"""What each verb reads, by the exit code of the family."""
CASES = [(verb, name, code) for verb, all in FILES.items() for code, names in all.items() for name in names]

SAID = dict.fromkeys(("loop", "/nowhere/file"), "symbolic link|does not exist|found nothing")
"""What is said of a link that leads nowhere."""


@pytest.mark.parametrize(
    ("verb", "name", "code", "kind"),
    [
        *((*case, kind) for case in CASES for kind in ("pipe", "/dev/zero")),
        # In a checkpoint, a link that leads nowhere is a file that is missing.
        *((*case, kind) for case in CASES if case[2] != 4 for kind in SAID),
    ],
)
def test_a_pipe_a_device_or_a_loop_in_the_place_of_a_file(
    verb: str, name: str, code: int, kind: str, scored: Path, trained: Path
) -> None:
    exp = scored if verb.startswith(("score", "report")) else trained
    path = exp / name
    is_new = not path.exists()
    if is_new:  # the verb reads it first of all
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    words = verb.replace("TRIALS", "EXP/data/trials/all.txt").replace("EXP", str(exp)).split()
    try:
        with replaced(path, kind):
            found, error = run(*words)
    finally:
        if is_new:
            path.unlink()
    assert found == code and re.search(SAID.get(kind, "(: is|found) a pipe, socket or device"), error), error
    assert path.name in error or kind in error, error


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_a_pipe_or_a_device_in_a_resume_state(kind: str, tmp_path: Path) -> None:
    tensors = {"weight": torch.ones(2)}
    state = store.ResumeState(num_done=3, batch_size=4, task=tensors, optimizer=tensors, facts={})
    store.write_resume(tmp_path, state)
    store.append_log(tmp_path, {"step": 1})
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {
        *("state.json", "task.safetensors", "optimizer.safetensors", "train_log.jsonl")
    }
    for path in files:
        with (
            replaced(path, kind),
            time_limit(),
            pytest.raises(ArtifactError, match=f"{path.name}: is a pipe"),
        ):
            store.truncate_log(tmp_path, 1)
            store.read_resume(tmp_path, 10)
