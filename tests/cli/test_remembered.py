"""What an experiment was made with stays until a flag changes it; a change is said; no option is dropped silently."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.store.experiment import Experiment, read_experiment, update_experiment
from tests.fake_experiment import finish

PLACES = {"prune": "prune", "distill": "distill"}


@pytest.fixture
def exp(tmp_path, monkeypatch):
    """An experiment of the preset `tiny`, and verbs that only write down what they were asked for."""
    update_experiment(tmp_path / "exp", preset="tiny")

    def stage(verb):
        def run(request, progress):
            recipe = request.recipe
            name = PLACES.get(verb) or ("finetune-pruned/lmft" if request.source else "finetune/joint")
            out = request.out or request.exp / name
            config = {
                "preset": recipe.name,
                "seed": recipe.seed,
                "augment": getattr(request, "augment", None),
            }
            inputs = {
                "finetune": [request.source] if verb == "finetune" and request.source else [],
                "prune": [request.exp / "finetune/joint"],
                "distill": [request.exp / "prune", request.exp / "finetune/joint"],
            }[verb]
            made(out, verb, config, inputs)
            return {"finetune": [out], "prune": SimpleNamespace(checkpoint=out)}.get(verb, out)

        return run

    for verb in ("finetune", "prune", "distill"):
        monkeypatch.setattr(f"svkit.training.{verb}.run", stage(verb))
        monkeypatch.setattr(f"svkit.cli.{verb}.asdict", vars, raising=False)
    return tmp_path / "exp"


def made(directory, command, config, inputs=()):
    """Write a finished checkpoint's record."""
    directory.mkdir(parents=True, exist_ok=True)
    finish(directory, command)
    path = directory / "provenance.json"
    record = json.loads(path.read_text())
    entries = [{"name": "checkpoint", "path": str(one.resolve()), "sha256": "0" * 64} for one in inputs]
    path.write_text(json.dumps({**record, "config": config, "inputs": entries}))


def run(exp, *arguments, code=0):
    result = CliRunner().invoke(app, [*arguments, "--exp", str(exp)])
    assert result.exit_code == code, result.output
    return result.stderr


def config(exp, name):
    return json.loads((exp / name / "provenance.json").read_text())["config"]


def test_distill_follows_finetune_and_prune(exp):
    said = run(exp, "finetune", "--preset", "smoke")
    assert "config.toml: preset is smoke from now on (was tiny)" in said
    assert "preset" not in run(exp, "prune", "--preset", "smoke")
    assert "preset" not in run(exp, "distill")
    assert config(exp, "distill")["preset"] == "smoke" == read_experiment(exp).preset


def test_what_the_source_was_made_with_goes_before_the_experiment(exp):
    """An experiment made by an earlier svkit, whose config.toml never heard of the flag; or another's teacher."""
    made(exp / "prune", "prune", {"preset": "smoke", "seed": 7})
    said = run(exp, "distill")
    assert f"preset smoke, with which {exp / 'prune'} was made" in said and "says tiny" in said
    assert config(exp, "distill") == {"preset": "smoke", "seed": 7, "augment": None}
    made(exp / "finetune" / "joint", "finetune", {"preset": "my own", "seed": 3})
    said = run(exp, "prune")
    assert (
        "was made with the recipe my own, but this command runs tiny; the report will say that the chain mixes recipes"
        in said
    )


def test_the_flag_goes_before_the_source_and_the_mixture_is_said(exp):
    made(exp / "prune", "prune", {"preset": "smoke", "seed": 24})
    said = run(exp, "distill", "--preset", "tiny")
    assert f"{exp / 'prune'} was made with the recipe smoke, but this command runs tiny" in said
    assert config(exp, "distill")["preset"] == "tiny"


def test_the_seed_is_remembered(exp):
    assert "seed is 7 from now on (was not set)" in run(exp, "finetune", "--set", "seed=7")
    run(exp, "prune")
    assert config(exp, "prune")["seed"] == 7
    assert "seed is 8 from now on (was 7)" in run(exp, "prune", "--set", "seed=8", "--overwrite")
    run(exp, "distill")
    assert config(exp, "distill")["seed"] == 8


def test_augmentation_and_its_material_are_remembered(exp, tmp_path):
    assert "augment is none from now on" in run(exp, "finetune", "--no-augment")
    assert config(exp, "finetune/joint")["augment"] is False
    run(exp, "distill")
    run(exp, "finetune", "--from", str(exp / "distill"))
    assert config(exp, "finetune-pruned/lmft")["augment"] is False
    assert "augment is all from now on (was none)" in run(exp, "finetune", "--augment")
    noise, rirs = tmp_path / "n.tsv", exp / "data" / "rirs.tsv"
    run(exp, "finetune", "--noise", str(noise), "--rirs", str(rirs))
    noted = read_experiment(exp)
    assert (noted.noise, noted.rirs, noted.augment) == (str(noise.resolve()), "data/rirs.tsv", "all")


def test_an_encoder_is_remembered(exp, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    run(exp, "finetune", "--encoder", "model")
    assert read_experiment(exp).encoder == str(tmp_path / "model")


def test_a_result_elsewhere_and_a_printed_recipe_change_nothing(exp, tmp_path):
    run(exp, "finetune", "--preset", "smoke", "--set", "seed=7", "--out", str(tmp_path / "other"))
    run(exp, "finetune", "--preset", "smoke", "--print-config")
    assert read_experiment(exp) == Experiment(preset="tiny")


def test_a_chain_of_two_recipes_is_named(exp):
    from svkit.scoring.lineage import chain_faults

    made(exp / "finetune/lora", "finetune", {"preset": "tiny"})
    made(exp / "finetune/joint", "finetune", {"preset": "tiny"}, [exp / "finetune/lora"])
    assert chain_faults(exp / "finetune/joint", exp) == []
    made(exp / "prune", "prune", {"preset": "smoke"}, [exp / "finetune/joint"])
    sentence = "the chain mixes recipes: tiny made finetune/lora, finetune/joint; smoke made prune"
    assert chain_faults(exp / "prune", exp) == [sentence]


def test_a_chain_that_leaves_out_stages_is_named(exp):
    from svkit.scoring.lineage import chain_faults, skipped_stages

    def tune(place, stage, source):
        made(exp / place, "finetune", {"stage": stage}, [exp / source])
        return chain_faults(exp / place, exp)

    made(exp / "finetune/lora", "finetune", {"stage": "lora"})
    assert tune("finetune/joint", "joint", "finetune/lora") == []
    made(exp / "distill", "distill", {}, [exp / "finetune/joint"])
    assert tune("finetune-pruned/head", "head", "distill") == []
    assert tune("finetune-pruned/lmft", "lmft", "distill") == [
        "the chain leaves out head and joint: finetune-pruned/lmft was made from distill"
    ]
    assert skipped_stages("joint", exp / "distill") == ["head"]
    assert skipped_stages("lmft", exp / "finetune/joint") == skipped_stages("joint", exp / "nowhere") == []
    made(exp / "converted", "convert", {})
    assert skipped_stages("lmft", exp / "converted") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["prune", "--sparsity", "0.5", "--budget", "macs=60M"],
            "--sparsity and --budget: expected one target",
        ),
        (
            ["prune", "--set", "prune.sparsity=0.5", "--budget", "macs=60M"],
            "--budget and --set prune.sparsity",
        ),
        (["prune", "--sparsity", "0.5", "--set", "sparsity=0.6"], "--sparsity and --set prune.sparsity"),
        (["prune", "--round-to", "2", "--set", "round_to=4"], "--round-to and --set prune.round_to"),
        (["finetune", "--from", "x", "--encoder", "tiny"], "--from starts from a checkpoint, --encoder"),
        (["finetune", "--no-augment", "--noise", "n.tsv"], "--no-augment excludes --noise and --rirs"),
        (["extract", "--dtype", "int8", "--set", "precision=bf16"], "--dtype and --set precision"),
        (["score", "t.txt", "--top-n", "20"], "--top-n is only for --norm asnorm"),
        (
            ["prepare", "voxceleb", "x", "--no-convert", "--format", "wav"],
            "--no-convert excludes --format and --convert-to",
        ),
    ],
)
def test_of_two_options_none_is_dropped(exp, arguments, message):
    assert message in run(exp, *arguments, code=2)


def test_flags_of_prune_are_part_of_the_printed_recipe(exp):
    result = CliRunner().invoke(
        app, ["prune", "--sparsity", "0.5", "--round-to", "4", "--exp", str(exp), "--print-config", "--json"]
    )
    recipe = json.loads(result.stdout)
    assert (recipe["prune"]["sparsity"], recipe["prune"]["round_to"]) == (0.5, 4)
