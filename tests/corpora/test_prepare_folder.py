import json
import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from svkit.corpora.layouts import folder
from svkit.corpora.request import CorpusRequest
from svkit.corpora.scan import BadFilesError, ScanOptions
from svkit.errors import ArtifactError, ConfigError, DataError
from svkit.store.experiment import Experiment, read_experiment, update_experiment
from svkit.store.locks import lock_directory
from svkit.store.manifest import read_manifest
from svkit.store.provenance import read_provenance
from svkit.store.trials import read_trials
from tests.training_experiment import Notes

VOICES = Path(__file__).resolve().parents[3] / "shared" / "voices"


def sound(path, seconds=0.6, rate=16000, channels=1, **options):
    rng = np.random.default_rng(zlib.crc32(path.as_posix().encode("utf-8", "surrogateescape")))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, rng.uniform(-0.5, 0.5, (round(seconds * rate), channels)), rate, **options)


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "corpus \u00e9"
    for speaker in "abcdefgh":
        for session in ("s1", "s2"):
            for number in (1, 2):
                sound(root / speaker / session / f"{number}.wav")
    (root / "a" / "notes.txt").write_text("not audio")
    sound(root / ".cache" / "x" / "1.wav")
    return root


def prepare(tmp_path, root, speaker_regex=None, notes=False, **fields):
    """Prepare, and return the result, or with `notes` what was said."""
    request, said = CorpusRequest(**{"exp": tmp_path / "exp", "root": root, **fields}), Notes()
    result = folder.run(request, said, speaker_regex=speaker_regex)
    return said if notes else result


def speakers(tmp_path, name):
    return set(read_manifest(tmp_path / "exp" / "data" / name).speaker_ids)


def test_lists_are_disjoint_complete_and_reproducible(tmp_path, tree):
    result = prepare(tmp_path, tree)
    data = tmp_path / "exp" / "data"
    assert sorted(path.name for path in data.iterdir()) == [
        ".lock", "eval.tsv", "provenance.json", "splits.tsv", "train.tsv", "trials", "valid.tsv", "valid_trials.txt",
    ]  # fmt: skip
    train, valid, evaluation = (speakers(tmp_path, f"{name}.tsv") for name in ("train", "valid", "eval"))
    assert train | valid | evaluation == set("abcdefgh")
    assert len(train) + len(valid) + len(evaluation) == 8
    assert (result.train_speakers, result.valid_speakers, result.eval_speakers) == (3, 3, 2)
    made = read_trials(data / "trials" / "folder.txt")
    assert result.trials == {"folder": {"targets": 8, "nontargets": 16}}
    assert set(made.enroll_ids) | set(made.test_ids) == set(read_manifest(data / "eval.tsv").utterance_ids)
    held_out = read_trials(data / "valid_trials.txt")
    assert {name[0] for name in held_out.enroll_ids} | {name[0] for name in held_out.test_ids} == valid
    prepare(tmp_path / "again", tree)
    for name in ("train.tsv", "valid.tsv", "eval.tsv", "valid_trials.txt", "trials/folder.txt"):
        assert (tmp_path / "again" / "exp" / "data" / name).read_bytes() == (data / name).read_bytes()


def test_rows_say_where_the_audio_is(tmp_path, tree):
    sound(tree / "a" / "loose.flac", rate=8000, channels=2)
    prepare(tmp_path, tree)
    frames = [read_manifest(tmp_path / "exp" / "data" / f"{name}.tsv") for name in ("train", "valid", "eval")]
    rows = {row["utterance_id"]: row for manifest in frames for row in manifest.table.to_dict("records")}
    assert rows["b/s2/1.wav"]["session_id"] == "b/s2"
    assert rows["b/s2/1.wav"]["path"] == str(tree.resolve() / "b/s2/1.wav")
    assert (rows["b/s2/1.wav"]["sample_rate_hz"], rows["b/s2/1.wav"]["num_samples"]) == ("16000", "9600")
    loose = rows["a/loose.flac"]
    assert (loose["sample_rate_hz"], loose["num_samples"], loose["session_id"]) == ("8000", "4800", "")
    assert not any("cache" in name or "notes" in name for name in rows)


def test_eval_speakers_and_trials_are_given(tmp_path, tree):
    (tmp_path / "e.txt").write_text("a\nb\nc\n")
    (tmp_path / "my.lst").write_text("a/s1/1.wav a/s2/1.wav target\na/s1/1.wav b/s1/1.wav nontarget\n")
    result = prepare(
        tmp_path, tree, eval_speakers=str(tmp_path / "e.txt"), trials=(tmp_path / "my.lst",), valid_speakers=0
    )
    data = tmp_path / "exp" / "data"
    assert (data / "trials" / "my.txt").read_bytes() == (tmp_path / "my.lst").read_bytes()
    assert set(read_manifest(data / "eval.tsv").utterance_ids) == {"a/s1/1.wav", "a/s2/1.wav", "b/s1/1.wav"}
    assert speakers(tmp_path, "train.tsv") == set("defgh")
    assert not (data / "valid.tsv").exists() and not (data / "valid_trials.txt").exists()
    assert result.trials == {"my": {"targets": 1, "nontargets": 1}}
    names = [entry["name"] for entry in read_provenance(data)["inputs"]]
    assert names == ["trials my", "eval speakers"]


def test_speakers_of_given_trials_do_not_train(tmp_path, tree):
    (tmp_path / "t.txt").write_text("1 a/s1/1.wav a/s2/1.wav\n0 a/s1/1.wav b/s1/1.wav\n")
    prepare(tmp_path, tree, trials=(tmp_path / "t.txt",))
    assert speakers(tmp_path, "train.tsv") | speakers(tmp_path, "valid.tsv") == set("cdefgh")


@pytest.mark.parametrize(
    ("text", "fields", "message"),
    [
        (
            "0 a/s1/1.wav nobody/1.wav\n",
            {},
            r"t.txt: utterances that the corpus lacks: nobody/1.wav \(line 1\)",
        ),
        (
            "0 a/s1/1.wav b/s1/1.wav\n",
            {"eval_speakers": "e.txt"},
            "speakers that --eval-speakers does not name: b",
        ),
        ("1 a/s1/1.wav b/s1/1.wav\n", {}, "is labelled target, but its speakers are a and b"),
    ],
)
def test_trials_that_do_not_fit(tmp_path, tree, monkeypatch, text, fields, message):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text(text)
    Path("e.txt").write_text("a\n")
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, tree, trials=(Path("t.txt"),), **fields)
    assert not (tmp_path / "exp" / "data" / "provenance.json").exists()


def test_ids_in_another_notation_are_matched_where_that_is_asked_for(tmp_path, tree):
    path = tmp_path / "t.txt"
    path.write_text("1 ./A/s1/1 ./A/s2/1\n0 ./A/s1/1 ./B/s1/1\n")
    rule = "without ./, in lower case, without the extension"
    with pytest.raises(
        DataError, match=f"that the corpus lacks: .*3 of 3 match {rule}, such as .*`--match-ids` applies"
    ):
        prepare(tmp_path, tree, trials=(path,))
    said = prepare(tmp_path, tree, trials=(path,), match_ids=True, notes=True)
    made = tmp_path / "exp" / "data"
    assert (made / "trials" / "t.txt").read_text() == "1 a/s1/1.wav a/s2/1.wav\n0 a/s1/1.wav b/s1/1.wav\n"
    words = read_provenance(made)["matched_ids"]["t"]
    assert f"3 ids were matched {rule} (--match-ids)" in words and any(
        words in note for note in said.messages
    )
    sound(tree / "a" / "s1" / "1.flac")
    with pytest.raises(
        DataError, match=r"--match-ids: .*1 are ambiguous: \./A/s1/1 \(a/s1/1\.flac, a/s1/1\.wav\)"
    ):
        prepare(tmp_path, tree, trials=(path,), match_ids=True, overwrite=True)


def test_two_lists_of_one_name_are_refused(tmp_path, tree):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "t.txt").write_text("0 a/s1/1.wav b/s1/1.wav\n")
    with pytest.raises(ConfigError, match="two lists are called t"):
        prepare(tmp_path, tree, trials=(tmp_path / "x" / "t.txt", tmp_path / "y" / "t.txt"))


def spoil(tree):
    (tree / "a" / "s1" / "text.wav").write_text("this is a text file\n" * 50)
    (tree / "a" / "s1" / "empty.wav").write_bytes(b"")
    sound(tree / "b" / "s1" / "short.wav", 0.01)
    soundfile.write(tree / "b" / "s1" / "nan.wav", np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT")
    samples, rate = soundfile.read(tree / "c" / "s1" / "1.wav")
    soundfile.write(tree / "d" / "s1" / "zcopy.flac", samples, rate)
    (tree / "e" / "s1" / "phone.m4a").write_bytes(b"\0\0\0\x18ftypM4A ")
    sound(tree / "stray.wav")
    sound(tree / "f" / "s1" / "a\tb.wav")
    with Path(os.fsdecode(os.fsencode(tree / "f" / "s1") + b"/\xff.wav")).open("wb") as file:
        file.write(b"x")


REASONS = {
    "a/s1/text.wav": "unreadable", "a/s1/empty.wav": "empty", "b/s1/short.wav": "too short",
    "b/s1/nan.wav": "non-finite", "d/s1/zcopy.flac": "duplicate", "e/s1/phone.m4a": "unreadable",
    "stray.wav": "no speaker", "f/s1/a\tb.wav": "unusable name", "f/s1/\udcff.wav": "unusable name",
}  # fmt: skip


def test_bad_files_are_an_error_with_reasons_counts_and_what_to_do(tmp_path, tree):
    spoil(tree)
    with pytest.raises(BadFilesError) as caught:
        prepare(tmp_path, tree)
    assert {file.utterance_id: file.reason for file in caught.value.bad_files} == REASONS
    message = str(caught.value)
    assert caught.value.exit_code == 3 and "\n" not in message
    assert "9 of 41 audio files cannot be used" in message
    assert "2 unreadable" in message and "1 duplicate" in message and "... (9 in all)" in message
    assert "--skip-bad" in message
    listed = (tmp_path / "exp" / "data" / "bad_files.tsv").read_text()
    assert len(listed.splitlines()) == 10 and "the same samples as c/s1/1.wav" in listed
    assert not (tmp_path / "exp" / "data" / "train.tsv").exists()


def test_a_folder_one_level_too_deep_is_said_to_be(tmp_path, tree):
    with pytest.raises(DataError, match="recordings directly in it; .* give the folder above it"):
        prepare(tmp_path, tree / "a" / "s1")


def said_of(root, needs_speakers=True):
    said = Notes()
    folder.list_recordings([root], ScanOptions(), said, needs_speakers=needs_speakers)
    return said


def test_directories_that_may_be_people_are_named(tmp_path, tree):
    """The folder above the people's would make one person of all, even if somebody beside it has recordings."""
    words = (
        "each of these directories in {} is one person, and those below it are sessions: {}; "
        "if {} is a person, give {}"
    )
    inner, top = f"{tree.name}/a/s1", tree.parent
    assert words.format(top, tree.name, inner, f"{top}/{tree.name}/a instead of {top}") in said_of(top)
    top = tmp_path / "top"
    for name in (
        "team/alice/1",
        "team/bob/1",
        "team/bob/2",
        "held-out/x/1",
        "held-out/y/1",
        "known/1",
        "known/s/1",
    ):
        sound(top / f"{name}.wav")
    sound(top / "once" / "monday" / "1.wav")
    note = words.format(top, "held-out, team", "held-out/x", f"{top}/held-out instead of {top}")
    assert note in said_of(top) and note in said_of(top, needs_speakers=False)
    assert note in prepare(tmp_path, top, notes=True)
    assert not [said for said in said_of(top / "team").messages if "is one person" in said]


def test_directories_without_a_recording_are_named(tmp_path, tree):
    for name in ("zoe", "yan/2024", ".cache"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    note = f"directories in {tree} without a recording, so nobody is taken from them: yan, zoe"
    assert note in said_of(tree) and note in prepare(tmp_path, tree, notes=True)
    assert not [
        said for said in said_of(tree, needs_speakers=False).messages if "without a recording" in said
    ]


def test_skip_bad_leaves_them_out(tmp_path, tree):
    spoil(tree)
    result = prepare(tmp_path, tree, scan=ScanOptions(skip_bad=True))
    assert result.train_utterances + result.valid_utterances + result.eval_utterances == 32
    assert {file.utterance_id: file.reason for file in result.bad_files} == REASONS


def test_headers_only_sees_no_samples(tmp_path, tree):
    spoil(tree)
    result = prepare(tmp_path, tree, scan=ScanOptions(skip_bad=True, reads_samples=False))
    found = {file.utterance_id for file in result.bad_files}
    assert found == set(REASONS) - {"b/s1/nan.wav", "d/s1/zcopy.flac"}


def test_a_failed_overwrite_leaves_the_finished_lists(tmp_path, tree):
    prepare(tmp_path, tree)
    before = (tmp_path / "exp" / "data" / "train.tsv").read_bytes()
    spoil(tree)
    with pytest.raises(BadFilesError):
        prepare(tmp_path, tree, overwrite=True)
    assert (tmp_path / "exp" / "data" / "train.tsv").read_bytes() == before
    assert read_provenance(tmp_path / "exp" / "data")["command"] == "prepare folder"


def test_finished_lists_are_kept_refused_or_replaced(tmp_path, tree):
    first = prepare(tmp_path, tree, seed=1)
    with pytest.raises(ConfigError, match="is finished; use --overwrite"):
        prepare(tmp_path, tree, seed=1)
    assert prepare(tmp_path, tree, seed=1, keep_finished=True) == first
    with pytest.raises(ConfigError, match=r"made with another setting \(seed: 1 then, 2 now"):
        prepare(tmp_path, tree, seed=2, keep_finished=True)
    (tmp_path / "mine.txt").write_text("1 a/s1/1.wav a/s2/1.wav\n0 a/s1/1.wav b/s1/1.wav\n")
    prepare(tmp_path, tree, trials=(tmp_path / "mine.txt",), valid_speakers=0, overwrite=True)
    data = tmp_path / "exp" / "data"
    assert [path.name for path in (data / "trials").iterdir()] == ["mine.txt"]
    assert not (data / "valid.tsv").exists()


def test_a_changed_trial_list_is_another_request(tmp_path, tree):
    (tmp_path / "t.txt").write_text("1 a/s1/1.wav a/s2/1.wav\n0 a/s1/1.wav b/s1/1.wav\n")
    prepare(tmp_path, tree, trials=(tmp_path / "t.txt",))
    (tmp_path / "t.txt").write_text("1 a/s1/1.wav a/s2/1.wav\n0 a/s1/1.wav b/s1/2.wav\n")
    with pytest.raises(ConfigError, match="made with trials t (.*), which has changed since"):
        prepare(tmp_path, tree, trials=(tmp_path / "t.txt",), keep_finished=True)


def test_a_moved_corpus_is_the_same_however_its_lists_are_named(tmp_path, tree, monkeypatch):
    (tmp_path / "t.txt").write_text("1 a/s1/1.wav a/s2/1.wav\n0 a/s1/1.wav b/s1/1.wav\n")
    (tmp_path / "who").write_text("a\nb\n")
    lists = {"trials": (tmp_path / "t.txt",), "eval_speakers": str(tmp_path / "who")}
    first = prepare(tmp_path, tree, **lists)
    (tmp_path / "later").mkdir()
    (tmp_path / "exp").rename(tmp_path / "later" / "exp")
    monkeypatch.chdir(tmp_path)
    lists = {"trials": (Path("t.txt"),), "eval_speakers": "who"}
    again = prepare(Path("later"), tree, keep_finished=True, **lists)
    assert (first.data, again.data) == (str(tmp_path / "exp" / "data"), "later/exp/data")
    assert replace(again, data="") == replace(first, data="")
    (tmp_path / "who").write_text("a\nb\nc\n")
    with pytest.raises(ConfigError, match=r"made with eval speakers \(who\), which has changed since"):
        prepare(Path("later"), tree, keep_finished=True, **lists)


def test_audio_beside_the_lists_moves_with_them(tmp_path, tree):
    data = tmp_path / "exp" / "data"
    data.mkdir(parents=True)
    tree.rename(data / "audio")
    prepare(tmp_path, data / "audio")
    (tmp_path / "exp").rename(tmp_path / "moved")
    manifest = read_manifest(tmp_path / "moved" / "data" / "train.tsv")
    assert all(manifest.audio(row).is_file() for row in range(len(manifest)))


def test_a_second_writer_is_told(tmp_path, tree):
    lock = lock_directory(tmp_path / "exp" / "data")
    with pytest.raises(ArtifactError, match="another svkit command is writing here"):
        prepare(tmp_path, tree)
    os.close(lock)


def test_the_experiment_notes_preset_and_encoder_and_keeps_them(tmp_path, tree, monkeypatch):
    exp = tmp_path / "exp"
    update_experiment(exp, noise="data/noise.tsv")
    prepare(tmp_path, tree)
    assert read_experiment(exp) == Experiment(preset="w2v-bert-2.0", noise="data/noise.tsv")
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    notes = prepare(tmp_path, tree, preset="tiny", encoder="model", overwrite=True, notes=True)
    kept = Experiment(preset="tiny", encoder=str(tmp_path / "model"), noise="data/noise.tsv")
    assert read_experiment(exp) == kept
    assert "config.toml: preset is tiny from now on (was w2v-bert-2.0)" in notes
    assert not [
        note for note in prepare(tmp_path, tree, overwrite=True, notes=True).messages if "now on" in note
    ]
    assert read_experiment(exp) == kept
    notes = prepare(tmp_path, tree, preset="smoke", overwrite=True, notes=True)
    assert read_experiment(exp) == Experiment(preset="smoke", noise="data/noise.tsv")
    assert f"encoder is not set from now on (was {tmp_path / 'model'})" in notes


def test_the_speaker_may_come_from_a_regex(tmp_path):
    root = tmp_path / "flat"
    for speaker in "abcd":
        for number in (1, 2, 3):
            sound(root / "wav" / f"{speaker}_{number}.wav")
    sound(root / "wav" / "1x.wav")
    with pytest.raises(BadFilesError, match=r"wav/1x.wav \(--speaker-regex finds no speaker\)"):
        prepare(tmp_path, root, r"/([a-z])_")
    prepare(tmp_path, root, r"/([a-z])_", scan=ScanOptions(skip_bad=True), eval_speakers="2")
    assert len(speakers(tmp_path, "eval.tsv") | speakers(tmp_path, "train.tsv")) == 4


@pytest.mark.parametrize(
    ("regex", "message"),
    [("(", "--speaker-regex"), ("abc", "expected a group"), ("(" * 5000 + ")" * 5000, "--speaker-regex")],
)
def test_a_regex_that_cannot_work(tmp_path, tree, regex, message):
    with pytest.raises(ConfigError, match=message):
        prepare(tmp_path, tree, regex)


@pytest.mark.parametrize("regex", [r"((a|a)+)+b", r"^(([a-z])+.)+[A-Z]([a-z])+$", r"(a*)*(a*)*(a*)*[^a/]b"])
def test_a_regex_that_explodes_is_given_up(tmp_path, monkeypatch, regex):
    """Python's own engine takes years for each of them; an expression that finds nothing is no matter of time."""
    monkeypatch.setattr(folder, "MATCH_SECONDS", 0.05)
    sound(tmp_path / "flat" / ("a" * 60) / "1.wav")
    with pytest.raises((ConfigError, BadFilesError), match="takes more than 0.05 s for aaa|finds no speaker"):
        prepare(tmp_path, tmp_path / "flat", regex)


def test_no_directory_no_audio_too_few_speakers(tmp_path, tree):
    with pytest.raises(DataError, match="no such directory"):
        prepare(tmp_path, tmp_path / "none")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="no audio files below"):
        prepare(tmp_path, tmp_path / "bare")
    for speaker in "ab":
        sound(tmp_path / "two" / speaker / "1.wav")
    with pytest.raises(ConfigError, match="--eval-speakers 2: expected 2 to 0"):
        prepare(tmp_path, tmp_path / "two")


def test_loops_of_links_end_and_links_to_directories_are_followed(tmp_path, tree):
    (tree / "a" / "loop").symlink_to(tree)
    (tmp_path / "elsewhere").mkdir()
    sound(tmp_path / "elsewhere" / "far.wav")
    (tree / "b" / "linked").symlink_to(tmp_path / "elsewhere")
    result = prepare(tmp_path, tree)
    assert result.train_utterances + result.valid_utterances + result.eval_utterances == 33


def test_summary_is_json(tmp_path, tree):
    prepare(tmp_path, tree)
    record = json.loads((tmp_path / "exp" / "data" / "provenance.json").read_text())
    assert record["summary"]["eval_speakers"] == 2 and record["seed"] == 24


@pytest.mark.skipif(not VOICES.is_dir(), reason="the shared recordings are not there")
def test_real_voices(tmp_path):
    result = prepare(
        tmp_path, VOICES / "wav", eval_speakers=str(VOICES / "eval_speakers.txt"),
        trials=(VOICES / "trials_dev.txt",), scan=ScanOptions(reads_samples=False),
    )  # fmt: skip
    assert result.eval_speakers == 17
    assert result.trials == {"trials_dev": {"targets": 729, "nontargets": 2189}}
    assert result.train_speakers + result.valid_speakers == 45 and not result.bad_files


def test_what_is_the_users_own_in_the_data_directory_stays(tmp_path, tree):
    """Lists beside ours, directories that bear the names of our corpora, and what lies in the scan's directory."""
    data = tmp_path / "exp" / "data"
    made = prepare(tmp_path, tree).trials
    assert list(made) == ["folder"]
    mine = [
        data / name
        for name in ("trials/mine.txt", "cnceleb/1.flac", "kaldi/wav.scp", "demo/a", ".scan/notes")
    ]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (data / ".scan" / "samples.sqlite").write_text("of a scan that was interrupted")
    (data / ".svkit-tmp-1a_b2c3d.tsv").write_text("half")
    trials = tmp_path / "other.txt"
    trials.write_bytes((data / "trials" / "folder.txt").read_bytes())
    assert list(prepare(tmp_path, tree, trials=(trials,), overwrite=True).trials) == ["other"]
    assert [path.read_text() for path in mine] == ["mine"] * len(mine)
    assert sorted(path.name for path in (data / "trials").iterdir()) == ["mine.txt", "other.txt"]
    assert [path.name for path in (data / ".scan").iterdir()] == ["notes"]
    assert not (data / ".svkit-tmp-1a_b2c3d.tsv").exists()


def test_a_given_list_may_lie_where_lists_are_written(tmp_path, tree):
    prepare(tmp_path, tree)
    path = tmp_path / "exp" / "data" / "trials" / "folder.txt"
    before = path.read_bytes()
    prepare(tmp_path, tree, trials=(path,), overwrite=True)
    assert path.read_bytes() == before
