"""Guards against silent wrong science: each stops, each can be passed, and the report says so."""

import hashlib
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.errors import ConfigError, DataError, SvkitError
from svkit.progress import SilentProgress
from svkit.reports.facts import gather_systems
from svkit.reports.report import ReportRequest
from svkit.reports.report import run as run_report
from svkit.scoring.backend import Backend
from svkit.scoring.guards import NAMES, Guards, check_list
from svkit.scoring.lineage import training_speakers
from svkit.scoring.request import ScoreRequest
from svkit.scoring.score import run
from svkit.store.checkpoint import SPEAKERS_NAME
from svkit.store.embeddings import read_embeddings, write_embeddings
from svkit.store.lists import OfficialList
from svkit.store.manifest import read_manifest, write_manifest
from svkit.store.metrics import Metrics, read_metrics
from svkit.store.provenance import sha256_file
from svkit.store.scores import read_scores
from svkit.store.tables import write_table
from svkit.store.trials import Trials, read_trials, write_trials
from tests.fake_experiment import finish, make_embeddings, make_experiment

pytestmark = pytest.mark.usefixtures("plain_reports")

NUM_SPEAKERS, PER_SPEAKER = 8, 3
IDS = [f"{speaker:05d}/{take}.wav" for speaker in range(NUM_SPEAKERS) for take in range(PER_SPEAKER)]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    exp = tmp_path_factory.mktemp("guards") / "exp"
    make_experiment(exp, NUM_SPEAKERS, PER_SPEAKER)
    shutil.rmtree(exp / "embeddings" / "pruned")
    return exp


@pytest.fixture
def exp(template, tmp_path):
    """A copy of the template whose embeddings name the copy's manifest and checkpoint."""
    target = tmp_path / "exp"
    shutil.copytree(template, target)
    embed(target)
    return target


def embed(exp, ids=IDS, name="dense"):
    shutil.rmtree(exp / "embeddings" / name, ignore_errors=True)
    make_embeddings(exp, name, list(ids), 0.6, exp / "finetune" / "lmft")


def train_on(exp, speakers):
    """Make the model's classifier one of these speakers, and its embeddings again."""
    write_speakers(exp / "finetune" / "lmft", speakers)
    embed(exp)


def write_speakers(directory, speakers):
    table = pd.DataFrame({"row": range(len(speakers)), "speaker_id": speakers, "speed": "1"})
    write_table(directory / SPEAKERS_NAME, table.astype(str))


def write_list(exp, name, keep):
    """Write the trials that `keep(enroll speaker, test speaker, label)` wants."""
    every = read_trials(exp / "data" / "trials" / "all.txt")
    rows = np.array(
        [
            keep(int(enroll[:5]), int(test[:5]), int(label))
            for enroll, test, label in zip(every.enroll_ids, every.test_ids, every.labels, strict=True)
        ]
    )
    part = Trials.of(every.enroll_ids[rows], every.test_ids[rows], every.labels[rows])
    write_trials(exp / "data" / "trials" / f"{name}.txt", part)
    return part


def score(exp, trials="all", allow=(), **changes):
    path = exp / "data" / "trials" / f"{trials}.txt"
    changes.setdefault("embeddings", (exp / "embeddings" / "dense",))
    request = ScoreRequest(exp=exp, trials=path, allow=frozenset(allow), **changes)
    return run(request, SilentProgress()).systems[0]


def test_no_caution_where_there_is_none(exp):
    metrics = score(exp).metrics
    assert metrics.cautions == () and metrics.unchecked == ()
    assert metrics.trials.left_out is None


# ---- Speakers of the training -------------------------------------------------------------------------------------


def test_a_model_trained_on_speakers_of_the_trials(exp):
    train_on(exp, ["00003", "carol", "00005"])
    with pytest.raises(
        DataError, match=r"trained on 2 of the 8 speakers.*00003, 00005; leave them out .*00000, 00001"
    ):
        score(exp)
    assert not (exp / "scores").exists()
    (caution,) = score(exp, allow=["trained-speakers"]).metrics.cautions
    assert "trained on 2 of the 8 speakers" in caution
    write_list(exp, "others", lambda enroll, test, _: not {enroll, test} & {3, 5})
    assert score(exp, "others").metrics.cautions == ()


def test_enrollments_of_several_utterances_are_looked_into(exp):
    train_on(exp, ["00003"])
    (exp / "map").write_text("model 00003/0.wav 00003/1.wav\n")
    (exp / "data" / "trials" / "enrolled.txt").write_text("1 model 00001/0.wav\n0 model 00002/1.wav\n")
    with pytest.raises(DataError, match=r"trained on 1 of the 3 speakers.*00003"):
        score(exp, "enrolled", enroll=exp / "map")


def test_what_cannot_be_looked_at_is_said(exp):
    shutil.rmtree(exp / "finetune" / "lmft")
    (gap,) = score(exp).metrics.unchecked
    assert "finetune/lmft" in gap and "not known" in gap
    embed_again = exp / "data" / "eval.tsv"
    embed_again.write_text(embed_again.read_text().replace("32000", "32001"))
    (gap,) = score(exp, overwrite=True).metrics.unchecked
    assert "the speakers of the trials are not known" in gap
    report = run_report(ReportRequest(exp=exp), SilentProgress())
    assert f"Not checked: {gap}." in (report / "report.md").read_text()


def test_training_speakers_come_from_the_whole_chain(tmp_path):
    """Classifiers of fine-tuned models; lists of pruning and distillation; nothing where a list is gone."""

    def make(name, command, inputs, speakers=None):
        directory = tmp_path / name
        directory.mkdir()
        if speakers is not None:
            write_speakers(directory, speakers)
        finish(directory, command)
        record = json.loads((directory / "provenance.json").read_text())
        record["inputs"] = [{"name": key, "path": str(path), "sha256": sha} for key, path, sha in inputs]
        (directory / "provenance.json").write_text(json.dumps(record))
        return directory

    rows = [(f"{name}/0.wav", name, f"{name}/0.wav", "16000", "16000", "") for name in ("dora", "emil")]
    columns = ["utterance_id", "speaker_id", "path", "sample_rate_hz", "num_samples", "session_id"]
    write_manifest(tmp_path / "other.tsv", pd.DataFrame(rows, columns=columns))
    other = ("train", tmp_path / "other.tsv", sha256_file(tmp_path / "other.tsv"))
    gone = ("train", tmp_path / "gone.tsv", "aa")
    teacher = make("teacher", "finetune", [gone], ["anna", "bert"])
    # Its classifier tells what the list that is gone did.
    assert training_speakers(teacher) == {"anna", "bert"}
    prune = make("prune", "prune", [other, ("teacher", teacher, "xx")], ["anna", "bert"])
    assert training_speakers(prune) == {"anna", "bert", "dora", "emil"}
    head = make("head", "finetune", [("train", "mine.tsv", "bb"), ("checkpoint", prune, "yy")], ["carl"])
    assert training_speakers(head) == {"anna", "bert", "carl", "dora", "emil"}
    (tmp_path / "other.tsv").write_text("changed")
    assert training_speakers(head) is None
    assert training_speakers(make("encoder", "convert", [])) is None


# ---- Calibrations -------------------------------------------------------------------------------------------------


@pytest.fixture
def learnt(exp):
    """A calibration of trials among the first four speakers."""
    write_list(exp, "held", lambda enroll, test, _: enroll < 4 and test < 4)
    write_list(exp, "apart", lambda enroll, test, _: enroll >= 4 and test >= 4)
    write_list(exp, "some", lambda enroll, test, _: enroll >= 3 and test >= 3)
    return score(exp, "held", calibrate=True).directory / "calibration.json"


def test_a_calibration_fitted_on_its_own_test(exp, learnt):
    with pytest.raises(ConfigError, match=r"was learnt on .*held\.txt.*; `--allow calibrated-on-test`"):
        score(exp, "held", calibrations=(learnt,), overwrite=True)
    calibration = shutil.copy(learnt, exp / "calibration.json")
    allowed = ["calibrated-on-test"]
    done = score(exp, "held", allow=allowed, calibrations=(calibration,), overwrite=True)
    assert "on which it would be judged" in done.metrics.cautions[0] and done.metrics.cllr is not None


def test_a_calibration_fitted_on_speakers_of_the_test(exp, learnt):
    done = score(exp, "apart", calibrations=(learnt,))
    assert done.metrics.cautions == () and done.metrics.unchecked == ()
    with pytest.raises(DataError, match=r"learnt on 1 of the 5 speakers of .*some\.txt.*: 00003; use others"):
        score(exp, "some", calibrations=(learnt,))
    (caution,) = score(exp, "some", ["calibrated-on-test"], calibrations=(learnt,)).metrics.cautions
    assert "00003" in caution


def test_a_calibration_that_does_not_know_its_speakers(exp, learnt):
    record = json.loads(learnt.read_text())
    del record["speakers"]  # as written before there was this key
    (exp / "old.json").write_text(json.dumps(record))
    (gap,) = score(exp, "some", calibrations=(exp / "old.json",)).metrics.unchecked
    assert "the speakers of its own trials are not known" in gap


def test_a_fusion_fitted_on_speakers_of_the_test(exp, learnt):
    embed(exp, name="other")
    both = (exp / "embeddings" / "dense", exp / "embeddings" / "other")
    for name in ("held", "some"):
        score(exp, name, embeddings=both, overwrite=True)

    def fuse(trials, **changes):
        systems = tuple(exp / "scores" / name / trials for name in ("dense", "other"))
        return score(exp, trials, embeddings=(), fuse=systems, **changes)

    weights = fuse("held", calibrate=True, calibrate_folds=4).directory / "calibration.json"
    with pytest.raises(DataError, match=r"learnt on 1 of the 5 speakers"):
        fuse("some", calibrations=(weights,))
    done = fuse("some", calibrations=(weights,), allow=["calibrated-on-test"])
    assert "00003" in done.metrics.cautions[0]


# ---- Trials without embeddings, without a class -------------------------------------------------------------------


def test_trials_naming_utterances_the_embeddings_lack(exp):
    embed(exp, [name for name in IDS if name != "00002/1.wav"])
    with pytest.raises(DataError, match=r"nothing for 1 of .*00002/1\.wav.*; `--allow missing-utterances`"):
        score(exp)
    done = score(exp, allow=["missing-utterances"], by=("duration",))
    every, left = read_trials(exp / "data" / "trials" / "all.txt"), len(IDS) - 1
    found = read_scores(done.directory)
    assert len(found.scores) == left * (left - 1) // 2 and "00002/1.wav" not in set(found.trials.enroll_ids)
    assert done.metrics.trials.left_out.num_trials == left
    assert f"{left} of {len(every)} trials are left out" in done.metrics.cautions[0]
    has = (every.enroll_ids != "00002/1.wav") & (every.test_ids != "00002/1.wav")
    kept = Trials.of(every.enroll_ids[has], every.test_ids[has], every.labels[has])
    write_trials(exp / "data" / "trials" / "kept.txt", kept)
    plain = score(exp, "kept", by=("duration",))
    for key in ("eer", "eer_interval", "min_dcf", "num_targets", "breakdown"):
        assert getattr(done.metrics, key) == getattr(plain.metrics, key)


def test_enrollments_that_lack_an_utterance_are_left_out_whole(exp):
    embed(exp, [name for name in IDS if name != "00002/1.wav"])
    (exp / "map").write_text("two 00002/0.wav 00002/1.wav\nthree 00003/0.wav 00003/1.wav\n")
    lines = ["1 two 00002/2.wav", "0 two 00003/2.wav", "0 three 00002/2.wav", "1 three 00003/2.wav"]
    (exp / "data" / "trials" / "enrolled.txt").write_text("\n".join(lines) + "\n")
    done = score(exp, "enrolled", ["missing-utterances"], enroll=exp / "map")
    assert set(read_scores(done.directory).trials.enroll_ids) == {"three"}


def test_systems_with_other_trials_left_are_not_compared(exp):
    embed(exp, [name for name in IDS if name != "00002/1.wav"])
    embed(exp, [name for name in IDS if name != "00002/0.wav"], name="other")
    request = ScoreRequest(
        exp=exp, trials=exp / "data" / "trials" / "all.txt", allow=frozenset({"missing-utterances"})
    )
    assert run(request, SilentProgress()).comparisons == ()
    homes = [exp / "scores" / name / "all" for name in ("dense", "other")]
    measured = {home: read_metrics(home) for home in homes}
    systems, comparisons = gather_systems(exp, measured, {}, 1, SilentProgress())
    assert len(systems) == 2 and comparisons == []


def test_no_trial_left_is_an_error_whatever_is_allowed(exp):
    (exp / "data" / "trials" / "alien.txt").write_text("1 a b\n0 a c\n")
    with pytest.raises(
        DataError, match=r"nothing for 1 of 1 enrollment utterances \(a\) and 2 of 2 test utterances \(b, c\)"
    ):
        score(exp, "alien", ["missing-utterances"])


@pytest.mark.parametrize("label", [0, 1])
def test_label_classes_absent(exp, label):
    part = write_list(exp, "one", lambda enroll, test, found: found == label)
    with pytest.raises(DataError, match=r"one\.txt: expected target and nontarget.*`--allow one-class`"):
        score(exp, "one")
    with pytest.raises(DataError, match="error rates need both$"):
        score(exp, "one", ["one-class"], calibrate_folds=3)
    assert not (exp / "scores").exists()
    done = score(exp, "one", ["one-class"])
    assert not isinstance(done.metrics, Metrics) and len(read_scores(done.directory).scores) == len(part)
    assert "expected target and nontarget" in done.metrics.cautions[0]


def test_label_classes_absent_on_the_command_line(exp):
    write_list(exp, "one", lambda enroll, test, label: label == 1)
    arguments = ["score", str(exp / "data" / "trials" / "one.txt"), "--exp", str(exp), "--allow", "one-class"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    assert "Caution: " in done.stdout and "target trials" in done.stdout
    report = CliRunner().invoke(app, ["report", "--exp", str(exp)])
    assert report.exit_code == 0, report.stderr
    assert "Caution: " in report.stdout


# ---- The list itself ----------------------------------------------------------------------------------------------


def write_lines(exp, name, extra):
    """Write the whole list with more lines, after a comment; return the path and the number of trials."""
    lines = (exp / "data" / "trials" / "all.txt").read_text().splitlines()
    path = exp / "data" / "trials" / f"{name}.txt"
    path.write_text("\n".join(["# by hand", *lines, *extra]) + "\n")
    return path, len(lines) + len(extra)


def refuse_and_allow(exp, name, guard, words, **changes):
    """Check that the guard stops with these words, before anything is written, and is recorded where allowed."""
    with pytest.raises(DataError) as caught:
        score(exp, name, **changes)
    assert str(caught.value) == f"{words}; `--allow {guard}` continues and records the exception"
    assert not (exp / "scores").exists()
    done = score(exp, name, [guard], **changes)
    assert done.metrics.cautions == (words,)
    return done


def test_self_trials(exp):
    """A self-trial that is there seven times is a self-trial, not a repeated one."""
    path, count = write_lines(exp, "self", ["1 00001/0.wav 00001/0.wav"] * 7 + ["1 00002/1.wav 00002/1.wav"])
    lines = ", ".join(f"{path}:{count - 6 + row}" for row in range(5))
    words = f"{path}: 8 of {count} trials compare an utterance with itself, which makes results look better: {lines}"
    done = refuse_and_allow(exp, "self", "self-trials", words)
    assert done.metrics.num_targets == score(exp).metrics.num_targets + 8


def test_trials_that_are_there_twice(exp):
    path, count = write_lines(exp, "dup", ["1 00001/0.wav 00001/1.wav", "0 00000/0.wav 00003/0.wav"])
    lines = f"{path}:{count}, {path}:{count + 1}"
    words = f"{path}: 2 of {count} trials repeat an earlier one and would count twice: {lines}"
    done = refuse_and_allow(exp, "dup", "duplicate-trials", words)
    assert len(read_scores(done.directory).scores) == count
    whole = score(exp).metrics
    assert done.metrics.num_targets == whole.num_targets + 1
    assert done.metrics.num_nontargets == whole.num_nontargets + 1


def test_a_pair_in_both_orders_is_two_trials(exp):
    write_lines(exp, "turned", ["1 00001/1.wav 00001/0.wav", "0 00003/0.wav 00000/0.wav"])
    assert score(exp, "turned").metrics.cautions == ()


def test_a_pair_with_both_labels_in_either_order(exp):
    """Without a manifest: the list alone says it."""
    (exp / "data" / "eval.tsv").unlink()
    path, count = write_lines(exp, "both", ["0 00001/1.wav 00001/0.wav", "1 00000/0.wav 00003/0.wav"])
    words = (
        f"{path}: 2 of {count} trials have another label than the same two utterances before:"
        f" {path}:{count}, {path}:{count + 1}"
    )
    done = refuse_and_allow(exp, "both", "contradicting-labels", words)
    report = run_report(ReportRequest(exp=exp), SilentProgress())
    for name in ("report.md", "report.html"):
        text = (report / name).read_text()
        assert f"No confidence interval: {done.metrics.no_interval}." in text
        assert "too few speakers" not in text


def test_an_enrollment_of_two_speakers(exp):
    (exp / "map").write_text("one 00003/0.wav 00003/1.wav\ntwo 00002/0.wav 00003/1.wav\n")
    path = exp / "data" / "trials" / "enrolled.txt"
    path.write_text("1 one 00003/2.wav\n0 one 00002/2.wav\n1 two 00002/2.wav\n0 two 00001/2.wav\n")
    words = f"2 of 4 trials have enrollments with several speakers of the manifest (two): {path}:3, {path}:4"
    with pytest.raises(DataError, match=re.escape(words)):
        score(exp, "enrolled", enroll=exp / "map")
    (caution,) = score(exp, "enrolled", ["contradicting-labels"], enroll=exp / "map").metrics.cautions
    assert words in caution


def test_a_label_that_contradicts_the_manifest(exp):
    path = exp / "data" / "trials" / "odd.txt"
    path.write_text("1 00000/0.wav 00000/1.wav\n0 00001/0.wav 00001/1.wav\n\n1 00002/0.wav 00003/0.wav\n")
    words = f"{path}: 2 of 3 trials have a label that contradicts the speakers of the manifest: {path}:2, {path}:4"
    refuse_and_allow(exp, "odd", "contradicting-labels", words)


def test_a_test_that_is_in_its_own_enrollment(exp):
    """Enrollments have names of their own: one that is called as an utterance is not that utterance."""
    (exp / "map").write_text("00003/2.wav 00003/0.wav 00003/1.wav\nother 00002/0.wav\n")
    path = exp / "data" / "trials" / "enrolled.txt"
    path.write_text("1 00003/2.wav 00003/2.wav\n1 00003/2.wav 00003/1.wav\n0 other 00003/1.wav\n")
    words = (
        f"{path}: 1 of 3 trials compare an utterance with itself, which makes results look better: {path}:2"
    )
    refuse_and_allow(exp, "enrolled", "self-trials", words, enroll=exp / "map")


def test_a_fusion_looks_at_the_list_too(exp):
    path, _ = write_lines(exp, "dup", ["0 00000/0.wav 00003/0.wav"])
    embed(exp, name="other")
    both = (exp / "embeddings" / "dense", exp / "embeddings" / "other")
    score(exp, "dup", ["duplicate-trials"], embeddings=both)
    systems = tuple(exp / "scores" / name / "dup" for name in ("dense", "other"))
    with pytest.raises(DataError, match="repeat an earlier one"):
        score(exp, "dup", embeddings=(), fuse=systems)
    (caution,) = score(exp, "dup", ["duplicate-trials"], embeddings=(), fuse=systems).metrics.cautions
    assert "repeat an earlier one" in caution


def test_a_published_list_is_scored_as_it_is(exp, monkeypatch):
    """Recognised by its bytes: what is found in it is recorded and stops nothing."""
    path, count = write_lines(exp, "vox", ["0 00000/0.wav 00003/0.wav"])
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    targets = int(read_trials(path).labels.sum())
    entry = OfficialList(
        name="x", file="x", title="The list", address="", lines=count, targets=targets, md5=md5
    )
    monkeypatch.setattr("svkit.store.lists.official_lists", lambda: (entry,))
    (caution,) = score(exp, "vox").metrics.cautions
    assert "1 of" in caution and caution.endswith("(The list as published)")
    path.write_text(path.read_text() + "\n")
    with pytest.raises(DataError, match="repeat an earlier one"):
        score(exp, "vox", overwrite=True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=12),
    st.sampled_from([2, 1 << 17]),
)
def test_what_is_found_in_a_list_is_what_a_loop_finds(tmp_path_factory, rows, block):
    path = tmp_path_factory.mktemp("t") / "t.txt"
    path.write_text("".join(f"{label} u{a} u{b}\n" for a, b, label in rows))
    selves, repeats, both, seen, labels_of = 0, 0, set(), set(), {}
    for a, b, label in rows:
        if a == b:
            selves += 1
            continue
        repeats += (a, b, label) in seen
        seen.add((a, b, label))
        labels_of.setdefault(frozenset((a, b)), set()).add(label)
    both = sum(len(labels) == 2 for labels in labels_of.values())
    guards = Guards(allowed=frozenset(NAMES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("svkit.store.coded.ROWS_PER_BLOCK", block)
        check_list(guards, path, read_trials(path), None)
    found = [caution.split(": ")[1].split(" trials ") for caution in guards.cautions]
    words = ("compare an utterance", "repeat an earlier one", "have another label")
    counts = [next((int(n.split()[0]) for n, what in found if what.startswith(w)), 0) for w in words]
    assert counts == [selves, repeats, both]


# ---- The record ---------------------------------------------------------------------------------------------------


def test_every_guard_that_was_passed_is_in_the_report(exp):
    """One experiment with every sin; report.json, report.md and report.html name them all."""
    train_on(exp, ["00006"])
    write_list(exp, "held", lambda enroll, test, _: enroll < 4 and test < 4)
    learnt = score(exp, "held", calibrate=True).directory / "calibration.json"
    embed(exp, [name for name in IDS if name != "00007/1.wav"])
    cohort = read_embeddings(exp / "embeddings" / "dense")
    write_embeddings(exp / "cohort", list(cohort.ids), cohort.matrix, cohort.meta)
    finish(exp / "cohort")
    write_list(exp, "one", lambda enroll, test, label: label == 1 and enroll < 6)
    everything = [name for name in NAMES if name not in ("stale", "one-class")]
    normed = {"backend": Backend(norm="snorm"), "cohorts": (exp / "cohort",)}
    score(exp, allow=everything, calibrations=(learnt,))
    score(exp, allow=everything, **normed)
    score(exp, "one", allow=["one-class"])
    write_lines(exp, "odd", ["1 00001/0.wav 00001/0.wav", *["1 00002/0.wav 00003/0.wav"] * 2])
    score(exp, "odd", allow=everything)
    sins = {
        "trained-speakers": "was trained on 1 of the 8 speakers",
        "shared-speakers": "the cohort has speakers of the trials",
        "calibrated-on-test": "was learnt on 4 of the 8 speakers",
        "missing-utterances": "trials are left out",
        "one-class": "expected target and nontarget trials",
        "self-trials": "1 of 279 trials compare an utterance with itself",
        "duplicate-trials": "1 of 279 trials repeat an earlier one and would count twice",
        "contradicting-labels": "1 of 279 trials have another label",
        "stale": "was made with another checkpoint",
    }
    assert set(sins) == set(NAMES)
    write_speakers(exp / "finetune" / "lmft", ["somebody"])
    embed(exp)  # now of another checkpoint than the scores claim
    with pytest.raises(SvkitError, match="score again; `--allow stale`"):
        run_report(ReportRequest(exp=exp), SilentProgress())
    done = run_report(ReportRequest(exp=exp, allow=frozenset({"stale"})), SilentProgress())
    texts = {name: (done / name).read_text() for name in ("report.json", "report.md", "report.html")}
    for guard, words in sins.items():
        for name, text in texts.items():
            assert words in text, f"{guard} in {name}"


def test_the_card_of_a_model_names_the_guards_its_evaluation_passed(exp):
    write_lines(exp, "odd", ["1 00001/0.wav 00001/0.wav", *["1 00002/0.wav 00003/0.wav"] * 2])
    cautions = score(exp, "odd", allow=NAMES).metrics.cautions
    assert len(cautions) == 4  # the manifest contradicts a label too
    run_report(ReportRequest(exp=exp), SilentProgress())
    card = (exp / "finetune" / "lmft" / "README.md").read_text()
    for caution in cautions:
        assert f"Caution: {caution}." in card


def test_the_help_names_every_guard():
    text = "".join(CliRunner().invoke(app, ["score", "--help"]).stdout.split())
    for name in NAMES:
        assert name in text


def test_speakers_of_the_manifest_decide_not_names_of_utterances(exp):
    """The same person under two directories: the manifest knows."""
    manifest = exp / "data" / "eval.tsv"
    table = read_manifest(manifest).table
    table["speaker_id"] = table["speaker_id"].str.replace("00007", "carol")
    write_manifest(manifest, table)
    train_on(exp, ["carol"])
    with pytest.raises(
        DataError, match="1 of the 8 speakers of the trials, which makes results look better: carol"
    ):
        score(exp)
