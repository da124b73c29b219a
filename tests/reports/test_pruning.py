"""What report, model card and `info` say of how a model was pruned, and of checkpoints of an earlier pruning."""

import json
import shutil
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.nn.speaker import SpeakerNetwork
from svkit.progress import SilentProgress
from svkit.reports import answer, document, figures, results, wording
from svkit.reports import report as stage
from svkit.reports.card import render
from svkit.scoring.lineage import pruned_by, remade_sources
from svkit.scoring.score import ScoreRequest
from svkit.scoring.score import run as run_score
from svkit.store.checkpoint import write_model
from svkit.store.report import Distance, Pruning, read_report
from tests.fake_experiment import (
    DENSE,
    PRUNING,
    finish_chain,
    make_embeddings,
    make_experiment,
    make_lists,
    pruned,
)

FINAL = "finetune-pruned/lmft"
FIGURES = [
    ["target sparsity, %", "80.00"],
    ["expected by the gates, %", "79.50"],
    ["counted after the cut, %", "80.04"],
    ["L1 to the teacher before the cut", "0.2000"],
    ["L1 after it", "0.2050"],
    ["moved by the cut, % of L1 (caution above 2)", "2.50"],
    ["cosine with the teacher before the cut", "0.9550"],
    ["cosine after it", "0.9530"],
]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    exp = tmp_path_factory.mktemp("exp") / "exp"
    make_experiment(exp)
    run_score(ScoreRequest(exp=exp, trials=exp / "data" / "trials" / "all.txt"), SilentProgress())
    return exp


@pytest.fixture
def exp(original, tmp_path):
    return shutil.copytree(original, tmp_path / "exp")


def report(exp):
    stage.run(stage.ReportRequest(exp=exp), SilentProgress())
    return read_report(exp / "report")


@pytest.mark.usefixtures("plain_reports")
def test_the_report_shows_what_the_gates_reached_and_what_the_cut_changed(exp):
    finish_chain(exp, pruning={**PRUNING, "cautions": ["the cut moved the student"]})
    found = report(exp)
    made_by = {model.path: model.pruned_by for model in found.models}
    assert made_by == {"finetune/joint": None, "finetune/lmft": None} | dict.fromkeys(
        ("prune", "distill", FINAL), "prune"
    )
    assert found.prunings["prune"].before_cut == Distance(l1=0.2, cosine=0.955)
    assert results.pruning(found.prunings).rows == FIGURES
    assert found.cautions == ("prune: the cut moved the student",)
    assert "Caution: prune: the cut moved the student." in answer.cautions(found)
    text = (exp / "report" / "report.md").read_text()
    assert "| counted after the cut, % | 80.04 |" in text
    assert text.index("Caution: prune:") < text.index("## Results")


@pytest.mark.usefixtures("plain_reports")
def test_the_sparsities_have_a_figure_with_a_line_each(exp):
    (panel,) = [panel for panel in figures.panels(report(exp)) if panel.name == "sparsity-prune"]
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    panel.plot(axes)
    drawn = {line.get_label(): line for line in axes.lines}
    assert set(drawn) == {"target", "expected", "counted"}
    assert drawn["counted"].get_ydata()[-1] == pytest.approx(80)
    assert drawn["counted"].get_ydata()[12] == pytest.approx(80 * 13 / 26)


@pytest.mark.usefixtures("plain_reports")
def test_a_pruning_outside_of_the_experiment_is_found(exp, tmp_path):
    shutil.move(exp / "prune", tmp_path / "elsewhere")
    finish_chain(exp, "../elsewhere")
    found = report(exp)
    (place,) = found.prunings
    assert place.endswith("elsewhere") and found.prunings[place].moved == 0.025
    assert {model.path: model.pruned_by for model in found.models}[FINAL] == place
    assert any(curves.stage == place and "counted_sparsity" in curves.train for curves in found.training)


@pytest.mark.usefixtures("plain_reports")
@pytest.mark.parametrize(
    ("facts", "rows"),
    [
        ({"sparsity": 0.81, "distance_after_cut": {"l1": 0.3, "cosine": 0.9}},
         [["counted after the cut, %", "81.00"], ["L1 after it", "0.3000"], ["cosine after it", "0.9000"]]),
        ({"distance_after_cut": None}, []),
    ],
)  # fmt: skip
def test_of_an_earlier_pruning_what_is_known_is_shown(exp, facts, rows):
    finish_chain(exp, **facts)
    found = report(exp)
    assert results.pruning(found.prunings).rows == rows and found.cautions == ()
    assert ("### Pruning" in document.to_text(found, [])) == bool(rows)
    assert ("## Pruning" in render(exp / FINAL, ())) == bool(rows)


@pytest.mark.usefixtures("plain_reports")
def test_checkpoints_of_an_earlier_pruning_are_named_and_not_taken_for_the_new_ones(exp):
    (exp / "prune" / "classifier.safetensors").write_bytes(b"another")
    record = json.loads((exp / "prune" / "provenance.json").read_text())
    record["pruning"]["target"] = 0.9
    (exp / "prune" / "provenance.json").write_text(json.dumps(record))
    found = report(exp)
    (caution,) = found.cautions
    assert caution.startswith(
        "prune is no longer what distill was made from: distill and finetune-pruned/lmft come from the earlier one"
    )
    assert [model.path for model in found.models if model.pruned_by] == ["prune"]
    assert list(remade_sources(exp / FINAL)) == [(exp / "prune", exp / "distill")]
    assert pruned_by(exp / FINAL) is None and pruned_by(exp / "prune") == exp / "prune"
    assert "## Pruning" not in render(exp / FINAL, ())


@pytest.mark.usefixtures("plain_reports")
@pytest.mark.parametrize("kind", ["dense", "pruned"])
def test_a_model_that_is_not_the_last_of_its_chain_is_cautioned_about(exp, tmp_path, kind):
    """A pruned one before it is fine-tuned, and either one once a later stage is finished."""
    earlier, last = {"dense": ("finetune/joint", "finetune/lmft"), "pruned": ("distill", FINAL)}[kind]
    shutil.move(exp / last, tmp_path / "later")
    ids = make_lists(exp, 8, 4)
    shutil.rmtree(exp / "embeddings" / kind)
    make_embeddings(exp, kind, ids, 0.7, exp / earlier)
    make_embeddings(exp, "chosen", ids, 0.7, exp / earlier)
    request = ScoreRequest(exp=exp, trials=exp / "data" / "trials" / "all.txt", overwrite=True)
    run_score(request, SilentProgress())
    text = (
        "pruned is the model of distill, which is not fine-tuned yet, so the figures do not show what pruning costs"
        f" in the end; next: svkit finetune --from {exp}/distill --exp {exp}; once it is fine-tuned, run svkit extract"
        " and svkit score again, with --overwrite"
    )
    assert report(exp).cautions == ((text,) if kind == "pruned" else ())
    shutil.move(tmp_path / "later", exp / last)
    stage.run(stage.ReportRequest(exp=exp, overwrite=True), SilentProgress())
    text = (
        f"{kind} was scored with the model of {earlier}, but {last} is finished now; run svkit extract and svkit score"
        " again, with --overwrite"
    )
    assert read_report(exp / "report").cautions == (text,)
    assert f"Caution: {text}." in answer.cautions(read_report(exp / "report"))


@pytest.mark.parametrize("place", ["prune", "distill", FINAL])
def test_the_card_of_every_pruned_model_has_the_figures_and_cautions(exp, place):
    finish_chain(exp, pruning={**PRUNING, "cautions": ["the cut | moved the student"]})
    card = render(exp / place, ())
    for name, value in FIGURES:
        assert f"| {name} | {value} |" in card
    assert r"Caution: the cut \| moved the student." in card
    assert "## Pruning" not in render(exp / "finetune" / "joint", ())


@pytest.mark.usefixtures("plain_reports")
def test_a_kind_that_has_vanished_is_said_by_info_card_and_report(exp):
    small = pruned(DENSE)
    none = small.encoder.with_widths(
        {**small.encoder.widths(), "ffn1_dim": [0, 0, 0], "num_heads": [0, 0, 0]}
    )
    small = replace(small, encoder=none)
    write_model(exp / "prune", small, SpeakerNetwork(small).state_dict())
    sentence = "no attention head and no unit of the first FFN is left in any layer"
    answer = CliRunner().invoke(app, ["info", str(exp / "prune")])
    assert f"Vanished: {sentence}." in answer.stdout
    answer = CliRunner().invoke(app, ["info", str(exp / "prune"), "--json"])
    assert json.loads(answer.stdout)["vanished"] == ["heads", "ffn1"]
    finish_chain(exp)  # an older record does not know
    assert f"Caution: {sentence}." in render(exp / "prune", ())
    assert report(exp).cautions == (f"prune: {sentence}",)


def test_a_record_that_says_so_itself_is_not_repeated(report_models):
    told = Pruning(vanished=("heads",), cautions=("no attention head is left; do this",))
    assert wording.pruning_cautions(report_models, {"prune": told}) == [
        "prune: no attention head is left; do this"
    ]
    assert wording.pruning_cautions(report_models, {"prune": Pruning()}) == [
        "prune: no attention head is left in any layer"
    ]


@pytest.fixture
def report_models(exp, plain_reports):
    return [replace(model, vanished=("heads",)) for model in report(exp).models if model.pruned_by]


def test_info_of_a_small_model_counts_in_millions(exp):
    text = CliRunner().invoke(app, ["info", str(exp / "finetune" / "joint")]).stdout
    assert " M\n" in text and " G\n" not in text
