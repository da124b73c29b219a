"""`svkit push` with the hub's real client against a stand-in, from the command line to a model that others load."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from typer.testing import CliRunner, Result

import svkit
from svkit.cli.app import app
from svkit.models.hub import HubName, parse
from svkit.scoring.backend import Backend, describe_backend
from svkit.store.calibration import CalibrationRecord, write_calibration
from svkit.store.metrics import ListId, read_metrics
from svkit.store.provenance import read_provenance, sha256_artifact, sha256_file
from svkit.store.report import find_finished
from tests.fake_experiment import DENSE, finish, make_checkpoint, make_experiment
from tests.hub_stand_in import StandIn, stand_in_hub, use

GOLDEN = Path(__file__).parents[1] / "golden"
PUBLISHED = "zl389/w2v-bert-2.0_SV"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with stand_in_hub() as served:
        use(monkeypatch, served.address, tmp_path / "home")
        served.writers["hf_mine"] = "me"
        monkeypatch.setenv("HF_TOKEN", "hf_mine")
        yield served


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint with a calibration and two recordings beside it, in the working directory."""
    monkeypatch.chdir(tmp_path)
    make_checkpoint(tmp_path / "model", DENSE, [])
    calibrate(tmp_path / "model")
    rng = np.random.default_rng(0)
    for name in "ab":
        soundfile.write(f"{name}.wav", 0.1 * rng.standard_normal(16_000), 16_000)
    return tmp_path / "model"


def calibrate(model: Path) -> None:
    record = CalibrationRecord(
        features=("score",),
        weights=(8.0,),
        offset=-4.0,
        prior=0.5,
        backend=describe_backend(Backend()),
        checkpoint_sha256=sha256_artifact(model),
        trials=ListId(name="held-out", sha256="0" * 64),
        num_targets=100,
        num_nontargets=1000,
        speakers=("ann", "bob"),
        bounds=(-4.0, 4.0),
        is_separable=False,
    )
    write_calibration(model / "calibration.json", record)


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


def card_of(hub: StandIn, repository: str) -> ModelCard:
    return ModelCard(hub.models[repository]["main"]["README.md"].decode())


def test_what_is_pushed_loads_back_as_it_was(hub, model, monkeypatch):
    done = run("push", model, "me/voices")
    commit = hub.commit("me/voices", "main")
    assert done.stdout == f"hub:me/voices@{commit}\n"
    assert len(hub.messages) == 1 and sha256_artifact(model)[:12] in hub.messages[0]
    assert "2 speakers in calibration.json, 2 speakers in speakers.tsv" in done.stderr
    files = {"README.md", "calibration.json", "config.json", "model.safetensors", "provenance.json"}
    assert set(hub.models["me/voices"]["main"]) == {".gitattributes", "speakers.tsv", *files}
    # From here on as somebody else.
    monkeypatch.delenv("HF_TOKEN")
    wave = np.random.default_rng(1).standard_normal(8_000)
    theirs = svkit.load("hub:me/voices")
    assert np.array_equal(theirs.embed(wave), svkit.load(model).embed(wave))
    mine = json.loads(run("verify", "a.wav", "b.wav", "--model", model, "--json").stdout)
    found = json.loads(run("verify", "a.wav", "b.wav", "--model", "hub:me/voices", "--json").stdout)
    assert found["llr"] == mine["llr"] is not None and found["model"]["sha256"] == mine["model"]["sha256"]
    run("info", Path(found["model"]["path"]), "--check")


def test_the_snippet_of_the_card_runs(hub, model, capsys):
    run("push", model, "me/voices")
    card = card_of(hub, "me/voices")
    [snippet] = re.findall("```python\n(.*?)```", card.text, re.DOTALL)
    exec(snippet, {})
    score = json.loads(run("verify", "a.wav", "b.wav", "--model", "hub:me/voices", "--json").stdout)["score"]
    assert float(capsys.readouterr().out) == pytest.approx(score, abs=1e-5)
    assert "`svkit verify a.wav b.wav --model hub:me/voices`" in card.text
    assert "Not evaluated: the error rates of this model are unknown." in card.text


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scored experiment on the demo corpus."""
    monkeypatch.chdir(tmp_path)
    exp = tmp_path / "exp"
    make_experiment(exp)
    manifest = exp / "data/eval.tsv"
    entry = {"name": "eval.tsv", "sha256": sha256_file(manifest), "size": manifest.stat().st_size}
    finish(
        exp / "data",
        "prepare demo",
        config={"corpus": "demo"},
        outputs=[{**entry, "mtime_ns": manifest.stat().st_mtime_ns}],
    )
    run("score", exp / "data/trials/all.txt", "--exp", exp)
    return exp


def test_the_card_has_the_figures_of_this_model_with_intervals_and_says_that_voices_are_synthetic(
    hub, experiment
):
    run("push", experiment / "finetune-pruned/lmft", "me/small", "--exp", experiment)
    card = card_of(hub, "me/small")
    data, measured = card.data, read_metrics(experiment / "scores/pruned/all")
    assert data.library_name == "svkit" and {"speaker-verification", "pruned"} <= set(data.tags)
    figures = {result.metric_type: result for result in data.eval_results}
    assert set(figures) == {"eer", "mindcf"} and len(data.eval_results) == 1 + len(measured.min_dcf)
    eer = figures["eer"]
    assert eer.metric_value == pytest.approx(100 * measured.eer, abs=1e-4)
    assert eer.metric_args["interval"] == pytest.approx(
        [100 * measured.eer_interval.low, 100 * measured.eer_interval.high], abs=1e-4
    )
    low, high = eer.metric_args["interval"]
    assert f"95 %: {low:.4g} to {high:.4g}" in eer.metric_name
    assert eer.metric_args["level"] == 0.95 and eer.metric_args["speakers"] == 8
    assert "synthetic voices" in eer.dataset_name and "trials all" in eer.dataset_name
    assert eer.dataset_args["targets"] == measured.num_targets
    assert "| all (svkit demo: synthetic voices, no people) |" in card.text
    # The other system's are not its figures.
    other = read_metrics(experiment / "scores/dense/all")
    assert other.eer != measured.eer and f"{100 * other.eer:.2f} (" not in card.text
    # A list that is not the one that was prepared is not taken for the corpus.
    prepared = json.loads((experiment / "data/provenance.json").read_text())
    prepared["outputs"][0]["sha256"] = "1" * 64
    (experiment / "data/provenance.json").write_text(json.dumps(prepared))
    done = run("push", experiment / "finetune-pruned/lmft", "me/small", "--exp", experiment, "--dry-run")
    edited = (Path(done.stdout.strip()) / "README.md").read_text()
    assert "synthetic" not in edited and "svkit prepared and that has changed since" in " ".join(
        edited.split()
    )


def test_what_flatters_a_figure_and_why_it_has_no_interval_stand_beside_it(experiment):
    twice = experiment / "data/trials/twice.txt"
    twice.write_text(
        "1 00000/0.wav 00000/1.wav\n" + 2 * "0 00000/0.wav 00001/1.wav\n" + "0 00000/2.wav 00001/2.wav\n"
    )
    run("score", twice, "--exp", experiment, "--allow", "duplicate-trials")
    done = run("push", experiment / "finetune/lmft", "me/dense", "--dry-run", "--exp", experiment)
    data = ModelCard((Path(done.stdout.strip()) / "README.md").read_text()).data
    [eer] = [one for one in data.eval_results if (one.metric_type, one.dataset_config) == ("eer", "twice")]
    assert "repeat an earlier one" in eer.metric_args["cautions"][0]
    assert "5 speakers" in eer.metric_args["no_interval"] and "no interval" in eer.metric_name
    assert str(experiment) not in str(eer)


def test_a_rehearsal_writes_what_would_be_pushed_and_tells_nothing_of_this_machine(hub, experiment):
    model = experiment / "finetune-pruned/lmft"
    done = run("push", model, "me/small", "--dry-run", "--exp", experiment)
    folder = Path(done.stdout.strip())
    assert folder == experiment / "hub/small" and not hub.asked
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    run("push", model, "me/small", "--exp", experiment)
    assert {".gitattributes": b"", **written} == hub.models["me/small"]["main"]
    for name in ("README.md", "provenance.json"):
        assert str(experiment.parent).encode() not in written[name], name
    assert {Path(entry["path"]).name for entry in read_provenance(folder)["inputs"]} == {"distill"}
    # The folder is a checkpoint of its own, and no output of the experiment.
    assert folder not in find_finished(experiment)
    assert sha256_artifact(folder) == sha256_artifact(model)
    run("info", folder, "--check")
    said = run("push", model, "me/small", "--dry-run", "--exp", experiment, code=2).stderr
    assert (
        said.splitlines()[-1]
        == f"error: {folder}: is there already; use --overwrite to write it again, or --out"
    )
    run("push", model, "me/small", "--dry-run", "--exp", experiment, "--overwrite")
    assert written == {path.name: path.read_bytes() for path in folder.iterdir()}
    run("push", model, "me/small", "--dry-run", "--out", experiment.parent / "elsewhere")
    assert "--dry-run" in run("push", model, "me/small", "--out", "x", code=2).stderr


def test_pushing_again_replaces_the_checkpoint_and_nothing_else(hub, model, tmp_path):
    run("push", model, "me/voices")
    first = hub.commit("me/voices", "main")
    hub.put("me/voices", {**hub.models["me/voices"]["main"], "samples/a.flac": b"theirs"})
    second = hub.commit("me/voices", "main")
    assert run("push", model, "me/voices", "--json").exit_code == 0
    make_checkpoint(tmp_path / "other", DENSE, [])
    (tmp_path / "other/speakers.tsv").unlink()
    answer = json.loads(run("push", tmp_path / "other", "me/voices", "--message", "Anew", "--json").stdout)
    assert hub.messages[-1] == "Anew" and answer["name"].split("@")[1] not in (first, second)
    assert set(hub.models["me/voices"]["main"]) == {
        *(".gitattributes", "samples/a.flac"),
        *answer["files"],
    }
    assert "calibration.json" not in answer["files"] and "speakers.tsv" not in answer["files"]


def test_a_push_that_another_one_overtakes_changes_nothing(hub, model):
    hub.rival = {"README.md": b"theirs"}
    said = run("push", model, "me/voices", code=4).stderr
    assert "nothing was pushed: the hub says" in said and hub.models["me/voices"]["main"] == hub.rival


def test_a_branch_a_private_repository_and_a_repository_that_is_not(hub, model):
    run("push", model, "hub:me/voices@next", "--private")
    assert hub.private == {"me/voices"} and "README.md" not in hub.models["me/voices"]["main"]
    assert svkit.load("hub:me/voices@next").architecture == DENSE
    hub.put("me/open", {"README.md": b""})
    said = run("push", model, "me/open", "--private", code=2).stderr
    assert "already exists and is public" in said and set(hub.models["me/open"]["main"]) == {"README.md"}


@pytest.mark.parametrize(
    ("licence", "stated"),
    [
        (None, {"license": "cc-by-nc-sa-4.0"}),
        ("other: their-own", {"license": "other", "license_name": "their-own"}),
    ],
)
def test_the_licence_is_that_of_the_source_through_everything_made_from_it(hub, model, licence, stated):
    content = (GOLDEN / "plain.pth").read_bytes()
    hub.put(PUBLISHED, {"model_lmft_0.14.pth": content}, licence=licence)
    run("convert", PUBLISHED, "published")
    finish(model, "finetune", {"checkpoint": Path("published").absolute()})
    for source, name in (("published", "me/copy"), (model, "me/tuned")):
        run("push", source, name)
        data = card_of(hub, name).data
        assert {key: data.to_dict()[key] for key in stated} == stated and data.base_model == PUBLISHED
        said = run("push", source, name, "--license", "mit", code=2).stderr
        assert "leave --license out" in said and said.count("\n") == 1
    # What others make of that has it too.
    make_checkpoint(Path("theirs"), DENSE, [])
    fetched = json.loads(run("verify", "a.wav", "b.wav", "--model", "hub:me/tuned", "--json").stdout)
    finish(Path("theirs"), "finetune", {"checkpoint": Path(fetched["model"]["path"])})
    run("push", "theirs", "me/theirs")
    data = card_of(hub, "me/theirs").data
    assert data.license == stated["license"] and data.base_model == "me/tuned"


def test_a_licence_may_be_stated_where_the_source_lets_one(hub, model):
    assert "no licence is known" in run("push", model, "me/voices").stderr
    assert "whoever publishes this model has to state them" in card_of(hub, "me/voices").text
    run("push", model, "me/voices", "--license", "apache-2.0")
    assert card_of(hub, "me/voices").data.license == "apache-2.0"
    finish(model, "finetune", config={"encoder": "facebook/w2v-bert-2.0"})
    run("push", model, "me/voices")
    data = card_of(hub, "me/voices").data
    assert (data.license, data.base_model) == ("mit", "facebook/w2v-bert-2.0")
    run("push", model, "me/voices", "--license", "apache-2.0")
    assert card_of(hub, "me/voices").data.license == "apache-2.0"
    for wrong in ("mit\nlibrary_name: theirs", "", "mit, mostly"):
        said = run("push", model, "me/voices", "--license", wrong, "--dry-run", code=2).stderr
        assert "expected a name of the hub's list" in said and said.count("\n") == 1
    said = run("push", model, "me/voices", "--license", "mine", code=2).stderr
    assert '"license" must be one of' in said.splitlines()[-1]


def test_a_card_of_the_users_own_keeps_what_it_says(hub, model):
    (model / "README.md").write_text("# Mine\n")
    run("push", model, "me/voices", "--license", "mit")
    card = card_of(hub, "me/voices")
    assert card.text.strip() == "# Mine" and card.data.license == "mit"
    (model / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: fr\n---\n# Mine\n")
    run("push", model, "me/voices")
    card = card_of(hub, "me/voices")
    facts = card.data.to_dict()
    assert card.text.strip() == "# Mine" and facts["library_name"] == "svkit"
    assert (facts["license"], facts["language"]) == ("apache-2.0", "fr")
    assert "give only one of them" in run("push", model, "me/voices", "--license", "mit", code=2).stderr
    (model / "README.md").write_text("---\n- a\n  b: [\n---\n")
    assert "not a card of the hub" in run("push", model, "me/voices", code=2).stderr


def test_no_token_a_wrong_one_and_one_of_others_are_a_line_each(hub, model, monkeypatch):
    assert "this token has no write access" in run("push", model, "you/voices", code=2).stderr
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    assert "does not accept this token" in run("push", model, "me/voices", code=2).stderr
    monkeypatch.delenv("HF_TOKEN")
    said = run("push", model, "me/voices", code=2).stderr.splitlines()[-1]
    assert "`hf auth login`" in said and not hub.models
    assert "expected hub:ORG/NAME" in run("push", model, "voices", code=2).stderr


def test_without_a_connection_a_line_says_how_to_go_on(model, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        use(monkeypatch, address, tmp_path / "home")
        said = run("push", model, "me/voices", code=4).stderr.splitlines()[-1]
    assert (
        f"nothing was pushed: the hub at {address}" in said
        and "--dry-run" in said
        and "`hf upload me/voices FOLDER`" in said
    )


@pytest.mark.parametrize(
    ("place", "status", "message"),
    [
        ("/api/validate-yaml", 502, "the hub's answer is no JSON; try again later"),
        ("/large/", 403, "uploading 'model.safetensors' to the Hub. 403 Forbidden: "),
        (
            "/large/",
            413,
            "uploading 'model.safetensors' to the Hub. Client error '413 Request Entity Too Large'",
        ),
        ("/commit/", 413, "the hub says: Client error '413 Request Entity Too Large' for url"),
        ("/commit/", 500, "the hub says: Server error '500 Internal Server Error' for url"),
    ],
)
def test_a_hub_in_trouble_is_a_line_and_the_same_push_works_later(
    hub, model, monkeypatch, place, status, message
):
    hub.faults[place] = status
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    said = run("push", model, "me/voices", code=4).stderr.rpartition("error: ")[2]
    assert "me/voices: nothing was pushed: " in said and message in said and said.count("\n") == 1
    assert "try again later" in said and "developer.mozilla" not in said and not hub.messages
    hub.faults.clear()
    run("push", model, "me/voices")
    assert len(hub.messages) == 1 and "model.safetensors" in hub.models["me/voices"]["main"]


@pytest.mark.parametrize("name", ["x.git", "-x", "x-", "x.", "x--y", "x..y", "x" * 97, "x.git@main"])
def test_a_name_that_the_hub_would_refuse_is_refused_before_anything_is_written(hub, model, name):
    repository = f"me/{name.partition('@')[0]}"
    with pytest.raises(HFValidationError):
        validate_repo_id(repository)
    for words in (("push", model, f"me/{name}", "--dry-run"), ("info", f"hub:me/{name}")):
        said = run(*words, code=2).stderr
        assert f"me/{name}: no name for the hub: expected " in said and said.count("\n") == 1
    assert not Path("exp").exists() and not hub.asked


@pytest.mark.parametrize("name", ["m/x", "me/_x", "me/x_", "me/a-b.c", "me/x.github", "1/" + "x" * 96])
def test_names_at_the_limits_of_the_hub_are_taken(name):
    validate_repo_id(name)
    assert parse(f"hub:{name}") == HubName(name)


def test_what_others_could_not_use_is_not_pushed(hub, model):
    (model / "notes.txt").write_text("")
    assert "notes.txt" in run("push", model, "me/voices", code=4).stderr
    (model / "notes.txt").unlink()
    calibrate(model)
    record = json.loads((model / "calibration.json").read_text())
    (model / "calibration.json").write_text(json.dumps({**record, "checkpoint_sha256": "1" * 64}))
    assert "one of another model" in run("push", model, "me/voices", code=4).stderr
    (model / "provenance.json").unlink()
    assert "not finished" in run("push", model, "me/voices", code=4).stderr
    assert "a name on the hub (OWNER/NAME)" in run("push", "nothing", "me/voices", code=4).stderr
    assert not hub.models


def test_an_output_that_has_changed_is_not_pushed(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("convert", GOLDEN / "plain.pth", "model")
    weights = bytearray(Path("model/model.safetensors").read_bytes())
    weights[-1] ^= 1
    Path("model/model.safetensors").write_bytes(bytes(weights))
    assert "has changed since" in run("push", "model", "me/voices", code=4).stderr and not hub.models
