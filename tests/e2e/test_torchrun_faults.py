"""Processes of a torchrun job that die or are stopped, and are fewer when the job goes on."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from svkit.models.load import load_model
from svkit.store.checkpoint import read_classifier
from svkit.store.embeddings import read_embeddings
from svkit.store.manifest import read_manifest, write_manifest
from tests.e2e.test_torchrun import alone, train_records
from tests.e2e.torchrun_job import SECONDS, Job, started
from tests.training_experiment import make_teacher, prepare, set_options

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

LOSS_TOLERANCE = 1e-2
"""Relative, after many steps of Adam whose sums run in another order."""


@pytest.fixture(scope="module")
def exp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists, audio and a random dense model."""
    made = prepare(tmp_path_factory.mktemp("faults") / "exp")
    make_teacher(made / "finetune" / "joint")
    return made


def state(out: Path) -> dict[str, Any]:
    """Return the record of the last saved state, that of no step where there is none."""
    for path in sorted(out.glob("resume/step-*/state.json"), reverse=True):
        with contextlib.suppress(FileNotFoundError):  # replaced by a newer one just now
            return json.loads(path.read_text())
    return {"num_done": 0}


def wait_for_state(job: Job, out: Path, num_done: int) -> None:
    """Wait until a state of so many steps is saved, while the job runs."""
    end = time.monotonic() + SECONDS
    while state(out)["num_done"] < num_done:
        assert job.process.is_alive() and time.monotonic() < end, job.stderr[-3000:]
        time.sleep(0.02)


def assert_close_embeddings(one: Path, other: Path) -> None:
    """Compare what the models compute: a weight without influence, such as a shift before a softmax, may wander."""
    waves = [0.1 * np.random.default_rng(seed).standard_normal(8_000).astype(np.float32) for seed in range(4)]
    mine, theirs = (load_model(path).embed(waves) for path in (one, other))
    errors = np.linalg.norm(mine - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
    assert errors.max() < 0.01, errors


def errors(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("error: ")]


def test_a_killed_and_a_stopped_job_go_on_and_end_with_one_process(exp: Path, tmp_path: Path) -> None:
    """LoRA and a draw of the classes: killed with two processes, stopped with two, finished with one."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    changes = ["lora.epochs=5", "lora.validations=5", "lora.margin.class_fraction=0.6", "lora.keep=last"]
    command = ["finetune", "--exp", exp, "--stage", "lora"]
    of_two = [*command, *set_options(*changes, "lora.data.batch_size=2"), "--out", out]
    with started(tmp_path / "killed", of_two) as job:
        wait_for_state(job, out, 15)
        os.kill(job.worker(1), signal.SIGKILL)
        assert job.wait() != 0
    said = errors(job.stderr)
    assert len(said) == 1 and "another process of this job has ended" in said[0], job.stderr
    killed_at = state(out)
    assert killed_at["num_done"] % 15 == 0 and killed_at["batch_size"] == 4
    assert not (out / "provenance.json").exists()
    with started(tmp_path / "stopped", of_two) as job:
        wait_for_state(job, out, killed_at["num_done"] + 15)
        job.terminate()
        assert job.wait() != 0
    assert job.stderr.count("interrupted: the state is saved") == 1, job.stderr
    assert f"resuming after step {killed_at['num_done']}" in job.stderr
    stopped_at = state(out)["num_done"]
    assert killed_at["num_done"] + 15 <= stopped_at < 75 and not (out / "provenance.json").exists()
    alone(*of_two)
    alone(*command, *set_options(*changes, "lora.data.batch_size=4"), "--out", whole)
    mine, theirs = ({record["step"]: record for record in train_records(path)} for path in (out, whole))
    # The first record after a resume is a mean over fewer steps.
    compared = [step for step in theirs if step in mine and mine[step]["step"] > stopped_at + 10]
    assert 75 in compared
    for step in compared:
        assert mine[step]["loss"] == pytest.approx(theirs[step]["loss"], rel=LOSS_TOLERANCE)
        assert mine[step]["lr"] == theirs[step]["lr"]
    assert_close_embeddings(out, whole)
    weights = [read_classifier(path) for path in (out, whole)]
    assert weights[0] is not None and weights[1] is not None and len(weights[0].weight) == 15
    assert float((weights[0].weight - weights[1].weight).abs().max()) < 1e-3
    assert json.loads((out / "provenance.json").read_text())["num_processes"] == 1


def test_a_killed_extraction_goes_on_from_the_parts_of_both_processes(exp: Path, tmp_path: Path) -> None:
    """What both processes saved before one was killed is kept; one process embeds the rest."""
    few = read_manifest(exp / "data" / "valid.tsv").table
    many = pd.concat([few.assign(utterance_id=few["utterance_id"] + f"-{copy}") for copy in range(24)])
    write_manifest(exp / "data" / "many.tsv", many)
    command = ["extract", "--exp", exp, "--model", exp / "finetune" / "joint"]
    command += ["--manifest", exp / "data" / "many.tsv"]
    command += set_options("extract.batch_seconds=0.1", "save.extraction_seconds=1e-3")
    out, whole = tmp_path / "out", tmp_path / "whole"
    with started(tmp_path / "job", [*command, "--out", out]) as job:
        end = time.monotonic() + SECONDS
        while not all(list(out.glob(f"resume/part-*-{rank:04d}.safetensors")) for rank in (0, 1)):
            assert job.process.is_alive() and time.monotonic() < end, job.stderr[-3000:]
            time.sleep(0.005)
        os.kill(job.worker(1), signal.SIGKILL)
        assert job.wait() != 0 and not (out / "provenance.json").exists(), job.stderr
    assert {path.stem[-4:] for path in out.glob("resume/part-*.safetensors")} == {"0000", "0001"}
    alone(*command, "--out", out)
    alone(*command, "--out", whole)
    mine, theirs = read_embeddings(out), read_embeddings(whole)
    assert list(mine.ids) == list(theirs.ids) and len(mine.ids) == len(many)
    assert np.array_equal(mine.matrix, theirs.matrix)
    assert mine.meta["wall_seconds"] is None and theirs.meta["wall_seconds"] is not None
