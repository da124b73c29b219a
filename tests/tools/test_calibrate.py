"""`svkit calibrate`, from recordings to `svkit verify`, as a new user in an empty folder."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
from typer.testing import CliRunner

from svkit.cli import console
from svkit.cli.app import app
from svkit.cli.calibrate import _beside_the_target, _misses_below_the_limit, parse_rate
from svkit.errors import ConfigError
from svkit.eval.results import Interval, OperatingPoint
from svkit.scoring.ratio import PAIR_FEATURES
from svkit.scoring.trial_scores import score_trials
from svkit.store.calibration import Decision, read_calibration
from svkit.store.embeddings import read_embeddings, write_embeddings
from svkit.store.manifest import COLUMNS, write_manifest
from svkit.store.provenance import sha256_artifact, sha256_file
from svkit.store.trials import read_trials
from svkit.tools import calibrate as stage
from tests.fake_experiment import DENSE, finish, make_checkpoint


def invoke(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def answer(*words):
    done = invoke(*words, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def record(folder: Path, person: str, take: int, seconds: float = 1.0) -> Path:
    """Write a recording: even to random weights, noises that are nearly equal sound more alike than others."""
    own, other = (np.random.default_rng([sum(person.encode()), number]) for number in (99, take))
    wave = own.normal(size=32_000)[: int(16_000 * seconds)]
    wave = wave + 0.5 * other.normal(size=len(wave))
    path = folder / person / f"{take}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.05 * wave, 16_000, subtype="FLOAT")
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_checkpoint(tmp_path / "model", DENSE, [])
    return tmp_path


@pytest.fixture
def people(here):
    """Six people with three recordings, one with one."""
    for number in range(6):
        for take in range(3):
            record(here / "people", "x" * (number + 1), take, 0.8 + 0.3 * take)
    record(here / "people", "once", 0)
    return here / "people"


def listed(here: Path, num_people: int, noise: float, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a manifest of people whose embeddings are voices with noise; no audio."""
    ids = [f"{person:05d}/{take}" for person in range(num_people) for take in range(3)]
    table = pd.DataFrame(
        {"utterance_id": ids, "speaker_id": [name[:5] for name in ids], "path": ids,
         "sample_rate_hz": "16000", "num_samples": "32000", "session_id": ""}
    )[list(COLUMNS)]  # fmt: skip
    write_manifest(here / "list.tsv", table)

    def embed(request, checkpoint, manifest, home, progress):
        rng = np.random.default_rng(1)
        voices = rng.normal(size=(num_people, 24))[[int(name[:5]) for name in ids]]
        facts = {
            name: {"path": path.as_posix(), "sha256": sha256}
            for name, path, sha256 in (
                ("checkpoint", checkpoint, sha256_artifact(checkpoint)),
                ("manifest", manifest, sha256_file(manifest)),
            )
        }
        matrix = (voices + noise * rng.normal(size=voices.shape)).astype(np.float32)
        write_embeddings(home / "embeddings", ids, matrix, facts)
        finish(home / "embeddings")
        return home / "embeddings"

    monkeypatch.setattr(stage, "_embed", embed)
    return here / "list.tsv"


def test_misses_below_what_no_error_would_allow_are_explained():
    def said(high, rate=0.1):
        interval = Interval(low=0.05, high=high, num_speakers=7, num_resamples=1000)
        point = OperatingPoint(
            threshold=0.0, miss_rate=rate, false_accept_rate=0.01, miss_rate_interval=interval
        )
        decision = Decision(point=point)
        return _misses_below_the_limit(SimpleNamespace(people=7, people_once=1, decision=decision))

    assert "would be higher (39 %)" in said(0.38)
    assert said(0.4) is None and said(0.38, rate=0.0) is None


def test_a_target_is_missed_only_where_the_interval_is_above_it():
    interval = Interval(low=0.004, high=0.03, num_speakers=19, num_resamples=1000)
    point = OperatingPoint(
        threshold=0.0, miss_rate=0.2, false_accept_rate=0.011, false_accept_rate_interval=interval
    )

    def said(decision, missing=None, compared=()):
        done = SimpleNamespace(decision=decision, missing=missing, targets_compared=compared)
        return _beside_the_target(done)

    between = Decision(point=point, false_accepts=0.02)
    assert said(Decision(point=point, false_accepts=0.03)) is None
    assert "The target of 2 % is neither missed nor assured: 1.1 %" in said(between)
    assert said(between).endswith(
        "up to 3.00 %. To count on 2 %, learn on more people, which makes the intervals narrower."
    )
    ends = {0.001: 0.004, 0.01: 0.02, 0.015: 0.021, 0.02: 0.03}
    compared = [
        Decision(
            point=replace(point, miss_rate=0.4, false_accept_rate_interval=replace(interval, high=high)),
            false_accepts=rate,
        )
        for rate, high in ends.items()
    ]
    advice = (
        "To count on 2 %, ask for --false-accepts 1%, whose interval ends at 2.00 %, for 40.00 % misses, or"
    )
    assert advice in said(between, compared=compared)
    assert said(between, "too few people, which has a note of its own") is None
    missed = Decision(point=point, false_accepts=0.003)
    assert said(missed).startswith("The target was missed: 1.1 %") and said(missed, "too few")
    assert said(Decision(point=point, p_target=0.1)) is None


@pytest.mark.parametrize("more", [[], ["--qmf"]])
def test_from_a_folder_to_a_decision(people, more):
    done = invoke("calibrate", people, "--model", "model", "--false-accepts", "20%", *more)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "model/calibration.json"
    assert "7, 19" in done.stdout and "1 of 7 people have only one recording" in done.stdout
    record = read_calibration(Path("model/calibration.json"))
    assert record.features == (PAIR_FEATURES if more else ("score",))
    assert (record.decision.false_accepts, record.num_targets, record.num_nontargets) == (0.2, 18, 153)
    # What it learns from is what verify sees: the same score, norms and durations of two of the recordings.
    embeddings = read_embeddings(Path("exp/calibrate/model-people/embeddings"))
    rows = dict(zip(embeddings.ids, embeddings.matrix.astype(float), strict=True))
    left, right = rows["x/0.wav"], rows["xxx/2.wav"]
    norms = [np.linalg.norm(left), np.linalg.norm(right)]
    seen = [left @ right / norms[0] / norms[1], *np.log(sorted(norms)), *np.log([0.8, 1.4])]
    ratio = np.dot(record.weights, seen[: len(record.weights)]) + record.offset
    found = answer("verify", people / "x/0.wav", people / "xxx/2.wav", "--model", "model")
    assert found["llr"] == pytest.approx(np.clip(ratio, *record.bounds), abs=2e-2)
    assert found["threshold_from"] == "false accepts"
    assert found["is_accepted"] == (ratio >= record.decision.point.threshold)


def test_the_second_wish_reads_and_embeds_nothing_again(people, monkeypatch):
    assert invoke("calibrate", people, "--model", "model").exit_code == 0
    refused = invoke("calibrate", people, "--model", "model", "--false-accepts", "1%")
    assert refused.exit_code == 2 and "--overwrite" in refused.stderr and "--out" in refused.stderr
    first = Path("model/calibration.json").read_text()
    monkeypatch.setattr("svkit.models.extract._extract", None)
    asked = ["calibrate", people, "--model", "model", "--p-target", "0.01", "--c-fa", "10"]
    elsewhere = invoke(*asked, "--out", "other.json")
    assert elsewhere.exit_code == 0 and "B.wav --calibration other.json --model model\n" in elsewhere.stdout
    assert Path("model/calibration.json").read_text() == first
    decision = read_calibration(Path("other.json")).decision
    assert decision.point.threshold == pytest.approx(np.log(990)) and decision.false_accepts is None


def test_an_exported_folder_that_keeps_the_earlier_calibration_is_named(people):
    folder = Path("exp/onnx/model")
    folder.mkdir(parents=True)
    assert "exp/onnx" not in invoke("calibrate", people, "--model", "model").stderr
    (folder / "export.json").touch()
    done = invoke("calibrate", people, "--model", "model", "--false-accepts", "0.2", "--overwrite")
    assert "exp/onnx/model: decides as before" in done.stderr
    assert "svkit export model --overwrite" in done.stderr


def test_people_who_are_enrolled_are_named(people):
    assert invoke("enroll", people, "--model", "model").exit_code == 0
    done = invoke("calibrate", people, "--model", "model", "--false-accepts", "0.2")
    name = sorted(one.name for one in people.iterdir())[0]
    assert done.exit_code == 0 and f"enrolled in exp/gallery: {name}" in done.stderr


def test_a_wish_is_met_by_enough_people_and_otherwise_said_to_lack_them(here, monkeypatch):
    manifest = listed(here, 10, 1.0, monkeypatch)
    asked = ["--model", "model", "--overwrite", "--false-accepts"]
    text = invoke("calibrate", manifest, *asked, "0.1%").stdout
    assert "0.1 % false accepts cannot be shown with 10 people" in text and "no rate below 6.4 %" in text
    assert (
        "It takes at least 78 people" in text
        and "(missing: 68, with 136 recordings), and usually more" in text
    )
    found = answer("calibrate", manifest, *asked, "0.1%")
    interval = found["decision"]["point"]["false_accept_rate_interval"]
    assert f"By this decision, they show that it is not above {100 * interval['high']:.2f} %." in text
    assert "the pairs of 10 people show no rate below 6.4 %" in text
    compared = found["targets_compared"]
    assert [one["false_accepts"] for one in compared] == [0.001, 0.01, 0.02, 0.05, 0.1]
    assert compared[0] == found["decision"]
    limits, misses = ([one["point"][name] for one in compared] for name in ("threshold", "miss_rate"))
    assert limits == sorted(limits, reverse=True) and misses == sorted(misses, reverse=True)
    other = answer("calibrate", manifest, *asked, "3%")  # what is compared does not depend on the target
    assert [one for one in other["targets_compared"] if one["false_accepts"] != 0.03] == compared
    assert other["decision"] == other["targets_compared"][3]
    costs = answer("calibrate", manifest, "--model", "model", "--overwrite")
    assert costs["targets_compared"] == compared and costs["decision"]["false_accepts"] is None
    many = answer("calibrate", listed(here, 80, 1.0, monkeypatch), *asked, "0.1%")
    assert many["missing"] is None
    assert answer("calibrate", listed(here, 10, 1.0, monkeypatch), *asked, "10%")["missing"] is None


def test_the_folds_are_counted_as_they_are_judged(here, monkeypatch):
    monkeypatch.setattr(console.PlainProgress.__init__, "__defaults__", (0.0,))
    done = invoke("calibrate", listed(here, 7, 1.0, monkeypatch), "--model", "model")
    lines = [line for line in done.stderr.splitlines() if line.startswith("judge by folds of people")]
    assert done.exit_code == 0 and len(lines) == 29 and "28/28" in lines[-1], lines


def test_what_is_reported_was_not_fitted_on_the_same_people(here, monkeypatch):
    """The rates hold on people that were never seen; the threshold by itself, on its own trials, keeps the wish."""
    manifest = listed(here, 60, 1.1, monkeypatch)
    found = answer("calibrate", manifest, "--model", "model", "--false-accepts", "1%")
    point = found["decision"]["point"]
    rng = np.random.default_rng(7)
    voices = np.repeat(rng.normal(size=(400, 24)), 2, axis=0)
    made = voices + 1.1 * rng.normal(size=voices.shape)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    scores = made[::2] @ made[1::2].T
    accepted = scores >= found["score"]
    misses, accepts = 1 - np.diag(accepted).mean(), accepted[~np.eye(400, dtype=bool)].mean()
    for rate, true in (("miss_rate", misses), ("false_accept_rate", accepts)):
        assert point[f"{rate}_interval"]["low"] <= true <= point[f"{rate}_interval"]["high"], rate
    assert 0 < point["miss_rate"] < 0.6 and 0.004 < point["false_accept_rate"] < 0.025
    # In the whole, the threshold was chosen on these very trials.
    embeddings = read_embeddings(here / "exp/calibrate/model-list/embeddings")
    units = embeddings.matrix / np.linalg.norm(embeddings.matrix, axis=1, keepdims=True)
    row = {name: number for number, name in enumerate(embeddings.ids)}
    trials = read_trials(here / "exp/calibrate/model-list/list.txt")
    own = np.array(
        [units[row[a]] @ units[row[b]] for a, b in zip(trials.enroll_ids, trials.test_ids, strict=True)]
    )
    assert 0.005 < np.mean(own[trials.labels == 0] >= found["score"] - 1e-6) <= 0.0101


def test_what_cannot_be_calibrated_is_refused_before_it_takes_time(people, here, monkeypatch):
    done = invoke("calibrate", "nowhere", "--model", "model")
    assert done.exit_code == 3 and "nowhere: does not exist; expected a folder or a manifest" in done.stderr
    Path("model/calibration.json").touch()  # what is asked for comes before what is there
    done = invoke("calibrate", str(next(people.rglob("*.wav"))), "--model", "model")
    assert done.exit_code == 3 and "is a recording; expected a folder with a directory" in done.stderr
    Path("model/calibration.json").unlink()
    assert invoke("calibrate", people).exit_code == 4
    done = invoke("calibrate", people, "--model", "model", "--false-accepts", "1%", "--c-fa", "2")
    assert done.exit_code == 2 and "exclude each other" in done.stderr
    for number in range(4):
        for take in range(2):
            record(here / "few", "y" * (number + 1), take)
    (here / "few" / "yy" / "bad.wav").write_bytes(b"no audio")
    done = invoke("calibrate", "few", "--model", "model")
    assert done.exit_code == 3 and "--skip-bad" in done.stderr
    done = invoke("calibrate", "few", "--model", "model", "--skip-bad")
    assert (
        done.exit_code == 3 and "expected at least 5 people" in done.stderr and "found 4 of 4" in done.stderr
    )
    for take in range(2):
        record(here / "few", "train-0", take)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "_embed", None)
        done = invoke("calibrate", "few", "--model", "model", "--skip-bad")
    assert done.exit_code == 3 and "few: model was trained on 1 of the 5 speakers" in done.stderr
    assert "--skip-trained leaves them out (y, yy, yyy, yyyy would be left)" in done.stderr
    done = invoke("calibrate", "few", "--model", "model", "--skip-bad", "--skip-trained")
    assert done.exit_code == 3 and "found 4 of 4" in done.stderr
    assert "1 of 5 people are left out, because the model was trained on them" in done.stderr
    done = invoke("calibrate", "few", "--model", "model", "--skip-bad", "--allow", "trained-speakers")
    assert done.exit_code == 0 and "Caution: few: model was trained on 1 of the 5 speakers" in done.stdout
    assert "None of these people" not in done.stdout
    assert not Path("calibration.json").exists()
    files = [str(path) for path in sorted((here / "few" / "y").iterdir())[:2]]
    found = json.loads(invoke("verify", *files, "--model", "model", "--json").stdout)
    assert not found["is_trusted"] and any(
        "in spite of a warning: few: model was" in text for text in found["warnings"]
    )


def test_people_of_the_training_are_left_out(people, here):
    for take in range(2):
        record(people, "train-0", take)
    done = invoke("calibrate", people, "--model", "model", "--skip-trained", "--out", "mine.json")
    assert done.exit_code == 0 and "1 of 8 people are left out" in done.stderr
    assert "None of these people has the name of anybody on whom the model was trained" in done.stdout
    learnt = read_calibration(Path("mine.json"))
    assert learnt.cautions == () and learnt.speakers is not None and "train-0" not in learnt.speakers
    assert len(learnt.speakers) >= 6


def test_weights_are_no_place_for_a_calibration(people, here):
    before = sha256_artifact(here / "model")
    for name in ("model.safetensors", "mine.json"):
        done = invoke("calibrate", people, "--model", "model", "--out", f"model/{name}", "--overwrite")
        assert done.exit_code == 2 and f"model/{name}: lies in model, whose content" in done.stderr
    assert sha256_artifact(here / "model") == before


def test_a_model_that_hears_two_people_as_one_is_refused(here, monkeypatch):
    manifest = listed(here, 6, 1.0, monkeypatch)
    monkeypatch.setattr(stage, "score_trials", lambda *_: (-score_trials(*_)[0], None))
    done = invoke("calibrate", manifest, "--model", "model")
    assert done.exit_code == 4 and "cannot distinguish these people" in done.stderr
    assert not Path("model/calibration.json").exists()


@pytest.mark.parametrize("text", ["0", "0%", "-1%", "51%", "nan", "inf", "x", "", "%", "1e-3%%"])
def test_a_rate_is_a_share_or_a_percentage(text):
    assert parse_rate("0.1%") == pytest.approx(0.001) and parse_rate("0.02") == 0.02
    with pytest.raises(ConfigError, match="expected a rate"):
        parse_rate(text)
