"""`svkit extract` of what one has, without `prepare`, as a new user in an empty folder."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.scoring.guards import speakers_of_manifest
from svkit.store.embeddings import read_embeddings
from svkit.store.manifest import read_manifest
from svkit.store.provenance import read_provenance
from tests.fake_experiment import DENSE, make_checkpoint

HOME = Path("exp/embeddings")


def invoke(*words, code=0):
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == code, done.output
    return done


def record(path: Path, seconds: float = 0.6, rate_hz: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(path.as_posix().encode()))
    soundfile.write(path, 0.1 * rng.normal(size=int(rate_hz * seconds)), rate_hz)


@pytest.fixture
def people(tmp_path, monkeypatch):
    """Two people with recordings of several kinds and days, somebody nobody knows, and a model elsewhere."""
    monkeypatch.chdir(tmp_path)
    make_checkpoint(tmp_path / "models/first", DENSE, [])
    record(Path("people/alice/mon/1.wav"))
    record(Path("people/alice/tue/1.flac"), 0.8, 8_000)
    record(Path("people/bob/call.ogg"), 0.7, 44_100)
    record(Path("people/who.wav"))
    return Path("people")


def extract(*words, code=0, model="models/first"):
    return invoke("extract", *words, "--model", model, code=code)


def ids(directory: Path) -> list[str]:
    return sorted(read_embeddings(directory).ids)


def test_a_folder_is_embedded_without_any_preparation(people):
    done = extract(people)
    assert done.stdout == "exp/embeddings/first-people\n"
    assert "people: 4 recordings, 2 speakers, 2.5 s" in done.stderr
    found = read_embeddings(HOME / "first-people")
    assert sorted(found.ids) == ["alice/mon/1.wav", "alice/tue/1.flac", "bob/call.ogg", "who.wav"]
    manifest = read_manifest(Path(found.meta["manifest"]["path"]), needs_speakers=False)
    rows = manifest.table.set_index("utterance_id")
    assert list(rows["speaker_id"]) == ["alice", "alice", "bob", ""]
    assert list(rows["session_id"]) == ["alice/mon", "alice/tue", "", ""]
    assert not Path("exp/data").exists() and not Path("exp/config.toml").exists()
    # The same numbers as from a manifest that was prepared, and as every other recording's.
    again = invoke("extract", found.meta["manifest"]["path"], "--model", "models/first")
    other = read_embeddings(Path(again.stdout.strip()))
    np.testing.assert_array_equal(other.matrix, found.matrix)


def test_recordings_folders_and_a_manifest_have_directories_of_their_own(people):
    record(Path("more/alice/mon/1.wav"), 0.9)
    said = [
        extract(*sources).stdout.strip()
        for sources in (
            (people,),
            ("people/alice/mon/1.wav", "people/who.wav"),
            ("people/bob/call.ogg",),
            ("people/alice", "more", "people/alice/mon/1.wav"),
            ("people/bob", "people/alice"),
        )
    ]
    # The second and the last are other lists of the same folder: none asks to overwrite another.
    names = ["first-people", "first-people-2", "first-call", f"first-{Path.cwd().name}", "first-people-3"]
    assert said == [str(HOME / name) for name in names]
    assert ids(HOME / names[1]) == ["alice/mon/1.wav", "who.wav"]
    assert ids(HOME / names[2]) == ["call.ogg"]
    assert ids(HOME / names[3]) == [
        "more/alice/mon/1.wav", "people/alice/mon/1.wav", "people/alice/tue/1.flac",
    ]  # fmt: skip
    assert ids(HOME / names[4]) == ["alice/mon/1.wav", "alice/tue/1.flac", "bob/call.ogg"]


def test_each_model_and_list_is_found_again_by_what_it_was_made_from(people):
    make_checkpoint(Path("others/first"), DENSE, [])
    Path("others/first/config.json").write_text(
        Path("models/first/config.json").read_text().replace("\n", "\n ", 1)
    )
    for name in "ab":
        (Path(name)).mkdir()
    table = Path(extract(people).stdout.strip(), "manifest.tsv")
    lines = table.read_text().splitlines(keepends=True)
    Path("a/list.tsv").write_text("".join(lines[:3]))
    Path("b/list.tsv").write_text("".join([lines[0], *lines[3:]]))
    assert extract("a/list.tsv").stdout.strip() == str(HOME / "first-list")
    done = extract("b/list.tsv")
    assert done.stdout.strip() == str(HOME / "first-list-2")
    assert "exp/embeddings/first-list is of another model or list" in done.stderr
    assert extract("a/list.tsv", model="others/first").stdout.strip() == str(HOME / "first-list-3")
    # The same again is the same directory, refused or kept; changed recordings are a changed list, not another one.
    for words in (["a/list.tsv"], ["b/list.tsv"], ["people"]):
        assert "use --overwrite" in extract(*words, code=2).stderr
        assert "kept" in extract(*words, "--keep-finished").stderr
    record(people / "carol/1.wav")
    assert "(recordings.utterances: 4 then, 5 now); give" in extract("people", code=2).stderr
    extract("people", "--overwrite")
    assert len(ids(HOME / "first-people")) == 5
    # Two models of one name in one command.
    record(Path("two/x/1.wav"))
    done = invoke(
        "extract", "two", "--model", "models/first", "--model", "others/first", "--model", "models/first"
    )
    assert done.stdout.split() == [str(HOME / "first-two"), str(HOME / "first-two-2")]


def test_the_list_of_the_experiment_keeps_the_plain_name(people):
    record(people / "bob/2.wav")
    invoke("prepare", "folder", people, "--eval-speakers", "all", "--skip-bad")
    make_checkpoint(Path("exp/finetune/lmft"), DENSE, [])
    (Path("exp/finetune/lmft/run.json")).write_text("{}")
    assert invoke("extract").stdout == "exp/embeddings/dense\n"
    assert invoke("extract", "exp/data/eval.tsv", "--overwrite").stdout == "exp/embeddings/dense\n"
    assert invoke("extract", people).stdout == "exp/embeddings/dense-people\n"
    # Remade, the model is the dense one as before: what was embedded with it is out of date, not another's.
    text = Path("exp/finetune/lmft/config.json").read_text()
    Path("exp/finetune/lmft/config.json").write_text(text.replace("\n", "\n ", 1))
    assert (
        "checkpoint (exp/finetune/lmft), which has changed since; use --overwrite"
        in invoke("extract", people, code=2).stderr
    )


def test_bad_recordings_are_treated_as_by_prepare(people):
    (people / "bob/text.wav").write_text("no audio")
    record(people / "bob/blip.wav", 0.1)
    done = extract(people, code=3)
    assert "2 bad files: 1 too short, 1 unreadable" in done.stderr and "bob/text.wav" in done.stderr
    assert "2 of 6 audio files cannot be used" in done.stderr and "--skip-bad" in done.stderr
    assert not list(HOME.glob("*/embeddings.json"))
    done = extract(people, "--skip-bad", "--json")
    answer = json.loads(done.stdout)
    assert [one["utterance_id"] for one in answer["bad_files"]] == ["bob/blip.wav", "bob/text.wav"]
    assert len(ids(Path(answer["embeddings"][0]))) == 4
    extract(people / "bob/blip.wav", "--min-seconds", "0.05")
    assert "text.wav (not readable" in extract(people / "bob/text.wav", code=3).stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere"], 3, "nowhere: does not exist; expected a recording or a folder"),
        (["empty"], 3, "empty: no audio files below it"),
        (["people", "list.tsv"], 2, "expected recordings and folders, or a single manifest"),
        (["people", "--manifest", "list.tsv"], 2, "give only one of them"),
        (["people", "--audio-root", "."], 2, "--audio-root is only for the paths in a manifest"),
        (["list.tsv", "--skip-bad"], 2, "are only for recordings and folders"),
        (["list.tsv"], 3, "list.tsv: does not exist"),
        (["people", "--channel", "left"], 2, "--channel left"),
        (["people", "--min-seconds", "0"], 2, "--min-seconds"),
        (["people", "--condition", "opus16"], 2, "--condition opus16: unknown; did you mean 'opus16k'?"),
        (["people", "--condition", "x"], 2, "--condition x: unknown; expected one of alaw, ulaw, gsm,"),
        (["people", "--out", "o", "--condition", "gsm", "--condition", "alaw"], 2, "give one --condition"),
        ([], 3, "exp/data/eval.tsv: does not exist; say what to embed (svkit extract FOLDER)"),
    ],
)
def test_what_cannot_be_embedded_is_one_line(people, words, code, message):
    Path("empty").mkdir()
    stderr = " ".join(extract(*words, code=code).stderr.replace("│", "").split())
    assert message in stderr and "Traceback" not in stderr


def test_no_model_is_said_before_recordings_are_read(people):
    assert "no finished model" in invoke("extract", people, code=4).stderr
    done = extract(people, code=4, model="models/none")
    assert "models/none" in done.stderr and "reading audio" not in done.stderr


def test_recordings_are_scored_with_the_speakers_that_are_known(people):
    extract(people)
    Path("trials.txt").write_text(
        "1 alice/mon/1.wav alice/tue/1.flac\n0 alice/mon/1.wav bob/call.ogg\n1 bob/call.ogg who.wav\n"
        "0 alice/tue/1.flac who.wav\n"
    )
    facts = read_embeddings(HOME / "first-people").meta
    assert speakers_of_manifest(facts["manifest"]) is None  # nobody knows who `who` is: the trials say it
    invoke("score", "trials.txt")
    Path("people/who.wav").unlink()
    extract(people, "--overwrite")
    assert set(speakers_of_manifest(read_embeddings(HOME / "first-people").meta["manifest"]).values()) == {
        "alice", "bob",
    }  # fmt: skip
    Path("wrong.txt").write_text("1 alice/mon/1.wav bob/call.ogg\n0 alice/mon/1.wav alice/tue/1.flac\n")
    assert "contradicts the speakers of the manifest" in invoke("score", "wrong.txt", code=3).stderr


def test_embeddings_of_another_list_that_know_a_part_do_not_stop_a_score(people):
    record(people / "bob/2.wav")
    invoke("prepare", "folder", people, "--eval-speakers", "all", "--skip-bad")
    invoke("extract", "--model", "models/first")
    extract(people / "alice", people / "bob/2.wav", people / "who.wav")
    extract("exp/data/eval.tsv", "--out", "exp/embeddings/whole")
    Path("exp/embeddings/first-people").rename("exp/embeddings/part")
    done = invoke("score", "exp/data/trials/folder.txt")
    assert done.stdout.split()[-2:] == ["exp/scores/first/folder", "exp/scores/whole/folder"]
    assert "exp/embeddings/part: has only some utterances of folder.txt, left out" in done.stderr


def test_each_condition_has_a_directory_of_its_own(people):
    names = [f"first-people{mark}" for mark in ("", "@loss10", "@cut1s")]
    extract(people)
    words = [word for name in names[1:] for word in ("--condition", name.partition("@")[2])]
    done = extract(people, *words)
    assert done.stdout.split() == [str(HOME / name) for name in names[1:]]
    assert "cut1s: 4 of 4 recordings are no longer than the cut" in done.stderr
    plain, lossy, cut = (read_embeddings(HOME / name) for name in names)
    np.testing.assert_array_equal(cut.matrix, plain.matrix)
    assert not np.allclose(lossy.matrix, plain.matrix)
    assert [one.meta.get("condition") for one in (plain, lossy, cut)] == [None, "loss10", "cut1s"]
    assert read_provenance(HOME / names[1])["config"]["condition"] == "loss10"
    again = read_embeddings(Path(extract(people, *words[:2], "--out", "again").stdout.strip()))
    np.testing.assert_array_equal(again.matrix, lossy.matrix)
    assert "kept" in extract(people, *words, "--keep-finished").stderr
    # Both sides of the trials are of the same recordings, whose lists were made apart.
    Path("trials.txt").write_text("1 alice/mon/1.wav alice/tue/1.flac\n0 alice/mon/1.wav bob/call.ogg\n")
    invoke("score", "trials.txt", "--embeddings", HOME / names[1])
    assert extract("people/bob", *words[:2]).stdout.strip() == str(HOME / "first-bob@loss10")
    assert extract("people/alice/mon", "people/bob", *words[:2]).stdout.strip().endswith("people-2@loss10")


@pytest.mark.e2e
@pytest.mark.slow
def test_two_processes_read_and_embed_as_one(people):
    alone = read_embeddings(Path(extract(people, "--out", "alone").stdout.strip()))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "svkit", "extract", "people", "--model", "models/first"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout == "exp/embeddings/first-people\n"
    found = read_embeddings(HOME / "first-people")
    assert list(found.ids) == list(alone.ids)
    np.testing.assert_array_equal(found.matrix, alone.matrix)
