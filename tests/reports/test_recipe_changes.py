"""What was changed of a preset is said wherever the preset is named."""

import html
import json
import shutil
from dataclasses import asdict

import pytest
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.config.changes import Change
from svkit.config.load import load_recipe
from svkit.progress import SilentProgress
from svkit.reports import report as stage
from svkit.reports import wording
from svkit.reports.card import render
from svkit.scoring.lineage import recipe_changes
from svkit.store.provenance import sha256_artifact
from svkit.store.report import read_report

CHAIN = {
    "finetune/joint": ("finetune", "dense.joint"),
    "prune": ("prune", "prune"),
    "distill": ("distill", "distill"),
    "finetune-pruned/lmft": ("finetune", "pruned.lmft"),
}


def train(exp, *overrides, preset="tiny", named=None):
    """Record that the stages of an experiment were trained with a preset and settings, each from the one before."""
    recipe = json.loads(json.dumps(asdict(load_recipe(preset, overrides=overrides))))
    before = []
    for place, (command, section) in CHAIN.items():
        path, settings = exp / place / "provenance.json", recipe
        for part in section.split("."):
            settings = settings[part]
        config = {"preset": named or preset, "seed": 24, section: settings}
        if command == "finetune":
            own = {
                "stage": section.partition(".")[2],
                "stage_config": settings,
                "encoder": None,
                "head": None,
            }
            config = {"preset": named or preset, "seed": 24, **own}
        record = {**json.loads(path.read_text()), "command": command, "config": config, "inputs": before}
        path.write_text(json.dumps(record))
        before = [{"name": "checkpoint", "path": str(exp / place), "sha256": sha256_artifact(exp / place)}]
    return exp


@pytest.fixture
def exp(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "exp")


SHORT = ("dense.joint.epochs=5", "prune.epochs=2", "distill.epochs=0.5", "prune.sparsity=0.5")


@pytest.mark.usefixtures("plain_reports")
def test_a_shortened_training_is_said_everywhere(exp):
    train(exp, *SHORT)
    done = CliRunner().invoke(app, ["report", "--exp", str(exp), "--overwrite"])
    assert done.exit_code == 0, done.stderr
    changed = (
        "tiny (changed: dense.joint.epochs=5 instead of 10, prune.epochs=2 instead of 8, distill.epochs=0.5 instead of"
        " 2), seed 24"
    )
    caution = (
        "Caution: training was shorter than the preset's in dense.joint, prune, distill: the results are not those of"
        " the preset."
    )
    for text in (
        " ".join(done.output.split()),
        *(html.unescape((exp / "report" / name).read_text()) for name in ("report.md", "report.html")),
    ):
        assert changed in text and caution in text
    report = read_report(exp / "report")
    models = {model.path: model for model in report.models}
    assert models["finetune/joint"].changes == (Change(setting="dense.joint.epochs", value="5", preset="10"),)
    assert [change.setting for change in models["finetune-pruned/lmft"].changes] == [
        "dense.joint.epochs", "prune.epochs", "distill.epochs",
    ]  # fmt: skip
    skipped, shortened = report.cautions
    assert skipped.startswith("the chain leaves out head and joint") and shortened.startswith("training was")
    card = (exp / "finetune-pruned/lmft/README.md").read_text()
    assert "| recipe | tiny, changed: dense.joint.epochs=5 instead of 10, prune" in card and caution in card


@pytest.mark.usefixtures("plain_reports")
@pytest.mark.parametrize("given", [{}, {"preset": "smoke"}, {"named": "of-my-own"}])
def test_of_a_preset_as_it_is_and_of_another_recipe_nothing_is_said(exp, given):
    settings = (
        ("prune.epochs=0.1",) if "named" in given else ("prune.sparsity=0.6", "prune.data.num_workers=3")
    )
    train(exp, *settings, **given)
    stage.run(stage.ReportRequest(exp=exp, overwrite=True), SilentProgress())
    assert not any(model.changes for model in read_report(exp / "report").models)
    for text in ((exp / "report/report.md").read_text(), render(exp / "finetune-pruned/lmft", ())):
        assert "changed:" not in text and "shorter" not in text


def test_longer_training_and_other_settings_need_no_caution_and_many_are_counted(exp):
    more = [f"prune.initial_drop_{kind}=0.2" for kind in ("ffn", "heads", "conv")]
    more += [
        "distill.optim.lr=1e-3",
        "distill.l1_weight=2.0",
        "distill.cosine_weight=2.0",
        "pruned.lmft.epochs=2",
    ]
    train(exp, *more)
    changes = recipe_changes(exp / "finetune-pruned/lmft")
    assert len(changes) == 7 and wording.shortened(changes) == []
    told = wording.changed(changes, "report.json")
    assert told.startswith(
        "pruned.lmft.epochs=2 instead of 0.5, prune.initial_drop_ffn=0.2 instead of 0.01, "
    )
    assert told.endswith(" and 1 more (all in report.json)")
    long = Change(setting="dense.joint.data.speeds", value=f"[{'1.0, ' * 20}1.0]", preset="[1.0]")
    assert len(wording.changed([long], "")) < 100


def test_an_earlier_stage_that_was_remade_or_has_lost_its_model_is_passed_over(exp):
    train(exp, *SHORT)
    student = exp / "finetune-pruned/lmft"
    (exp / "finetune/joint/config.json").unlink()
    assert [change.setting for change in recipe_changes(student)] == ["prune.epochs", "distill.epochs"]
    (exp / "distill/classifier.safetensors").write_bytes(b"another")
    assert recipe_changes(student) == []


def test_the_recipe_of_a_new_encoder_and_head_counts(exp):
    train(exp)
    path = exp / "finetune/joint/provenance.json"
    record = json.loads(path.read_text())
    record["config"] |= {
        "encoder": "tiny", "encoder_overrides": {"hidden_size": 64}, "head": {"embedding_dim": 64}, "lora": None,
    }  # fmt: skip
    path.write_text(json.dumps(record))
    assert [(one.setting, one.value, one.preset) for one in recipe_changes(exp / "finetune/joint")] == [
        ("head.embedding_dim", "64", "256"), ("encoder_overrides.hidden_size", "64", "128"),
    ]  # fmt: skip
    record["config"]["encoder"] = "another"
    path.write_text(json.dumps(record))
    assert [one.setting for one in recipe_changes(exp / "finetune/joint")] == ["head.embedding_dim"]
