"""Scores that other toolkits made: read in any of their forms, judged, calibrated, fused and compared as ours."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.store.scores import read_scores
from tests.fake_experiment import make_embeddings, make_lists


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Two systems on two lists without a common speaker, scored by svkit."""
    exp = tmp_path_factory.mktemp("imported")
    ids = make_lists(exp, 12, 4)
    for name, noise in (("dense", 0.7), ("pruned", 1.3)):
        (exp / "models" / name).mkdir(parents=True)
        (exp / "models" / name / "model.safetensors").write_text(name)
        make_embeddings(exp, name, ids, noise, exp / "models" / name)
    every = (exp / "data" / "trials" / "all.txt").read_text().splitlines()
    for name, is_late in (("eval", True), ("held", False)):
        kept = [line for line in every if {word >= "00006" for word in line.split()[1:]} == {is_late}]
        (exp / "data" / "trials" / f"{name}.txt").write_text("\n".join(kept) + "\n")
        assert run(exp, name).exit_code == 0
    return exp


def run(exp, trials, *arguments, command="score"):
    names = [str(exp / "data" / "trials" / f"{trials}.txt")] if trials else []
    return CliRunner().invoke(app, [command, *names, "--exp", str(exp), *map(str, arguments)])


def rows(exp, system="pruned", trials="eval"):
    """Return enroll, test, label and score of every trial, as text."""
    lines = (exp / "scores" / system / trials / "scores.tsv").read_text().splitlines()[1:]
    return [line.split("\t") for line in lines]


def bring(tmp_path, lines, name="foreign.txt"):
    path = tmp_path / name
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


WORDS = {"0": "nontarget", "1": "target"}
FORMS = {
    "kaldi": lambda e, t, label, score: f"{e} {t} {score}",
    "kaldi, tabs": lambda e, t, label, score: f"{e}\t{t}\t{score}",
    "voxsrc": lambda e, t, label, score: f"{score} {e} {t}",
    "speechbrain": lambda e, t, label, score: f"{e} {t} {label} {score}",
    "wespeaker": lambda e, t, label, score: f"{e} {t} {score} {WORDS[label]}",
    "label first": lambda e, t, label, score: f"{label} {e} {t} {score}",
    "score only": lambda e, t, label, score: score,
    "label score": lambda e, t, label, score: f"{label} {score}",
    "score label": lambda e, t, label, score: f"{score}\t{WORDS[label]}",
}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_form_gives_the_same_metrics_as_our_own_scores(scored, tmp_path, form):
    lines = [FORMS[form](*row) for row in rows(scored)]
    if "score" not in form:
        lines = lines[::-1]  # what names its trial may be in any order
    name = form.replace(", ", "-")
    done = run(scored, "eval", "--scores", bring(tmp_path, ["# theirs", *lines]), "--name", name, "--json")
    assert done.exit_code == 0, done.stderr
    (system,) = json.loads(done.stdout)["systems"]
    ours = json.loads((scored / "scores" / "pruned" / "eval" / "metrics.json").read_text())
    for key in ("eer", "eer_interval", "eer_convex_hull", "num_targets", "min_cllr"):
        assert system[key] == ours[key], key
    for theirs, own in zip(system["min_dcf"], ours["min_dcf"], strict=True):
        assert (theirs["value"], theirs["interval"]) == (own["value"], own["interval"])
    assert (system["name"], system["backend"]["name"]) == (name, "imported")
    found = read_scores(scored / "scores" / name / "eval")
    np.testing.assert_array_equal(found.scores, read_scores(scored / "scores" / "pruned" / "eval").scores)


def test_our_own_scores_come_in_by_their_header(scored, tmp_path):
    done = run(scored, "eval", "--scores", scored / "scores/pruned/eval/scores.tsv", "--name", "copy")
    assert done.exit_code == 0, done.stderr
    assert "Trials eval (imported)" in done.stdout and "\n copy " in done.stdout
    assert "Not checked: " in done.stdout
    assert done.stdout.splitlines()[-1] == str(scored / "scores" / "copy" / "eval")


@pytest.mark.usefixtures("plain_reports")
def test_they_are_compared_calibrated_and_fused_beside_ours(scored, tmp_path):
    for trials in ("held", "eval"):
        theirs = bring(
            tmp_path, [FORMS["kaldi"](*row) for row in rows(scored, trials=trials)], f"{trials}.txt"
        )
        words = ("--embeddings", scored / "embeddings" / "dense", "--scores", theirs, "--name", "ecapa")
        done = run(scored, trials, *words, "--json", "--overwrite", *(["--calibrate"] * (trials == "held")))
        assert done.exit_code == 0, done.stderr
    (comparison,) = json.loads(done.stdout)["comparisons"]
    ours = json.loads(run(scored, "eval", "--keep-finished", "--json", "--overwrite").stdout)["comparisons"][
        0
    ]
    for key in ("eer_difference", "low", "high", "p_value", "second"):
        assert comparison[key] == ours[key], key
    assert comparison["first"] == "ecapa"
    learnt = scored / "scores" / "ecapa" / "held" / "calibration.json"
    done = run(scored, "eval", *words[2:], "--calibration", learnt, "--json", "--overwrite")
    assert done.exit_code == 0, done.stderr
    assert 0 < json.loads(done.stdout)["systems"][0]["cllr"] < 1
    other = (*words[2:4], "--name", "other", "--calibration", learnt)
    done = run(scored, "eval", *other)
    assert done.exit_code == 4 and "found one of imported (or of other settings)" in done.stderr
    parts = [word for name in ("dense", "ecapa") for word in ("--fuse", scored / "scores" / name / "eval")]
    done = run(scored, "eval", *parts, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["systems"][0]["name"] == "dense+ecapa-imported"
    done = run(scored, None, "--json", "--overwrite", command="report")
    assert done.exit_code == 0, done.stderr
    pairs = {(one["first"], one["second"], one["trials"]) for one in json.loads(done.stdout)["comparisons"]}
    assert ("ecapa", "dense", "eval") in pairs


def test_ours_are_kept_where_only_theirs_are_new(scored, tmp_path):
    theirs = bring(tmp_path, [FORMS["kaldi"](*row) for row in rows(scored)])
    words = ("--embeddings", scored / "embeddings" / "pruned", "--scores", theirs, "--name", "later")
    done = run(scored, "eval", *words)
    assert done.exit_code == 0, done.stderr
    assert "On list eval, later minus pruned: +0.00" in done.stdout
    assert run(scored, "eval", *words).exit_code == 2  # now both are there


def test_trials_without_labels_take_scores_of_others_too(scored, tmp_path):
    blind = [f"{e} {t}" for e, t, *_ in rows(scored)]
    bring(scored / "data" / "trials", blind, "blind.txt")
    done = run(scored, "blind", "--scores", bring(tmp_path, [row[3] for row in rows(scored)]), "--name", "x")
    assert done.exit_code == 0, done.stderr
    assert "276 without labels: scores only" in done.stdout


A, B = "00006/0.wav", "00006/1.wav"


def broken(number, text):
    return lambda lines: [*lines[: number - 1], text, *lines[number:]]


@pytest.mark.parametrize(
    ("form", "change", "code", "message"),
    [
        ("kaldi", broken(3, f"{A} {B} nan"), 4, "foreign.txt:3: score: expected a finite number, found 'nan'"),
        ("kaldi", broken(3, f"{A} {B} inf"), 4, "foreign.txt:3: score: expected a finite number, found 'inf'"),
        ("kaldi", broken(3, f"{A} {B} -1e307"), 4, "foreign.txt:3: score: expected an absolute value up to 1e+100"),
        ("score only", broken(5, "-"), 4, "foreign.txt:5: score: expected a finite number, found '-'"),
        ("kaldi", broken(2, f"{A} {B} 0.5"), 4, "foreign.txt:2 (00006/0.wav 00006/1.wav)"),
        ("kaldi", broken(2, f"{A} nobody 0.5"), 4, "1 of 276 scores are of trials that "),
        ("kaldi", broken(2, f"{A} nobody 0.5"), 4, f"foreign.txt:2 ({A} nobody)"),
        ("kaldi", broken(4, f"{A} {B}"), 4, "foreign.txt:4: expected 3 fields, as in line 1, found 2"),
        ("kaldi", lambda lines: lines[:-2], 3, "no score for 2 of 276 trials: "),
        ("kaldi", lambda lines: lines[:-2], 3, "eval.txt:275, "),
        ("score only", lambda lines: lines[:-1], 4, "expected 276 scores, one for each trial of "),
        ("label score", lambda lines: lines[::-1], 4, "scores have another label than their trials"),
        ("wespeaker", lambda lines: [line.replace("nontarget", "target") for line in lines], 4, "foreign.txt:4: "),
        ("speechbrain", broken(9, f"{A} {B} 2 0.5"), 4, "foreign.txt:9: label: expected 1, 0, target or nontarget"),
        ("kaldi", lambda lines: [line.rsplit(" ", 1)[0] for line in lines], 4, "expected label score or score label"),
        ("kaldi", lambda lines: [f"1 {line.rsplit(' ', 1)[0]}" for line in lines], 4, "line cannot be a score), found"),
        ("kaldi", lambda lines: [f"{line} 1 2" for line in lines], 4, "foreign.txt:1: expected score or label score"),
        ("kaldi", lambda lines: ["enroll test score", *lines], 4, "foreign.txt:1: score: expected a finite number, "
         "found 'score'; if it is a heading, name the columns in a header line `enroll_id test_id score`"),
        ("kaldi", lambda lines: ["\r".join(lines)], 4, "foreign.txt:1: expected lines that end in LF, found CR alone"),
        ("kaldi", lambda lines: [], 4, "no scores; expected lines such as"),
        ("kaldi", lambda lines: [line.replace(".wav", "") for line in lines], 4, "`--match-ids` applies that rule"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_its_line(scored, tmp_path, form, change, code, message):
    lines = change([FORMS[form](*row) for row in rows(scored)])
    done = run(scored, "eval", "--scores", bring(tmp_path, lines), "--name", "broken")
    assert done.exit_code == code, done.stderr
    assert message in done.stderr, done.stderr
    assert not (scored / "scores" / "broken").exists()


def test_ids_that_are_numbers_are_told_apart_by_the_trials(tmp_path):
    pairs = [(str(100 + i), str(200 + j)) for i in range(4) for j in range(4)]
    trials = bring(
        tmp_path, [f"{e} {t} {'target' if e[2] == t[2] else 'nontarget'}" for e, t in pairs], "t.txt"
    )
    for name, form in (("last", "{e} {t} {s}"), ("first", "{s} {e} {t}")):
        lines = [form.format(e=e, t=t, s=0.5 + 0.01 * int(e[2] == t[2])) for e, t in pairs]
        words = [
            "score",
            str(trials),
            "--exp",
            str(tmp_path),
            "--scores",
            str(bring(tmp_path, lines)),
            "--name",
            name,
        ]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.stderr
        assert read_scores(tmp_path / "scores" / name / "t").scores.min() == 0.5
    ambiguous = [f"{e} {t} {300 + number}" for number, (e, t) in enumerate(pairs)]
    others = [(t, str(300 + number)) for number, (_, t) in enumerate(pairs)]
    lines = [f"{e} {t} {'target' if e == '100' else 'nontarget'}\n" for e, t in [*pairs, *others]]
    trials.write_text("".join(lines))
    words[words.index("--name") + 1], words[5] = "odd", str(bring(tmp_path, ambiguous))
    done = CliRunner().invoke(app, words)
    assert (
        done.exit_code == 4
        and "ambiguous: it could be enroll_id test_id score or score enroll_id" in done.stderr
    )


def test_missing_scores_are_left_out_where_allowed_and_ids_are_matched(scored, tmp_path):
    lines = [FORMS["kaldi"](*row).replace(".wav", "") for row in rows(scored)][5:]
    words = ("--scores", bring(tmp_path, lines), "--name", "some", "--match-ids")
    done = run(scored, "eval", *words, "--allow", "missing-utterances", "--json")
    assert done.exit_code == 0, done.stderr
    (system,) = json.loads(done.stdout)["systems"]
    assert system["trials"]["left_out"]["num_trials"] == 5 and len(system["cautions"]) == 2
    assert "eval.txt:1, " in system["cautions"][1] and "without the extension" in system["cautions"][0]


def test_ids_with_a_prefix_on_one_side_are_matched_there(scored, tmp_path):
    """A toolkit may name the model of a speaker after a recording that it also tests."""
    lines = [f"{enroll} /data/wav/{test} {score}" for enroll, test, _, score in rows(scored)]
    words = ("--scores", bring(tmp_path, lines), "--name", "prefixed")
    done = run(scored, "eval", *words)
    assert done.exit_code == 4 and "match without the prefix '/data/wav/'" in done.stderr
    done = run(scored, "eval", *words, "--match-ids", "--json")
    assert done.exit_code == 0, done.stderr
    assert "without the prefix '/data/wav/'" in json.loads(done.stdout)["systems"][0]["cautions"][0]
    # Two names of one side that would be one recording stay two, with a clear line.
    lines = [line.replace("/data/wav/", "", place % 2) for place, line in enumerate(lines)]
    done = run(scored, "eval", "--scores", bring(tmp_path, lines), "--name", "mixed", "--match-ids")
    assert done.exit_code == 3 and "name what another id names too" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--scores", "s"), "expected a different name for each file"),
        (
            ("--scores", "s", "--name", "a", "--scores", "s", "--name", "a"),
            "expected a different name for each file",
        ),
        (("--scores", "s", "--name", "../a"), "expected a name without slashes"),
        (("--scores", "s", "--name", "a\nb"), "expected a name without slashes"),
        (("--name", "a"), "expected a different name for each file"),
        (("--scores", "s", "--name", "a", "--norm", "snorm"), "used as they are; leave out a back-end"),
        (("--scores", "s", "--name", "a", "--fuse", "x"), "cannot be combined"),
    ],
)
def test_wishes_that_contradict_each_other(scored, words, message):
    done = run(scored, "eval", *words)
    assert done.exit_code == 2 and message in done.stderr, done.stderr


def test_a_missing_file_is_an_artifact(scored):
    done = run(scored, "eval", "--scores", "nowhere.txt", "--name", "a")
    assert done.exit_code == 4 and "nowhere.txt" in done.stderr.splitlines()[-1]
