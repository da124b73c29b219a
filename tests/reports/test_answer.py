"""The first screen: what was evaluated, what is lost and gained, and which model to use."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.reports import answer, facts, figures, results, wording
from svkit.reports.tables import MISSING
from svkit.store.metrics import Comparison, plain_record
from svkit.store.report import Curve, ListCounts, StageCurves, Timing, find_scores, read_report


def compared(report, eers, difference, low, high, p):
    """The report with the EERs of its dense and pruned system and their comparison as said, in percent."""
    systems = tuple(replace(one, eer=eer / 100) for one, eer in zip(report.systems, eers, strict=True))
    comparison = Comparison(
        trials="all", backend="cosine", first="pruned", second="dense", eer_difference=difference / 100,
        low=low / 100, high=high / 100, p_value=p, level=0.95, num_speakers=9, num_resamples=1000,
    )  # fmt: skip
    return replace(report, systems=systems, comparisons=(comparison,))


@pytest.mark.parametrize(
    ("eers", "difference", "use", "words"),
    [
        ((4, 4.2), (0.2, -0.3, 0.9, 0.6), "pruned", "Use the pruned model: on list all its EER is 4.20 %, that"),
        ((4, 3.5), (-0.5, -0.8, -0.1, 0.01), "pruned", "Use the pruned model: on list all its EER is 3.50 %, that"),
        ((4, 5), (1.0, 0.5, 1.5, 0.01), "depends", "Use the dense model where accuracy matters, the pruned one"),
        ((4, 4.5), (0.5, -0.5, 1.1, 0.3), "undecided", "Undecided: on list all the EER of the pruned model is 4.50 %,"),
        ((14, 13), (-1.0, -2, 1.5, 0.6), "neither", "Use neither model yet: on list all the measured EER of both is"),
    ],
)  # fmt: skip
def test_which_model_to_use(report, eers, difference, use, words):
    found = compared(report, eers, *difference)
    (advice,) = answer.advice(found)
    assert advice.startswith(words)
    (rule,) = answer.rule(found)
    (one,) = answer.recommendations(found)
    assert (one.use, one.sentence, one.rule) == (use, advice, rule)
    assert (one.dense, one.pruned) == ("finetune/lmft", "finetune-pruned/lmft")
    assert one.comparison == found.comparisons[0]
    assert one.allowed_difference == pytest.approx(eers[0] / 400)
    rest = "keeps the rest of the rule: at most 1.50 points higher (95 %), 3.50 points allowed"
    assert (rest in advice) == (use == "neither")
    assert "both are above 10 %, no model" in rule and "at most a quarter above" in rule


def test_report_json_has_the_recommendation_of_the_first_screen(facts, report):
    (one,) = facts["recommendations"]
    assert (one["sentence"], one["rule"]) == (answer.advice(report)[0], answer.RULE)
    dense, pruned = (system["eer"] for system in facts["systems"])
    assert (one["dense_eer"], one["pruned_eer"], one["highest_eer"]) == (dense, pruned, 0.1)
    assert one["comparison"] == facts["comparisons"][0]
    assert report.recommendations == tuple(answer.recommendations(report))


def test_a_recommendation_without_an_interval_can_be_read_again(facts, report, tmp_path):
    (one,) = answer.recommendations(replace(report, comparisons=()))
    assert (one.use, one.comparison) == ("neither", None)
    kept = {**facts, "recommendations": [plain_record(one)]}
    (tmp_path / "report.json").write_text(json.dumps(kept))
    assert read_report(tmp_path).recommendations == (one,)


def test_of_several_lists_the_worst_decides_and_without_a_pair_there_is_no_advice(report):
    good = compared(report, (4, 4.2), 0.2, -0.3, 0.9, 0.6)
    hard = [
        replace(one, eer=0.44, trials=replace(one.trials, name="hard", sha256="f" * 64))
        for one in good.systems
    ]
    (advice,) = answer.advice(replace(good, systems=(*good.systems, *hard)))
    assert advice.startswith("Use neither model yet: on list hard")
    (table,) = answer.tables(replace(good, systems=(*good.systems, *hard)))
    assert [row[0] for row in table.rows][:4:2] == ["EER on list all, % (95 %)", "EER on list hard, % (95 %)"]
    alone = replace(good, systems=good.systems[:1])
    assert (
        answer.advice(alone)[0].startswith("No advice")
        and answer.rule(alone) == []
        and answer.tables(alone) == []
    )


def test_systems_of_one_model_on_the_same_trials_get_one_advice(report):
    found = compared(report, (4, 4.2), 0.2, -0.3, 0.9, 0.6)
    again = replace(found.systems[1], name="pruned-demo")
    (advice,) = answer.advice(replace(found, systems=(*found.systems, again)))
    assert advice.startswith("Use the pruned model: on list all")


def test_scores_without_their_embeddings_are_noted_unless_all_were_deleted(finished, tmp_path):
    exp, notes = tmp_path / "exp", []
    shutil.copytree(finished, exp)
    listener = SimpleNamespace(note=notes.append)
    for name, expected in ((None, []), ("pruned", ["exp/scores/pruned/all"]), ("dense", [])):
        if name:
            shutil.rmtree(exp / "embeddings" / name)
        notes.clear()
        facts.note_lost_embeddings(find_scores(exp), listener)
        assert [note.partition(":")[0].removeprefix(f"{tmp_path}/") for note in notes] == expected


def test_what_is_lost_and_gained_stands_side_by_side(report):
    (table,) = answer.tables(report)
    assert table.headings == ["", "dense", "pruned", "change"]
    rows = {row[0]: row[1:] for row in table.rows}
    dense, pruned = report.systems
    assert rows["EER on list all, % (95 %)"][:2] == [results.eer_cell(dense), results.eer_cell(pruned)]
    small = next(model for model in report.models if model.path == pruned.model_path)
    assert rows["encoder's parameters, M"][2] == f"{-100 * small.sparsity:+.1f} %"


def test_the_next_command_names_a_model_from_elsewhere(finished, monkeypatch):
    monkeypatch.setattr("svkit.models.final.final_models", lambda exp: {})
    done = CliRunner().invoke(app, ["report", "--exp", str(finished), "--keep-finished"])
    assert f"A.wav B.wav --model {finished}/finetune/lmft" in done.stderr


def test_speed_has_the_spread_of_its_rounds():
    dense = Timing(wall=1.0, cpu=0.4, cpu_rounds=(0.3, 0.4, 0.6))
    pruned = Timing(wall=1.0, cpu=0.2, cpu_rounds=(0.2, 0.16, 0.2))
    assert answer.speed(pruned, dense) == "2.0 times faster (in single rounds 1.5 to 3.0)"
    assert answer.speed(dense, pruned) == "2.0 times slower (in single rounds 1.5 to 3.0)"
    assert answer.speed(replace(pruned, cpu_rounds=()), dense) == "2.0 times faster"  # of an earlier svkit


def test_corpus_speakers_recipe_seed_and_date_are_said(report):
    counted = ListCounts(corpus="demo", num_speakers=12, num_utterances=1108, hours=0.1)
    trained = replace(counted, corpus="folder", num_speakers=33, hours=270.25, root="home/wav")
    found = replace(
        report,
        systems=tuple(replace(one, recordings=counted) for one in report.systems),
        models=tuple(
            replace(one, recipe="tiny", seed=7, encoder="tiny", trained_on=(trained,))
            for one in report.models
        ),
    )
    assert answer.subject(found) == [
        "Evaluated on svkit demo: synthetic voices, no people (12 speakers, 1,108 recordings, 6.0 min), trial list"
        " all.",
        "Trained from random weights with preset tiny, seed 7, on own recordings in home/wav, by svkit prepare folder"
        " (33 speakers, 1,108 recordings, 270.25 h).",
        "The models were trained on none of the people they were evaluated on.",
        f"Scored on {max(origin.finished for origin in report.provenance if 'scores' in origin.output)[:10]}.",
    ]
    assert answer.cautions(found)[0].startswith("Caution: these voices are synthetic")
    assert answer.cautions(report)[0].startswith("Caution: only 8 speakers")
    assert not any("synthetic" in caution for caution in answer.cautions(report))


def test_that_training_knew_nobody_is_said_only_where_it_was_checked_for_every_system(report):
    first, *others = report.systems
    assert "trained-speakers" in first.found_nothing
    unknown = replace(report, systems=(replace(first, found_nothing=()), *others))
    assert not any("on none of the people" in sentence for sentence in answer.subject(unknown))


def test_validation_tells_its_speakers_and_provenance_that_the_code_changed(report):
    (stage,) = [replace(one, valid_speakers=3) for one in report.training if one.stage == "finetune/joint"]
    (row,) = results.training([stage]).rows
    assert row[-1] == "EER 1.00 % on 3 speakers" and row[3] != MISSING
    short = replace(stage.train["loss"], step=(1,), value=(16.0,))
    (row,) = results.training([replace(stage, train={"loss": short})]).rows
    assert row[3:5] == [MISSING, "16.000"]  # one mean over all steps
    same = [replace(origin, svkit="1", git_commit="a" * 40) for origin in report.provenance]
    assert not results.provenance(same).notes
    (note,) = results.provenance([replace(same[0], git_commit="b" * 40), *same[1:]]).notes
    assert note.startswith("Made by 2 states of svkit's code")


def test_figures_without_an_interval_come_with_a_caution(report):
    why = "it needs at least 5 speakers, found 2"
    short = replace(report, systems=tuple(replace(one, no_interval=why) for one in report.systems))
    (caution,) = [text for text in answer.cautions(short) if why in text]
    assert caution.startswith("Caution: there is no confidence interval") and "--eval-speakers N" in caution
    assert not any("no confidence interval" in text for text in answer.cautions(report))


def prepare(data, corpus, part, **counts):
    """Record the preparation of a list with these counts in `data`; return the record, and the list as an input."""
    record = {
        "format": "svkit-provenance", "format_version": 1, "command": f"prepare {corpus}", "inputs": [],
        "outputs": [{"name": f"{part}.tsv", "sha256": "ab", "size": 1, "mtime_ns": 1}], "config": {"corpus": corpus},
        "summary": {f"{part}_{what}": count for what, count in counts.items()},
    }  # fmt: skip
    (data / "provenance.json").write_text(json.dumps(record))
    return record, {"path": str(data / f"{part}.tsv"), "sha256": "ab"}


def test_recordings_are_counted_by_their_preparation(report, tmp_path):
    _, entry = prepare(tmp_path, "demo", "eval", speakers=12, utterances=108, hours=0.1)
    found = facts.counts_of(entry)
    assert found == ListCounts(corpus="demo", num_speakers=12, num_utterances=108, hours=0.1)
    assert facts.counts_of({}) is None
    # Prepared again, or edited by hand; a list of the user's beside it is none of svkit's.
    changed = facts.counts_of({**entry, "sha256": "another"})
    assert changed == ListCounts(corpus=None)
    assert facts.counts_of({"path": str(tmp_path / "mine.tsv"), "sha256": "another"}) is None
    systems = tuple(replace(one, recordings=changed) for one in report.systems)
    assert answer.subject(replace(report, systems=systems))[0] == (
        "Evaluated on recordings of a list that svkit prepared and that has changed since, trial list all."
    )


def test_a_stage_knows_how_many_speakers_validated_it(tmp_path):
    prepared, stage_of_it = tmp_path / "data", tmp_path / "head"
    prepared.mkdir()
    stage_of_it.mkdir()
    record, entry = prepare(prepared, "folder", "valid", speakers=3, utterances=78, hours=0.1)
    used = [{"name": "valid", **entry}]
    for lists, expected in ((used, 3), ([{**used[0], "sha256": "changed"}], None), ([], None)):
        of_stage = {**record, "command": "finetune", "inputs": lists, "outputs": []}
        (stage_of_it / "provenance.json").write_text(json.dumps(of_stage))
        assert facts._valid_speakers(stage_of_it) == expected


def stage(name, num_points, margin=None):
    steps = tuple(range(10, 10 * num_points + 10, 10))
    return StageCurves(
        stage=name,
        train={"loss": Curve(step=steps, value=tuple(float(step) for step in steps))},
        valid={"eer": Curve(step=steps[-1:], value=(0.125,))},
        margin=margin,
    )


def test_stages_follow_each_other_in_one_figure_and_a_change_of_margin_is_marked():
    stages = (stage("finetune/joint", 4, 0.2), stage("finetune/lmft", 3, 0.5), stage("prune", 2))
    # What comes before is too short for a curve, and leaves no empty place.
    (panel,) = figures._training(SimpleNamespace(training=(stage("finetune/head", 2, 0.2), *stages)))
    assert panel.caption == "finetune: training, stages joint, lmft; too short for a curve: head"
    assert panel.plot.args[0] == [*stages[:2]]
    (panel,) = figures._training(SimpleNamespace(training=stages))
    assert panel.name == "training-finetune"  # of the pruning there are two points: numbers in the table
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    panel.plot(axes)
    labels = [line.get_label() for line in axes.lines if line.get_label() and line.get_label()[0] != "_"]
    assert labels == ["training loss", "lmft: margin 0.2 to 0.5, so the loss jumps"]
    assert [list(line.get_xdata())[0] for line in axes.lines] == [10, 40, 50]
    rows = results.training(stages).rows
    assert rows[1] == ["finetune/lmft", "30", "0.5", "10.000", "30.000", "EER 12.50 %"]
    assert rows[2] == ["prune", "20", "-", "10.000", "20.000", "EER 12.50 %"]


def test_the_axis_of_the_validation_contains_the_points_of_all_stages():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    low, high = stage("finetune/head", 4), stage("finetune/joint", 4)
    high = replace(high, valid={"eer": Curve(step=(20, 40), value=(0.3, 0.2))})
    figures._curves([low, high], axes)
    (validation,) = [one for one in axes.figure.axes if one is not axes]
    assert validation.get_ylim()[0] == 0 and validation.get_ylim()[1] > 32


@pytest.mark.parametrize(
    ("change", "repeated"),
    [({}, 40), ({"seed": 2}, None), ({"stage_config": {"data": {"crop_seconds": 3}}}, None)],
)
def test_a_loss_that_rises_when_crops_are_new_is_explained(report, tmp_path, change, repeated):
    """In the first steps they are those of the stage before, because the order does not depend on the stage."""
    config = {"seed": 1, "stage_config": {"data": {"crop_seconds": 2}}}
    record = {
        "format": "svkit-provenance", "format_version": 1, "command": "finetune", "config": config,
        "inputs": [{"name": "train", "path": "train.tsv", "sha256": "ab"}],
    }  # fmt: skip
    head, joint = tmp_path / "finetune/head", tmp_path / "finetune/joint"
    for place in (head, joint):
        place.mkdir(parents=True)
    source = {"name": "checkpoint", "path": str(head), "sha256": "cd"}
    of_joint = {**record, "config": config | change, "inputs": [*record["inputs"], source]}
    for place, facts_of_it, losses in (
        (head, record, (5.0, 4.0, 4.5, 4.4)),
        (joint, of_joint, (2.5, 2.2, 2.1, 2.5, 3.9, 4.4, 4.0, 3.0)),
    ):
        (place / "provenance.json").write_text(json.dumps(facts_of_it))
        lines = [
            {"kind": "train", "step": 10 * number, "loss": loss}
            for number, loss in enumerate(losses, start=1)
        ]
        (place / "train_log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = facts.gather_training(tmp_path, [head, joint])
    assert [one.repeated_steps for one in found] == [None, repeated]
    notes = [
        note
        for note in wording.training_notes(replace(report, training=tuple(found)))
        if "same order" in note
    ]
    assert len(notes) == bool(repeated)
    assert all(note.startswith("finetune/joint: every stage") and "first 40 steps" in note for note in notes)
    falling = replace(found[1], train={"loss": Curve(step=(10, 50), value=(5.0, 4.0))})
    assert "same order" not in " ".join(wording.training_notes(replace(report, training=(falling,))))
    one = replace(falling.train["loss"], step=(1,), value=(16.0,))
    for training, is_said in ((falling, False), (replace(falling, train={"loss": one}), True)):
        said = " ".join(wording.training_notes(replace(report, training=(training,))))
        assert ("has no first loss" in said) == is_said


def test_the_axes_of_a_det_plot_end_where_its_curves_do(report):
    (accepts, misses) = figures._det_limits(report.systems)
    for system in report.systems:
        inside = [
            (accept, miss)
            for accept, miss in zip(system.det.false_accept_rate, system.det.miss_rate, strict=True)
            if accept >= accepts[0] and miss >= misses[0]
        ]
        assert all(
            min(accept, 0.97) <= accepts[1] and min(miss, 0.97) <= misses[1] for accept, miss in inside
        )
        assert accepts[0] < system.eer < accepts[1] and misses[0] < system.eer < misses[1]
    assert misses[0] == pytest.approx(0.5 / 48)  # what so many targets resolve
