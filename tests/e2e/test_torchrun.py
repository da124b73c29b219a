"""Two processes (torchrun, gloo) with batches of B train as one with batches of 2 B, and write one set of files.

The processes see the parts of the same batches, exchange gradients, and share the statistics of the batch norm. What
differs is rounding (sums in another order) and, in pruning, which gates are drawn: every process draws its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.store.checkpoint import read_tensors
from svkit.store.embeddings import read_embeddings
from tests.training_experiment import log, make_teacher, one_process, prepare, set_options

pytestmark = pytest.mark.e2e

BATCH_SIZE = 2
LOSS_TOLERANCE = 1e-3
"""Relative; single precision over a few steps of Adam, whose first steps follow the sign of tiny gradients."""


@pytest.fixture(scope="module")
def exp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists, audio and a random dense model."""
    made = prepare(tmp_path_factory.mktemp("torchrun") / "exp")
    for stage in ("joint", "lmft"):
        make_teacher(made / "finetune" / stage)
    return made


def options(num_processes: int, *overrides: str) -> list[str]:
    """Batches of the same size over all processes, and no dropout: its draws belong to a process."""
    size = 2 * BATCH_SIZE // num_processes
    stages = ("lora", "joint", "prune", "distill")
    sizes = [f"{stage}.data.batch_size={size}" for stage in stages]
    still = [f"{stage}.conv_dropout=0" for stage in ("joint", "prune", "distill")]
    return set_options(*sizes, *still, *overrides)


TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "-m",
    "svkit",
]


def environment() -> dict[str, str]:
    """One thread a process, and no GPU."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def launch(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """Start two processes as a user would."""
    words = [*TORCHRUN, *map(str, arguments)]
    return subprocess.run(words, env=environment(), capture_output=True, text=True, check=False, timeout=800)


def torchrun(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """Start two processes that end well."""
    done = launch(*arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def alone(*arguments: Any) -> None:
    """Run in this process."""
    with one_process():
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr


def files(directory: Path) -> set[str]:
    """Names of what a stage wrote, event files and locks apart."""
    names = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    return {name for name in names if "tfevents" not in name and not name.endswith(".lock")}


def train_records(directory: Path) -> list[dict[str, Any]]:
    return [record for record in log(directory) if record["kind"] == "train"]


def both(command: list[Any], tmp_path: Path, *overrides: str) -> tuple[Path, Path]:
    """Run with two processes and with one; check that the files are the same and nothing was said twice."""
    two, one = tmp_path / "two", tmp_path / "one"
    done = torchrun(*command, *options(2, *overrides), "--out", two)
    assert done.stdout.split() == [str(two)]
    alone(*command, *options(1, *overrides), "--out", one)
    assert (
        files(two) == files(one) >= {"config.json", "model.safetensors", "provenance.json", "train_log.jsonl"}
    )
    events = list(two.rglob("*tfevents*"))
    assert len(events) == 1
    assert [record["step"] for record in log(two)] == [record["step"] for record in log(one)]
    assert (two / "config.json").read_bytes() == (one / "config.json").read_bytes() or command[0] == "prune"
    return two, one


def assert_close_models(two: Path, one: Path, tolerance: float) -> None:
    mine, theirs = read_tensors(two / "model.safetensors"), read_tensors(one / "model.safetensors")
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        if tensor.is_floating_point():
            error = float((tensor - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-3))
            assert error < tolerance, f"{name}: {error}"


def test_finetune(exp: Path, tmp_path: Path) -> None:
    """Everything is trained, the batch norm of the pooling among it; validation is shared out too."""
    command = ["finetune", "--exp", exp, "--stage", "joint", "--from", exp / "finetune" / "joint"]
    two, one = both(command, tmp_path, "joint.epochs=1", "joint.optim.lr=1e-3")
    mine, theirs = train_records(two), train_records(one)
    assert len(mine) >= 1
    for a, b in zip(mine, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=LOSS_TOLERANCE)
        assert a["grad_norm_model"] == pytest.approx(b["grad_norm_model"], rel=10 * LOSS_TOLERANCE)
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=0.05)
    for a, b in zip(log(two), log(one), strict=True):
        if a["kind"] == "valid":
            assert a["eer"] == pytest.approx(b["eer"], abs=0.06)
    assert_close_models(two, one, 0.02)
    seeds = [json.loads((path / "provenance.json").read_text())["config"]["seed"] for path in (two, one)]
    assert seeds[0] == seeds[1]


def test_distill(exp: Path, tmp_path: Path) -> None:
    command = ["distill", "--exp", exp, "--student", exp / "finetune" / "lmft", "--teacher"]
    teacher = make_teacher(tmp_path / "teacher", seed=2)
    two, one = both([*command, teacher], tmp_path, "distill.epochs=1")
    for a, b in zip(log(two), log(one), strict=True):
        assert a["l1"] == pytest.approx(b["l1"], rel=LOSS_TOLERANCE)
        assert a["cosine"] == pytest.approx(b["cosine"], abs=LOSS_TOLERANCE)
    assert_close_models(two, one, 0.02)


def test_prune(exp: Path, tmp_path: Path) -> None:
    """The draws differ, the schedule and the target do not."""
    two, one = both(["prune", "--exp", exp, "--sparsity", "0.7"], tmp_path, "prune.epochs=2")
    for a, b in zip(train_records(two), train_records(one), strict=True):
        assert a["target_sparsity"] == b["target_sparsity"]
        assert a["sparsity"] == pytest.approx(b["sparsity"], abs=0.03)
        assert a["l1"] == pytest.approx(b["l1"], rel=0.2)
    for path in (two, one):
        assert 0.7 <= json.loads((path / "provenance.json").read_text())["sparsity"] <= 0.705


def test_extract(exp: Path, tmp_path: Path) -> None:
    """Batches are shared out whole, so every utterance is padded as it is with one process."""
    command = [
        "extract",
        "--exp",
        exp,
        "--model",
        exp / "finetune" / "lmft",
        "--manifest",
        exp / "data" / "train.tsv",
    ]
    command += [*set_options("extract.batch_seconds=2")]
    done = torchrun(*command, "--out", tmp_path / "two")
    assert done.stdout.split() == [str(tmp_path / "two")]
    alone(*command, "--out", tmp_path / "one")
    mine, theirs = read_embeddings(tmp_path / "two"), read_embeddings(tmp_path / "one")
    assert list(mine.ids) == list(theirs.ids) and len(mine.ids) == 20
    assert np.abs(mine.matrix - theirs.matrix).max() <= 1e-6 * np.abs(theirs.matrix).max()
    # The parts that the processes kept for a resume are gone or, as with one process, beside the result.
    assert {name.split("/")[0] for name in files(tmp_path / "two")} == {
        name.split("/")[0] for name in files(tmp_path / "one")
    }


def test_an_error_of_one_process_ends_both(exp: Path, tmp_path: Path) -> None:
    """A corrupt file is met by one of them; the other does not wait for it for ever, and nothing looks finished."""
    spoilt = prepare(tmp_path / "exp")
    make_teacher(spoilt / "finetune" / "joint")
    (spoilt / "audio" / "carol" / "2.wav").write_bytes(b"not audio")
    done = launch("prune", "--exp", spoilt, *options(2), "--out", tmp_path / "out")
    assert done.returncode != 0 and done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert any("carol/2.wav" in line for line in errors), done.stderr
    assert not (tmp_path / "out" / "provenance.json").exists()
