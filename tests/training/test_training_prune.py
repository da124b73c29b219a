"""Pruning and distillation on a few synthetic speakers, through the command line where it matters."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from svkit.cli.app import app
from svkit.config.architecture import EncoderArchitecture, ModelArchitecture
from svkit.config.schema import HeadConfig
from svkit.errors import ConfigError
from svkit.models.load import load_model
from svkit.progress import SilentProgress
from svkit.pruning.counting import encoder_parameters, macs, sparsity
from svkit.store import checkpoint as store
from svkit.store.provenance import read_provenance, sha256_artifact
from svkit.training.distill import DistillRequest
from svkit.training.distill import run as run_distill
from svkit.training.prune import PruneRequest, parse_budget
from svkit.training.prune import run as run_prune
from tests.training_experiment import (
    TEACHER,
    Notes,
    contents,
    interrupt,
    log,
    make_teacher,
    recipe,
    set_options,
)

pytestmark = pytest.mark.usefixtures("fresh_process")


@pytest.fixture(scope="module")
def prepared(prepared: Path) -> Path:
    """Lists, audio and a random teacher, read by every test."""
    make_teacher(prepared / "finetune" / "joint")
    return prepared


def prune(exp: Path, out: Path, *options: str, overrides: tuple[str, ...] = ()) -> Result:
    arguments = ["prune", "--exp", exp, "--out", out, *options, *set_options(*overrides)]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_prune_then_distill_through_the_command_line(prepared, tmp_path):
    result = prune(prepared, tmp_path / "prune", "--sparsity", "0.8", "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    architecture = store.read_architecture(tmp_path / "prune")
    model = load_model(tmp_path / "prune")
    count = sum(parameter.numel() for parameter in model.encoder.parameters())
    dense = sum(
        parameter.numel() for parameter in load_model(prepared / "finetune/joint").encoder.parameters()
    )
    assert facts["encoder_parameters"] == count and facts["sparsity"] == 1 - count / dense
    assert 0.8 <= facts["sparsity"] <= 0.805
    assert architecture.is_pruned and architecture.dense_encoder() == TEACHER.encoder
    record = read_provenance(tmp_path / "prune")
    assert record["sparsity"] == facts["sparsity"] and record["encoder_parameters"] == count
    teacher = next(entry for entry in record["inputs"] if entry["name"] == "teacher")
    assert teacher["sha256"] == sha256_artifact(prepared / "finetune" / "joint")
    lines = [line for line in log(tmp_path / "prune") if line["kind"] == "train"]
    assert {"l1", "cosine", "sparsity", "target_sparsity", "counted_sparsity"} <= set(lines[-1])

    arguments = ["distill", "--exp", prepared, "--student", tmp_path / "prune", "--out", tmp_path / "distill"]
    result = CliRunner().invoke(app, [str(argument) for argument in [*arguments, *set_options()]])
    assert result.exit_code == 0 and result.stdout == f"{tmp_path / 'distill'}\n", result.stderr
    assert store.read_architecture(tmp_path / "distill") == architecture
    before, after = model.state_dict(), load_model(tmp_path / "distill").state_dict()
    teacher_state = load_model(prepared / "finetune" / "joint").state_dict()
    assert not torch.equal(before["encoder.encoder.layers.0.final_layer_norm.weight"],
                           after["encoder.encoder.layers.0.final_layer_norm.weight"])  # fmt: skip
    for name in (name for name in after if name.startswith("head.")):
        assert torch.equal(after[name], teacher_state[name])  # the teacher's head is put back
    classifiers = [
        store.read_classifier(path) for path in (prepared / "finetune/joint", tmp_path / "distill")
    ]
    assert torch.equal(classifiers[0].weight, classifiers[1].weight)


def test_the_cut_does_not_move_what_was_learned_and_the_record_says_so(prepared, tmp_path):
    result = prune(prepared, tmp_path / "out", "--sparsity", "0.5", "--json", overrides=("prune.epochs=1.2",))
    assert result.exit_code == 0, result.stderr
    record = read_provenance(tmp_path / "out")
    masked = [line for line in log(tmp_path / "out") if line["kind"] == "valid"][-1]
    found = record["pruning"]
    assert found["before_cut"]["l1"] == pytest.approx(masked["l1"], rel=1e-6)
    assert found["after_cut"] == record["distance_after_cut"] and set(found["after_cut"]) == {"l1", "cosine"}
    assert found["moved"] == pytest.approx(abs(found["after_cut"]["l1"] / masked["l1"] - 1), rel=1e-5)
    assert found["expected"] == pytest.approx(0.5, abs=1e-5) and found["counted"] == record["sparsity"]
    assert found["constraint"] == "projection" and found["vanished"] == []
    assert json.loads(result.stdout)["pruning"] == found


@pytest.mark.parametrize("epochs", [0.4, 1.2])
def test_the_projected_gates_are_at_their_target_in_every_step(prepared, tmp_path, epochs):
    """However few the steps are."""
    assert prune(prepared, tmp_path / "out", overrides=(f"prune.epochs={epochs}",)).exit_code == 0
    for line in log(tmp_path / "out"):
        if line["kind"] == "train":
            assert line["sparsity"] == pytest.approx(line["target_sparsity"], abs=0.01)


def test_gates_far_short_of_the_target_are_exit_5_unless_allowed(prepared, tmp_path):
    published = ("prune.constraint=lagrangian", "prune.gate_travel=none", "prune.gate_lr=0.001")
    refused = prune(prepared, tmp_path / "out", overrides=published)
    assert refused.exit_code == 5 and refused.stderr.count("error: ") == 1
    assert "expected sparsity 0.800, the gates ended at 0.0" in refused.stderr
    assert "prune.constraint=projection" in refused.stderr and "--allow unconverged" in refused.stderr
    assert not (tmp_path / "out" / "provenance.json").exists()
    allowed = prune(prepared, tmp_path / "out", "--allow", "unconverged", overrides=published)
    assert allowed.exit_code == 0 and "resuming after step" in allowed.stderr, "nothing is trained again"
    found = read_provenance(tmp_path / "out")["pruning"]
    assert found["expected"] < 0.78 and 0.8 <= found["counted"] <= 0.805
    assert (
        "the target is 80.0 %" in found["cautions"][0]
        and f"caution: {found['cautions'][0]}" in allowed.stderr
    )
    assert prune(prepared, tmp_path / "x", "--allow", "anything").exit_code == 2


def test_without_held_out_speakers_the_cut_is_measured_on_training_crops(prepared, tmp_path):
    options = ("--preset", "smoke", "--manifest", str(prepared / "data" / "train.tsv"))
    teacher = ("--teacher", str(prepared / "finetune" / "joint"))
    result = prune(tmp_path, tmp_path / "out", *options, *teacher)
    assert result.exit_code == 0, result.stderr
    assert not any(line["kind"] == "valid" for line in log(tmp_path / "out"))
    assert read_provenance(tmp_path / "out")["pruning"]["after_cut"]["l1"] > 0


def test_round_to_gives_multiples_within_the_target(prepared, tmp_path):
    wide = ModelArchitecture(
        encoder=EncoderArchitecture.uniform(num_layers=4, hidden_size=32, num_heads=4, ffn_dim=256),
        head=TEACHER.head,
    )
    make_teacher(tmp_path / "teacher", wide)
    options = ("--teacher", str(tmp_path / "teacher"), "--sparsity", "0.7", "--round-to", "8")
    result = prune(prepared, tmp_path / "out", *options, "--json", overrides=("prune.epochs=0.4",))
    assert result.exit_code == 0, result.stderr
    architecture = store.read_architecture(tmp_path / "out").encoder
    widths = (*architecture.ffn1_dim, *architecture.ffn2_dim, *architecture.conv_dim)
    assert all(width % 8 == 0 for width in widths)
    assert 0.7 <= sparsity(architecture, wide.encoder) <= 0.705
    assert json.loads(result.stdout)["sparsity"] == sparsity(architecture, wide.encoder)


def test_blocks_that_are_too_coarse_for_the_target_are_exit_5(prepared, tmp_path):
    result = prune(
        prepared, tmp_path / "out", "--sparsity", "0.8", "--round-to", "32", overrides=("prune.epochs=0.4",)
    )
    assert result.exit_code == 5 and "--round-to 32" in result.stderr and result.stderr.count("error: ") == 1
    assert not (tmp_path / "out").exists(), "said before any training"


def test_a_budget_of_macs_is_met(prepared, tmp_path):
    budget = macs(TEACHER).head + 0.4 * macs(TEACHER).encoder
    result = prune(prepared, tmp_path / "out", "--budget", f"macs={budget / 1e6:.3f}M")
    assert result.exit_code == 0, result.stderr
    reached = macs(store.read_architecture(tmp_path / "out")).total
    assert 0.97 * budget <= reached <= budget
    record = read_provenance(tmp_path / "out")
    assert record["config"]["budget"] == f"macs={budget / 1e6:.3f}M"
    # The gates aim at the parameters of one structure within the budget, and may find another: near, not equal.
    assert record["pruning"]["expected"] == pytest.approx(record["pruning"]["counted"], abs=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sparsity", "0.99"), "the target cannot be met: the parts without gates cost"),
        (("--sparsity", "0.905"), "expected sparsity 0.905, closing all gates gives 0.8"),
        (("--budget", "macs=0.01M"), "pruning the encoder cannot meet it"),
        (("--budget", f"macs={(macs(TEACHER).head + 1000) / 1e6}M"), "the parts without gates cost"),
    ],
)
def test_a_target_that_cannot_be_met_is_exit_5_before_training(prepared, tmp_path, options, message):
    result = prune(prepared, tmp_path / "out", *options)
    assert result.exit_code == 5 and message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("budget", ["6.3G", "macs=", "macs=0", "macs=1.2.3G", "macs=6T", "params=1M"])
def test_a_budget_that_cannot_be_read_is_exit_2(prepared, tmp_path, budget):
    result = prune(prepared, tmp_path / "out", "--budget", budget)
    assert result.exit_code == 2 and "expected macs=NUMBER with G or M" in result.stderr
    with pytest.raises(ConfigError):
        parse_budget(budget)


def test_budgets_have_units():
    assert [parse_budget(f"macs={text}") for text in ("6.3G", "250M", "1000")] == [
        6_300_000_000,
        250_000_000,
        1000,
    ]


@pytest.mark.parametrize("command", ["prune", "distill"])
@pytest.mark.parametrize("kill", [False, True])
def test_an_interrupted_run_goes_on_bit_for_bit(prepared, tmp_path, monkeypatch, command, kill):
    student = tmp_path / "student"
    if command == "distill":
        run_prune(
            PruneRequest(exp=prepared, recipe=recipe("prune.epochs=0.4"), out=student), SilentProgress()
        )

    def once(out: Path, progress: SilentProgress) -> None:
        using = recipe("save.every_steps=1")
        if command == "prune":
            run_prune(PruneRequest(exp=prepared, recipe=using, out=out), progress)
        else:
            run_distill(DistillRequest(exp=prepared, recipe=using, out=out, student=student), progress)

    once(tmp_path / "whole", SilentProgress())
    with monkeypatch.context() as patch:
        interrupt(patch, 3, kill=kill)
        with pytest.raises(MemoryError if kill else SystemExit):
            once(tmp_path / "parts", SilentProgress())
    progress = Notes()
    once(tmp_path / "parts", progress)
    assert "resuming after step" in progress
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert "model.safetensors" in contents(tmp_path / "whole")


def test_a_signal_after_the_last_step_says_how_to_go_on(prepared, tmp_path, monkeypatch):
    def once(progress):
        return run_prune(
            PruneRequest(exp=prepared, recipe=recipe("prune.epochs=0.4"), out=tmp_path / "out"), progress
        )

    progress = Notes()
    with monkeypatch.context() as patch:
        patch.setattr("svkit.training.stage.finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            once(progress)
    assert "prune: stopped after the last step; run the same command again to finish it" in progress
    once(SilentProgress())
    assert "model.safetensors" in contents(tmp_path / "out")


def interrupted(*_):
    raise KeyboardInterrupt


def test_a_model_that_is_cut_already_can_be_cut_again(prepared, tmp_path):
    assert (
        prune(prepared, tmp_path / "half", "--sparsity", "0.5", overrides=("prune.epochs=0.4",)).exit_code
        == 0
    )
    again = ("--teacher", str(tmp_path / "half"), "--sparsity", "0.5")
    result = prune(prepared, tmp_path / "quarter", *again, "--json", overrides=("prune.epochs=0.4",))
    assert result.exit_code == 0, result.stderr
    architecture = store.read_architecture(tmp_path / "quarter")
    half = store.read_architecture(tmp_path / "half")
    # The target is of its teacher's encoder; the report counts against the model that never was cut.
    assert 0.5 <= sparsity(architecture.encoder, half.encoder) <= 0.51
    assert architecture.dense_encoder() == TEACHER.encoder
    assert encoder_parameters(architecture.encoder) < 0.26 * encoder_parameters(TEACHER.encoder)


def test_what_the_teacher_lacks_already_has_not_vanished_by_the_cut(prepared, tmp_path):
    widths = TEACHER.encoder.widths()
    encoder = TEACHER.encoder.with_widths(widths | {"num_heads": [0, 3], "conv_dim": [0, 0]})
    make_teacher(tmp_path / "teacher", replace(TEACHER, encoder=encoder))
    options = ("--teacher", str(tmp_path / "teacher"), "--sparsity", "0.3", "--json")
    result = prune(prepared, tmp_path / "out", *options, overrides=("prune.epochs=0.4",))
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["pruning"]["vanished"] == []


def test_finished_output_and_what_is_missing(prepared, tmp_path):
    short = ("prune.epochs=0.4",)
    assert prune(prepared, tmp_path / "out", overrides=short).exit_code == 0
    refused = prune(prepared, tmp_path / "out", overrides=short)
    assert refused.exit_code == 2 and "--overwrite" in refused.stderr
    kept = prune(prepared, tmp_path / "out", "--keep-finished", overrides=short)
    assert kept.exit_code == 0 and "finished, with equal inputs" in kept.stderr
    missing = prune(prepared, tmp_path / "x", "--teacher", str(tmp_path / "nowhere"))
    assert missing.exit_code == 4 and "nowhere: no such teacher checkpoint" in missing.stderr
    student = ["distill", "--exp", str(prepared), "--student", str(tmp_path / "nowhere")]
    absent = CliRunner().invoke(app, student)
    assert absent.exit_code == 4 and "no such student checkpoint" in absent.stderr
    # Before the lists are read, and although its configuration may be there.
    (tmp_path / "out" / "provenance.json").unlink()
    student[-1] = str(tmp_path / "out")
    again = "out: not finished; run the same `svkit prune` again"
    assert again in CliRunner().invoke(app, student).stderr
    other = prune(prepared, tmp_path / "x", "--teacher", str(tmp_path / "out"))
    assert other.exit_code == 4 and again in other.stderr


def test_a_student_of_another_size_is_exit_4(prepared, tmp_path):
    other = ModelArchitecture(
        encoder=EncoderArchitecture.uniform(num_layers=2, hidden_size=16, num_heads=4, ffn_dim=40),
        head=HeadConfig(),
    )
    make_teacher(tmp_path / "student", other)
    arguments = ["distill", "--exp", prepared, "--student", tmp_path / "student", "--out", tmp_path / "out"]
    result = CliRunner().invoke(app, [str(argument) for argument in [*arguments, *set_options()]])
    assert (
        result.exit_code == 4
        and "teacher's hidden size and number of layers (12, 2), found (16, 2)" in result.stderr
    )
