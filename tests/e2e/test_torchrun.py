"""Two processes (torchrun, gloo) with batches of B train as one with batches of 2 B, and write one set of files.

The processes see the parts of the same batches, exchange gradients, and share the statistics of the batch norm. What
differs is rounding (sums in another order) and, in pruning, which gates are drawn: every process draws its own.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.store.checkpoint import read_tensors
from svkit.store.embeddings import read_embeddings
from tests.e2e.torchrun_job import started
from tests.training_experiment import interrupt, log, make_teacher, one_process, prepare, set_options

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

BATCH_SIZE = 2
LOSS_TOLERANCE = 1e-3
"""Relative; single precision over a few steps of Adam, whose first steps follow the sign of tiny gradients."""


def options(num_processes: int, *overrides: str) -> list[str]:
    """Batches of the same size over all processes, and no dropout: its draws belong to a process."""
    size = 2 * BATCH_SIZE // num_processes
    stages = ("lora", "joint", "prune", "distill")
    sizes = [f"{stage}.data.batch_size={size}" for stage in stages]
    still = [f"{stage}.conv_dropout=0" for stage in ("joint", "prune", "distill")]
    return set_options(*sizes, *still, *overrides)


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


@dataclass(frozen=True)
class Outputs:
    """What two processes and what one process wrote, in a directory for each command."""

    two: Path
    one: Path

    def of(self, name: str) -> tuple[Path, Path]:
        """Return both outputs of a stage; the files are the same, and nothing is logged twice."""
        two, one = self.two / name, self.one / name
        wanted = {"config.json", "model.safetensors", "provenance.json", "train_log.jsonl"}
        assert files(two) == files(one) >= wanted
        assert len(list(two.rglob("*tfevents*"))) == 1
        assert [record["step"] for record in log(two)] == [record["step"] for record in log(one)]
        assert (two / "config.json").read_bytes() == (one / "config.json").read_bytes() or name == "prune"
        return two, one


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """Every command once with two processes and once with one; the two start once for all of them."""
    root = tmp_path_factory.mktemp("torchrun")
    exp, teacher = prepare(root / "exp"), make_teacher(root / "teacher", seed=2)
    joint, lmft = (make_teacher(exp / "finetune" / stage) for stage in ("joint", "lmft"))
    resumed = [
        "finetune", "--exp", exp, "--stage", "lmft", "--from", joint,
        *set_options("lmft.epochs=3", "lmft.conv_dropout=0", "gradient_checkpointing=true"),
    ]  # fmt: skip
    extract = ["extract", "--exp", exp, "--model", lmft, "--manifest"]

    def commands(num_processes: int, out: Path) -> dict[str, list[Any]]:
        def of(*overrides: str) -> list[str]:
            return options(num_processes, *overrides)

        finetune = ["finetune", "--exp", exp, "--stage", "joint", "--from", joint]
        distill = ["distill", "--exp", exp, "--student", lmft, "--teacher", teacher]
        found = {
            "finetune": [*finetune, *of("joint.epochs=1", "joint.optim.lr=1e-3")],
            "distill": [*distill, *of("distill.epochs=1")],
            "prune": ["prune", "--exp", exp, "--sparsity", "0.7", *of("prune.epochs=2")],
            "resumed": resumed,
            "extract": [*extract, exp / "data" / "train.tsv", *set_options("extract.batch_seconds=2")],
            "few": [*extract, exp / "data" / "valid.tsv"],
        }
        return {name: [*words, "--out", out / name] for name, words in found.items()}

    two, one = commands(2, root / "two"), commands(1, root / "one")
    with pytest.MonkeyPatch.context() as patch, one_process():
        interrupt(patch, 7)
        stopped = CliRunner().invoke(app, [str(word) for word in two["resumed"]])
    assert stopped.exit_code == 143
    assert json.loads(next((root / "two").glob("*/resume/*/state.json")).read_text())["num_done"] == 7
    with started(root / "job", *two.values()) as job:
        assert job.wait() == 0, job.stderr[-3000:]
    paths = [line for line in job.stdout.splitlines() if line.startswith(str(root))]
    assert paths == [str(root / "two" / name) for name in two]  # said once each
    assert job.stdout.count("target sparsity, %") == 1
    for words in one.values():
        alone(*words)
    return Outputs(two=root / "two", one=root / "one")


def assert_close_models(two: Path, one: Path, tolerance: float) -> None:
    mine, theirs = read_tensors(two / "model.safetensors"), read_tensors(one / "model.safetensors")
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        if tensor.is_floating_point():
            error = float((tensor - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-3))
            assert error < tolerance, f"{name}: {error}"


def test_finetune(outputs: Outputs) -> None:
    """Everything is trained, the batch norm of the pooling among it; validation is shared out too."""
    two, one = outputs.of("finetune")
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


def test_distill(outputs: Outputs) -> None:
    two, one = outputs.of("distill")
    for a, b in zip(log(two), log(one), strict=True):
        assert a["l1"] == pytest.approx(b["l1"], rel=LOSS_TOLERANCE)
        assert a["cosine"] == pytest.approx(b["cosine"], abs=LOSS_TOLERANCE)
    assert_close_models(two, one, 0.02)


def test_prune(outputs: Outputs) -> None:
    """The draws differ, the schedule and the target do not."""
    two, one = outputs.of("prune")
    for a, b in zip(train_records(two), train_records(one), strict=True):
        assert a["target_sparsity"] == b["target_sparsity"]
        assert a["sparsity"] == pytest.approx(b["sparsity"], abs=0.03)
        assert a["l1"] == pytest.approx(b["l1"], rel=0.2)
    for path in (two, one):
        assert 0.7 <= json.loads((path / "provenance.json").read_text())["sparsity"] <= 0.705


def test_a_job_of_one_process_goes_on_with_two(outputs: Outputs) -> None:
    """The batch over all processes stays: the recipe's 4 of the one process are 2 of each of the two."""
    two, one = outputs.two / "resumed", outputs.one / "resumed"
    mine, theirs = train_records(two), train_records(one)
    assert mine[-1]["step"] == theirs[-1]["step"] == 15
    assert mine[-1]["loss"] == pytest.approx(theirs[-1]["loss"], rel=10 * LOSS_TOLERANCE)
    assert_close_models(two, one, 0.02)
    records = [json.loads((path / "provenance.json").read_text()) for path in (two, one)]
    assert [record["num_processes"] for record in records] == [2, 1]


@pytest.mark.parametrize(("name", "count"), [("extract", 20), ("few", 9)])
def test_extract(outputs: Outputs, name: str, count: int) -> None:
    """Batches are shared out whole, so every utterance is padded as it is with one process.

    The few fit one batch: the second process has nothing to do, and nothing is lost.
    """
    two, one = outputs.two / name, outputs.one / name
    mine, theirs = read_embeddings(two), read_embeddings(one)
    assert list(mine.ids) == list(theirs.ids) and len(mine.ids) == count
    assert np.abs(mine.matrix - theirs.matrix).max() <= 1e-6 * np.abs(theirs.matrix).max()
    # The parts that the processes kept for a resume are gone or, as with one process, beside the result.
    assert {path.split("/")[0] for path in files(two)} == {path.split("/")[0] for path in files(one)}


def test_an_error_of_one_process_ends_both(tmp_path: Path) -> None:
    """A corrupt file is met by one of them; the other does not wait for it for ever, and nothing looks finished."""
    spoilt = prepare(tmp_path / "exp")
    make_teacher(spoilt / "finetune" / "joint")
    (spoilt / "audio" / "carol" / "2.wav").write_bytes(b"not audio")
    command = ["prune", "--exp", spoilt, *options(2), "--out", tmp_path / "out"]
    with started(tmp_path / "job", command) as job:
        assert job.wait() != 0 and job.stdout == ""
    errors = [line for line in job.stderr.splitlines() if line.startswith("error: ")]
    assert any("carol/2.wav" in line for line in errors), job.stderr
    assert not (tmp_path / "out" / "provenance.json").exists()
