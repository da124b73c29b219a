"""What `svkit score` prints: tables for people, JSON for machines, one line for a mistake."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from svkit.cli import console
from svkit.cli.app import app
from svkit.store.embeddings import read_embeddings, write_embeddings
from svkit.store.manifest import read_manifest, write_manifest
from svkit.store.provenance import sha256_file
from svkit.store.scores import read_scores
from tests.fake_experiment import finish, make_lists


@pytest.fixture
def exp(tmp_path):
    ids = make_lists(tmp_path, 12, 4)
    manifest = tmp_path / "data" / "eval.tsv"
    table = read_manifest(manifest).table
    table["gender"] = np.where(table["speaker_id"].astype(int) % 2 == 0, "f", "m")
    write_manifest(manifest, table)
    rng = np.random.default_rng(0)
    voices = rng.normal(size=(12, 8))[[int(name[:5]) for name in ids]]
    for name, noise in (("dense", 0.7), ("pruned", 1.3)):
        facts = {"manifest": {"path": manifest.as_posix(), "sha256": sha256_file(manifest)}}
        matrix = (voices + noise * rng.normal(size=voices.shape)).astype(np.float32)
        write_embeddings(tmp_path / "embeddings" / name, ids, matrix, facts)
        finish(tmp_path / "embeddings" / name)
    return tmp_path


def run(exp, *arguments):
    trials = exp / "data" / "trials" / "all.txt"
    return CliRunner().invoke(app, ["score", str(trials), "--exp", str(exp), *map(str, arguments)])


def test_table_comparison_and_breakdown(exp):
    done = run(exp, "--by", "gender", "--format", "kaldi")
    assert done.exit_code == 0, done.stderr
    assert "On list all, pruned minus dense: +" in done.stdout and "p " in done.stdout
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    start = lines.index("EER by gender on all")
    assert "dense: EER" in lines[start + 2] and "pruned: EER" in lines[start + 2]
    assert [line.split()[0] for line in lines[start + 4 : start + 7]] == ["f", "f", "m"]
    assert lines[-2:] == [str(exp / "scores" / name / "all") for name in ("dense", "pruned")]
    assert (exp / "scores" / "dense" / "all" / "kaldi" / "scores").is_file()
    assert done.stderr.splitlines()[-1] == f"next: svkit report --exp {exp}"


def test_the_tables_say_what_the_metrics_say_and_fit_80_columns(exp, monkeypatch):
    monkeypatch.setattr(console, "FILE_WIDTH", 80)
    done = run(exp, "--by", "gender", "--calibrate-folds", "4")
    assert done.exit_code == 0, done.stderr
    assert "\x1b" not in done.stdout and "\u2026" not in done.stdout  # no colours in a pipe, nothing cut off
    answer = json.loads(
        run(exp, "--json", "--keep-finished", "--by", "gender", "--calibrate-folds", "4").stdout
    )
    lines = done.stdout.splitlines()
    for title in (
        "Trials all (cosine)",
        "Calibration",
        "Thresholds of dense",
        "Thresholds of pruned",
        "EER by gender on all",
    ):
        start = lines.index(title)
        end = lines.index("", start + 2)
        assert max(map(len, lines[start:end])) <= 80
    main = lines.index("Trials all (cosine)")
    for number, system in enumerate(answer["systems"]):
        row = lines[main + 4 + number]
        interval = system["eer_interval"]
        shown = [100 * value for value in (system["eer"], interval["low"], interval["high"])]
        assert row.split()[0] == system["name"]
        assert "{:.2f} ({:.2f} to {:.2f})".format(*shown) in row
        assert f"{system['min_dcf'][0]['value']:.3f}" in row and f"{system['min_cllr']:.3f}" in row
        thresholds = lines[lines.index(f"Thresholds of {system['name']}") :]
        for name, point in (("FAR 1 %", "far_0.01"), ("EER", "eer")):
            found = next(line for line in thresholds if line.strip().startswith(name))
            assert f"score {system['thresholds'][point]['threshold']:.4f}" in found
        bayes = next(line for line in thresholds if line.strip().startswith("Bayes 0.01"))
        assert f"LLR {np.log(99):.3f}" in bayes


def test_json_has_the_same(exp):
    answer = json.loads(run(exp, "--json").stdout)
    assert [system["name"] for system in answer["systems"]] == ["dense", "pruned"]
    (comparison,) = answer["comparisons"]
    eers = [system["eer"] for system in answer["systems"]]
    assert comparison["eer_difference"] == pytest.approx(eers[1] - eers[0])


def test_fusion_from_the_command_line(exp):
    run(exp)
    done = run(
        exp, *(word for name in ("dense", "pruned") for word in ("--fuse", exp / "scores" / name / "all"))
    )
    assert done.exit_code == 0, done.stderr
    assert "Trials all (fusion)" in done.stdout and "5 folds of speakers" in done.stdout
    assert done.stdout.splitlines()[-1] == str(exp / "scores" / "dense+pruned" / "all")


def test_what_is_found_in_a_list_is_said_once(exp):
    trials = exp / "data" / "trials" / "all.txt"
    one = trials.read_text().split()[1]
    trials.write_text(f"{trials.read_text()}1 {one} {one}\n")
    done = run(exp, "--allow", "self-trials")
    assert done.exit_code == 0 and done.stderr.count("allowed, and recorded: ") == 1, done.stderr


def test_guards_stop_and_are_passed_on_record(exp):
    cohort = ("--embeddings", exp / "embeddings" / "dense", "--norm", "snorm", "--cohort",
              exp / "embeddings" / "dense")  # fmt: skip
    done = run(exp, *cohort)
    assert done.exit_code == 3 and done.stderr.splitlines()[-1].endswith(
        "continues and records the exception"
    )
    done = run(exp, *cohort, "--allow", "shared-speakers")
    assert done.exit_code == 0 and "Caution: " in done.stdout and "allowed, and recorded" in done.stderr
    assert run(exp, "--allow", "anything").exit_code == 2
    assert run(exp, "--backend", "plda").exit_code == 2


@pytest.mark.usefixtures("plain_reports")
def test_a_point_of_ones_own_is_judged_as_the_usual_ones_are(exp):
    points = ("--p-target", "0.02", "--c-miss", "10", "--p-target", "0.3", "--c-miss", "1")
    done = run(exp, *points, "--calibrate-folds", "4", "--json")
    assert done.exit_code == 0, done.stderr
    usual = [(0.01, 1, 1), (0.05, 1, 1), (0.005, 1, 1), (0.001, 1, 1)]
    for system in json.loads(done.stdout)["systems"]:
        for kind in ("min_dcf", "act_dcf", "min_dcf_llr"):
            found = [(cost["p_target"], cost["c_miss"], cost["c_fa"]) for cost in system[kind]]
            assert found == [*usual, (0.02, 10, 1), (0.3, 1, 1)], kind
        for kind in ("min_dcf", "act_dcf"):
            cost = system[kind][4]
            expected = 0.02 * 10 * cost["miss_rate"] + 0.98 * cost["false_accept_rate"]
            assert cost["value"] == pytest.approx(expected / min(0.02 * 10, 0.98))
            assert cost["interval"]["low"] <= cost["value"] <= cost["interval"]["high"]
        assert system["act_dcf"][4]["threshold"] == pytest.approx(np.log(0.98 / (10 * 0.02)))
        assert {"p_target_0.02, costs 10:1", "p_target_0.3"} < set(system["bayes_thresholds"])
    shown = run(exp, *points, "--calibrate-folds", "4", "--keep-finished").stdout
    assert "Detection costs" in shown and shown.count("0.02, costs 10:1") == 2 + 2 * 2
    report = CliRunner().invoke(app, ["report", "--exp", str(exp)])
    assert report.exit_code == 0 and "Detection costs" in report.stdout, report.stderr
    page = (exp / "report" / "report.md").read_text()
    cost = json.loads(done.stdout)["systems"][0]["act_dcf"][4]
    low, high = cost["interval"]["low"], cost["interval"]["high"]
    assert "| actDCF 0.02, costs 10:1 (95 %) |" in page and "| Bayes 0.02, costs 10:1 |" in page
    assert f"| {cost['value']:.3f} ({low:.3f} to {high:.3f}) |" in page
    assert "Detection costs" not in run(exp, "--overwrite").stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--c-miss", "10"), "give that too"),
        (("--p-target", "0.1", "--c-fa", "1", "--c-fa", "2"), "--c-fa: expected one cost for all"),
        (("--p-target", "1"), "expected a number > 0 and < 1, found 1"),
        (("--p-target", "0.5", "--c-miss", "0"), "expected a number > 0"),
    ],
)
def test_points_that_are_none(exp, options, message):
    done = run(exp, *options)
    assert done.exit_code == 2 and message in " ".join(done.stderr.replace("│", " ").split()), done.stderr
    assert not (exp / "scores").exists()


def test_every_table_as_csv_and_as_latex(exp, tmp_path):
    out = tmp_path / "tables"
    done = run(exp, "--by", "gender", "--calibrate-folds", "4", "--csv", out, "--latex", out, "--json")
    assert done.exit_code == 0, done.stderr
    names = {"errors", "calibration", "thresholds-dense", "thresholds-pruned", "EER-by-gender-on-all"}
    assert {path.name for path in out.iterdir()} == {
        f"score-{name}.{suffix}" for name in names for suffix in ("csv", "tex")
    }
    errors = pd.read_csv(out / "score-errors.csv", index_col="system")
    groups = pd.read_csv(out / "score-EER-by-gender-on-all.csv", index_col="gender")
    for system in json.loads(done.stdout)["systems"]:
        row, interval = errors.loc[system["name"]], system["eer_interval"]
        shown = [row["EER, %"], row["EER, %, low (95 %)"], row["EER, %, high (95 %)"]]
        assert shown == pytest.approx(
            [100 * value for value in (system["eer"], interval["low"], interval["high"])], abs=0.006
        )
        assert row["minDCF 0.005"] == pytest.approx(system["min_dcf"][2]["value"], abs=6e-4)
        tex = (out / "score-errors.tex").read_text()
        assert rf"{system['name']} & all & {shown[0]:.2f} ({shown[1]:.2f} to {shown[2]:.2f}) & " in tex
        thresholds = pd.read_csv(out / f"score-thresholds-{system['name']}.csv", index_col="decide by")
        assert float(thresholds.loc["EER", "misses, %"]) == pytest.approx(
            100 * system["thresholds"]["eer"]["miss_rate"], abs=0.006
        )
        for group in system["breakdown"][0]["groups"]:
            expected = np.nan if group["eer"] is None else 100 * group["eer"]
            found = groups.loc[group["value"], f"{system['name']}: EER, %"]
            assert found == pytest.approx(expected, abs=0.006, nan_ok=True)
            assert groups.loc[group["value"], "nontargets"] == group["num_nontargets"]
    assert tex.startswith("\\begin{tabular}{llrrrrrrr}\n\\toprule\nsystem & trials & EER, \\% (95 \\%) & ")
    assert tex.endswith(" \\\\\n\\bottomrule\n\\end{tabular}\n")


def test_tables_are_not_written_over_others(exp, tmp_path):
    out = tmp_path / "tables"
    assert run(exp, "--csv", out).exit_code == 0
    (out / "score-errors.csv").write_text("mine")
    done = run(exp, "--csv", out)
    assert (
        done.exit_code == 2
        and "--overwrite" in done.stderr
        and (out / "score-errors.csv").read_text() == "mine"
    )
    assert (
        run(exp, "--csv", out, "--keep-finished").exit_code == 0
        and (out / "score-errors.csv").read_text() != "mine"
    )
    for name in ("errors.csv", "file"):
        (tmp_path / "file").touch()
        done = run(exp, "--csv", tmp_path / name, "--overwrite")
        assert done.exit_code == 2 and "expected a directory" in done.stderr


@pytest.mark.usefixtures("plain_reports")
def test_tables_of_scores_and_of_the_report_lie_beside_each_other(exp, tmp_path):
    out = tmp_path / "tables"
    assert run(exp, "--csv", out).exit_code == 0
    report = ["report", "--exp", str(exp), "--csv", str(out)]
    done = CliRunner().invoke(app, report)
    assert done.exit_code == 0, done.stderr
    assert {"score-errors.csv", "report-Errors.csv"} <= {path.name for path in out.iterdir()}
    done = CliRunner().invoke(app, report)
    assert done.exit_code == 2 and "already has tables of `svkit report`" in done.stderr


def test_equal_scores_do_not_look_as_if_one_threshold_accepted_and_rejected_all(exp):
    """All recordings are the same: whatever the digits, nobody is accepted above the one score that there is."""
    directory = exp / "embeddings" / "dense"
    found = read_embeddings(directory)
    write_embeddings(directory, list(found.ids), np.ones_like(found.matrix), found.meta)
    finish(directory)
    done = run(exp, "--embeddings", directory)
    rows = [
        line
        for line in done.stdout.splitlines()
        if "score" in line and line.strip().startswith(("EER ", "minDCF "))
    ]
    nobody = [row for row in rows if "no score" in row]
    assert nobody and all("100.00" in row and " 0 (" in row for row in nobody)
    assert all("score 1.0000" in row and "no score" not in row for row in rows if row not in nobody), rows


def test_a_calibration_that_falls_with_the_score_says_so(exp):
    """Two trials on the wrong sides: a threshold separates them, with the labels swapped."""
    assert run(exp, "--embeddings", exp / "embeddings" / "dense").exit_code == 0
    known = read_scores(exp / "scores" / "dense" / "all")
    order = np.argsort(known.scores)
    low = next(row for row in order if known.trials.labels[row] == 1)
    high = next(row for row in order[::-1] if known.trials.labels[row] == 0)
    trials = exp / "data" / "trials" / "all.txt"
    lines = trials.read_text().splitlines()
    trials.write_text(f"{lines[low]}\n{lines[high]}\n")
    done = run(exp, "--embeddings", exp / "embeddings" / "dense", "--calibrate", "--overwrite")
    assert done.exit_code == 0 and "falls with the score" in done.stdout, done.stderr
    assert "separates" not in done.stdout and "100.00" in done.stdout


def test_runs_of_one_directory_that_differ_by_an_option_are_refused_with_the_difference(exp, tmp_path):
    """Neither an enrollment map nor how ratios are learnt is in the name of the directory: nothing is mixed or lost."""
    dense = ("--embeddings", exp / "embeddings" / "dense")
    assert run(exp, *dense).exit_code == 0
    directory = exp / "scores" / "dense" / "all"
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    ids = read_embeddings(exp / "embeddings" / "dense").ids
    (tmp_path / "map.tsv").write_text("enroll_id\tutterance_id\n" + "".join(f"{one}\t{one}\n" for one in ids))
    for more, said in (
        (("--enroll", tmp_path / "map.tsv"), "made without enroll, which exists now"),
        (("--calibrate-folds", "4"), "made with another setting (calibrate_folds: 0 then, 4 now)"),
        (("--calibrate",), "made with another setting (calibrate: false then, true now)"),
        (("--allow", "stale"), "made with another setting (allow"),
    ):
        done = run(exp, *dense, *more)
        assert done.exit_code == 2 and said in done.stderr and "--overwrite" in done.stderr, done.stderr
        assert before == {path.name: path.read_bytes() for path in directory.iterdir()}
