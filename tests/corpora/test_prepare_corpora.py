"""VoxBlink2, CN-Celeb and LibriSpeech, each as a miniature of the distributed tree."""

import numpy as np
import pytest
import soundfile

from svkit.corpora import conversion, joining
from svkit.corpora.layouts import cnceleb, librispeech, voxblink2
from svkit.corpora.request import CorpusRequest
from svkit.corpora.scan import BadFilesError, ScanOptions
from svkit.errors import ArtifactError, ConfigError, DataError
from svkit.progress import SilentProgress
from svkit.store.audio_file import read_audio
from svkit.store.enrollment import read_enrollment
from svkit.store.manifest import read_manifest
from svkit.store.trials import read_trials
from tests import corpus_trees
from tests.corpus_trees import Notes

COMMANDS = {"voxblink2": voxblink2, "librispeech": librispeech, "cnceleb": cnceleb}


def request(tmp_path, root, **fields):
    return CorpusRequest(**{"exp": tmp_path / "exp", "root": root, **fields})


def listed(tmp_path, name):
    path = tmp_path / "exp" / "data" / f"{name}.tsv"
    return {row["utterance_id"]: row for row in read_manifest(path).table.to_dict("records")}


def check_files(tmp_path):
    """Every row names a file with the stated number of samples."""
    for name in ("train", "valid", "eval"):
        path = tmp_path / "exp" / "data" / f"{name}.tsv"
        manifest = read_manifest(path) if path.exists() else []
        for row in range(len(manifest)):
            info = soundfile.info(manifest.audio_path(row))
            assert (info.frames, info.samplerate) == (
                manifest.num_samples[row],
                manifest.sample_rates_hz[row],
            )


# ---- VoxBlink2 --------------------------------------------------------------------------------------------------


def test_voxblink2(tmp_path):
    root, progress = corpus_trees.voxblink2(tmp_path / "VoxBlink2"), Notes()
    result = voxblink2.run(request(tmp_path, root, eval_speakers="2", valid_speakers=2), progress)
    assert (result.train_speakers, result.valid_speakers, result.eval_speakers) == (2, 2, 2)
    assert result.train_utterances == 8 and result.trials == {"voxblink2": {"targets": 8, "nontargets": 16}}
    rows = {name: row for part in ("train", "valid", "eval") for name, row in listed(tmp_path, part).items()}
    row = rows["id000003/DwgYRqnQZHM/00001.wav"]
    assert (row["speaker_id"], row["session_id"]) == ("id000003", "id000003/DwgYRqnQZHM")
    assert row["path"] == f"{root}/audio_cut/id000003/DwgYRqnQZHM/00001.wav"
    assert "VoxBlink2: 6 speakers and 24 utterances found, published 111,284 and 9,904,382" in progress.all()
    check_files(tmp_path)


def test_voxblink2_for_training_only(tmp_path):
    root = corpus_trees.voxblink2(tmp_path / "VoxBlink2")
    result = voxblink2.run(request(tmp_path, root, eval_speakers="0", valid_speakers=0), SilentProgress())
    assert (result.train_speakers, result.eval_speakers, result.trials) == (6, 0, {})
    assert sorted(path.name for path in (tmp_path / "exp" / "data").glob("*.t*")) == [
        "splits.tsv",
        "train.tsv",
    ]


def test_voxblink2_of_time_stamps_only(tmp_path):
    root = corpus_trees.voxblink2(tmp_path / "VoxBlink2")
    (root / "audio_cut").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"time stamps without audio: .*expected SPEAKER/VIDEO"):
        voxblink2.run(request(tmp_path, root), SilentProgress())


def test_one_copy_of_voxblink2_at_a_time(tmp_path):
    root = corpus_trees.voxblink2(tmp_path / "VoxBlink2")
    corpus_trees.sound(root / "copy" / "id000001" / "x_y-0000001" / "00000.wav")
    with pytest.raises(
        DataError, match="id000001 appears twice, in .*audio_cut/id000001 and .*copy/id000001; give"
    ):
        voxblink2.run(request(tmp_path, root), SilentProgress())


# ---- LibriSpeech ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_above", [False, True])
def test_librispeech_trains_on_train_and_evaluates_on_test(tmp_path, is_above):
    root, progress = corpus_trees.librispeech(tmp_path / "LibriSpeech"), Notes()
    result = librispeech.run(request(tmp_path, tmp_path if is_above else root, valid_speakers=0), progress)
    assert (result.train_speakers, result.eval_speakers) == (4, 8)
    train, evaluation = listed(tmp_path, "train"), listed(tmp_path, "eval")
    assert set(train) == {
        f"train-clean-100/{s}/{c}/{s}-{c}-0000.flac" for s in range(100, 104) for c in (1001, 1002)
    }
    row = evaluation["test-other/401/1002/401-1002-0000.flac"]
    assert (row["speaker_id"], row["session_id"], row["gender"]) == ("401", "401/1002", "M")
    assert "not used: dev-clean" in progress.notes
    trials = read_trials(tmp_path / "exp" / "data" / "trials" / "librispeech.txt")
    gender = {name: row["gender"] for name, row in evaluation.items()}
    assert all(gender[a] == gender[b] for a, b in zip(trials.enroll_ids, trials.test_ids, strict=True))
    assert (trials.labels == 1).sum() == 8
    check_files(tmp_path)


def test_one_subset_of_librispeech_is_split(tmp_path):
    root = corpus_trees.librispeech(tmp_path / "LibriSpeech", ["dev-clean"])
    (root / "SPEAKERS.TXT").unlink()
    progress = Notes()
    result = librispeech.run(request(tmp_path, root), progress)
    assert (result.train_speakers + result.valid_speakers, result.eval_speakers) == (2, 2)
    assert "SPEAKERS.TXT: 4 speakers without a gender" in progress.all()


def test_evaluation_speakers_of_librispeech_come_from_all_subsets(tmp_path):
    root = corpus_trees.librispeech(tmp_path / "LibriSpeech")
    (tmp_path / "e.txt").write_text("100\n102\n200\n202\n")
    result = librispeech.run(request(tmp_path, root, eval_speakers=str(tmp_path / "e.txt")), SilentProgress())
    assert result.eval_speakers == 4 and result.train_speakers + result.valid_speakers == 12


# ---- CN-Celeb ---------------------------------------------------------------------------------------------------


def prepare_cnceleb(tmp_path, root, progress=None, **fields):
    options = {key: fields.pop(key) for key in ("join_below", "allow_other_lists") if key in fields}
    options = {"allow_other_lists": True, **options}
    wanted = request(
        tmp_path, root, **{"valid_speakers": 0, "scan": ScanOptions(reads_samples=False), **fields}
    )
    return cnceleb.run(wanted, progress or SilentProgress(), **options)


def test_cnceleb_trains_on_both_and_evaluates_on_the_official_list(tmp_path):
    root, progress = corpus_trees.cnceleb(tmp_path / "corpora"), Notes()
    result = prepare_cnceleb(tmp_path, root, progress)
    assert (result.train_speakers, result.eval_speakers) == (4, 2)
    assert result.trials == {"cnceleb-E": {"targets": 4, "nontargets": 4}}
    assert "CN-Celeb1 dev: 2 speakers and 12 utterances found" in progress.all()
    data, lists = tmp_path / "exp" / "data", root / "CN-Celeb_flac" / "eval" / "lists"
    assert (data / "trials" / "cnceleb-E.txt").read_bytes() == (lists / "trials.lst").read_bytes()
    evaluation = listed(tmp_path, "eval")
    assert set(evaluation) == {
        name for speaker in corpus_trees.CNCELEB_ENROLL for name in (
            f"{speaker}-enroll", f"test/{speaker}-singing-01-001.wav", f"test/{speaker}-speech-02-001.wav",
            f"{speaker}/interview-01-001.wav", f"{speaker}/interview-01-002.wav",
        )
    }  # fmt: skip
    test = evaluation["test/id00801-speech-02-001.wav"]
    assert (test["speaker_id"], test["session_id"]) == ("id00801", "id00801/speech-02")
    assert evaluation["id00800-enroll"]["path"].endswith("eval/enroll/id00800-enroll.flac")
    check_files(tmp_path)


def test_the_enrollment_map_fits_score(tmp_path):
    prepare_cnceleb(tmp_path, corpus_trees.cnceleb(tmp_path / "corpora"))
    table = read_enrollment(tmp_path / "exp" / "data" / "trials" / "cnceleb-E.enroll.tsv")
    trials = read_trials(tmp_path / "exp" / "data" / "trials" / "cnceleb-E.txt")
    assert set(trials.enroll_ids) == set(table["enroll_id"])
    assert set(table["utterance_id"]) <= set(listed(tmp_path, "eval"))


def test_short_training_utterances_are_joined_within_speaker_and_genre(tmp_path):
    root = corpus_trees.cnceleb(tmp_path / "corpora")
    prepare_cnceleb(tmp_path, root)
    train = listed(tmp_path, "train")
    assert len(train) == 4 * 3
    of_speaker = [row for row in train.values() if row["speaker_id"] == "id10001"]
    seconds = sorted(int(row["num_samples"]) / 16000 for row in of_speaker)
    # 2 + 2 + 2 s are enough, the 1 s left over goes to them; the vlog of 3 s is alone in its genre.
    assert seconds == [3.0, 6.0, 7.0]
    joined = next(row for row in of_speaker if "joined" in row["utterance_id"])
    assert joined["utterance_id"].startswith("id10001/live_broadcast-joined-")
    assert joined["session_id"] == "id10001/live_broadcast-01"
    assert joined["path"] == f"cnceleb/{joined['utterance_id']}"
    parts = [
        root / f"CN-Celeb2_flac/data/id10001/live_broadcast-01-{number:03d}.flac" for number in range(1, 5)
    ]
    expected = np.concatenate([read_audio(path) for path in parts])
    assert np.array_equal(read_audio(tmp_path / "exp" / "data" / joined["path"]), expected)


def test_joining_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    root = corpus_trees.cnceleb(tmp_path / "corpora")
    written = []
    write = joining.write_flac

    def interrupted(path, samples, rate):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(path, samples, rate)

    scan = ScanOptions(reads_samples=False, num_workers=1)
    monkeypatch.setattr(joining, "write_flac", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_cnceleb(tmp_path, root, scan=scan)
    first = {path: path.stat().st_mtime_ns for path in written}
    monkeypatch.setattr(joining, "write_flac", lambda *rest: (written.append(rest[0]), write(*rest)))
    prepare_cnceleb(tmp_path, root, scan=scan)
    assert len(written) == 4 and len(set(written)) == 4
    assert {path: path.stat().st_mtime_ns for path in first} == first


def test_without_joining_every_utterance_stays(tmp_path):
    prepare_cnceleb(tmp_path, corpus_trees.cnceleb(tmp_path / "corpora"), join_below=0.0)
    assert len(listed(tmp_path, "train")) == 4 * 6
    assert not (tmp_path / "exp" / "data" / "cnceleb").exists()


def test_what_stays_too_short_after_joining_is_bad(tmp_path):
    root = corpus_trees.cnceleb(tmp_path / "corpora")
    corpus_trees.sound(root / "CN-Celeb_flac/data/id00000/movie-01-001.flac", 0.2)
    with pytest.raises(BadFilesError, match=r"movie-01-001.flac \(shorter than 0.5 s and nothing to join"):
        prepare_cnceleb(tmp_path, root)
    result = prepare_cnceleb(tmp_path, root, scan=ScanOptions(reads_samples=False, skip_bad=True))
    assert [file.reason for file in result.bad_files] == ["too short"]


def test_no_room_for_joined_audio(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(
        ArtifactError, match="joining 16 short utterances to 4 needs about .* MB in .*free some"
    ):
        prepare_cnceleb(tmp_path, corpus_trees.cnceleb(tmp_path / "corpora"))


def test_the_official_list_of_cnceleb_is_checked(tmp_path):
    root = corpus_trees.cnceleb(tmp_path / "corpora")
    with pytest.raises(DataError, match="expected 3,484,292 lines and 17,755 targets .*found 8 and 4"):
        prepare_cnceleb(tmp_path, root, allow_other_lists=False)


def test_cnceleb1_alone_without_its_lists_of_speakers_and_enrollments(tmp_path):
    root = corpus_trees.cnceleb(tmp_path / "corpora") / "CN-Celeb_flac"
    for name in ("dev/dev.lst", "eval/lists/enroll.map", "eval/lists/enroll.lst"):
        (root / name).unlink()
    progress = Notes()
    result = prepare_cnceleb(tmp_path, root, progress)
    assert (result.train_speakers, result.eval_speakers, result.eval_utterances) == (2, 2, 6)
    assert (
        "no CN-Celeb2 found" in progress.all() and "enrollments are the concatenated files" in progress.all()
    )
    assert not (tmp_path / "exp" / "data" / "trials" / "cnceleb-E.enroll.tsv").exists()


def test_speakers_of_cnceleb_can_be_held_out_instead(tmp_path):
    root = corpus_trees.cnceleb(tmp_path / "corpora") / "CN-Celeb2_flac"
    with pytest.raises(DataError, match=r"no CN-Celeb1 to evaluate on.*--eval-speakers N"):
        prepare_cnceleb(tmp_path, root)
    result = prepare_cnceleb(tmp_path, root, eval_speakers="0")
    assert (result.train_speakers, result.eval_speakers) == (2, 0)


def test_an_enrollment_of_one_utterance_is_no_duplicate(tmp_path):
    root = corpus_trees.cnceleb(tmp_path / "corpora")
    place = root / "CN-Celeb_flac"
    (place / "eval/enroll/id00800-enroll.flac").write_bytes(
        (place / "data/id00800/interview-01-001.flac").read_bytes()
    )
    prepare_cnceleb(tmp_path, root, scan=ScanOptions(reads_samples=True))


# ---- All of them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_a_broken_file_is_refused_or_left_out(tmp_path, name):
    root = getattr(corpus_trees, name)(tmp_path / "corpus")
    broken = sorted(root.glob("**/train-*/**/*.flac" if name == "librispeech" else "**/id*0000*/**/*.*a*"))[0]
    broken.write_bytes(b"not audio")

    def prepare(**options):
        wanted = request(tmp_path, root, scan=ScanOptions(reads_samples=False, **options), valid_speakers=0)
        others = {"allow_other_lists": True} if name == "cnceleb" else {}
        return COMMANDS[name].run(wanted, SilentProgress(), **others)

    with pytest.raises(BadFilesError, match="leave them out with --skip-bad"):
        prepare()
    assert [file.path for file in prepare(skip_bad=True).bad_files] == [str(broken)]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_tree_says_what_was_expected_and_what_it_looks_like(tmp_path, name):
    command = COMMANDS[name]
    other = "librispeech" if name != "librispeech" else "voxblink2"
    getattr(corpus_trees, other)(tmp_path / "other")
    with pytest.raises(DataError) as caught:
        command.run(request(tmp_path, tmp_path / "other"), SilentProgress())
    message = str(caught.value)
    assert command.LAYOUT in message and "; found " in message and "\n" not in message
    assert message.endswith(f"this looks like {other}: svkit prepare {other} {tmp_path / 'other'}")
    with pytest.raises(DataError, match="none: no such directory; expected"):
        command.run(request(tmp_path, tmp_path / "none"), SilentProgress())
    assert not (tmp_path / "exp" / "data" / "provenance.json").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_finished_corpus_is_kept_or_refused(tmp_path, name):
    root = getattr(corpus_trees, name)(tmp_path / "corpus")
    others = {"allow_other_lists": True} if name == "cnceleb" else {}
    first = COMMANDS[name].run(request(tmp_path, root, valid_speakers=0), SilentProgress(), **others)
    again = request(tmp_path, root, valid_speakers=0, keep_finished=True, overwrite=True)
    assert COMMANDS[name].run(again, SilentProgress(), **others) == first
    with pytest.raises(ConfigError, match="use --overwrite"):
        COMMANDS[name].run(request(tmp_path, root, valid_speakers=0), SilentProgress(), **others)
