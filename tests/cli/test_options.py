"""The recipe a command runs with, seen through --print-config, and where its defaults come from."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from svkit.cli import options
from svkit.cli.app import app
from svkit.config.load import load_recipe
from svkit.errors import FinishedError
from tests.tools.test_following import make, make_all

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def _printed(*arguments: str, exp: Path) -> dict:
    result = CliRunner().invoke(app, [*arguments, "--exp", str(exp), "--print-config"])
    assert result.exit_code == 0, result.output
    return tomllib.loads(result.stdout)


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    lines = ['preset = "tiny"', 'encoder = "tiny"', 'noise = "data/noise.tsv"']
    (tmp_path / "config.toml").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize("command", ["finetune", "prune", "distill", "extract"])
def test_the_experiments_preset_is_used_and_the_flag_wins(command: str, demo: Path) -> None:
    assert _printed(command, exp=demo)["name"] == "tiny"
    assert _printed(command, "--preset", "smoke", exp=demo)["name"] == "smoke"


def test_without_an_experiment_the_published_recipe_runs(tmp_path: Path) -> None:
    assert _printed("finetune", exp=tmp_path)["name"] == "w2v-bert-2.0"


def test_exp_from_the_environment(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVKIT_EXP", str(demo))
    result = CliRunner().invoke(app, ["prune", "--print-config"])
    assert tomllib.loads(result.stdout)["name"] == "tiny"


def test_set_reaches_the_section_of_the_command(demo: Path) -> None:
    assert _printed("prune", "--set", "optim.lr=0.125", exp=demo)["prune"]["optim"]["lr"] == 0.125
    assert _printed("prune", "--set", "optim.lr=0.125", exp=demo)["distill"]["optim"]["lr"] != 0.125
    stage = _printed("finetune", "--stage", "joint", "--set", "optim.lr=0.125", exp=demo)
    assert stage["dense"]["joint"]["optim"]["lr"] == stage["pruned"]["joint"]["optim"]["lr"] == 0.125
    assert stage["dense"]["lmft"]["optim"]["lr"] != 0.125
    every = _printed("finetune", "--set", "epochs=3", "--set", "seed=7", exp=demo)
    assert every["seed"] == 7
    assert {
        every[model][name]["epochs"] for model in ("dense", "pruned") for name in ("lora", "joint", "lmft")
    } == {3.0}


def test_encoder_experiment_file_set_flag(demo: Path) -> None:
    (demo / "config.toml").write_text('preset = "tiny"\nencoder = "from-experiment"')
    own = demo / "my.toml"
    own.write_text('encoder = "from-file"')
    assert _printed("finetune", exp=demo)["encoder"] == "from-experiment"
    assert _printed("finetune", "--config", str(own), exp=demo)["encoder"] == "from-file"
    both = ["--config", str(own), "--set", "encoder=from-set"]
    assert _printed("finetune", *both, exp=demo)["encoder"] == "from-set"
    assert _printed("finetune", *both, "--encoder", "from-flag", exp=demo)["encoder"] == "from-flag"


def test_a_printed_recipe_is_a_config_file(demo: Path) -> None:
    result = CliRunner().invoke(
        app, ["finetune", "--exp", str(demo), "--print-config", "--set", "joint.epochs=9"]
    )
    own = demo / "my.toml"
    own.write_text(result.stdout)
    again = CliRunner().invoke(app, ["finetune", "--exp", str(demo), "--print-config", "--config", str(own)])
    assert tomllib.loads(again.stdout) == tomllib.loads(result.stdout)
    assert load_recipe("smoke", result.stdout).dense.joint.epochs == 9.0


def test_config_file_errors_name_the_file_and_exit_2(demo: Path) -> None:
    missing = CliRunner().invoke(app, ["prune", "--exp", str(demo), "--config", str(demo / "no.toml")])
    assert missing.exit_code == 2 and "no.toml: does not exist" in missing.stderr
    (demo / "bytes.toml").write_bytes(b"\xff\xfe")
    binary = CliRunner().invoke(app, ["prune", "--exp", str(demo), "--config", str(demo / "bytes.toml")])
    assert binary.exit_code == 2 and "cannot be read as text" in binary.stderr
    wrong = CliRunner().invoke(app, ["prune", "--exp", str(demo), "--set", "optim.lrr=1"])
    assert wrong.exit_code == 2 and "did you mean 'optim.lr'" in wrong.stderr


def test_augmentation_comes_from_the_experiment_unless_given(demo: Path) -> None:
    noted = options.augmentation(demo, None, None, None)
    assert noted == {"noise": demo / "data/noise.tsv", "rirs": None, "augment": True}
    given = options.augmentation(demo, Path("n.tsv"), Path("r.tsv"), False)
    assert given == {"noise": Path("n.tsv"), "rirs": Path("r.tsv"), "augment": False}


@pytest.mark.parametrize(
    ("command", "final", "after"),
    [("finetune", "finetune/lmft", "prune"), ("finetune", "finetune-pruned/lmft", "extract"),
     ("finetune", "finetune/lora", "finetune --stage joint"), ("prune", "prune", "distill"),
     ("distill", "distill", "finetune --from exp/distill")],
)  # fmt: skip
def test_of_a_finished_stage_the_next_command_is_said(
    command: str, final: str, after: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*_: object) -> None:
        raise FinishedError("all is finished; use --overwrite", f"exp/{final}")

    monkeypatch.setattr(f"svkit.training.{command}.run", run)
    for exp in (Path("exp"), Path("my exp")):
        make_all(exp, upto=final)
    done = CliRunner().invoke(app, [command])
    said = f"error: all is finished; use --overwrite; or go on with `svkit {after}`\n"
    assert (done.exit_code, done.stderr) == (2, said)
    other = CliRunner().invoke(app, [command, "--exp", "my exp"])
    after = after.replace("exp/distill", "'my exp/distill'")
    assert f"svkit {after} --exp 'my exp'`" in other.stderr
    if final == "distill":  # what it was made from is out of date
        make("finetune/joint", content="anew")
        assert (
            "or go on with `svkit finetune --keep-finished --overwrite`"
            in CliRunner().invoke(app, [command]).stderr
        )
