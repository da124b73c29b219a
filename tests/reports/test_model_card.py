"""The card beside a checkpoint says what is on disk, and changes nothing that is hashed."""

import json
import shutil
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.errors import ArtifactError
from svkit.eval.results import DetectionCost, Interval
from svkit.reports import report as stage
from svkit.reports.card import CARD_NAME, render, write_card
from svkit.scoring.lineage import encoder_of
from svkit.store.atomic import write_json
from svkit.store.metrics import BackendRecord, Metrics, TrialList
from svkit.store.provenance import sha256_artifact
from tests.corpus_trees import Notes
from tests.training_experiment import make_teacher, prepare

SYSTEM = Metrics(
    name="dense",
    trials=TrialList(name="vox|1", sha256="0" * 64),
    backend=BackendRecord(name="cosine"),
    num_targets=1200,
    num_nontargets=34567,
    eer=0.0123,
    eer_convex_hull=0.0121,
    eer_interval=Interval(low=0.011, high=0.0145, num_speakers=40, num_resamples=1000),
    min_dcf=(
        DetectionCost(threshold=0.5, miss_rate=0.1, false_accept_rate=0.0, p_target=0.01, value=0.1234),
        DetectionCost(threshold=0.4, miss_rate=0.1, false_accept_rate=0.0, p_target=0.05, value=0.1),
    ),
    min_cllr=0.05,
    thresholds={},
)


@pytest.fixture
def checkpoint(tmp_path):
    return make_teacher(tmp_path / "lmft")


def test_the_card_says_size_training_and_what_is_not_known(checkpoint):
    before = sha256_artifact(checkpoint)
    write_card(checkpoint)
    card = (checkpoint / CARD_NAME).read_text()
    assert sha256_artifact(checkpoint) == before and before in card
    assert (
        card.startswith("# lmft: ")
        and "A w2v-BERT 2.0 encoder of 2 layers (dense)" in card
        and 'svkit.load("this directory")' in card
    )
    assert "| classifier | 5 speakers at 3 speeds, 15 classes |" in card
    assert "Not evaluated yet" in card and "no calibration" in card and "licences" in card
    (checkpoint / "calibration.json").write_text("{}")
    assert "The model has a calibration" in render(checkpoint, ())


def test_a_calibration_behind_a_link_that_leads_nowhere_is_not_called_absent(checkpoint):
    (checkpoint / "calibration.json").symlink_to("nowhere.json")
    assert "has a calibration (`calibration.json`) that cannot be read" in render(checkpoint, ())


def test_a_record_without_the_facts_that_nothing_needs_gives_a_card(checkpoint):
    path = checkpoint / "provenance.json"
    record = json.loads(path.read_text())
    write_json(path, {key: record[key] for key in ("format", "format_version", "command", "inputs")})
    assert "(svkit of unknown version), at an unknown time." in render(checkpoint, ())


def test_the_card_has_the_figures_of_the_evaluation(checkpoint):
    card = render(checkpoint, [SYSTEM])
    assert r"| vox\|1 | 1,200 / 34,567 | cosine | 1.23 (1.10 to 1.45) | 0.123 |" in card
    assert "| cosine | 1.23 | 0.123 |" in render(checkpoint, [replace(SYSTEM, eer_interval=None)])
    assert "Not evaluated yet" not in card


def test_a_stage_writes_the_card_with_its_inputs(tmp_path):
    from tests.training_experiment import one_process, set_options

    exp = prepare(tmp_path / "exp", valid=False)
    with one_process():
        result = CliRunner().invoke(
            app, ["finetune", "--stage", "head", "--encoder", "tiny", "--exp", str(exp), *set_options()]
        )
    assert result.exit_code == 0, result.stderr
    card = (exp / "finetune" / "head" / CARD_NAME).read_text()
    assert "| stage | head |" in card and "| train | train.tsv |" in card and "| seed | 24 |" in card
    assert "An encoder like w2v-BERT 2.0, trained from random weights, of" in card
    assert "| started from | random weights |" in card and encoder_of(exp / "finetune" / "head") == "tiny"
    assert str(tmp_path) not in card


def test_a_document_of_the_users_own_is_not_replaced(checkpoint):
    (checkpoint / CARD_NAME).write_text("# My model")
    write_card(checkpoint)
    assert (checkpoint / CARD_NAME).read_text() == "# My model"
    (checkpoint / CARD_NAME).unlink()
    write_card(checkpoint)
    write_card(checkpoint, [SYSTEM])
    assert "1.23" in (checkpoint / CARD_NAME).read_text()


@pytest.mark.usefixtures("plain_reports")
def test_a_card_that_cannot_be_written_leaves_the_report_complete(finished, tmp_path, monkeypatch):
    def refuse(checkpoint, *_):
        raise ArtifactError(f"{checkpoint}: cannot be written")

    exp, notes = shutil.copytree(finished, tmp_path / "exp"), Notes()
    monkeypatch.setattr(stage, "write_card", refuse)
    assert stage.run(stage.ReportRequest(exp=exp, overwrite=True), notes) == exp / "report"
    assert any("lmft: cannot be written; the report is complete" in note for note in notes.notes)
