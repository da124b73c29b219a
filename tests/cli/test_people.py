"""`svkit enroll`, `identify`, `people` and `verify NAME` from the command line, with a random model of milliseconds."""

import json
import os
import re
import shlex
import shutil
import stat
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.eval.results import Interval, OperatingPoint
from svkit.scoring.ratio import PAIR_FEATURES
from svkit.store.calibration import Decision
from svkit.store.gallery import GalleryModel, NewRecording, add_recordings
from tests.cli.test_verify import calibrate, cosine, template, voice, write  # noqa: F401
from tests.fake_experiment import DENSE, make_checkpoint
from tests.processes import fork_server
from tests.tools.test_calibrate import record

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(template, tmp_path, monkeypatch):  # noqa: F811
    target = tmp_path / "home"
    shutil.copytree(template, target)
    monkeypatch.chdir(target)
    return target


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def answer(*arguments):
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def enroll_three():
    for name, file in (("alice", "a.wav"), ("bob", "b.wav"), ("Zoë", "c.wav")):
        assert run("enroll", name, file).exit_code == 0


def test_who_is_nearest_without_a_calibration_and_that_this_decides_nothing(home):
    enroll_three()
    found = answer("identify", "d.wav")
    only = found["answers"][0]
    scores = {one["name"]: one["score"] for one in only["candidates"]}
    expected = {name: cosine(home, "d", file) for name, file in (("alice", "a"), ("bob", "b"), ("Zoë", "c"))}
    assert scores == pytest.approx(expected, abs=1e-5)
    best, second, _ = sorted(expected, key=expected.get, reverse=True)
    assert only["candidates"][0]["name"] == best
    assert only["margin_score"] == pytest.approx(expected[best] - expected[second], abs=1e-5)
    assert [only[key] for key in ("is_accepted", "name", "margin_llr", "posterior_of_none")] == [None] * 4
    assert "not calibrated: scores are cosines" in found["notes"][0]
    done = run("identify", "d.wav")
    assert done.stdout.startswith("UNDECIDED (d.wav)") and "not calibrated" in done.stdout
    assert "probability" not in done.stdout.split("Margin")[0]


def test_the_prior_is_shared_by_the_people_and_none_of_them_is_an_answer(home):
    calibrate(home, weights=(40.0,), offset=-30.0)
    enroll_three()
    for prior in (0.5, 0.01):
        found = answer("identify", "d.wav", "--prior", prior)
        only = found["answers"][0]
        llrs = np.array([40 * one["score"] - 30 for one in only["candidates"]])
        odds = prior / 3 * np.exp(llrs)
        shares = odds / (odds.sum() + 1 - prior)
        assert [one["llr"] for one in only["candidates"]] == pytest.approx(llrs, abs=1e-3)
        assert [one["posterior"] for one in only["candidates"]] == pytest.approx(shares, abs=1e-4)
        assert only["posterior_of_none"] == pytest.approx(1 - shares.sum(), abs=1e-4)
        assert found["prior_per_person"] == pytest.approx(prior / 3)
        assert found["threshold"] == pytest.approx(np.log(3 * (1 - prior) / prior))
        assert only["is_accepted"] == (llrs[0] >= found["threshold"] and (shares[0] >= 0.5 or None))
        assert only["name"] == (only["candidates"][0]["name"] if only["is_accepted"] else None)
    calibrate(home, weights=(40.0,), offset=-60.0)
    done = run("identify", "d.wav")
    assert done.stdout.startswith("NONE OF THEM (d.wav)")
    # Together they are likelier than nobody, but the best does not reach the ratio of ln 3 that each needs.
    calibrate(home, weights=(0.001,), offset=0.9)
    done = run("identify", "d.wav", "--prior", "0.5")
    assert done.stdout.startswith(
        "NOBODY ACCEPTED, maybe Zoë or alice or bob: together those enrolled are likelier than nobody"
    )
    assert "prior 0.5 that it is one of 3 people, 0.17 for each" in done.stdout
    # Nearly alike: somebody of them, but who?
    calibrate(home, weights=(1.0,), offset=9.0)
    done = run("identify", "d.wav")
    assert done.stdout.startswith("UNDECIDED") and "has a probability of only 0.33" in done.stdout
    calibrate(home, weights=(5000.0,), offset=-4950.0, bounds=(-50.0, 50.0))
    assert run("identify", "a.wav").stdout.startswith("IDENTIFIED: alice")


def test_the_false_accept_target_of_the_calibration_decides_as_in_verify(home):
    """Beyond the bounds too; a prior or a threshold that is given goes before it."""
    ends = Interval(low=0.0, high=0.05, num_resamples=9, num_speakers=9)
    point = OperatingPoint(
        threshold=0.0, miss_rate=0.1, false_accept_rate=0.02, false_accept_rate_interval=ends
    )
    enroll_three()
    scores = sorted(
        (cosine(home, "d", file), name) for name, file in (("alice", "a"), ("bob", "b"), ("Zoë", "c"))
    )
    best = scores[-1]
    slope = 20 / (best[0] - scores[-2][0])  # the best has a ratio of 10, the next -10
    for limit, is_accepted in ((9.0, True), (11.0, False)):
        calibrate(home, weights=(slope,), offset=10 - slope * best[0], bounds=(-2.0, 5.0),
                  decision=Decision(point=replace(point, threshold=limit), false_accepts=0.02))  # fmt: skip
        found = answer("identify", "d.wav")
        assert (found["threshold"], found["threshold_from"]) == (pytest.approx(limit), "false accepts")
        only = found["answers"][0]
        by_name = answer("verify", best[1], "d.wav", "--gallery", "exp/gallery")
        assert only["is_accepted"] == by_name["is_accepted"] == is_accepted
        assert only["name"] == (best[1] if is_accepted else None)
    done = run("identify", "d.wav").stdout
    assert "false accepts up to 2 % for each person. If that holds, up to 6 % of strangers" in done
    assert "one of 3 people, by what was measured up to 15 %. Measured" in " ".join(done.split())
    assert "the ratios shown end at +5.00" in done and f"(score {(1 + slope * best[0]) / slope:.4f})" in done
    assert "misses 10.00" in done and "prior of 0.5 that it is one of 3 people" in " ".join(done.split())
    assert "Calibration:" in done and "lmft/calibration.json" in done
    assert "not assured" not in done  # it is not known how many people it was learnt on
    two = replace(point, threshold=9.0), ("x", "y")
    calibrate(home, decision=Decision(point=two[0], false_accepts=0.02), speakers=two[1])
    assert "2 % false accepts is not assured" in answer("identify", "d.wav")["notes"][0]
    assert answer("identify", "d.wav", "--prior", "0.5")["threshold_from"] == "bayes"
    given = answer("identify", "d.wav", "--threshold", "-2")
    assert given["threshold_from"] == "given" and given["answers"][0]["name"] == best[1]
    # Costs say nothing of how likely it is that somebody of a gallery speaks.
    calibrate(home, decision=Decision(point=point, p_target=0.01))
    assert answer("identify", "d.wav")["prior"] == 0.5
    # Several near enough: somebody, but who?
    calibrate(
        home,
        weights=(1.0,),
        offset=0.0,
        decision=Decision(point=replace(point, threshold=-9.0), false_accepts=0.02),
    )
    done = run("identify", "d.wav")
    assert done.stdout.startswith("UNDECIDED") and "it is not clear who" in done.stdout
    assert "among those enrolled" in " ".join(done.stdout.split())
    # By a prior, nobody of the gallery is one of the answers that share the probability.
    calibrate(home, weights=(1.0,), offset=12.0)
    done = run("identify", "d.wav", "--prior", "0.5")
    assert done.stdout.startswith("UNDECIDED") and "among those enrolled" not in " ".join(done.stdout.split())


def test_a_rival_stays_in_sight_and_ratios_at_their_bounds_are_marked(home):
    """Of two people nearly as likely, one is named, but not alone."""
    enroll_three()
    best, second = answer("identify", "d.wav")["answers"][0]["candidates"][:2]
    for gap, rival in ((1.0, second["name"]), (5.0, None)):
        slope = gap / (best["score"] - second["score"])
        calibrate(home, weights=(slope,), offset=9.0 - slope * best["score"], bounds=(-20.0, 20.0))
        (only,) = answer("identify", "d.wav")["answers"]
        assert only["is_accepted"] and (only["name"], only["rival"]) == (best["name"], rival)
        shown = run("identify", "d.wav").stdout
        assert (f"IDENTIFIED: {best['name']}, but it may be" in shown) == (rival is not None)
        assert ("is not ruled out" in shown) == (rival is not None)
    calibrate(home, weights=(slope,), offset=9.0 - slope * best["score"], bounds=(-2.0, 5.0))
    shown = run("identify", "d.wav").stdout
    assert ">= +5.00" in shown and "<= -2.00" in shown and ">= +4.00" not in shown
    # Alone among those enrolled, but nobody enrolled is not ruled out either.
    calibrate(home, weights=(slope,), offset=1.5 - slope * best["score"], bounds=(-20.0, 20.0))
    shown = run("identify", "d.wav", "--prior", "0.5").stdout
    assert shown.startswith(f"IDENTIFIED: {best['name']}, but it may be nobody enrolled")
    assert answer("identify", "d.wav", "--prior", "0.5")["answers"][0]["doubts"] == ["nobody enrolled"]


def test_a_bound_that_makes_two_people_equal_is_said_to_do_so(home):
    enroll_three()
    best, second = answer("identify", "d.wav")["answers"][0]["candidates"][:2]
    slope = 4.0 / (best["score"] - second["score"])
    for ratio, words in ((6.0, "in score, at least 3.00"), (10.0, "in score. "), (-9.0, "in score. ")):
        calibrate(home, weights=(slope,), offset=ratio - slope * best["score"], bounds=(-5.0, 5.0))
        shown = " ".join(run("identify", "d.wav").stdout.split())
        assert words in shown
        assert ("have the same ratio only because" in shown) == (ratio != 6.0)


def test_several_answers_share_their_notes_and_have_a_summary(home):
    enroll_three()
    write(home / "e.wav", voice(9))
    assert run("enroll", "alice", "e.wav").exit_code == 0
    calibrate(home, weights=(200.0,), offset=-190.0, bounds=(-20.0, 20.0))
    one = run("identify", "d.wav").stdout
    assert "All answers" not in one
    shown = run("identify", "d.wav", "c.wav").stdout
    assert shown.count("Calibration:") == shown.count("is approximate") == 1
    rows = shown[shown.index("All answers") :].splitlines()
    assert [row.split()[0] for row in rows if ".wav" in row] == ["d.wav", "c.wav"]
    assert "IDENTIFIED: Zoë, maybe alice (do not trust it)" in next(row for row in rows if "c.wav" in row)


def test_verify_says_who_else_of_the_gallery_scores_higher(home):
    enroll_three()
    scores = {one["name"]: one["score"] for one in answer("identify", "d.wav")["answers"][0]["candidates"]}
    best, *_, last = sorted(scores, key=scores.get, reverse=True)
    for name, threshold, is_said in ((last, -1, True), (best, -1, False), (last, 2, False)):
        found = answer("verify", name, "d.wav", "--threshold", threshold)
        assert any(f"{best}, also enrolled, scores higher" in text for text in found["warnings"]) == is_said
        assert found["is_trusted"] != is_said


def test_people_whom_the_model_takes_for_each_other_are_named_when_they_are_enrolled(home):
    enroll_three()  # without a calibration, nobody knows how near is too near
    score = cosine(home, "a", "b")
    for file, name in (("a", "alice"), ("b", "bob")):
        (home / "two" / name).mkdir(parents=True)
        shutil.copy(home / f"{file}.wav", home / "two" / name)
    for distance, is_said in ((0.01, False), (-0.01, True)):
        point = OperatingPoint(threshold=12 * (score + distance) - 5, miss_rate=0.1, false_accept_rate=0.02)
        calibrate(home, decision=Decision(point=point, false_accepts=0.02))
        done = run("enroll", "two", "--gallery", f"exp/two{is_said}")
        assert done.exit_code == 0, done.stderr
        assert done.stderr.count("alice and bob sound alike to this model") == is_said
        assert (f"score {score:.4f}" in done.stderr) == is_said


def test_a_recording_of_another_voice_than_the_persons_is_doubted(home):
    """By the calibration: below its ratio of 1 against the person's other recordings, enrolled now or before."""
    score = cosine(home, "a", "b")
    for distance, is_doubted in ((-0.01, False), (0.01, True)):
        place = ("--gallery", f"exp/doubted{is_doubted}")
        calibrate(home, weights=(1.0,), offset=-(score + distance))
        assert not answer("enroll", "alice", "a.wav", *place)["warnings"]  # nothing to compare with
        added = answer("enroll", "alice", "b.wav", *place)
        assert any("unlike the other recordings of alice" in text for text in added["warnings"]) == is_doubted
        assert added["is_trusted"] != is_doubted and added["recordings"] == 2
        together = answer("enroll", "both", "c.wav", "d.wav", *place)
        pair = cosine(home, "c", "d") < score + distance
        assert [
            f"{name}.wav: unlike the other recordings of both" in " ".join(together["warnings"])
            for name in "cd"
        ] == [pair] * 2
        assert not answer("enroll", "alice", "b.wav", *place)["warnings"]  # it is not new


def test_a_calibration_learnt_on_the_gallerys_own_people_is_said_to_be(home):
    enroll_three()
    for people, is_said in ((("bob", "x"), True), (("x", "y"), False)):
        calibrate(home, speakers=people)
        said = "learnt on people of this gallery (bob)" in " ".join(run("identify", "d.wav").stdout.split())
        assert said == is_said
        assert answer("identify", "d.wav")["calibration"]["people"] == 2


def test_a_gallery_of_one_person_is_spoken_of_as_such(home):
    calibrate(home, weights=(40.0,), offset=-30.0)
    assert run("enroll", "alice", "a.wav").exit_code == 0
    done = run("identify", "d.wav")
    assert "prior 0.5 that it is the one person enrolled." in done.stdout
    assert run("people", "list").stdout.startswith("exp/gallery: people: 1\n")


def test_a_prior_beyond_the_bounds_of_the_calibration_is_said(home):
    calibrate(home, weights=(40.0,), offset=0.0, bounds=(-2.0, 2.0))
    enroll_three()
    found = answer("identify", "d.wav", "--prior", 0.1)
    assert found["answers"][0]["is_accepted"] is False
    assert "nobody is ever accepted: with 3 people enrolled" in found["notes"][0]
    assert "support none beyond +2.00" in found["notes"][0]


@pytest.mark.parametrize(("arguments", "code"), [
    (["--threshold", "-2"], 0), (["--threshold", "1.5"], 10), ([], 11), (["--threshold", "-2", "--margin", "3"], 11),
])  # fmt: skip
def test_exit_codes_say_the_decision_when_asked(home, arguments, code):
    enroll_three()
    assert run("identify", "d.wav", *arguments).exit_code == 0
    done = run("identify", "d.wav", *arguments, "--exit-code")
    assert done.exit_code == code
    if "--margin" in arguments:
        assert "the margin is" in done.stdout and done.stdout.startswith("UNDECIDED")


def test_files_are_judged_alone_or_as_one_speaker(home):
    enroll_three()
    apart = answer("identify", "a.wav", "d.wav")["answers"]
    assert [[one["path"] for one in found["files"]] for found in apart] == [["a.wav"], ["d.wav"]]
    assert apart[0]["candidates"][0]["name"] == "alice" and not apart[0]["is_trusted"]
    assert "this very recording is enrolled, as alice" in apart[0]["warnings"][0]
    together = answer("identify", "b.wav", "d.wav", "--one-speaker")["answers"]
    scores = {one["name"]: one["score"] for one in together[0]["candidates"]}
    assert scores["alice"] == pytest.approx(cosine(home, "bd", "a"), abs=1e-5) and len(together) == 1
    assert len(answer("identify", "d.wav", "--top", "1")["answers"][0]["candidates"]) == 1


def test_several_recordings_a_person_are_averaged_and_none_counts_twice(home):
    first = answer("enroll", "alice", "a.wav", "b.wav", "a.wav")
    assert (first["added"], first["recordings"], first["people"]) == (["a.wav", "b.wav"], 2, 1)
    again = answer("enroll", "alice", "b.wav", "c.wav")
    assert (again["added"], again["recordings"], again["seconds"]) == (["c.wav"], 3, pytest.approx(4.5))
    assert "this recording of alice is already enrolled" in again["notes"][-1]
    found = answer("identify", "d.wav")["answers"][0]["candidates"][0]
    assert found["recordings"] == 3 and found["score"] == pytest.approx(cosine(home, "abc", "d"), abs=1e-5)
    done = run("enroll", "bob", "a.wav", "d.wav")
    assert done.exit_code == 3 and "a.wav: is already enrolled as alice" in done.stderr
    assert [one["name"] for one in answer("people", "list")["people"]] == ["alice"]  # all or none


def test_people_are_listed_and_removed_without_a_trace(home):
    enroll_three()
    rows = answer("people", "list")["people"]
    assert [(one["name"], one["recordings"], one["seconds"]) for one in rows] == [
        ("alice", 1, 1.5), ("bob", 1, 1.5), ("Zoë", 1, 1.5)
    ]  # fmt: skip
    before = load_file(home / "exp/gallery/people.safetensors")
    assert "people: 3" in run("people", "list").stdout
    assert run("people", "remove", "bob", "nobody").exit_code == 2
    assert len(answer("people", "list")["people"]) == 3
    assert answer("people", "remove", "bob", "Zoe\u0308") == {
        "gallery": "exp/gallery", "removed": ["bob", "Zoe\u0308"], "people": 1
    }  # fmt: skip
    stored = b"".join(path.read_bytes() for path in (home / "exp/gallery").iterdir())
    for trace in (b"bob", before["sums"][1].tobytes(), before["fingerprints"][2].tobytes()):
        assert trace not in stored
    assert before["sums"][0].tobytes() in stored
    assert [one["name"] for one in answer("identify", "b.wav")["answers"][0]["candidates"]] == ["alice"]
    assert answer("people", "remove", "alice")["people"] == 0
    done = run("identify", "d.wav")
    assert done.exit_code == 4 and "nobody is enrolled" in done.stderr


def test_what_is_stored_is_no_audio_and_for_the_owner_alone(home):
    enroll_three()
    gallery = home / "exp" / "gallery"
    assert stat.S_IMODE(gallery.stat().st_mode) == 0o700
    assert sorted(path.name for path in gallery.iterdir()) == [".lock", "gallery.json", "people.safetensors"]
    facts = json.loads((gallery / "gallery.json").read_text())
    assert facts["format"] == "svkit-gallery" and facts["model"]["path"].endswith("finetune-pruned/lmft")
    size = (gallery / "people.safetensors").stat().st_size
    assert run("enroll", "alice", write(home / "long.wav", voice(3, 50))).exit_code == 0
    assert (gallery / "people.safetensors").stat().st_size - size < 64  # a fingerprint, whatever the length


def test_a_gallery_of_another_model_is_refused_with_what_to_do(home):
    enroll_three()
    other = home / "exp" / "finetune" / "lmft"
    for command in (["enroll", "eve", "d.wav"], ["identify", "d.wav"], ["verify", "alice", "d.wav"]):
        done = run(*command, "--gallery", "exp/gallery", "--model", other)
        assert done.exit_code == 4 and "in another --gallery" in done.stderr and "lmft (sha256" in done.stderr
    # Without --model it is the gallery's own, also where the experiment has another final one.
    for name in ("alice", "bob", "Zoë"):
        assert run("people", "remove", name).exit_code == 0
    assert run("enroll", "eve", "d.wav", "--model", other).exit_code == 0
    assert answer("identify", "a.wav")["model"]["path"] == str(other)
    other.rename(other.with_name("moved"))
    done = run("identify", "a.wav")
    assert done.exit_code == 4 and "no longer exists; name its new place with --model" in done.stderr
    assert run("identify", "a.wav", "--model", other.with_name("moved")).exit_code == 0
    make_checkpoint(other, DENSE, [])
    weights = load_file(other / "model.safetensors")
    changed = next(name for name in weights if name.endswith("bias"))
    save_file(weights | {changed: weights[changed] + 1}, other / "model.safetensors")
    done = run("identify", "a.wav")
    assert done.exit_code == 4 and "expected its own model" in done.stderr


def test_where_nothing_was_trained_two_files_are_compared_with_the_model_of_the_gallery(home):
    model = home / "exp" / "finetune" / "lmft"
    assert run("verify", "a.wav", "b.wav", "--exp", "elsewhere").exit_code == 4
    assert run("enroll", "alice", "a.wav", "--exp", "elsewhere", "--model", model).exit_code == 0
    found = answer("verify", "a.wav", "b.wav", "--exp", "elsewhere")
    assert found["model"]["path"] == str(model) and found["person"] is None
    # A model of the experiment goes before it.
    assert run("enroll", "bob", "b.wav", "--model", model).exit_code == 0
    assert answer("verify", "a.wav", "b.wav")["model"]["path"].endswith("finetune-pruned/lmft")


def test_verify_takes_a_name_and_measures_as_with_the_files(home):
    """With a calibration that hears the lengths of embeddings and files, too."""
    calibrate(home, features=PAIR_FEATURES, weights=(20.0, 1.0, -0.5, 2.0, -1.0), offset=-15.0)
    assert run("enroll", "alice", "a.wav", "b.wav").exit_code == 0
    assert run("enroll", "bob", write(home / "e.wav", voice(8, 2.5))).exit_code == 0
    by_name = answer("verify", "alice", "c.wav", "d.wav", "--gallery", "exp/gallery")
    by_files = answer("verify", "--enroll", "a.wav", "--enroll", "b.wav", "c.wav", "d.wav")
    for key in ("score", "llr", "posterior", "threshold"):
        assert by_name[key] == pytest.approx(by_files[key], abs=1e-4)
    assert by_name["is_accepted"] == by_files["is_accepted"] and by_name["enroll"] == []
    gallery = {"gallery": "exp/gallery", "name": "alice", "recordings": 2, "seconds": 3.0}
    assert by_name["person"] == gallery and by_files["person"] is None
    assert [one["path"] for one in by_name["test"]] == ["c.wav", "d.wav"]
    # Of all of a gallery, identify says the same.
    for one in answer("identify", "c.wav", "d.wav", "--one-speaker")["answers"][0]["candidates"]:
        alone = answer("verify", one["name"], "c.wav", "d.wav", "--gallery", "exp/gallery")
        assert (one["score"], one["llr"]) == pytest.approx((alone["score"], alone["llr"]), abs=1e-4)
    itself = answer("verify", "alice", "a.wav", "--gallery", "exp/gallery")
    assert "this very recording is enrolled, as alice" in itself["warnings"][0]
    done = run("verify", "eve", "c.wav", "--gallery", "exp/gallery")
    assert done.exit_code == 2 and "(alice, bob), found 'eve'" in done.stderr
    for wrong in (["alice"], ["--enroll", "a.wav", "alice", "c.wav"]):
        assert run("verify", *wrong, "--gallery", "exp/gallery").exit_code == 2


def test_verify_says_the_decision_by_its_exit_code_when_asked(home):
    for arguments, code in ((["--threshold", "-1"], 0), (["--threshold", "1.5"], 10), ([], 11)):
        assert run("verify", "a.wav", "b.wav", *arguments).exit_code == 0
        done = run("verify", "a.wav", "b.wav", *arguments, "--exit-code", "--json")
        assert done.exit_code == code and "score" in json.loads(done.stdout)


@pytest.mark.parametrize("page", ["quickstart", "people"])
def test_the_commands_of_the_pages_run_in_order(home, page):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    block = [block for block in re.findall(r"```bash\n(.*?)```", text, re.S) if "svkit enroll" in block][-1]
    for number, name in enumerate(("monday.wav", "tuesday.wav", "bob.flac", "unknown.wav")):
        soundfile.write(home / name, voice(20 + number), 16_000)
    for number, name in enumerate("uvwxyz"):
        for take in range(2):
            record(home / "recordings", f"{number}{name}", take)
            record(home / "held-out", f"{number + 6}{name}", take)
    lines = block.splitlines()
    assert len(lines) >= 5
    for line in lines:
        done = run(*shlex.split(line)[1:])
        assert done.exit_code == 0, f"{line}\n{done.stderr}"


def spoil(path, name, value):
    arrays = load_file(path)
    arrays[name][-1] = value
    save_file(arrays, path)


@pytest.mark.parametrize(("damage", "said"), [
    (lambda path: path.write_bytes(path.read_bytes()[:100]), "not a readable safetensors file"),
    (lambda path: save_file(load_file(path) | {"owners": np.array([0, 0, 7])}, path), "recordings of nobody"),
    (lambda path: save_file(load_file(path) | {"seconds": np.array([0.0])}, path), "seconds: sizes do not fit"),
    (lambda path: save_file(load_file(path) | {"names": np.array([255], dtype=np.uint8)}, path), "not UTF-8"),
    (lambda path: save_file(load_file(path) | {"names": np.frombuffer(b"a\n\nb", np.uint8)}, path), "without a name"),
    (lambda path: spoil(path, "sums", 0), "sums: expected sums of vectors of length 1"),
    (lambda path: spoil(path, "sums", 9), "sums: expected sums of vectors of length 1"),
    (lambda path: spoil(path, "seconds", -1), "seconds: expected durations above 0"),
    (lambda path: spoil(path, "enrolled", 2**62), "enrolled: expected seconds since 1970"),
])  # fmt: skip
def test_a_damaged_gallery_is_refused_by_name(home, damage, said):
    enroll_three()
    damage(home / "exp" / "gallery" / "people.safetensors")
    for command in (["identify", "d.wav"], ["people", "list"], ["enroll", "eve", "d.wav"]):
        done = run(*command)
        assert done.exit_code == 4 and said in done.stderr and "people.safetensors" in done.stderr


def test_a_flipped_bit_is_found_by_the_checksum_that_older_galleries_lack(home):
    enroll_three()
    path = home / "exp" / "gallery" / "people.safetensors"
    whole = load_file(path)
    for name in set(whole) - {"owners"}:
        arrays = {key: array.copy() for key, array in whole.items()}
        arrays[name].view(np.uint8).flat[0] ^= 1
        save_file(arrays, path)
        done = run("people", "list")
        assert (
            done.exit_code == 4 and "people.safetensors: has changed since it was written" in done.stderr
        ), name
    save_file({name: array for name, array in whole.items() if name != "checksum"}, path)
    assert len(answer("people", "list")["people"]) == 3
    assert run("enroll", "eve", "d.wav").exit_code == 0 and "checksum" in load_file(path)
    assert run("people", "remove", "alice", "bob", "Zoë", "eve").exit_code == 0
    assert answer("people", "list")["people"] == []


def test_slips_are_answered(home):
    done = run("enroll", "a.wav", "b.wav")
    assert done.exit_code == 2 and "is a file, expected the name" in done.stderr
    for name in ("", " alice", "a\nb", "x" * 201):
        assert run("enroll", name, "a.wav").exit_code == 2
    assert not (home / "exp" / "gallery").exists()
    done = run("identify", "a.wav", "--gallery", "nowhere")
    assert done.exit_code == 4 and "svkit enroll NAME FILE" in done.stderr
    done = run("enroll", "alice", "a.wav", "--gallery", "exp/finetune")
    assert done.exit_code == 4 and "holds files but no gallery" in done.stderr
    assert not [path for path in (home / "exp" / "finetune").iterdir() if path.name == "gallery.json"]
    (home / "exp" / "finetune" / "lmft" / "run.json").touch()
    done = run("enroll", "alice", "a.wav", "--gallery", "exp/finetune/lmft/gallery")
    assert done.exit_code == 4 and "lies in" in done.stderr and "choose another directory" in done.stderr
    assert not (home / "exp" / "finetune" / "lmft" / "gallery").exists()
    (home / "people" / "bob").mkdir(parents=True)
    (home / "people" / "bob" / "1.wav").write_bytes(b"not audio")  # no recording is read before the refusal
    done = run("enroll", "alice", "a.wav", "--model", "people")
    assert done.exit_code == 4 and "people/model.safetensors: does not exist" in done.stderr
    done = run("enroll", "people", "--gallery", "people")
    assert done.exit_code == 4 and "holds files but no gallery (bob)" in done.stderr
    done = run("enroll", "people/bob")
    assert done.exit_code == 2 and "to enroll one person: svkit enroll NAME people/bob" in done.stderr
    done = run("enroll", "people/bob", "--skip-bad")
    assert done.exit_code == 3 and "found 1 recordings directly in it; put" in done.stderr
    done = run(
        "enroll", "anna", "a.wav", "people", "--exp", "elsewhere"
    )  # before the lack of a model is noticed
    assert (
        done.exit_code == 2
        and "people: has directories with recordings; expected only those of anna" in done.stderr
    )
    assert run("enroll", "alice", "missing.wav").exit_code == 3
    enroll_three()
    done = run("verify", "carol", "a.wav")
    assert done.exit_code == 3 and "is enrolled in exp/gallery (Zoë, alice, bob)" in done.stderr
    done = run("identify", "alice", "b.wav")
    assert done.exit_code == 2 and "svkit verify alice FILE" in done.stderr


def test_a_person_goes_before_a_folder_of_that_name_and_after_a_file(home):
    enroll_three()
    (home / "alice").mkdir()
    assert answer("verify", "alice", "d.wav")["person"]["name"] == "alice"
    assert len(answer("verify", "alice", "c.wav", "d.wav")["test"]) == 2
    done = run("verify", "people", "d.wav")
    assert done.exit_code == 3
    shutil.copy(home / "b.wav", home / "bob")
    done = run("verify", "bob", "d.wav")
    assert done.exit_code == 0 and "for the person: --gallery exp/gallery" in done.stderr
    assert answer("verify", "bob", "d.wav")["person"] is None
    assert answer("verify", "bob", "d.wav", "--gallery", "exp/gallery")["person"]["name"] == "bob"
    assert run("people", "remove", "alice", "--gallery", "nowhere").exit_code == 4
    assert not (home / "nowhere").exists()


def test_a_gallery_that_lost_its_people_is_not_an_empty_one(home):
    enroll_three()
    (home / "exp" / "gallery" / "people.safetensors").unlink()
    for command in (("identify", "d.wav"), ("people", "list"), ("enroll", "eve", "d.wav")):
        done = run(*command)
        assert (
            done.exit_code == 4
            and "people.safetensors: is missing, and with it everybody enrolled" in done.stderr
        )


def test_a_gallery_that_was_only_begun_can_be_used(home, monkeypatch):
    """Killed before `gallery.json` was written, which comes last."""

    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("svkit.store.gallery.write_json", kill)
        assert run("enroll", "alice", "a.wav").exit_code != 0
    assert (home / "exp" / "gallery" / "people.safetensors").exists()
    assert "no gallery here" in run("people", "list").stderr
    assert run("enroll", "bob", "b.wav").exit_code == 0
    assert [one["name"] for one in answer("people", "list")["people"]] == ["bob"]
    (home / "exp" / "gallery" / "gallery.json").unlink()  # now it has people, who are not replaced
    assert run("enroll", "eve", "c.wav").exit_code == 4


@pytest.mark.slow
@pytest.mark.e2e
def test_enrolments_at_once_lose_nobody(home):
    """As processes of their own, forked with all that they need, so that they write as close as they can."""
    gallery, names = home / "exp" / "gallery", [f"person {number}" for number in range(4)]
    jobs = [fork_server().Process(target=_enroll, args=(gallery, name, 10)) for name in names]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(120)
    assert [job.exitcode for job in jobs] == [0] * 4
    rows = answer("people", "list")["people"]
    assert sorted((one["name"], one["recordings"]) for one in rows) == [(name, 10) for name in names]


@pytest.mark.slow
@pytest.mark.e2e
def test_a_killed_enrolment_loses_nobody_and_leaves_nothing(home):
    gallery = home / "exp" / "gallery"
    for turn in range(5):
        job = fork_server().Process(target=_enroll, args=(gallery, f"person {turn}", 100_000))
        job.start()
        while not (gallery / "gallery.json").exists() or f"person {turn}" not in _names():
            time.sleep(0.01)
        time.sleep(0.003 * turn)
        job.kill()
        job.join()
    assert _names() == [f"person {turn}" for turn in range(5)]
    assert run("people", "remove", "person 0").exit_code == 0
    assert sorted(path.name for path in gallery.iterdir()) == [".lock", "gallery.json", "people.safetensors"]


def _names():
    return [one["name"] for one in answer("people", "list")["people"]]


def _enroll(gallery, name, number):
    model = GalleryModel(path="/model", sha256="0" * 64)
    for _ in range(number):
        one = NewRecording(embedding=np.ones(8, dtype=np.float32), seconds=1.0, fingerprint=os.urandom(32))
        add_recordings(gallery, model, {name: {Path("a.wav"): one}})
