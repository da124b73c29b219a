import shlex
import sys

import numpy as np
import pytest
import soundfile

from svkit.corpora.layouts import kaldi
from svkit.corpora.request import CorpusRequest
from svkit.corpora.scan import BadFilesError, ScanOptions
from svkit.errors import ConfigError, DataError
from svkit.progress import SilentProgress
from svkit.store.audio_file import read_audio
from svkit.store.manifest import read_manifest
from svkit.store.trials import read_trials
from tests import corpus_trees
from tests.corpus_trees import Notes


@pytest.fixture
def root(tmp_path):
    return corpus_trees.kaldi(tmp_path / "data" / "train", tmp_path / "audio dir")


def prepare(tmp_path, root, progress=None, **fields):
    options = {key: fields.pop(key) for key in ("allow_pipes", "audio_root") if key in fields}
    request = CorpusRequest(**{"exp": tmp_path / "exp", "root": root, "valid_speakers": 0, **fields})
    return kaldi.run(request, progress or SilentProgress(), **options)


def rows(tmp_path, *names):
    data = tmp_path / "exp" / "data"
    tables = [read_manifest(data / f"{name}.tsv").table for name in names or ("train", "eval")]
    return {row["utterance_id"]: row for table in tables for row in table.to_dict("records")}


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_ids_speakers_and_paths_with_spaces(tmp_path, root):
    result = prepare(tmp_path, root)
    assert (result.train_speakers, result.eval_speakers, result.train_utterances) == (4, 2, 8)
    row = rows(tmp_path)["s3-u1"]
    assert (row["speaker_id"], row["path"], row["session_id"]) == (
        "s3",
        f"{tmp_path}/audio dir/s3-u1.wav",
        "",
    )
    assert "gender" not in row


def test_its_trials_are_used_unless_others_or_speakers_are_asked_for(tmp_path, root):
    (root / "trials").write_text("s0-u0 s0-u1 target\ns0-u0 s1-u0 nontarget\n")
    (root / "spk2gender").write_text("".join(f"s{speaker} {'fm'[speaker % 2]}\n" for speaker in range(6)))
    assert prepare(tmp_path, root).trials == {"trials": {"targets": 1, "nontargets": 1}}
    assert {row["speaker_id"] for row in rows(tmp_path, "eval").values()} == {"s0", "s1"}
    assert rows(tmp_path)["s1-u0"]["gender"] == "m"
    result = prepare(tmp_path, root, eval_speakers="4", overwrite=True)
    assert set(result.trials) == {"kaldi"}
    made = read_trials(tmp_path / "exp/data/trials/kaldi.txt")
    assert {(int(a[1]) - int(b[1])) % 2 for a, b in zip(made.enroll_ids, made.test_ids, strict=True)} == {0}


@pytest.mark.parametrize("place", ["below the data directory", "below the current one", "given"])
def test_relative_paths(tmp_path, root, monkeypatch, place):
    change(root / "wav.scp", f"{tmp_path}/", "")
    monkeypatch.chdir(tmp_path if place.endswith("current one") else "/")
    if place.startswith("below the data"):
        (root / "audio dir").symlink_to(tmp_path / "audio dir")
    prepare(tmp_path, root, audio_root=tmp_path if place == "given" else None)
    assert len(rows(tmp_path)) == 12


def pipes(tmp_path, root):
    """Turn s0-u0 into a command with a shell's quoting, and s0-u1 into one that fails."""
    copy = "import sys; sys.stdout.buffer.write(open(sys.argv[1], 'rb').read())"
    path = tmp_path / "audio dir" / "s0-u0.wav"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(copy)} {shlex.quote(str(path))} |"
    change(root / "wav.scp", f"s0-u0 {path}", f"s0-u0 {command}")
    return path


def test_commands_are_refused_unless_allowed(tmp_path, root):
    pipes(tmp_path, root)
    with pytest.raises(
        ConfigError, match=r"1 of 12 recordings are commands, such as s0-u0: .*--allow-pipes"
    ) as caught:
        prepare(tmp_path, root)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    assert not (tmp_path / "exp" / "data" / "kaldi").exists()


@pytest.mark.e2e
def test_the_output_of_commands_is_kept_and_not_made_again(tmp_path, root):
    path = pipes(tmp_path, root)
    prepare(tmp_path, root, allow_pipes=True)
    row = rows(tmp_path)["s0-u0"]
    assert row["path"].startswith("kaldi/")
    made = tmp_path / "exp" / "data" / row["path"]
    assert np.array_equal(read_audio(made), read_audio(path))
    before = made.stat().st_mtime_ns
    prepare(tmp_path, root, allow_pipes=True, overwrite=True)
    assert made.stat().st_mtime_ns == before


@pytest.mark.e2e
def test_a_command_that_fails_is_a_bad_file(tmp_path, root):
    for name, command in (("s0-u0", "echo too bad >&2; exit 3 |"), ("s1-u0", "echo no audio |")):
        change(root / "wav.scp", f"{name} {tmp_path}/audio dir/{name}.wav", f"{name} {command}")
    with pytest.raises(BadFilesError, match=r"s0-u0 \(exit 3: too bad\), s1-u0 \(its output is not audio"):
        prepare(tmp_path, root, allow_pipes=True)
    result = prepare(tmp_path, root, allow_pipes=True, scan=ScanOptions(skip_bad=True), eval_speakers="2")
    assert {file.reason for file in result.bad_files} == {"command failed"}


def segments(tmp_path):
    """Two recordings of 8 kHz, each with segments of three speakers."""
    root = tmp_path / "data"
    root.mkdir()
    samples = {name: corpus_trees.sound(tmp_path / f"{name}.wav", 6, 8000) for name in ("call-a", "call-b")}
    (root / "wav.scp").write_text("".join(f"{name} {tmp_path}/{name}.wav\n" for name in samples))
    lines, speakers = [], []
    for recording in samples:
        for speaker in range(3):
            name = f"s{speaker}-{recording}"
            lines.append(f"{name} {recording} {2 * speaker}.25 {2 * speaker + 1}.5\n")
            speakers.append(f"{name} s{speaker}\n")
    (root / "segments").write_text("".join(lines))
    (root / "utt2spk").write_text("".join(speakers))
    return root, samples


def test_segments_are_cut_and_their_recording_is_the_session(tmp_path):
    root, samples = segments(tmp_path)
    change(root / "segments", "s2-call-b call-b 4.25 5.5", "s2-call-b call-b 4.25 -1")
    result = prepare(tmp_path, root, eval_speakers="0")
    assert result.train_speakers == 3
    listed = rows(tmp_path, "train")
    row = listed["s1-call-a"]
    assert (row["session_id"], row["sample_rate_hz"], row["num_samples"]) == ("call-a", "8000", "10000")
    cut, _ = soundfile.read(tmp_path / "exp" / "data" / row["path"])
    assert np.array_equal(cut, samples["call-a"][18000:28000])
    assert listed["s2-call-b"]["num_samples"] == "14000"
    (tmp_path / "exp" / "data" / row["path"]).unlink()
    again = Notes()
    prepare(tmp_path, root, again, eval_speakers="0", overwrite=True)
    assert "cutting 1 segments needs about" in again.all()  # the others are there already


def test_a_changed_recording_is_cut_again(tmp_path):
    root, _ = segments(tmp_path)
    prepare(tmp_path, root, eval_speakers="0")
    before = rows(tmp_path, "train")["s0-call-a"]["path"]
    soundfile.write(tmp_path / "call-a.wav", np.linspace(-0.5, 0.5, 48000), 8000)
    prepare(tmp_path, root, eval_speakers="0", overwrite=True)
    assert rows(tmp_path, "train")["s0-call-a"]["path"] != before


def test_segments_that_are_not_there_are_bad(tmp_path):
    root, _ = segments(tmp_path)
    change(root / "segments", "s2-call-a call-a 4.25 5.5", "s2-call-a call-a 4.25 9.5")
    change(root / "segments", "s2-call-b call-b 4.25 5.5", "s2-call-b call-b 4.25 6.4")
    with pytest.raises(
        BadFilesError, match=r"1 no such segment.*s2-call-a \(4.25 to 9.5 s of a recording of 6.00 s"
    ):
        prepare(tmp_path, root, eval_speakers="0")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("utt2spk", "s0-u0 s0\n", "", r"utterances of wav.scp without a speaker in utt2spk: s0-u0"),
        ("utt2spk", "s0-u0 s0\n", "s0-u0 s0\nx s1\n", "utterances of utt2spk that wav.scp lacks: x"),
        ("utt2spk", "s0-u0 s0\n", "s0-u0\n", "utt2spk:1: expected `utterance speaker`, found 's0-u0'"),
        ("utt2spk", "s0-u1 s0\n", "../u1 s0\n", "utt2spk:2: expected an id without the part `..`, found '../u1'"),
        ("utt2spk", "s0-u1 s0\n", "s0-u0 s0\n", "utt2spk:2: s0-u0 appears twice"),
        ("wav.scp", "s0-u0.wav", "s0.ark:77", "audio inside Kaldi archives is not read: s0-u0"),
    ],
)  # fmt: skip
def test_lists_that_do_not_fit(tmp_path, root, file, old, new, message):
    change(root / file, old, new)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, root)


def test_a_wrong_directory(tmp_path, root):
    (root / "wav.scp").unlink()
    with pytest.raises(DataError, match="no wav.scp; expected wav.scp .*; found utt2spk"):
        prepare(tmp_path, root)
    with pytest.raises(DataError, match="none: no such directory; expected wav.scp"):
        prepare(tmp_path, tmp_path / "none")


def test_a_changed_list_is_another_request(tmp_path, root):
    prepare(tmp_path, root)
    change(root / "utt2spk", "s0-u0 s0", "s0-u0 s1")
    with pytest.raises(ConfigError, match="made with utt2spk (.*), which has changed since"):
        prepare(tmp_path, root, keep_finished=True)
