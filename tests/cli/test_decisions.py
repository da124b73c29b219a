"""The commands of docs/decisions.md, run in order on a small experiment, and what the page says they print."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.store.embeddings import write_embeddings
from svkit.store.manifest import read_manifest, write_manifest
from svkit.store.provenance import sha256_file
from svkit.store.trials import Trials, read_trials, write_trials
from tests.fake_experiment import draw_and_time_nothing, finish, make_embeddings, make_experiment

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Output of every command on the page."""
    home = tmp_path_factory.mktemp("decisions")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("COLUMNS", "200")
        draw_and_time_nothing(patch)
        exp = Path("exp")
        make_experiment(exp, num_speakers=24)
        table = read_manifest(exp / "data" / "eval.tsv").table
        table["gender"] = np.where(table["speaker_id"].astype(int) % 2 == 0, "f", "m")
        write_manifest(exp / "data" / "eval.tsv", table)
        for name, noise, checkpoint in (("dense", 0.6, "finetune"), ("pruned", 0.8, "finetune-pruned")):
            make_embeddings(exp, name, list(table["utterance_id"]), noise, exp / checkpoint / "lmft")
        every = read_trials(exp / "data" / "trials" / "all.txt")
        number = np.array([[int(name[:5]) for name in ids] for ids in (every.enroll_ids, every.test_ids)])
        for name, rows in (("held", (number < 12).all(axis=0)), ("eval", (number >= 12).all(axis=0))):
            part = Trials.of(every.enroll_ids[rows], every.test_ids[rows], every.labels[rows])
            write_trials(exp / "data" / "trials" / f"{name}.txt", part)
        (exp / "data" / "trials" / "all.txt").unlink()
        pairs = [
            line.split(" ")[1:] for line in (exp / "data" / "trials" / "eval.txt").read_text().splitlines()
        ]
        noise = np.random.default_rng(0).normal(size=len(pairs))
        theirs = [f"{a} {b} {(a[:5] == b[:5]) + one}\n" for (a, b), one in zip(pairs, noise, strict=True)]
        Path("theirs.txt").write_text("".join(theirs))
        Path("blind.txt").write_text("".join(f"{a} {b}\n" for a, b in pairs))
        rng = np.random.default_rng(5)
        others = np.repeat(rng.normal(size=(40, 8)), 4, axis=0) + 0.7 * rng.normal(size=(160, 8))
        ids = [f"v{row}" for row in range(160)]
        spoken = table.iloc[[0] * 160].assign(utterance_id=ids, path=ids, speaker_id=np.repeat(ids[:40], 4))
        write_manifest(exp / "data" / "vox2.tsv", spoken)
        manifest = {"path": "exp/data/vox2.tsv", "sha256": sha256_file(exp / "data" / "vox2.tsv")}
        for name, facts in (("vox2", {"manifest": manifest}), ("calls", {})):
            write_embeddings(exp / "embeddings" / name, ids, others.astype("f4"), facts)
            finish(exp / "embeddings" / name)
        for number, name in enumerate("ab"):
            soundfile.write(f"{name}.wav", 0.1 * np.random.default_rng(number).normal(size=24000), 16000)
        found = {}
        for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S):
            for line in block.splitlines():
                words = shlex.split(line)
                assert words[0] == "svkit", line
                done = CliRunner().invoke(app, words[1:])
                assert done.exit_code == 0, f"{line}\n{done.stderr}"
                found[line] = done.stdout
    return found


def answer(answers, *words):
    return next(text for line, text in answers.items() if all(word in line for word in words))


def test_every_command_of_the_page_runs(answers):
    assert len(answers) == 15


def test_the_page_names_what_the_commands_print(answers):
    thresholds = next(iter(answers.values()))
    for row in ("EER", "FAR 1 %", "FAR 0.1 %", "minDCF 0.01"):
        assert row in thresholds
    for name in ("`EER`", "`FAR 1 %`, `0.1 %`, `0.01 %`", "`minDCF P`", "`Bayes P`"):
        assert name in PAGE
    assert "needs 10,000 trials" in thresholds
    calibrated = answer(answers, "--calibration ")
    assert "Bayes 0.01" in calibrated and "held-out trials held" in calibrated and "Cllr" in calibrated
    assert "EER by gender" in answer(answers, "--by gender") and "EER by duration" in answer(
        answers, "--by gender"
    )
    for words, directory in (
        ("--norm", "eval-asnorm-top100-vox2"),
        ("--mean", "eval-mean-vox2"),
        ("--plda-train", "eval-plda-vox2"),
        ("--plda-adapt", "eval-plda-vox2-adapt-calls"),
    ):
        assert f"`{directory}`" in PAGE and answer(answers, words).rstrip().endswith(f"pruned/{directory}")
    plda = answer(answers, "--plda-train")
    assert "PLDA itself, not calibrated" in plda and "PLDA itself, not calibrated" in PAGE and "Cllr" in plda
    verdict = answer(answers, "verify")
    assert verdict.startswith(("ACCEPT", "REJECT")) and "probability at prior 0.01" in verdict
    assert "minDCF 0.02, costs 10:1" in answer(answers, "--c-miss")
    assert "theirs minus dense: +" in answer(answers, "--name theirs")
    assert "without labels: scores only" in answer(answers, "blind.txt")
    assert "5 folds of speakers" in answer(answers, "--calibrate-folds")
    assert re.search(
        r"pruned minus dense: \+.*significant", answer(answers, "--embeddings exp/embeddings/dense")
    )
