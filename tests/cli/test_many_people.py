"""`svkit enroll FOLDER|TSV` and `svkit people remove --recording`, with a random model of milliseconds."""
# ruff: noqa: F811 - fixtures of another file

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from svkit.cli.identify import _in_summary, _verdict
from svkit.scoring import enroll
from tests.cli.test_people import answer, home, run  # noqa: F401
from tests.cli.test_verify import calibrate, template, voice, write  # noqa: F401


def folder_of_people(home):
    """Three people in a folder with two recordings each, one of them in a directory of a session."""
    for number, name in enumerate(("ann", "ben", "Zoe\u0308")):
        for take in range(2):
            path = home / "people" / name / ("2024" if take else "") / f"{take}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, voice(10 * number + take))
    return home / "people"


@pytest.mark.parametrize("at_once", [100, 2])
def test_everybody_of_a_folder_is_enrolled_as_one_by_one(home, monkeypatch, at_once):
    monkeypatch.setattr("svkit.scoring.enroll.AT_ONCE", at_once)
    people = folder_of_people(home)
    found = answer("enroll", people)
    assert [(one["name"], len(one["added"]), one["recordings"]) for one in found["enrolled"]] == [
        ("Zoë", 2, 2), ("ann", 2, 2), ("ben", 2, 2)
    ]  # fmt: skip
    assert found["people"] == 3 and found["gallery"] == "exp/gallery"
    for name in ("Zoe\u0308", "ann", "ben"):
        files = sorted((people / name).rglob("*.wav"))
        assert run("enroll", name, *files, "--gallery", "one-by-one").exit_code == 0
    every, alone = (load_file(f"{place}/people.safetensors") for place in ("exp/gallery", "one-by-one"))
    for key in ("names", "sums", "log_norms", "seconds", "owners"):
        assert np.array_equal(every[key], alone[key]), key
    # Again: only what is new; text for people, too.
    write(people / "ann" / "3.wav", voice(99))
    done = run("enroll", people)
    assert (
        done.stdout == "exp/gallery: 3 people: 1 new recording, 7 in all, 10.5 s; people in the gallery: 3\n"
    )
    assert done.stderr.count("is already enrolled") == 5 and "1 more note: --json shows all" in done.stderr


@pytest.mark.parametrize(("kept", "again"), [(10**9, 0), (2 * 24_000, 4), (0, 6)])
def test_a_recording_is_read_once_as_long_as_there_is_memory(home, monkeypatch, kept, again):
    """Beyond that, only the findings stay in memory, and the gallery is the same."""
    people, read, judged = folder_of_people(home), [], []
    assert run("enroll", people, "--gallery", "expected").exit_code == 0
    hear, judge = enroll.listen.hear, enroll._judge
    monkeypatch.setattr(enroll, "_KEPT_SAMPLES", kept)
    monkeypatch.setattr(
        enroll.listen, "hear", lambda paths, *_, **options: read.append(paths) or hear(paths, *_, **options)
    )
    monkeypatch.setattr(enroll, "_judge", lambda *given: judged.append(judge(*given)) or judged[0])
    assert run("enroll", people).exit_code == 0
    assert len(read) == 6 + again
    waves = [wave for person in judged[0][0].values() for _, wave in person.values()]
    # A view of no samples would hold all of them.
    assert sum((wave if wave.base is None else wave.base).size for wave in waves) <= kept
    found, expected = (load_file(f"{place}/people.safetensors") for place in ("exp/gallery", "expected"))
    for key in ("names", "sums", "log_norms", "seconds", "owners"):
        assert np.array_equal(found[key], expected[key]), key


def test_everybody_of_a_manifest_with_the_channel_that_it_names(home):
    silent = np.zeros(24_000)
    for number, name in enumerate(("x", "y")):
        write(home / f"{name}.wav", np.stack([silent, voice(number)], axis=1))
    rows = ["x\tann\tx.wav\t16000\t24000\t\t1", "y\tben\ty.wav\t16000\t24000\t\t1"]
    head = "utterance_id\tspeaker_id\tpath\tsample_rate_hz\tnum_samples\tsession_id\tchannel"
    (home / "list.tsv").write_text("\n".join([head, *rows]) + "\n")
    found = answer("enroll", "list.tsv")
    assert [one["name"] for one in found["enrolled"]] == ["ann", "ben"]
    assert all(one["is_trusted"] for one in found["enrolled"])
    assert answer("verify", "ann", "a.wav", "--gallery", "exp/gallery")["score"] == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_enrolled_together_is_said(home):
    done = run("enroll", "alice")
    assert done.exit_code == 2 and "expected recordings after 'alice'" in done.stderr
    assert "there is no folder 'alice'" in done.stderr
    assert run("enroll", "a.wav").exit_code == 2
    done = run("enroll", "alice", "a.wav", "--skip-bad")
    assert done.exit_code == 2 and "for a folder of people" in done.stderr
    people = folder_of_people(home)
    (people / "ben" / "bad.wav").write_bytes(b"no audio")
    done = run("enroll", people)
    assert done.exit_code == 3 and "--skip-bad" in done.stderr and not (home / "exp" / "gallery").exists()
    done = run("enroll", people, "--skip-bad")
    assert done.exit_code == 0 and "3 people" in done.stdout
    # A recording of somebody else stops the step that it is in.
    shutil.rmtree(people / "ben")
    (people / "eve").mkdir()
    write(people / "eve" / "0.wav", voice(10))
    done = run("enroll", people)
    assert done.exit_code == 3 and "is already enrolled as ben, expected a recording of eve" in done.stderr


def test_what_is_somebody_elses_is_refused_before_anything_is_embedded(home, monkeypatch):
    """Also where nobody has examined the files before: those of a person, or of a manifest."""
    assert run("enroll", "bob", "b.wav").exit_code == 0
    write(home / "broken.wav", voice(7)[:100])
    monkeypatch.setattr("svkit.scoring.enroll.load_model", None)
    done = run("enroll", "alice", "a.wav", "b.wav")
    assert (
        done.exit_code == 3
        and "b.wav: is already enrolled as bob, expected a recording of alice" in done.stderr
    )
    head = "utterance_id\tspeaker_id\tpath\tsample_rate_hz\tnum_samples\tsession_id"
    for last, said in (("a.wav", "a.wav: is already enrolled as ann, expected a recording of eve"),
                       ("broken.wav", "broken.wav: ")):  # fmt: skip
        rows = [f"{number}\t{name}\t{path}\t16000\t24000\t" for number, (name, path) in
                enumerate((("ann", "a.wav"), ("ben", "c.wav"), ("eve", last)))]  # fmt: skip
        (home / "list.tsv").write_text("\n".join([head, *rows]) + "\n")
        done = run("enroll", "list.tsv")
        assert done.exit_code == 3 and said in done.stderr, done.stderr


def test_a_recording_is_taken_out_by_itself(home):
    assert run("enroll", "alice", "a.wav", "b.wav", "c.wav").exit_code == 0
    assert run("enroll", "bob", "d.wav").exit_code == 0
    before = load_file(home / "exp/gallery/people.safetensors")
    for wrong, code in (["bob", "a.wav"], 3), (["eve", "a.wav"], 2), (["alice", "missing.wav"], 3):
        done = run("people", "remove", wrong[0], "--recording", wrong[1])
        assert done.exit_code == code
    assert "expected a recording that is enrolled as bob, found alice's" in run(
        "people", "remove", "bob", "--recording", "a.wav").stderr  # fmt: skip
    for slip in (["bob", "--recording", "a.wav"], ["--channel", "1"]):
        assert run("people", "remove", "alice", *slip).exit_code == 2
    after = load_file(home / "exp/gallery/people.safetensors")
    assert all(np.array_equal(before[key], after[key]) for key in before)
    found = answer("people", "remove", "alice", "--recording", "b.wav", "--recording", "b.wav")
    assert found["people"] == 2 and found["recordings"] == ["b.wav", "b.wav"]
    assert run("enroll", "alice", "a.wav", "c.wav", "--gallery", "other").exit_code == 0
    left, expected = (load_file(f"{place}/people.safetensors") for place in ("exp/gallery", "other"))
    assert np.array_equal(left["fingerprints"][:2], expected["fingerprints"]) and left["owners"].tolist() == [
        0,
        0,
        1,
    ]
    for key in ("sums", "log_norms", "seconds"):
        assert np.allclose(left[key][:1], expected[key], atol=1e-5), key
    assert before["fingerprints"][1].tobytes() not in (home / "exp/gallery/people.safetensors").read_bytes()
    done = run("people", "remove", "bob", "--recording", "d.wav")  # the last one
    assert done.stdout == "exp/gallery: removed d.wav of bob; people: 1\n"
    assert [one["name"] for one in answer("people", "list")["people"]] == ["alice"]


def test_a_model_that_is_overwritten_while_people_are_enrolled_enrolls_nobody_more(home, monkeypatch):
    """Its pages are read from the file: some people would be of one model, some of another."""
    monkeypatch.setattr("svkit.scoring.enroll.AT_ONCE", 2)
    people, embedded = folder_of_people(home), []

    def embed(model, checkpoint, heard):
        embedded.append(len(heard))
        if len(embedded) == 3:
            weights = home / "exp/finetune-pruned/lmft/model.safetensors"
            weights.write_bytes(weights.read_bytes())
        return as_it_is(model, checkpoint, heard)

    as_it_is = enroll._new_recordings
    monkeypatch.setattr(enroll, "_new_recordings", embed)
    done = run("enroll", people)
    assert done.exit_code == 4 and "has changed while it was used, not enrolled: " in done.stderr
    assert len(answer("people", "list")["people"]) == 2


@pytest.mark.parametrize(
    ("posterior", "word"), [(None, "IDENTIFIED"), (0.5, "IDENTIFIED"), (0.49, "PERHAPS")]
)
def test_who_is_accepted_with_less_than_half_of_the_probability_is_only_perhaps_identified(posterior, word):
    found = SimpleNamespace(
        is_accepted=True, name="bob", doubts=("alice",), candidates=[SimpleNamespace(posterior=posterior)]
    )
    assert _verdict(found) == f"{word}: bob, but it may be alice"
    assert _in_summary(found) == f"{word}: bob, maybe alice"


def test_the_recordings_of_a_folder_are_identified_like_files_one_after_the_other(home):
    people = folder_of_people(home)
    assert run("enroll", people).exit_code == 0
    (people / "ann" / "notes.txt").write_text("no audio")
    files = sorted((people / "ann").rglob("*.wav"))
    together, alone = answer("identify", "a.wav", people / "ann"), answer("identify", "a.wav", *files)
    assert together["answers"] == alone["answers"] and len(alone["answers"]) == 3
    assert len(answer("identify", people / "ann", "--one-speaker")["answers"][0]["files"]) == 2
    (home / "empty").mkdir()
    done = run("identify", "empty")
    assert done.exit_code == 3 and "empty: no audio files below it" in done.stderr


def test_who_was_rejected_but_may_be_it_is_named(home):
    calibrate(home, weights=(40.0,), offset=-40.0)
    for name, file in (("alice", "a.wav"), ("bob", "b.wav"), ("Zoë", "c.wav")):
        assert run("enroll", name, file).exit_code == 0
    (found,) = answer("identify", "d.wav", "--top", "1", "--prior", "0.5")["answers"]
    every = answer("identify", "d.wav", "--prior", "0.5")["answers"][0]["candidates"]
    assert found["is_accepted"] is False
    assert found["doubts"] == [one["name"] for one in every if one["posterior"] > 0.1] != []
    who = " or ".join(found["doubts"])
    assert run("identify", "d.wav").stdout.startswith(f"NONE OF THEM, but it may be {who} (d.wav)")
    assert f"NONE OF THEM, maybe {who}" in " ".join(run("identify", "d.wav", "a.wav").stdout.split())


def test_who_was_used_to_calibrate_is_told_at_enrolment(home):
    calibrate(home, weights=(40.0,), offset=-30.0, speakers=("alice", "eve"))
    assert "calibration was learnt on this person" in run("enroll", "alice", "a.wav").stderr
    assert "calibration was learnt on" not in run("enroll", "bob", "b.wav").stderr


def test_after_a_name_comes_a_folder_that_has_only_this_persons_recordings(home):
    people = folder_of_people(home)
    (home / "mine").mkdir()
    for number in range(2):
        write(home / "mine" / f"{number}.wav", voice(50 + number))
    assert len(answer("enroll", "eve", "a.wav", "mine")["added"]) == 3
    done = run("enroll", "ann", people)
    assert (
        done.exit_code == 2
        and f"to enroll everybody (a directory for each person): svkit enroll {people}"
        in (done.stderr.replace("To enroll", "to enroll"))
    )
    (home / "empty").mkdir()
    done = run("enroll", "ann", "empty")
    assert done.exit_code == 3 and "empty: no audio files in it" in done.stderr
