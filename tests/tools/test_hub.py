"""Models by their names on the hub: the real client against a stand-in on this machine, as a new user types it."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner, Result

import svkit
from svkit.cli.app import app
from svkit.errors import ArtifactError
from svkit.store.checkpoint import read_classifier
from svkit.store.exported import Torch
from svkit.store.provenance import read_provenance
from svkit.store.report import Timing
from svkit.store.source import shown
from tests.hub_stand_in import StandIn, stand_in_hub, use
from tests.tools.test_calibrate import record
from tests.training_experiment import make_teacher, one_process, prepare

GOLDEN = Path(__file__).parents[1] / "golden"
PUBLISHED = "zl389/w2v-bert-2.0_SV"
PTH = {name: (GOLDEN / f"{name}.pth").read_bytes() for name in ("plain", "lora", "pruned")}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with stand_in_hub() as served:
        use(monkeypatch, served.address, tmp_path / "home")
        yield served


@pytest.fixture
def published(hub: StandIn) -> str:
    """Put the published repository on the hub, with small models; return its commit."""
    return hub.put(
        PUBLISHED,
        {"README.md": b"", "model_base_0.23.pth": PTH["lora"], "model_lmft_0.14.pth": PTH["plain"]},
    )


@pytest.fixture
def recordings(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / name) for name in ("a.wav", "b.wav")]
    for path in paths:
        soundfile.write(path, 0.1 * rng.standard_normal(16_000), 16_000)
    return paths


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


def test_verify_fetches_the_published_model_once_and_pins_it(hub, published, recordings, tmp_path):
    first = json.loads(run("verify", *recordings, "--model", PUBLISHED, "--json").stdout)
    place = Path(first["model"]["path"])
    assert (
        place.is_relative_to(tmp_path / "home/svkit/hub") and place.name == "w2v-bert-2.0_SV-model_lmft_0.14"
    )
    origin = read_provenance(place)["origin"]
    assert origin["revision"] == published and origin["file"] == "model_lmft_0.14.pth"
    wave, expected = np.load(GOLDEN / "plain.npz")["wav_w0"], np.load(GOLDEN / "plain.npz")["emb_w0"]
    assert np.allclose(svkit.load(PUBLISHED).embed(wave), expected, atol=1e-4 * np.abs(expected).max())
    # Another commit on the hub changes nothing here, and nothing is asked again.
    hub.put(PUBLISHED, {"model_lmft_0.14.pth": PTH["lora"]})
    num_asked = len(hub.asked)
    again = run("verify", *recordings, "--model", PUBLISHED, "--json")
    assert json.loads(again.stdout)["model"] == first["model"] and len(hub.asked) == num_asked
    # Unless its own name is given.
    other = hub.commit(PUBLISHED, "main")
    newer = json.loads(run("verify", *recordings, "--model", f"{PUBLISHED}@{other}", "--json").stdout)
    assert newer["model"]["sha256"] != first["model"]["sha256"]


def test_people_read_the_models_name_and_not_its_place_in_the_cache(hub, published, recordings, tmp_path):
    found = run("verify", *recordings, "--model", PUBLISHED)
    (row,) = [line for line in found.stdout.splitlines() if line.split()[0:1] == ["model"]]
    name = f"{PUBLISHED}@{published[:12]}"
    assert row.split()[1] == name
    num_asked = len(hub.asked)
    assert (
        "Traceback" not in run("verify", *recordings, "--model", name).output and len(hub.asked) == num_asked
    )


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"/c/svkit/hub/org--a--b/{'0f' * 20}/b-file", "org/a--b@0f0f0f0f0f0f"),
        (f"/c/svkit/hub/org--b/{'0f' * 20}/b/calibration.json", "org/b@0f0f0f0f0f0f/calibration.json"),
        (f"/c/huggingface/hub/models--org--b/snapshots/{'0f' * 20}", "org/b@0f0f0f0f0f0f"),
        ("exp/finetune/lmft", "exp/finetune/lmft"),
    ],
)
def test_the_names_of_models_in_caches(path, name):
    assert shown(path) == name


def test_a_file_is_chosen_and_its_licence_and_source_stand_in_the_card(published, tmp_path):
    out = tmp_path / "base"
    run("convert", PUBLISHED, out, "--file", "model_base_0.23.pth")
    expected = np.load(GOLDEN / "lora.npz")["emb_w0"]
    wave = np.load(GOLDEN / "plain.npz")["wav_w0"]
    assert np.allclose(svkit.load(out).embed(wave), expected, atol=1e-4 * np.abs(expected).max())
    card = (out / "README.md").read_text()
    assert f"{PUBLISHED} at {published}: model_base_0.23.pth" in card and "CC BY-NC-SA 4.0" in card
    assert "15 classes; the source does not say of which speakers" in card
    assert "model_lmft" in run("info", PUBLISHED, "--file", "none.pth", code=2).stderr


def test_every_command_that_takes_a_checkpoint_takes_a_name(published, tmp_path):
    assert json.loads(run("info", PUBLISHED, "--json").stdout)["encoder_parameters"] > 0
    places = run("extract", "--model", PUBLISHED, "--manifest", "none.tsv", "--exp", tmp_path, code=3)
    assert "none.tsv" in places.stderr
    assert "none.tsv" in run(
        "finetune", "--from", PUBLISHED, "--stage", "joint", "--manifest", "none.tsv", "--exp", tmp_path,
        "--no-augment", code=3,
    ).stderr  # fmt: skip
    (tmp_path / "onnx").mkdir()
    (
        tmp_path / "onnx/mine.txt"
    ).touch()  # export begins once it has read the model: the rest is its own tests'
    refused = run("export", PUBLISHED, "--out", tmp_path / "onnx", code=4)
    assert "holds files that svkit did not write" in refused.stderr


@pytest.mark.e2e
def test_what_begins_with_a_name_ends_well(hub, published, tmp_path, monkeypatch):
    """Extract, calibrate, fine-tune and export by the published name; then a fine-tuned one by its own."""
    monkeypatch.chdir(tmp_path)
    # The graphs take longer than all the rest, and are other tests'.
    timing = Timing(wall=0.1, cpu=0.1)
    monkeypatch.setattr("svkit.tools.export._write_graphs", lambda *_: None)
    monkeypatch.setattr(
        "svkit.tools.export._examine", lambda *_: ({}, Torch(size_bytes=1, real_time_factor=timing))
    )
    exp = prepare(tmp_path / "exp")
    with one_process():
        made = run("extract", "--model", PUBLISHED, "--manifest", exp / "data/valid.tsv")
        assert Path(made.stdout.splitlines()[-1], "embeddings.safetensors").exists()
        steps = (
            "joint.epochs=0.5",
            "joint.data.batch_size=4",
            "joint.data.crop_seconds=[0.3, 0.4]",
            "precision=fp32",
        )
        changes = [word for step in steps for word in ("--set", step)]
        run("finetune", "--from", PUBLISHED, "--stage", "joint", "--no-augment", *changes)
    inputs = {entry["name"]: entry["path"] for entry in read_provenance(exp / "finetune/joint")["inputs"]}
    assert published in inputs["checkpoint"]
    for number, person in enumerate("uvwxy"):
        for take in range(2):
            record(tmp_path / "people", person * (number + 1), take)
    run("calibrate", "people", "--model", PUBLISHED)
    found = json.loads(run("export", PUBLISHED, "--precision", "fp32", "--json").stdout)
    assert (Path(found["directory"]) / "decide.py").exists() and found["calibration"]["num_targets"] == 5
    tuned = exp / "finetune/joint"
    hub.put("me/tuned", {path.name: path.read_bytes() for path in tuned.iterdir() if path.is_file()})
    assert (
        svkit.load("me/tuned").embed(np.zeros(16_000) + 0.1).shape
        == svkit.load(tuned).embed(np.ones(16_000)).shape
    )


def test_a_checkpoint_of_ours(hub, tmp_path, recordings, monkeypatch):
    mine = make_teacher(tmp_path / "mine")
    files = {
        path.relative_to(mine).as_posix(): path.read_bytes() for path in mine.rglob("*") if path.is_file()
    }
    hub.put("me/model", {**files, "assets/figure.png": b"no part of it"}, licence="mit")
    first = json.loads(run("verify", *recordings, "--model", "hub:me/model", "--json").stdout)["model"]
    local = json.loads(run("verify", *recordings, "--model", mine, "--json").stdout)["model"]
    assert first["sha256"] == local["sha256"]
    # What is on disk wins, unless hub: is said.
    monkeypatch.chdir(tmp_path)
    make_teacher(tmp_path / "me/model")
    assert (
        json.loads(run("verify", *recordings, "--model", "me/model", "--json").stdout)["model"]["path"]
        == "me/model"
    )
    assert (
        json.loads(run("verify", *recordings, "--model", "hub:me/model", "--json").stdout)["model"] == first
    )


def test_a_repository_with_one_file_and_one_with_several(hub, tmp_path):
    hub.put("you/one", {"weights.pth": PTH["pruned"]}, licence="apache-2.0")
    result = run("convert", "you/one", tmp_path / "out")
    assert "the weights do not tell the FFNs' width before the cut" in result.stderr
    assert "source weights, you/one: apache-2.0" in (tmp_path / "out/README.md").read_text()
    hub.put("you/two", {"a.pth": PTH["plain"], "b.pth": PTH["lora"]})
    assert "with --file: a.pth, b.pth" in run("convert", "you/two", tmp_path / "two", code=2).stderr
    hub.put("you/none", {"config.json": b"{}"})
    assert "--encoder" in run("info", "you/none", code=4).stderr


def test_what_is_not_there_is_one_line(hub, tmp_path, monkeypatch):
    unknown = run("info", "nobody/nothing", code=4).stderr
    assert "neither a local directory nor a model on the hub" in unknown and unknown.count("\n") == 1
    hub.put("you/one", {"weights.pth": PTH["plain"]})
    assert "no such revision" in run("info", "you/one@v9", code=4).stderr
    (tmp_path / "exp").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "exp/nothing" in run("info", "exp/nothing", code=4).stderr


def test_without_a_connection_a_line_says_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        use(monkeypatch, address, tmp_path / "home")
        monkeypatch.delenv("HF_ENDPOINT", raising=False)
        said = run("info", PUBLISHED, code=4).stderr
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert f"the hub at {address}, set by HF_ENDPOINT, cannot" in run("info", PUBLISHED, code=4).stderr
    assert f"the hub at {address} cannot be reached" in said
    assert f"`hf download {PUBLISHED} model_lmft_0.14.pth --local-dir DIR`" in said
    assert "`svkit convert model_lmft_0.14.pth CKPT`" in said and said.count("\n") == 1
    with pytest.raises(ArtifactError, match="--local-dir DIR`, copy DIR here"):
        svkit.load("some/model")


def test_the_clients_own_cache_is_enough(hub, published, monkeypatch, tmp_path):
    from huggingface_hub import constants, hf_hub_download

    hf_hub_download(PUBLISHED, "model_lmft_0.14.pth")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    run("convert", PUBLISHED, tmp_path / "out")
    assert read_provenance(tmp_path / "out")["origin"]["revision"] == published


@pytest.mark.slow
def test_the_environment_of_a_new_user(hub, published, recordings, tmp_path):
    """One process of its own, told of the hub by HF_ENDPOINT alone."""
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf")}
    environment.pop("HF_HUB_OFFLINE")
    done = subprocess.run(
        [sys.executable, "-m", "svkit", "verify", *recordings, "--model", PUBLISHED],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "UNDECIDED" in done.stdout, done.stderr
    assert published in done.stderr and "fetch model_lmft_0.14.pth: " in done.stderr


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (
            lambda modules: {"modules": {k: prefixed(v, "module.") for k, v in modules.items()}},
            "DistributedData",
        ),
        (lambda modules: {"state_dict": prefixed(modules["spk_model"], "_orig_mod.")}, "torch.compile"),
        (lambda modules: {"model": modules, "epoch": 3}, "'model'"),
        (
            lambda modules: {f"module.{k}.{n}": t for k, s in modules.items() for n, t in s.items()},
            "'module.'",
        ),
    ],
)
def test_wrapped_states_are_unwrapped_and_it_is_said(tmp_path, wrap, said):
    content = torch.load(GOLDEN / "plain.pth", weights_only=True)  # noqa: TID251 - the published format
    torch.save(wrap(content["modules"]), tmp_path / "wrapped.pth")
    result = run("convert", tmp_path / "wrapped.pth", tmp_path / "out")
    assert said in result.stderr
    run("convert", GOLDEN / "plain.pth", tmp_path / "plain")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (
        tmp_path / "plain/model.safetensors"
    ).read_bytes()


def prefixed(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def test_the_published_classifiers_have_speakers_at_speeds(tmp_path):
    content = torch.load(GOLDEN / "plain.pth", weights_only=True)  # noqa: TID251 - the published format
    content["modules"]["classifier"]["weight"] = torch.zeros(17_982, 32)
    torch.save(content, tmp_path / "classes.pth")
    run("convert", tmp_path / "classes.pth", tmp_path / "out")
    assert "5,994 speakers at 3 speeds, 17,982 classes" in (tmp_path / "out/README.md").read_text()
    classifier = read_classifier(tmp_path / "out")
    assert classifier is not None
    assert classifier.speakers[5_994] == classifier.speakers[0] and classifier.speeds[5_994] == 0.9
