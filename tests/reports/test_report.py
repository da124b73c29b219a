"""`svkit report` on a small experiment of real directories; what it says must follow from what is there."""

import csv
import html
import json
import re
import shutil
from dataclasses import asdict, replace
from html.parser import HTMLParser

import numpy as np
import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.errors import ArtifactError, ConfigError, terminal_text
from svkit.eval.results import Interval, OperatingPoint
from svkit.models.info import describe_checkpoint
from svkit.progress import SilentProgress
from svkit.reports import answer, document, figures, results, tables, timing, wording
from svkit.reports import facts as facts_of
from svkit.reports import report as stage
from svkit.reports.card import render as render_card
from svkit.scoring.score import ScoreRequest
from svkit.scoring.score import run as run_score
from svkit.store.atomic import write_json
from svkit.store.metrics import Comparison, LeftOut, metrics_record, read_metrics
from svkit.store.provenance import sha256_artifact
from svkit.store.report import find_checkpoints, read_log, read_report, report_record
from tests.fake_experiment import finish

without_figures = pytest.mark.usefixtures("plain_reports")


def test_files(finished):
    names = {
        path.relative_to(finished / "report").as_posix()
        for path in (finished / "report").rglob("*")
        if path.is_file()
    }
    drawn = ["det-all", "scores-dense-all", "scores-pruned-all", "tradeoff-size", "tradeoff-time"]
    drawn += [
        f"structure-finetune-pruned-lmft-{kind}"
        for kind in ("attention-heads", "FFN-1", "convolution", "FFN-2")
    ]
    drawn += ["sparsity-prune"]
    drawn += [f"training-{stages}" for stages in ("finetune", "prune", "finetune-pruned")]
    expected = {"report.json", "report.md", "report.html", "provenance.json", "run.json", ".lock"}
    assert names == expected | {f"figures/{name}.{suffix}" for name in drawn for suffix in ("png", "svg")}


def test_models_are_described_and_linked_by_content(finished, facts):
    assert [model["path"] for model in facts["models"]] == [
        "finetune/joint", "finetune/lmft", "prune", "distill", "finetune-pruned/lmft",
    ]  # fmt: skip
    small = facts["models"][4]
    described = json.loads(json.dumps(asdict(describe_checkpoint(finished / small["path"]))))
    assert {key: small.get(key) for key in described} == described
    linked = {system["name"]: system["model_path"] for system in facts["systems"]}
    assert linked == {"dense": "finetune/lmft", "pruned": "finetune-pruned/lmft"}
    assert [model["is_evaluated"] for model in facts["models"]] == [False, True, False, False, True]
    assert [model["timing"] is not None for model in facts["models"]] == [False, True, False, False, True]
    assert all(model["timing"]["cpu"] > 0 for model in facts["models"] if model["timing"])


def test_systems_carry_their_metrics_and_curves(finished, facts):
    for system in facts["systems"]:
        metrics = metrics_record(read_metrics(finished / "scores" / system["name"] / "all"))
        assert (system["eer"], system["eer_interval"]) == (metrics["eer"], metrics["eer_interval"])
        accept, miss = (np.array(system["det"][key]) for key in ("false_accept_rate", "miss_rate"))
        assert (np.diff(accept) <= 0).all() and (np.diff(miss) >= 0).all()
        crossing = np.argmin(np.abs(accept - miss))
        assert abs(accept[crossing] - system["eer"]) < 0.03
        assert sum(system["histogram"]["targets"]) == system["num_targets"]
        assert sum(system["histogram"]["nontargets"]) == system["num_nontargets"]
        band = system["det"]["band"]
        assert all(low <= high for low, high in zip(band["low"], band["high"], strict=True))
        assert min(band["false_accept_rate"]) * system["num_nontargets"] >= 1


def test_pruned_is_compared_with_dense(facts):
    (comparison,) = facts["comparisons"]
    assert (comparison["first"], comparison["second"], comparison["trials"]) == ("pruned", "dense", "all")
    dense, pruned = facts["systems"]
    assert comparison["eer_difference"] == pytest.approx(pruned["eer"] - dense["eer"])
    assert comparison["low"] <= comparison["eer_difference"] <= comparison["high"]
    spread = comparison["high"] - comparison["low"]
    assert spread < sum(
        system["eer_interval"]["high"] - system["eer_interval"]["low"] for system in (dense, pruned)
    )


def test_curves_come_from_the_logs(facts):
    stages = {entry["stage"]: entry for entry in facts["training"]}
    assert set(stages) == {"finetune/joint", "finetune/lmft", "prune", "finetune-pruned/lmft"}
    assert stages["finetune/joint"]["valid"]["eer"] == {"step": [10, 20, 40], "value": [0.04, 0.02, 0.01]}
    assert stages["prune"]["train"]["target_sparsity"]["value"][-1] == 0.8


def test_every_table_of_the_page_as_csv_and_as_latex(finished, facts, tmp_path):
    words = ["report", "--exp", str(finished), "--keep-finished"]
    done = CliRunner().invoke(app, [*words, "--csv", str(tmp_path), "--latex", str(tmp_path)])
    assert done.exit_code == 0, done.stderr
    names = {"Results", "Errors", "Thresholds-dense-on-all", "Thresholds-pruned-on-all", "Structure-Pruning",
             "Checkpoints", "Provenance", "Training", "pruned-against-dense"}  # fmt: skip
    assert {path.stem for path in tmp_path.glob("*.csv")} == {f"report-{name}" for name in names}
    assert {path.stem for path in tmp_path.glob("*.tex")} == {f"report-{name}" for name in names}
    with (tmp_path / "report-Results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, system in zip(rows, facts["systems"], strict=True):
        assert row["model"] == system["name"]
        ends = [row[f"all: EER, %{end}"] for end in ("", ", low (95 %)", ", high (95 %)")]
        interval = system["eer_interval"]
        assert ends == [f"{100 * value:.2f}" for value in (system["eer"], interval["low"], interval["high"])]
    assert len(done.stderr.splitlines()) >= 2 * len(names)
    assert done.stderr.splitlines()[-2:] == [
        f"open {finished / 'report' / 'report.html'} in a browser",
        f"to try a model anyway: svkit verify A.wav B.wav --exp {finished}",
    ]


def test_markdown_is_rendered_from_the_json_alone(finished, facts, report):
    text = (finished / "report" / "report.md").read_text()
    assert text == document.to_text(report, figures.panels(report))
    dense, pruned = facts["systems"]
    for system in (dense, pruned):
        assert f"| {100 * system['eer']:.2f} (" in text
    assert "pruned minus dense" in text
    assert "scores/pruned/all" in text


def test_page_stands_alone(finished, facts):
    text = (finished / "report" / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert text.count("<img") == 13
    assert str(finished) not in text.replace(facts["systems"][0]["trials"]["path"], "")


def test_headline_says_what_pruning_costs_and_gains(facts, report):
    first, second = answer.headline(report)
    dense, small = (next(model for model in facts["models"] if model["path"] == path)
                    for path in ("finetune/lmft", "finetune-pruned/lmft"))  # fmt: skip
    assert first.startswith(f"pruned: {100 * small['sparsity']:.1f} % of the encoder's parameters are gone")
    assert f"{dense['size_bytes'] / small['size_bytes']:.1f} times smaller on disk" in first
    assert second.startswith("On list all, pruned minus dense: +")


@pytest.mark.parametrize(
    ("difference", "low", "high", "p", "words"),
    [
        (
            0.02,
            0.01,
            0.04,
            0.01,
            "+2.00 points of EER (95 %: +1.00 to +4.00, p = 0.010): significantly worse.",
        ),
        (-0.02, -0.04, -0.01, 0.0001, "p < 0.001): significantly better."),
        (
            0.02,
            -0.01,
            0.04,
            0.2,
            "not a significant difference, but up to 4.00 points worse is not ruled out.",
        ),
        (-0.02, -0.03, 0.0, 0.2, "not a significant difference."),
        (0.0012, 0.0004, 0.0021, 0.004, "+0.12 points of EER (95 %: +0.04 to +0.21, p = 0.004)"),
        (0.0, 0.0, 0.0, 1.0, "no difference."),
    ],
)
def test_verdicts(difference, low, high, p, words):
    comparison = Comparison(
        trials="t", backend="cosine", first="a", second="b", eer_difference=difference, low=low, high=high, p_value=p,
        level=0.95, num_speakers=9, num_resamples=1000,
    )  # fmt: skip
    assert words in wording.comparison_sentence(comparison)


class _Cells(HTMLParser):
    """The cells of every table of a page."""

    def __init__(self):
        super().__init__()
        self.tables, self._inside = [], False

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._inside = True

    def handle_endtag(self, tag):
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self._inside:
            self.tables[-1][-1][-1] += data.replace("\u00a0", " ")


def markdown_tables(text):
    tables, inside = [], False
    for line in text.splitlines():
        if line.startswith("| "):
            if not inside:
                tables.append([])
            tables[-1].append([cell.replace("\\|", "|") for cell in line[2:-2].split(" | ")])
        inside = line.startswith("|")
    return tables


def test_page_and_markdown_hold_the_same_tables(finished):
    page = _Cells()
    page.feed((finished / "report" / "report.html").read_text())
    text = (finished / "report" / "report.md").read_text()
    assert sorted(page.tables) == sorted(markdown_tables(text))
    # compared, results, errors, two of thresholds, pruning, checkpoints, training, provenance
    assert len(page.tables) == 9
    plain = html.unescape((finished / "report" / "report.html").read_text())
    for line in text.splitlines():
        if line and not line.startswith(("|", "#", "!")):
            assert line.removeprefix("- ").strip("*") in plain


def numbers(cell):
    return [float(number.replace(",", "")) for number in re.findall(r"-?\d[\d,]*\.?\d*", cell)]


def test_the_figures_of_the_tables_are_those_of_the_json(finished, facts):
    """Read the page as a person does, and compare with `report.json` to the last digit shown."""
    tables = markdown_tables((finished / "report" / "report.md").read_text())
    by_heading = {tuple(table[0]): table[1:] for table in tables}
    main = next(rows for names, rows in by_heading.items() if "RTF CPU" in names and len(names) > 9)
    errors = next(rows for names, rows in by_heading.items() if "minCllr, bits" in names)
    thresholds = [table[1:] for table in tables if table[0][0] == "decide by"]
    for system, row, error, points in zip(facts["systems"], main, errors, thresholds, strict=True):
        model = next(model for model in facts["models"] if model["path"] == system["model_path"])
        low, high = (100 * system["eer_interval"][end] for end in ("low", "high"))
        assert float(row[1]) == pytest.approx(model["encoder_parameters"] / 1e6, rel=5e-3)
        assert float(row[3]) == pytest.approx(100 * model["sparsity"], abs=0.005)
        assert float(row[5]) == pytest.approx(model["size_bytes"] / 1e6, rel=5e-3)
        spent = model["timing"]["cpu_rounds"]
        expected = [model["timing"]["cpu"], min(spent), max(spent)]
        assert numbers(row[7]) == pytest.approx(expected, rel=5e-3)
        for cell in (row[8], error[2]):
            assert numbers(cell) == pytest.approx([100 * system["eer"], low, high], abs=0.0051)
        assert float(error[3]) == pytest.approx(100 * system["eer_convex_hull"], abs=0.0051)
        for entry, cell in zip(system["min_dcf"], error[4:8], strict=True):
            interval = entry["interval"]
            expected = [entry["value"], interval["low"], interval["high"]]
            assert numbers(cell) == pytest.approx(expected, abs=0.00051)
        assert float(error[8]) == pytest.approx(system["min_cllr"], abs=5e-4)
        point = system["thresholds"]["eer"]
        assert points[0][:2] == ["EER", f"score {point['threshold']:.4f}"]
        for cell, name in zip(points[0][2:], ("miss_rate", "false_accept_rate"), strict=True):
            interval = point[f"{name}_interval"]
            expected = [100 * value for value in (point[name], interval["low"], interval["high"])]
            assert numbers(cell) == pytest.approx(expected, abs=0.0051)
        # 448 nontargets: a false-accept rate of 1 % can be seen, the rarer ones cannot.
        assert [cells[0] for cells in points[2:4]] == ["FAR 0.1 %", "FAR 0.01 %"]
        assert [cells[1:] for cells in points[2:4]] == [
            ["-", "-", f"needs {count} trials"] for count in ("1,000", "10,000")
        ]


def test_errors_that_never_happened_say_what_remains_possible(report):
    interval = Interval(low=0.0, high=0.0123, num_speakers=9, num_resamples=1000)
    point = OperatingPoint(
        threshold=0.5, miss_rate=0.0, false_accept_rate=0.004, false_accept_rate_interval=interval
    )
    system = replace(
        report.systems[0], num_targets=1234, num_nontargets=500, thresholds={"eer": point}, eer=0.0, eer_interval=None
    )  # fmt: skip
    row = results.thresholds(system).rows[0]
    assert row == ["EER", "score 0.5000", "0 (none of 1,234)", "0.40 (0.00 to 1.23)"]  # of an earlier svkit
    point = replace(point, miss_rate_interval=replace(interval, high=0.1616))
    row = results.thresholds(replace(system, thresholds={"eer": point})).rows[0]
    assert row[2:] == ["0 (at most 16)", "0.40 (0.00 to 1.23)"]
    assert results.eer_cell(system) == "0.00"
    assert wording.trials_note([]) == ""
    others = replace(system.trials, left_out=LeftOut(num_trials=4, sha256="0"))
    fewer = replace(system, num_targets=1230, trials=others)
    uneven = "1,230 to 1,234 target and 500 nontarget trials (not the same for all systems)."
    assert wording.trials_note([system, fewer]) == f"all: {uneven}"
    assert wording.trials_note([system, system]) == "all: 1,234 target and 500 nontarget trials."
    assert wording.interval_note([system]).startswith("No confidence intervals")
    assert "too narrow" in wording.interval_note([replace(system, eer_interval=interval)])


def test_a_number_is_written_with_its_interval():
    interval = Interval(low=0.0692, high=0.2593, num_speakers=9, num_resamples=1000)
    assert tables.percent(0.14814, interval) == "14.81 (6.92 to 25.93)"
    assert tables.percent(0.003, replace(interval, low=2e-8)) == "0.30 (0.00 to 25.93)"
    assert tables.percent(0.14814) == "14.81" and tables.number(0.5, digits=3) == "0.500"
    assert tables.percent(0.0000345) == "0.0034" and tables.percent(0.0) == "0.00"
    assert tables.number(None) == "-"


def test_the_models_fit_a_terminal_of_80_columns_with_every_number_whole(report):
    names = ("finetune/joint", "finetune-pruned/lmft")
    models = [replace(report.models[0], path=name, is_evaluated=True) for name in names]
    table = stage.brief_tables(replace(report, models=tuple(models)))[-1]
    shown = tables.to_terminal(table, 80).splitlines()
    for row in table.rows:
        assert any(line.split() == " ".join(row).split() for line in shown)
    assert [row[0] for row in table.rows] == ["finetune/joint", "pruned: finetune-pruned/lmft"]


def test_table_has_a_row_a_system_and_columns_a_list(report):
    table = results.overview(report)
    assert [row[0] for row in table.rows] == ["dense", "pruned"]
    assert all(len(row) == len(table.headings) for row in table.rows)
    first = report.systems[0]
    second = replace(first, trials=replace(first.trials, name="other"))
    table = results.overview(replace(report, systems=(*report.systems, second)))
    assert "other: EER, % (95 %)" in table.headings
    assert table.rows[1][-3:] == ["-", "-", "-"]


def run(exp, **options):
    return read_report(stage.run(stage.ReportRequest(exp=exp, overwrite=True, **options), SilentProgress()))


@without_figures
def test_finished_report_is_refused_kept_or_replaced(finished, tmp_path):
    exp = tmp_path / "exp"
    shutil.copytree(finished, exp)
    with pytest.raises(ConfigError, match="--overwrite"):
        stage.run(stage.ReportRequest(exp=exp), SilentProgress())
    page = exp / "report" / "report.html"
    before = page.stat().st_mtime_ns
    kept = stage.run(stage.ReportRequest(exp=exp, keep_finished=True), SilentProgress())
    assert (kept, page.stat().st_mtime_ns) == (exp / "report", before)
    shutil.rmtree(exp / "scores" / "pruned")
    again = run(exp, keep_finished=True)
    assert [system.name for system in again.systems] == ["dense"]
    assert again.comparisons == ()
    assert not list((exp / "report" / "figures").glob("tradeoff*"))


@without_figures
def test_scores_without_checkpoints_still_make_a_report(finished, tmp_path):
    exp = tmp_path / "exp"
    shutil.copytree(finished / "scores", exp / "scores")
    done = run(exp)
    assert [table.title for table in stage.brief_tables(done)] == ["Errors (cosine)"]
    assert results.overview(done).rows[0][1:8] == ["-"] * 7
    assert any("pruned minus dense" in sentence for sentence in answer.headline(done))
    assert "Checkpoints" not in (exp / "report" / "report.md").read_text()


@without_figures
def test_a_chain_that_mixes_recipes_says_so_everywhere(finished, tmp_path):
    exp = tmp_path / "copy"
    shutil.copytree(finished, exp)
    chain = {"finetune/joint": "smoke", "prune": "smoke", "distill": "tiny", "finetune-pruned/lmft": "tiny"}
    before = []
    for place, preset in chain.items():
        path = exp / place / "provenance.json"
        record = {**json.loads(path.read_text()), "config": {"preset": preset}, "inputs": before}
        path.write_text(json.dumps(record))
        before = [{"name": "checkpoint", "path": str(exp / place), "sha256": sha256_artifact(exp / place)}]
    done = run(exp)
    sentence = (
        "the chain mixes recipes: smoke made finetune/joint, prune; tiny made distill, finetune-pruned/lmft"
    )
    assert done.cautions == (sentence,)
    assert f"Caution: {sentence}." in answer.cautions(done)
    for name in ("report.md", "report.html"):
        assert f"Caution: {sentence}." in html.unescape((exp / "report" / name).read_text())


@without_figures
def test_nothing_to_report_is_said(tmp_path):
    with pytest.raises(ArtifactError, match="svkit score"):
        stage.run(stage.ReportRequest(exp=tmp_path), SilentProgress())
    assert not (tmp_path / "report").exists()


def test_unfinished_outputs_are_left_out(finished, tmp_path):
    exp = tmp_path / "exp"
    shutil.copytree(finished, exp)
    (exp / "prune" / "provenance.json").unlink()
    assert "prune" not in [path.name for path in find_checkpoints(exp)]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_finished_checkpoint_that_lost_a_file_is_not_passed_over(finished, tmp_path, name):
    exp = tmp_path / "exp"
    shutil.copytree(finished / "finetune", exp / "finetune")
    (exp / "finetune" / "lmft" / name).unlink()
    with pytest.raises(ArtifactError, match=f"lmft/{name}: does not exist, but its checkpoint is finished"):
        find_checkpoints(exp)


def test_finished_scores_without_their_metrics_are_not_passed_over(finished, tmp_path):
    exp = shutil.copytree(finished, tmp_path / "exp")
    (exp / "scores/pruned/all/metrics.json").unlink()
    with pytest.raises(ArtifactError, match="scores/pruned/all/metrics.json: does not exist"):
        stage.run(stage.ReportRequest(exp=exp, overwrite=True), SilentProgress())


def test_logs_of_killed_runs_lose_their_last_line_only(tmp_path):
    log = tmp_path / "train_log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert read_log(tmp_path) == [{"step": 1}, {"step": 2}]
    log.write_text('{"step": 1}\n{"ste\n{"step": 2}\n')
    with pytest.raises(ArtifactError, match=r"train_log\.jsonl:2: not JSON"):
        read_log(tmp_path)


def test_points_of_a_log_that_are_no_numbers_are_not_drawn(tmp_path):
    finish(tmp_path)
    good = {"kind": "train", "step": 1, "loss": 2.0}
    bad = [
        {"kind": "train", "loss": 9.0},
        good | {"step": "2"},
        good | {"loss": 10**400},
        good | {"loss": None},
    ]
    (tmp_path / "train_log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in [*bad, good]))
    [curves] = facts_of.gather_training(tmp_path, [tmp_path])
    assert curves.train["loss"].step == (1,) and curves.train["loss"].value == (2.0,)


def test_models_take_turns_and_the_first_round_does_not_count():
    calls = []

    def embedder(name):
        return lambda waveforms: calls.append((name, len(waveforms[0])))

    result = timing.time_models({"a": embedder("a"), "b": embedder("b")}, SilentProgress(), rounds=2)
    lengths = [int(16_000 * seconds) for seconds in timing.LENGTHS_SECONDS]
    assert calls == [(name, length) for _ in range(3) for name in "ab" for length in lengths]
    assert set(result) == {"a", "b"} and all(time.wall >= 0 and time.cpu >= 0 for time in result.values())
    assert [len(time.cpu_rounds) for time in result.values()] == [2, 2]


def test_figures_are_the_same_for_the_same_facts(report):
    (_, first), (_, second) = (figures.draw(figures.panels(report)[0]) for _ in range(2))
    assert first == second
    assert "<dc:date>" not in first


def test_a_report_of_an_earlier_version_is_read_and_a_bad_value_named(facts, tmp_path):
    old = json.loads(json.dumps(facts))
    del old["cautions"], old["prunings"]
    for model in old["models"]:
        del model["vanished"]
        for key in ("pruned_by", "recipe", "seed", "trained_on"):
            model.pop(key, None)
        if model["timing"]:
            del model["timing"]["cpu_rounds"]
    for system in old["systems"]:
        for key in ("no_interval", "unchecked", "cautions"):
            del system[key]
        del system["det"]["band"]
    write_json(tmp_path / "report.json", old)
    found = read_report(tmp_path)
    assert found.cautions == () and found.systems[0].det.band is None
    assert "pruned minus dense" in document.to_text(found, figures.panels(found))
    old["models"][0]["sparsity"] = "much"
    write_json(tmp_path / "report.json", old)
    with pytest.raises(ArtifactError, match=r"models\[0\]\.sparsity: expected a number, found"):
        read_report(tmp_path)


def test_report_json_holds_plain_numbers(finished):
    json.loads(
        (finished / "report" / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name)
    )


@without_figures
def test_another_commands_mark_is_not_kept(finished, tmp_path):
    exp = tmp_path / "exp"
    shutil.copytree(finished, exp)
    finish(exp / "report")
    with pytest.raises(ConfigError, match="finished"):
        stage.run(stage.ReportRequest(exp=exp, keep_finished=True), SilentProgress())


def test_calibrated_systems_get_their_figure_and_table(finished, tmp_path):
    exp = tmp_path / "exp"
    shutil.copytree(finished, exp)
    trials = exp / "data" / "trials" / "all.txt"
    run_score(ScoreRequest(exp=exp, trials=trials, calibrate_folds=4, overwrite=True), SilentProgress())
    done = run(exp)
    assert {path.stem for path in (exp / "report" / "figures").glob("*.svg")} >= {
        "tippett-all",
        "reliability-all",
    }
    page = (exp / "report" / "report.html").read_text().replace("\u00a0", " ")
    for system in report_record(done)["systems"]:
        curves = system["tippett"]
        for key in ("targets_above", "nontargets_above"):
            assert curves[key][0] == 1.0 and (np.diff(curves[key]) <= 0).all()
        assert sum(curves["targets_above"]) > sum(curves["nontargets_above"])
        interval = system["cllr_interval"]
        spread = f"({interval['low']:.3f} to {interval['high']:.3f})"
        cells = f"{system['cllr']:.3f} {spread} | {system['min_cllr_llr']:.3f}"
        assert f"| 4 folds of speakers | {cells}" in (exp / "report" / "report.md").read_text()
        assert f"{system['cllr']:.3f} {spread}" in page
        for prior in (0.01, 0.05, 0.005, 0.001, 0.5):
            threshold = np.log((1 - prior) / prior)
            point = system["bayes_thresholds"][f"p_target_{prior:g}"]
            assert point["threshold"] == pytest.approx(threshold)
            assert f"| Bayes {prior:g} | LLR {threshold:.3f} |" in (exp / "report" / "report.md").read_text()
    assert "Tippett" not in (finished / "report" / "report.md").read_text()


NAME = (
    "<img src=x onerror=alert(1)> [a](javascript:b) ![c](http://e/d.png) `e` *f* __g__ ~~h~~"
    " | &lt; $i^$ \\ \x1b[31m\u202e"
)
"""A system, list, directory or group of speakers may be called so."""


class _Shown(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text = set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.add((tag, *(name for name, _ in attributes)))

    def handle_data(self, data):
        self.text += data.replace("\u00a0", " ")


def called(facts):
    """One system and one model of the report, with that name wherever a name is."""
    system = {
        **facts["systems"][0],
        "name": NAME,
        "model_path": NAME,
        "cautions": [NAME],
        "unchecked": [NAME],
    }
    system["trials"] = {**system["trials"], "name": NAME}
    system["backend"] = {**system["backend"], "name": NAME}
    group = {"value": NAME, "num_targets": 1, "num_nontargets": 1, "eer": None}
    return {
        **facts,
        "systems": [{**system, "breakdown": [{"column": NAME, "groups": [group]}]}],
        "models": [{**facts["models"][-1], "path": NAME}],
        "comparisons": [
            {**facts["comparisons"][0], "trials": NAME, "first": NAME, "second": NAME, "backend": NAME}
        ],
        "training": [{**facts["training"][0], "stage": NAME}],
        "provenance": [{**facts["provenance"][0], "output": NAME, "command": NAME}],
        "machine": {**facts["machine"], "processor": NAME},
    }


def test_names_are_shown_as_they_are_and_are_no_markup(finished, facts, tmp_path):
    """In all renderers; the same report with a plain name has the same elements."""
    shown = terminal_text(NAME)
    assert shown == NAME.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    pages = {}
    for name, report in (("hostile", called(facts)), ("plain", json.loads(json.dumps(called(facts)).replace(
        json.dumps(NAME)[1:-1], "plain"
    )))):  # fmt: skip
        write_json(tmp_path / name / "report.json", report)
        stage._render(tmp_path / name, SilentProgress())
        source = (tmp_path / name / "report.md").read_text()
        rendered = MarkdownIt("gfm-like", {"linkify": False}).render(source)
        pages[name] = [_Shown(rendered), _Shown((tmp_path / name / "report.html").read_text())]
    for hostile, plain in zip(*pages.values(), strict=True):
        assert hostile.elements == plain.elements
        assert plain.text.count("plain") >= 15
        assert hostile.text.replace(shown, "plain") == plain.text
    drawn = (tmp_path / "hostile" / "figures").iterdir()
    assert all(path.suffix in (".png", ".svg") and len(path.name) < 120 for path in drawn)


def test_the_model_card_shows_names_as_they_are(finished, facts, tmp_path):
    directory = shutil.copytree(finished / "finetune" / "lmft", tmp_path / NAME.replace("/", "-"))
    record = json.loads((directory / "provenance.json").read_text())
    record |= {
        "command": NAME,
        "device": NAME,
        "svkit": NAME,
        "inputs": [{"name": NAME, "path": NAME, "sha256": NAME}],
    }
    (directory / "provenance.json").write_text(json.dumps(record))
    write_json(tmp_path / "report.json", called(facts))
    shown = render_card(directory, read_report(tmp_path).systems)
    card = _Shown(MarkdownIt("gfm-like", {"linkify": False}).render(shown))
    assert {tag[0] for tag in card.elements} == {
        *("h1", "h2", "p", "pre", "code", "table", "thead", "tbody", "tr", "th", "td")
    }
    assert card.text.count(terminal_text(NAME)) >= 7
