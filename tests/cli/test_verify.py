"""`svkit verify` from the command line, with a random model of milliseconds."""

import json
import shutil
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.eval.results import Interval, OperatingPoint
from svkit.models.load import load_model
from svkit.scoring.backend import Backend, describe_backend
from svkit.scoring.ratio import PAIR_FEATURES
from svkit.store import gallery
from svkit.store.calibration import CalibrationRecord, Decision, write_calibration
from svkit.store.metrics import ListId
from svkit.store.provenance import sha256_artifact
from svkit.store.strict_json import read_json
from tests.fake_experiment import DENSE, make_checkpoint, pruned

RATE = 16000


def voice(seed, seconds=1.5, rate=RATE):
    signal = np.random.default_rng(seed).normal(size=round(seconds * rate))
    smooth = np.convolve(signal, np.ones(1 + seed % 7), "same")
    return 0.5 * smooth / np.abs(smooth).max()


def write(path, samples, rate=RATE, subtype="FLOAT"):
    soundfile.write(path, samples, rate, subtype=subtype, format="WAV")
    return path


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    home = tmp_path_factory.mktemp("verify")
    make_checkpoint(home / "exp" / "finetune" / "lmft", DENSE, [])
    make_checkpoint(home / "exp" / "finetune-pruned" / "lmft", pruned(DENSE), [])
    for number, name in enumerate("abcd"):
        write(home / f"{name}.wav", voice(number))
    return home


@pytest.fixture
def home(template, tmp_path):
    target = tmp_path / "home"
    shutil.copytree(template, target)
    return target


def run(home, *arguments):
    exp = [] if "--exp" in arguments else ["--exp", home / "exp"]
    return CliRunner().invoke(app, ["verify", *map(str, [*arguments, *exp])])


def answer(home, *arguments):
    done = run(home, *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def cosine(home, left, right, checkpoint="finetune-pruned/lmft"):
    model = load_model(home / "exp" / checkpoint)
    sides = []
    for names in (left, right):
        rows = [model.embed([soundfile.read(home / f"{name}.wav")[0]])[0].astype(float) for name in names]
        sides.append(np.mean([row / np.linalg.norm(row) for row in rows], axis=0))
    return sides[0] @ sides[1] / np.linalg.norm(sides[0]) / np.linalg.norm(sides[1])


def calibrate(home, checkpoint="finetune-pruned/lmft", path=None, **changes):
    directory = home / "exp" / checkpoint
    facts = {
        "features": ("score",), "weights": (12.0,), "offset": -5.0, "prior": 0.05,
        "backend": describe_backend(Backend()), "checkpoint_sha256": sha256_artifact(directory),
        "trials": ListId(name="held-out", sha256="0"), "num_targets": 100, "num_nontargets": 900,
        "bounds": (-20.0, 20.0), "is_separable": False,
    }  # fmt: skip
    write_calibration(path or directory / "calibration.json", CalibrationRecord(**(facts | changes)))


def test_uncalibrated_shows_the_score_and_decides_nothing(home):
    found = answer(home, home / "a.wav", home / "b.wav")
    assert found["score"] == pytest.approx(cosine(home, "a", "b"), abs=1e-5)
    assert [found[key] for key in ("llr", "posterior", "threshold", "is_accepted", "calibration")] == [
        None
    ] * 5
    assert found["is_trusted"] and found["warnings"] == []
    done = run(home, home / "a.wav", home / "b.wav")
    assert done.exit_code == 0 and "UNDECIDED" in done.stdout and "not calibrated" in done.stdout


def test_a_rejection_that_is_likelier_one_speaker_does_not_say_different_speakers(home):
    """The threshold was stricter than the probability: the heading must not contradict the table."""
    for offset, heading in (
        (20.0, "REJECT: one speaker is likelier"),
        (-1.5 - cosine(home, "a", "b"), "REJECT: not shown to be the same speaker"),
        (-20.0, "REJECT: different speakers"),
    ):
        calibrate(home, weights=(1.0,), offset=offset)
        done = run(home, home / "a.wav", home / "b.wav", "--threshold", "2")
        assert done.exit_code == 0 and done.stdout.startswith(heading)


def test_how_likely_one_speaker_is_stands_in_the_heading_of_an_acceptance(home):
    for odds, heading in (
        (2.3, "ACCEPT: the same speaker"),
        (1.0, "ACCEPT: probably the"),
        (-0.1, "ACCEPT: perhaps the"),
    ):
        calibrate(home, weights=(1.0,), offset=odds - cosine(home, "a", "b"))
        done = run(home, home / "a.wav", home / "b.wav", "--threshold", "-1", "--prior", "0.5")
        assert done.stdout.startswith(heading)


def test_what_is_no_file_is_a_name_in_the_gallery_of_the_experiment(home):
    done = run(home, "Zoë", home / "b.wav")
    assert done.exit_code == 3 and "name yours with --gallery" in done.stderr
    enrolled = CliRunner().invoke(app, ["enroll", "Zoë", str(home / "a.wav"), "--exp", str(home / "exp")])
    assert enrolled.exit_code == 0, enrolled.stderr
    by_name = answer(home, unicodedata.normalize("NFD", "Zoë"), home / "b.wav")
    assert by_name["person"]["name"] == "Zoë"
    assert by_name == answer(home, "Zoë", home / "b.wav", "--gallery", home / "exp" / "gallery")
    assert len(answer(home, "Zoë", home / "b.wav", home / "c.wav")["test"]) == 2
    done = run(home, "nobody.wav", home / "b.wav")
    assert done.exit_code == 3
    assert (
        f"nobody.wav: does not exist, and nobody of that name is enrolled in {home}/exp/gallery"
        in done.stderr
    )
    assert "person" in answer(home, home / "a.wav", home / "b.wav")  # files are files
    for more in ((), ("--gallery", home / "exp" / "gallery")):
        done = run(home, home / "b.wav", "Zoë", *more)
        assert (
            done.exit_code == 2 and f"the name comes first: svkit verify Zoë {home / 'b.wav'}" in done.stderr
        )


def test_a_name_in_the_gallery_of_the_experiment_reads_it_once(home, monkeypatch):
    CliRunner().invoke(app, ["enroll", "Zoë", str(home / "a.wav"), "--exp", str(home / "exp")])
    read = []
    monkeypatch.setattr(gallery, "read_json", lambda path, *rest: read.append(path) or read_json(path, *rest))
    assert run(home, "Zoë", home / "b.wav").exit_code == 0
    assert read == [home / "exp" / "gallery" / "gallery.json"]


def test_a_model_that_has_no_answer_to_anything_is_at_fault_and_not_the_audio(home):
    weights = home / "exp/finetune-pruned/lmft/model.safetensors"
    broken = {
        name: np.full_like(value, np.nan) if value.dtype.kind == "f" else value
        for name, value in load_file(weights).items()
    }
    save_file(broken, weights)
    done = run(home, home / "a.wav", home / "b.wav")
    assert done.exit_code == 4 and "check the audio" not in done.stderr
    assert "finetune-pruned/lmft: the model gives no usable embedding, not even of plain noise" in done.stderr
    words = ["extract", home / "a.wav", "--model", weights.parent, "--exp", home / "exp"]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 4 and "not even of plain noise" in done.stderr


def test_the_way_to_a_calibration_names_the_model_and_lists_elsewhere_are_said_to_be(home):
    shown = " ".join(run(home, home / "a.wav", home / "b.wav", "--exp", home / "exp").stdout.split())
    assert f"svkit calibrate HELD_OUT_PEOPLE --model {home}/exp/finetune-pruned/lmft" in shown


def test_the_default_is_the_pruned_model_else_the_dense_one(home):
    model = answer(home, home / "a.wav", home / "b.wav")["model"]
    assert model["path"].endswith("finetune-pruned/lmft")
    assert model["sha256"] == sha256_artifact(home / "exp" / "finetune-pruned" / "lmft")
    lmft = home / "exp" / "finetune-pruned" / "lmft"
    (lmft / "provenance.json").rename(lmft / "run.json")
    done = run(home, home / "a.wav", home / "b.wav")
    assert f"{lmft} is not finished: there is no pruned model yet" in done.stderr
    shutil.rmtree(home / "exp" / "finetune-pruned")
    found = answer(home, home / "a.wav", home / "b.wav")
    assert found["model"]["path"].endswith("finetune/lmft")
    assert found["score"] == pytest.approx(cosine(home, "a", "b", "finetune/lmft"), abs=1e-5)
    done = run(home, home / "a.wav", home / "b.wav", "--exp", home / "other")
    assert done.exit_code == 4 and "name one (a checkpoint, or a name on the hub" in done.stderr
    found = answer(home, home / "a.wav", home / "b.wav", "--exp", home / "other", "--model",
                   home / "exp" / "finetune" / "lmft")  # fmt: skip
    assert found["model"]["path"].endswith("finetune/lmft")


def test_a_copy_names_its_own_training_list(home, tmp_path, monkeypatch):
    """By the record of this version and of earlier ones, while the original is still there."""
    (home / "exp" / "data").mkdir()
    (home / "exp" / "data" / "train.tsv").write_text("a list")
    provenance = "finetune-pruned/lmft/provenance.json"
    record = json.loads((home / "exp" / provenance).read_text())
    monkeypatch.chdir(home)
    for place, more in (("data/train.tsv", {"experiment": "../.."}), ("exp/data/train.tsv", {})):
        inputs = [{"name": "train", "path": place, "sha256": "aa"}]
        (home / "exp" / provenance).write_text(json.dumps(record | more | {"inputs": inputs}))
        copy = tmp_path / f"copy{len(more)}" / "exp"
        shutil.copytree(home / "exp", copy)
        found = answer(home, home / "a.wav", home / "b.wav", "--exp", copy)["model"]["trained_on"]
        assert [entry["path"] for entry in found] == [str(copy / "data" / "train.tsv")]


@pytest.mark.parametrize("prior", [0.5, 0.01])
def test_calibrated_decision_by_bayes(home, prior):
    calibrate(home)
    found = answer(home, home / "a.wav", home / "b.wav", "--prior", prior)
    llr = 12 * found["score"] - 5
    odds = prior / (1 - prior) * np.exp(llr)
    assert found["llr"] == pytest.approx(llr)
    assert found["posterior"] == pytest.approx(odds / (1 + odds))
    assert found["is_accepted"] == (odds >= 1) == (found["posterior"] >= 0.5)
    at_threshold = 12 * found["threshold"] - 5
    assert at_threshold == pytest.approx(np.log((1 - prior) / prior))
    assert (found["prior"], found["threshold_from"]) == (prior, "bayes")
    assert found["calibration"]["trials"]["name"] == "held-out"


@pytest.mark.parametrize(("threshold", "verdict"), [(-1.0, "ACCEPT"), (1.01, "REJECT")])
def test_a_given_threshold_decides_with_and_without_calibration(home, threshold, verdict):
    for _ in range(2):
        done = run(home, home / "a.wav", home / "b.wav", "--threshold", threshold)
        assert done.exit_code == 0 and done.stdout.startswith(verdict) and "(given)" in done.stdout
        calibrate(home)


def test_several_files_a_side_are_averaged(home):
    files = [home / f"{name}.wav" for name in "abcd"]
    calibrate(home)
    found = answer(home, "--enroll", files[0], "--enroll", files[1], files[2], files[3])
    assert found["score"] == pytest.approx(cosine(home, "ab", "cd"), abs=1e-5)
    assert [len(found[side]) for side in ("enroll", "test")] == [2, 2]
    assert "approximate" in found["notes"][0] and found["is_trusted"]
    one = answer(home, "--enroll", files[0], files[1])
    assert one["score"] == answer(home, files[0], files[1])["score"] and one["notes"] == []
    for wrong in ([files[0]], files[:3]):
        done = run(home, *wrong)
        assert done.exit_code == 2 and "--enroll" in done.stderr


def test_calibrations_of_others_are_refused(home):
    files = (home / "a.wav", home / "b.wav")
    calibrate(home, checkpoint_sha256="c0ffee")
    done = run(home, *files)
    assert done.exit_code == 4 and "another model" in done.stderr and "calibration.json" in done.stderr
    calibrate(home, backend=describe_backend(Backend(norm="asnorm")))
    done = run(home, *files)
    assert done.exit_code == 4 and "found one of asnorm" in done.stderr
    measures = (*PAIR_FEATURES, "cohort_mean_low", "cohort_mean_high")
    calibrate(home, features=measures, weights=(1.0,) * 7)
    done = run(home, *files)
    assert done.exit_code == 4 and "no cohort" in done.stderr and "cohort_mean_low" in done.stderr
    calibrate(home, weights=(-1.0,))
    done = run(home, *files)
    assert done.exit_code == 4 and "positive weight" in done.stderr
    assert run(home, *files, "--calibration", home / "nowhere.json").exit_code == 4
    calibrate(home, path=home / "mine.json")
    assert answer(home, *files, "--calibration", home / "mine.json")["llr"] is not None
    place = home / "exp" / "finetune-pruned" / "lmft" / "calibration.json"
    place.unlink()
    place.symlink_to("nowhere.json")  # a calibration that got lost
    done = run(home, *files)
    assert done.exit_code == 4 and f"{place}: is a symbolic link to a place that does" in done.stderr


@pytest.mark.parametrize("test", ["b", "long"])
def test_measures_of_quality_are_those_of_the_two_recordings(home, test):
    """Norms of the embeddings, durations of the files: also where only the first 60 s are listened to."""
    write(home / "long.wav", voice(5, 61.5, 4000), 4000)
    weights = (12.0, 0.3, -0.2, 0.7, -0.4)
    calibrate(home, features=PAIR_FEATURES, weights=weights)
    found = answer(home, home / "a.wav", home / f"{test}.wav")
    model = load_model(home / "exp" / "finetune-pruned" / "lmft")
    norms = sorted(np.log(np.linalg.norm(model.embed(home / f"{name}.wav"))) for name in ("a", test))
    seconds = np.log([1.5, 1.5 if test == "b" else 61.5])
    llr = np.dot(weights, [found["score"], *norms, *seconds]) - 5
    assert found["llr"] == pytest.approx(llr, abs=1e-4)
    rest = llr - 12 * found["score"]
    assert found["threshold"] == pytest.approx(-rest / 12, abs=1e-4)
    assert found["calibration"]["features"] == list(PAIR_FEATURES)
    files = ["--enroll", home / "a.wav", "--enroll", home / "c.wav", home / "b.wav"]
    several = answer(home, *files)
    sides = [
        [np.log(np.linalg.norm(model.embed(home / f"{name}.wav"))) for name in names] for names in ("ac", "b")
    ]
    norms = sorted(np.mean(side) for side in sides)
    llr = np.dot(weights, [several["score"], *norms, *np.log([1.5, 3.0])]) - 5
    assert several["llr"] == pytest.approx(llr, abs=1e-4) and "approximate" in several["notes"][0]


def test_the_operating_point_of_the_calibration_decides_unless_a_prior_or_a_threshold_is_given(home):
    files = (home / "a.wav", home / "b.wav")
    llr = 12 * answer(home, *files)["score"] - 5
    for limit, verdict in ((llr + 0.1, "REJECT"), (llr - 0.1, "ACCEPT")):
        point = OperatingPoint(threshold=limit, miss_rate=0.1, false_accept_rate=0.001)
        calibrate(home, decision=Decision(point=point, false_accepts=0.001))
        found = answer(home, *files)
        assert found["is_accepted"] == (verdict == "ACCEPT") and found["threshold_from"] == "false accepts"
        assert found["threshold"] == pytest.approx((limit + 5) / 12) and found["prior"] == 0.5
        done = run(home, *files)
        assert done.stdout.startswith(verdict) and "false accepts up to 0.1 %" in done.stdout
        assert answer(home, *files, "--prior", 0.5)["threshold_from"] == "bayes"
        assert answer(home, *files, "--threshold", 2)["threshold_from"] == "given"
    point = OperatingPoint(threshold=np.log(99 * 10), miss_rate=0.1, false_accept_rate=0.001)
    calibrate(home, decision=Decision(point=point, p_target=0.01, c_fa=10.0))
    found = answer(home, *files)
    assert 12 * found["threshold"] - 5 == pytest.approx(np.log(990)) and found["prior"] == 0.01
    assert "Bayes, prior 0.01, costs 1 and 10" in run(home, *files).stdout
    assert "Bayes, prior 0.01, equal costs" in run(home, *files, "--prior", "0.01").stdout


def test_what_the_people_of_the_calibration_cannot_show_is_said_with_the_rates_it_had(home):
    files = (home / "a.wav", home / "b.wav")
    interval = Interval(low=0.0042, high=0.0198, num_resamples=1000, num_speakers=24)
    point = OperatingPoint(
        threshold=2.5, miss_rate=0.1, false_accept_rate=0.011, false_accept_rate_interval=interval
    )
    for people, is_enough in ((24, False), (25, True)):
        names = tuple(f"p{number:02d}" for number in range(people))
        calibrate(home, decision=Decision(point=point, false_accepts=0.01), speakers=names)
        found, shown = answer(home, *files), " ".join(run(home, *files).stdout.split())
        assert found["threshold_llr"] == 2.5 and "log-likelihood ratio +2.50" in shown
        assert "false accepts 1.10 (0.42 to 1.98), misses 10.00" in shown
        note = (
            "not assured: by what was measured it may be 1.98 %, and the calibration was learnt on 24 people"
        )
        assert (note in shown) == (note in " ".join(found["notes"])) == (not is_enough)
        note = "neither missed nor assured: by what was measured, it may be 1.98 %"
        assert (note in shown) == (note in " ".join(found["notes"])) == is_enough
        for other in (
            ("--prior", "0.5"),
            ("--threshold", "0.5"),
        ):  # another decision than the one that was learnt
            shown = run(home, *files, *other).stdout
            assert "assured" not in shown and "measured on" not in shown
    # It was missed where even the interval is above it, whoever it was measured on.
    missed = replace(point, false_accept_rate_interval=replace(interval, low=0.0101))
    calibrate(home, decision=Decision(point=missed, false_accepts=0.01), speakers=names)
    assert answer(home, *files)["notes"] == [
        "the target of 1 % false accepts was missed where it was measured: 1.1 %"
    ]
    often = replace(point, false_accept_rate=0.01, miss_rate=0.43)
    weak = (
        "a rejection alone is weak evidence: where it was measured, 43 % of the pairs of one person were rejected;"
        " the likelihood ratio says more"
    )
    for threshold, said in ((30.0, [weak]), (-30.0, [])):
        chosen = Decision(point=replace(often, threshold=threshold), false_accepts=0.01)
        calibrate(home, decision=chosen, speakers=names)
        found = answer(home, *files)
        assert (
            found["is_accepted"] == (not said) and [text for text in found["notes"] if text == weak] == said
        )
    calibrate(home, decision=Decision(point=point, p_target=0.1), speakers=names[:5])
    assert "a ratio of +2.50 is not assured" in answer(home, *files)["notes"][0]


def test_a_prior_at_which_nothing_is_accepted_is_said(home):
    calibrate(home)
    found = answer(home, home / "a.wav", home / "b.wav", "--prior", "0.0001")
    assert found["threshold"] > 1 and not found["is_accepted"] and "never accepts" in found["notes"][0]
    assert answer(home, home / "a.wav", home / "b.wav", "--prior", "0.01")["notes"] == []


def test_a_guess_is_bounded_and_not_trusted(home):
    """A calibration learnt on trials without an error, by a slope that would say anything."""
    bounds = (-4.6, 6.8)
    calibrate(home, weights=(400.0,), offset=-100.0, bounds=bounds, is_separable=True)
    files = (home / "a.wav", home / "b.wav")
    found = answer(home, *files, "--prior", 0.5)
    assert 400 * found["score"] - 100 > 100 and found["llr"] == bounds[1]
    assert not found["is_trusted"] and "separates without error" in found["warnings"][-1]
    assert "at its bound" in found["notes"][0] and "none beyond -4.60 and +6.80" in found["notes"][0]
    assert found["is_accepted"] and found["calibration"]["bounds"] == list(bounds)
    done = run(home, *files)
    assert done.exit_code == 0 and "Do not trust this" in done.stdout and "over 1,000" not in done.stdout
    assert ">= +6.80 (natural): at least 898 times likelier for one speaker" in " ".join(done.stdout.split())
    # No ratio that the trials support reaches this prior: no score is accepted, and no threshold is claimed.
    never = answer(home, *files, "--prior", "0.001")
    assert (never["is_accepted"], never["threshold"]) == (False, None)
    assert "so the model always rejects" in never["notes"][1]
    assert run(home, *files, "--prior", "0.001").stdout.startswith("REJECT")
    given = answer(home, *files, "--prior", "0.001", "--threshold", "0.1")
    assert given["is_accepted"] and len(given["notes"]) == 1


def test_a_calibration_of_an_earlier_version_is_bounded_by_its_counts(home):
    calibrate(home, weights=(400.0,), bounds=None, is_separable=None)
    found = answer(home, home / "a.wav", home / "b.wav")
    assert found["llr"] == pytest.approx(np.log(901 * 100 / 101))
    assert "an earlier svkit did not record it" in found["notes"][-1] and found["is_trusted"]


def test_bad_priors_are_usage(home):
    for prior in ("0", "1", "nan"):
        assert run(home, home / "a.wav", home / "b.wav", "--prior", prior).exit_code == 2


def test_any_rate_and_channel_0(home):
    stereo = np.stack((voice(9, 1.5, 44100), np.zeros(66150)), axis=1)
    write(home / "stereo.wav", stereo, 44100)
    write(home / "mono.wav", stereo[:, 0], 44100)
    scores = [answer(home, home / name, home / "b.wav")["score"] for name in ("stereo.wav", "mono.wav")]
    assert scores[0] == scores[1]
    write(home / "narrow.wav", voice(9, 1.5, 8000), 8000)
    found = answer(home, home / "narrow.wav", home / "b.wav")
    assert "narrow: sampled at 8,000 Hz, so its content ends at 4,000 Hz" in found["warnings"][0]
    assert "content up to 8,000 Hz" in found["warnings"][0] and not found["is_trusted"]


def test_a_voice_on_another_channel_is_said_and_can_be_chosen(home):
    right = write(home / "right.wav", np.stack((np.zeros(24_000), voice(9)), axis=1))
    found = answer(home, right, home / "b.wav")
    note = (
        "right.wav: channel 1 has sound, channel 0 is silent; channel 0 was used; choose with --channel N|mix"
    )
    assert note in found["notes"][0] and "silent" in found["warnings"][0]
    mono = answer(home, write(home / "mono.wav", voice(9)), home / "b.wav")
    found = answer(home, right, home / "b.wav", "--channel", "loudest")
    assert found["score"] == mono["score"] and not found["notes"] and not found["warnings"]
    assert (found["enroll"][0]["channel"], found["test"][0]["channel"]) == (1, 0)
    assert answer(home, right, right, "--channel", "1")["enroll"][0]["channel"] == 1
    assert answer(home, right, home / "b.wav", "--channel", "mix")["score"] == pytest.approx(
        mono["score"], abs=1e-3
    )
    done = run(home, right, home / "b.wav", "--channel", "1")
    assert done.exit_code == 3 and "b.wav: channel 1 asked for, the file has 1" in done.stderr
    for channel in ("-1", "left", "1.0", ""):
        done = run(home, right, home / "b.wav", "--channel", channel)
        assert (
            done.exit_code == 2
            and "expected the number of a channel, counted from 0, or mix or loudest" in done.stderr
        )


def test_a_cut_recording_is_refused_by_name_unless_what_is_there_is_wanted(home):
    whole = (home / "a.wav").read_bytes()
    (home / "cut.wav").write_bytes(whole[: 58 + 4 * 20_000])
    done = run(home, home / "cut.wav", home / "b.wav")
    assert done.exit_code == 3 and "cut.wav: truncated: the header says 96000 bytes of audio" in done.stderr
    found = answer(home, home / "cut.wav", home / "b.wav", "--allow-cut")
    assert "the part that is there was used" in found["notes"][0] and found["enroll"][0]["seconds"] < 1.3


def test_what_is_left_of_a_cut_flac_can_be_used(home):
    """Its header says nothing of it: only decoding shows where it ends."""
    rng = np.random.default_rng(3)
    soundfile.write(home / "whole.flac", rng.uniform(-0.3, 0.3, 48_000), 16_000)
    whole = (home / "whole.flac").read_bytes()
    (home / "cut.flac").write_bytes(whole[: len(whole) // 2])
    done = run(home, home / "cut.flac", home / "b.wav")
    assert (
        done.exit_code == 3
        and "cut.flac: truncated or damaged" in done.stderr
        and "--allow-cut," in done.stderr
    )
    found = answer(home, home / "cut.flac", home / "b.wav", "--allow-cut")
    assert "the part that is there was used" in found["notes"][0] and 1 < found["enroll"][0]["seconds"] < 2


def test_aac_comes_with_the_way_to_convert_it(home):
    (home / "a.m4a").write_bytes(b"\0\0\0\x1cftypM4A \0\0\2\0" + bytes(100))
    done = run(home, home / "a.m4a", home / "b.wav")
    assert done.exit_code == 3 and "ffmpeg -i a.m4a a.flac" in done.stderr


def test_doubtful_audio_is_said(home):
    write(home / "short.wav", voice(1, 0.4))
    write(home / "silent.wav", np.zeros(2 * RATE))
    write(home / "clipped.wav", np.clip(4 * voice(2), -1, 1))
    for name in ("short", "silent", "clipped"):
        done = run(home, home / "a.wav", home / f"{name}.wav", "--json")
        assert done.exit_code == 0, done.stderr
        found = json.loads(done.stdout)
        assert f"{name}.wav: {name}" in found["warnings"][0] and not found["is_trusted"]
        assert f"warning: {found['warnings'][0]}" in done.stderr
        done = run(home, home / "a.wav", home / f"{name}.wav")
        assert "Do not trust this" in done.stdout and "warning:" not in done.stderr
    found = answer(home, home / "a.wav", home / "a.wav")
    assert "the same recording on both sides" in found["warnings"][0]
    assert found["score"] == pytest.approx(1, abs=1e-6)


def test_long_files_are_cut_as_in_extraction(home):
    long = voice(5, 61, 4000)
    write(home / "long.wav", long, 4000)
    write(home / "cut.wav", long[: 60 * 4000], 4000)
    found = answer(home, home / "long.wav", home / "b.wav")
    assert "the first 60 s were used" in found["notes"][0]
    assert found["score"] == answer(home, home / "cut.wav", home / "b.wav")["score"]


def test_unusable_audio_is_refused_by_name(home):
    write(home / "blip.wav", voice(1)[: int(0.034 * RATE)])
    write(home / "none.wav", np.zeros(0))
    broken = voice(1)
    broken[7000] = np.nan
    write(home / "nan.wav", broken)
    (home / "text.wav").write_text("no audio at all")
    (home / "zero.wav").write_bytes(b"")
    for name, reason in (
        ("blip", "at least 35 ms"), ("none", "no samples"), ("nan", "sample 7000 is not a finite number"),
        ("text", "not readable as audio"), ("zero", "empty file"), ("missing", "does not exist"),
    ):  # fmt: skip
        done = run(home, home / "a.wav", home / f"{name}.wav")
        assert done.exit_code == 3 and done.stdout == "", name
        assert f"{name}.wav: " in done.stderr and reason in done.stderr
        assert done.stderr.count("\n") == 1


def test_training_lists_come_from_the_chain_of_provenance(home):
    def note(path, inputs):
        record = json.loads((home / "exp" / path / "provenance.json").read_text())
        record["inputs"] = [{"name": name, "path": str(where), "sha256": sha} for name, where, sha in inputs]
        (home / "exp" / path / "provenance.json").write_text(json.dumps(record))

    dense, small = home / "exp" / "finetune" / "lmft", home / "exp" / "finetune-pruned" / "lmft"
    note("finetune/lmft", [("train", "vox2.tsv", "aa"), ("checkpoint", small, "xx")])  # a loop ends
    note(
        "finetune-pruned/lmft",
        [("train", "mine.tsv", "bb"), ("teacher", dense, "yy"), ("valid", "v.tsv", "vv")],
    )
    found = answer(home, home / "a.wav", home / "b.wav")["model"]["trained_on"]
    assert found == [{"path": "mine.tsv", "sha256": "bb"}, {"path": "vox2.tsv", "sha256": "aa"}]
    assert (
        "mine.tsv, which is not on this machine (sha256 bb), vox2.tsv, which is not on this machine"
        in run(home, home / "a.wav", home / "b.wav").stdout
    )
