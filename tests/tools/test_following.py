"""Tests for `svkit.tools.following`: the command that comes next, in experiments that nothing trained."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.errors import OutdatedError
from svkit.models.final import MODEL_STAGES
from svkit.reports import report
from svkit.store.places import recorded_paths
from svkit.tools.following import EMBEDDINGS, LISTS, SCORES, following, overview
from tests.fake_experiment import finish

UPDATE = " --keep-finished --overwrite"
FROM = "svkit finetune --from exp/distill"
PARENTS = {
    "finetune/lora": {},
    "finetune/joint": {"checkpoint": "finetune/lora"},
    "finetune/lmft": {"checkpoint": "finetune/joint"},
    "prune": {"teacher": "finetune/joint"},
    "distill": {"student": "prune", "teacher": "finetune/joint"},
    "finetune-pruned/head": {"checkpoint": "distill"},
    "finetune-pruned/joint": {"checkpoint": "finetune-pruned/head"},
    "finetune-pruned/lmft": {"checkpoint": "finetune-pruned/joint"},
    "embeddings/dense": {"checkpoint": "finetune/lmft"},
    "embeddings/pruned": {"checkpoint": "finetune-pruned/lmft"},
    "scores/dense/demo": {"embeddings": "embeddings/dense", "trials": "data/trials/demo.txt"},
    "scores/pruned/demo": {"embeddings": "embeddings/pruned", "trials": "data/trials/demo.txt"},
    "report": {"scores/dense/demo": "scores/dense/demo", "scores/pruned/demo": "scores/pruned/demo"},
}
TYPED = {"finetune": "svkit finetune", "prune": "svkit prune --sparsity 0.5", "distill": "svkit distill --overwrite",
         "finetune-pruned": FROM, "embeddings": "svkit extract --dtype int8 --json",
         "scores": "svkit score exp/data/trials/demo.txt --norm snorm", "report": "svkit report"}  # fmt: skip


def make(
    name: str,
    typed: str | None = None,
    exp: Path = Path("exp"),
    content: str = "as before",
    parents: dict[str, str] | None = None,
) -> None:
    """Write an output of the chain, made by a command line from what is there now."""
    (exp / name).mkdir(parents=True, exist_ok=True)
    (exp / name / "model.safetensors").write_text(f"{name} {content}")
    command = shlex.split(typed or TYPED[name.split("/")[0]])
    made_from = {key: exp / path for key, path in (PARENTS[name] | (parents or {})).items()}
    finish(exp / name, command[1], made_from, argv=command)
    record = exp / name / "provenance.json"
    record.write_text(json.dumps(recorded_paths(record.parent, json.loads(record.read_text()), exp)))


def make_all(exp: Path = Path("exp"), upto: str = "report") -> None:
    """Write all outputs of the chain, up to this one."""
    (exp / "data" / "trials").mkdir(parents=True)
    (exp / "data" / "trials" / "demo.txt").touch()
    for name in list(PARENTS)[: list(PARENTS).index(upto) + 1]:
        make(name, exp=exp)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("last", "command"),
    [
        ("finetune/lora", "svkit finetune --stage joint"),
        ("finetune/joint", "svkit finetune --stage lmft"),
        ("finetune/lmft", "svkit prune"),
        ("prune", "svkit distill"),
        ("distill", FROM),
        ("finetune-pruned/head", "svkit finetune --stage joint --from exp/finetune-pruned/head"),
        ("finetune-pruned/lmft", "svkit extract"),
        ("embeddings/pruned", "svkit score exp/data/trials/demo.txt"),
        ("scores/pruned/demo", "svkit report"),
    ],
)
def test_what_comes_after_a_stage_the_first_time(last: str, command: str) -> None:
    make_all(upto=last)
    home = last.split("/")[0]
    assert following(Path("exp"), home if home in (EMBEDDINGS, SCORES) else Path("exp") / last) == command


@pytest.mark.parametrize(
    ("redone", "command"),
    [
        ("finetune/lora", "svkit finetune --stage joint"),
        ("finetune/joint", "svkit finetune --stage lmft"),
        ("finetune/lmft", "svkit extract --dtype int8"),
        ("prune", "svkit distill"),
        ("distill", FROM),
        ("finetune-pruned/head", "svkit finetune --stage joint --from exp/finetune-pruned/head"),
        ("embeddings/pruned", "svkit score exp/data/trials/demo.txt --norm snorm"),
        ("scores/pruned/demo", "svkit report"),
    ],
)
def test_what_does_not_depend_on_a_stage_made_again_is_passed_over(redone: str, command: str) -> None:
    make_all()
    home = redone.split("/")[0]
    stage = f" --stage {redone.split('/')[1]}" if home.startswith("finetune") else ""
    make(redone, TYPED[home] + stage, content="anew")
    after = home if home in (EMBEDDINGS, SCORES) else Path("exp") / redone
    assert following(Path("exp"), after) == command + UPDATE
    # With the same content as before, only the report has to be asked.
    make(redone, TYPED[home] + stage)
    assert following(Path("exp"), after) == "svkit report" + UPDATE


def test_hints_lead_to_the_end_and_keep_every_setting() -> None:
    make_all()
    make("finetune/lmft", "svkit finetune --stage lmft --set lmft.epochs=2 --overwrite")
    make("embeddings/dense", content="as before")
    make("finetune/joint", "svkit finetune --stage joint", content="anew")
    settings = "svkit finetune --stage lmft --set lmft.epochs=2" + UPDATE
    assert following(Path("exp"), Path("exp/finetune/joint")) == settings
    make("finetune/lmft", settings, content="anew")
    assert following(Path("exp"), Path("exp/finetune/lmft")) == "svkit prune --sparsity 0.5" + UPDATE
    # After lists were prepared: the first stage alone, because the whole command would undo the epochs of the last.
    assert following(Path("exp"), LISTS) == "svkit finetune --stage lora" + UPDATE


def test_a_report_that_would_be_too_early_names_what_comes_first(monkeypatch) -> None:
    def refuse(request: object, progress: object) -> None:
        raise OutdatedError("exp/report is finished, and was made with prune, which has changed since")

    monkeypatch.setattr(report, "run", refuse)
    make_all()
    make("prune", content="anew")
    said = CliRunner().invoke(app, ["report"])
    assert said.exit_code == 2 and following(Path("exp"), "") == "svkit distill" + UPDATE
    assert said.stderr.endswith(f"changed since, after `svkit distill{UPDATE}`, which comes first\n")
    make("prune")
    make("scores/dense/demo", content="by hand")  # only the report itself is out of date
    assert "comes first" not in CliRunner().invoke(app, ["report"]).stderr


def test_info_without_a_checkpoint_says_how_far_the_experiment_is() -> None:
    make_all(upto="prune")
    told = CliRunner().invoke(app, ["info"])
    assert told.exit_code == 0 and told.stderr == "next: svkit distill\n"
    assert [line.split() for line in told.stdout.splitlines() if "finished" in line][-1] == [
        "prune",
        "finished",
    ]
    shutil.rmtree("exp")
    make_all()
    told = CliRunner().invoke(app, ["info"])
    assert told.stderr == "everything is up to date\n" and "out of date" not in told.stdout
    make("prune", content="anew")
    found = json.loads(CliRunner().invoke(app, ["info", "--json"]).stdout)
    old = {name for name, state in found["outputs"].items() if state == "out of date"}
    assert found["next"] == "svkit distill" + UPDATE
    assert old == {"distill", "finetune-pruned/head", "finetune-pruned/joint", "finetune-pruned/lmft",
                   "embeddings/pruned", "scores/pruned/demo", "report"}  # fmt: skip
    (Path("exp") / "prune" / "run.json").write_text("{}")
    (Path("exp") / "prune" / "provenance.json").unlink()
    assert overview(Path("exp"))[0][Path("exp/prune")] == "not finished"


def test_the_first_command_of_a_chain_that_has_hardly_begun() -> None:
    (Path("exp") / "data").mkdir(parents=True)
    assert following(Path("exp"), "") == "svkit extract --model CKPT"  # prepared for evaluation alone
    (Path("exp") / "data" / "train.tsv").touch()
    assert following(Path("exp"), "") == "svkit finetune"
    make("finetune/lora")
    assert following(Path("exp"), "") == "svkit finetune --stage joint"
    (Path("exp") / "finetune" / "lora" / "provenance.json").rename("exp/finetune/lora/run.json")
    assert following(Path("exp"), "") == "svkit finetune" + UPDATE  # interrupted in its first stage
    shutil.rmtree("exp/finetune")
    (Path("exp") / "data" / "trials").mkdir()
    (Path("exp") / "data" / "trials" / "demo.txt").touch()
    (Path("exp") / "elsewhere").mkdir()
    (Path("exp") / "elsewhere" / "model.safetensors").touch()
    make("embeddings/dense", "svkit extract --model exp/elsewhere", parents={"checkpoint": "elsewhere"})
    assert following(Path("exp"), "") == "svkit score exp/data/trials/demo.txt"
    make("scores/dense/demo")
    assert following(Path("exp"), "") == "svkit report"


def test_outputs_made_by_several_commands_are_made_one_by_one() -> None:
    make_all()
    make("embeddings/pruned", "svkit extract --model exp/finetune-pruned/lmft", content="anew")
    score = "svkit score exp/data/trials/demo.txt"
    make("scores/pruned/demo", f"{score} --embeddings exp/embeddings/pruned --by gender", content="anew")
    make("finetune/lmft", content="anew")
    after = Path("exp/finetune/lmft")
    assert following(Path("exp"), after) == f"svkit extract --dtype int8 --model {after}{UPDATE}"
    make("embeddings/dense", content="anew")
    assert (
        following(Path("exp"), EMBEDDINGS)
        == f"{score} --norm snorm --embeddings exp/embeddings/dense{UPDATE}"
    )


def test_an_experiment_that_is_evaluated_without_pruning() -> None:
    make_all(upto="finetune/lmft")
    for name in ("embeddings/dense", "scores/dense/demo"):
        make(name)
    after = Path("exp/finetune/lmft")
    assert following(Path("exp"), after) == "svkit prune"
    make("finetune/lmft", content="anew")
    assert following(Path("exp"), after) == "svkit extract --dtype int8" + UPDATE


def test_a_new_model_is_evaluated_as_the_other_was() -> None:
    make_all(upto="embeddings/dense")
    after = Path("exp/finetune-pruned/lmft")
    assert following(Path("exp"), after) == "svkit extract --dtype int8" + UPDATE
    make("scores/dense/demo")
    make("embeddings/pruned")
    assert following(Path("exp"), EMBEDDINGS) == TYPED["scores"] + UPDATE


def test_the_final_model_is_another_than_was_evaluated() -> None:
    make_all()
    make("embeddings/pruned", parents={"checkpoint": "finetune-pruned/joint"})
    after = Path("exp/finetune-pruned/lmft")
    assert following(Path("exp"), after) == "svkit extract --dtype int8" + UPDATE


def test_a_stage_that_was_begun_or_left_out() -> None:
    make_all()
    record = Path("exp/prune/provenance.json")
    run = {**json.loads(record.read_text()), "format": "svkit-run"}
    Path("exp/prune/run.json").write_text(json.dumps(run))
    record.unlink()
    assert following(Path("exp"), Path("exp/finetune/lmft")) == "svkit prune --sparsity 0.5" + UPDATE
    # An earlier version did not record the command; a broken record is left to the command itself.
    Path("exp/prune/run.json").write_text("")
    assert following(Path("exp"), Path("exp/finetune/lmft")) == "svkit prune" + UPDATE
    shutil.rmtree("exp/prune")
    assert following(Path("exp"), Path("exp/finetune/lmft")) == "svkit report" + UPDATE


def test_a_moved_experiment_and_another_preset() -> None:
    exp = Path("exp")
    make_all()
    make("prune", "svkit prune --preset tiny --exp exp --teacher exp/finetune/joint")
    make("finetune/joint", content="anew")
    make("finetune/lmft", content="anew")
    (exp / "config.toml").write_text('preset = "tiny"\n')
    exp.rename("old exp")
    after = Path("old exp/finetune/lmft")
    kept = "svkit prune --preset tiny --teacher 'old exp/finetune/joint'" + UPDATE
    assert following(Path("old exp"), after) == kept
    # The preset that was chosen last holds for what follows.
    Path("old exp/config.toml").write_text('preset = "smoke"\n')
    assert following(Path("old exp"), after) == kept.replace(" --preset tiny", "")


def test_all_stages_are_known() -> None:
    assert {stage for stages in MODEL_STAGES.values() for stage in stages} == {
        name for name in PARENTS if name.split("/")[0] in ("finetune", "finetune-pruned", "prune", "distill")
    } | {"finetune/head"}
