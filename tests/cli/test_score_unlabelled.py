"""Trials without labels, as of a blind evaluation: scores, and one line that there is nothing else."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.store.metrics import ScoredList, read_metrics
from svkit.store.scores import read_scores
from svkit.store.trials import read_trials
from tests.fake_experiment import make_embeddings, make_lists


@pytest.fixture
def exp(tmp_path):
    """Two systems, and the trials of half of the speakers without labels as `blind.txt`."""
    ids = make_lists(tmp_path, 12, 4)
    for name, noise in (("dense", 0.7), ("pruned", 1.3)):
        checkpoint = tmp_path / "models" / name
        checkpoint.mkdir(parents=True)
        (checkpoint / "model.safetensors").write_text(name)
        make_embeddings(tmp_path, name, ids, noise, checkpoint)
    trials = tmp_path / "data" / "trials"
    lines = (trials / "all.txt").read_text().splitlines()
    late = [all(name >= "00006" for name in line.split()[1:]) for line in lines]
    early = [all(name < "00006" for name in line.split()[1:]) for line in lines]
    for name, kept in (("eval", late), ("held", early)):
        chosen = [line for line, is_kept in zip(lines, kept, strict=True) if is_kept]
        (trials / f"{name}.txt").write_text("\n".join(chosen) + "\n")
    chosen = [line.split(" ", 1)[1] for line in (trials / "eval.txt").read_text().splitlines()]
    (trials / "blind.txt").write_text("\n".join(chosen) + "\n")
    return tmp_path


def run(exp, trials, *arguments, command="score"):
    names = [str(exp / "data" / "trials" / f"{trials}.txt")] if trials else []
    return CliRunner().invoke(app, [command, *names, "--exp", str(exp), *map(str, arguments)])


def test_they_give_the_scores_that_the_labelled_list_gives(exp):
    done = run(exp, "blind", "--format", "kaldi", "--format", "wespeaker")
    assert done.exit_code == 0, done.stderr
    said, *_, first, second = done.stdout.splitlines()
    assert said == "Trials blind: 276 without labels: scores only, no error rates."
    directories = [exp / "scores" / name / "blind" for name in ("dense", "pruned")]
    assert [first, second] == [str(path) for path in directories]
    assert run(exp, "eval").exit_code == 0
    for path in directories:
        first = (path / "scores.tsv").read_text().splitlines()[:2]
        assert first[0] == "enroll_id\ttest_id\tscore" and len(first[1].split("\t")) == 3
        blind, known = read_scores(path), read_scores(path.parent / "eval")
        np.testing.assert_array_equal(blind.scores, known.scores)
        assert not blind.trials.has_labels and blind.llrs is None
        metrics = read_metrics(path)
        assert type(metrics) is ScoredList and metrics.num_unlabelled == 276
        assert not (path / "resamples.safetensors").exists()
        enroll, test = blind.trials.enroll_ids[0], blind.trials.test_ids[0]
        for form, name in (("kaldi", "scores"), ("wespeaker", "scores.score")):
            assert (path / form / name).read_text().startswith(f"{enroll} {test} {blind.scores[0]:.9g}\n")
        assert read_trials(path / "kaldi" / "trials", needs_labels=False).equals(blind.trials)


def test_a_calibration_and_a_fusion_learnt_elsewhere_apply(exp):
    assert run(exp, "held", "--calibrate").exit_code == 0
    maps = [
        word
        for name in ("dense", "pruned")
        for word in ("--calibration", exp / "scores" / name / "held" / "calibration.json")
    ]
    for name in ("blind", "eval"):
        done = run(exp, name, *maps)
        assert done.exit_code == 0, done.stderr
    parts = {
        name: [word for system in ("dense", "pruned") for word in ("--fuse", exp / "scores" / system / name)]
        for name in ("held", "blind", "eval")
    }
    assert run(exp, "held", *parts["held"], "--calibrate").exit_code == 0
    fusion = exp / "scores" / "dense+pruned" / "held" / "calibration.json"
    for name in ("blind", "eval"):
        done = run(exp, name, *parts[name], "--calibration", fusion, "--json")
        assert done.exit_code == 0, done.stderr
    assert "eer" in json.loads(done.stdout)["systems"][0]
    for system in ("dense", "dense+pruned"):
        blind, known = (read_scores(exp / "scores" / system / name) for name in ("blind", "eval"))
        np.testing.assert_array_equal(blind.llrs, known.llrs)
    assert "\tscore\tllr\n" in (exp / "scores" / "dense" / "blind" / "scores.tsv").read_text()


@pytest.mark.parametrize(
    "options", [("--calibrate",), ("--calibrate-folds", "4"), ("--by", "duration"), ("--p-target", "0.1")]
)
def test_what_needs_labels_is_refused(exp, options):
    done = run(exp, "blind", *options)
    assert done.exit_code == 3, done.stderr
    assert f"has no labels, so it gives scores only; {options[0]}: expected" in done.stderr
    assert not (exp / "scores").exists()
    assert run(exp, "blind").exit_code == 0
    fused = [word for name in ("dense", "pruned") for word in ("--fuse", exp / "scores" / name / "blind")]
    done = run(exp, "blind", *fused)
    assert done.exit_code == 3 and "--fuse without --calibration" in done.stderr


@pytest.mark.usefixtures("plain_reports")
def test_the_report_leaves_them_out_and_says_so(exp):
    assert run(exp, "blind").exit_code == 0
    done = run(exp, None, command="report")
    assert done.exit_code == 4 and "no scores of trials with labels" in done.stderr.splitlines()[-1]
    assert run(exp, "eval").exit_code == 0
    done = run(exp, None, "--json", command="report")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count("left out, because its trials have no labels") == 2
    assert {system["trials"]["name"] for system in json.loads(done.stdout)["systems"]} == {"eval"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a b\nc d\n1 a b\n",
            "blind.txt:3: expected two fields in every line, as in the first: a list has labels in all",
        ),
        (
            "# x\n1 a b\na b\n",
            "blind.txt:3: expected three fields, such as `1 enroll test`, in every line, found 2: 'a b'",
        ),
        ("enroll_id\ttest_id\na\tb\na\tb\t1\n", "blind.txt:3: expected 2 tab-separated columns"),
    ],
)
def test_a_list_with_some_labels_is_refused_with_the_line(exp, text, message):
    (exp / "data" / "trials" / "blind.txt").write_text(text)
    done = run(exp, "blind")
    assert done.exit_code == 3 and message in done.stderr


def test_repeated_trials_and_self_trials_are_found_without_labels(exp):
    path = exp / "data" / "trials" / "blind.txt"
    first = path.read_text().splitlines()[0]
    enroll, test = first.split()
    path.write_text(f"{path.read_text()}{test} {enroll}\n{first}\n{test} {test}\n")
    done = run(exp, "blind", "--allow", "self-trials")
    assert done.exit_code == 3 and "1 of 279 trials repeat an earlier one" in done.stderr, done.stderr
    assert "blind.txt:278" in done.stderr.splitlines()[-1]
    assert run(exp, "blind", "--allow", "self-trials", "--allow", "duplicate-trials").exit_code == 0
