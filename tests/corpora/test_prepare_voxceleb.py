import itertools
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from svkit.corpora import official as official_module
from svkit.corpora.conversion import Conversion
from svkit.corpora.layouts import voxceleb
from svkit.corpora.request import CorpusRequest
from svkit.corpora.scan import ScanOptions
from svkit.errors import DataError
from svkit.progress import SilentProgress
from svkit.store.lists import OfficialList
from svkit.store.manifest import read_manifest
from tests.corpus_trees import Notes

DEV1, TEST1 = ["id10001", "id11251"], ["id10270", "id10309"]
DEV2, TEST2 = ["id00012", "id00015", "id09272", "id10000"], ["id00017"]


def speaker(root, name, suffix=".wav"):
    for video, number in itertools.product(("AbC-_1", "x2"), (1, 2)):
        path = root / name / video / f"{number:05d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(zlib.crc32(path.as_posix().encode()))
        soundfile.write(path, rng.uniform(-0.5, 0.5, 8000), 16000)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "VoxCeleb"
    for directory, names in {
        "voxceleb1/dev/wav": DEV1, "voxceleb1/test/wav": TEST1,
        "voxceleb2/dev/wav": DEV2, "voxceleb2/test/wav": TEST2,
    }.items():  # fmt: skip
        for name in names:
            speaker(root / directory, name)
    return root


def prepare(tmp_path, root, progress=None, allow_other_lists=False, **fields):
    request = CorpusRequest(
        **{"exp": tmp_path / "exp", "root": root, "scan": ScanOptions(reads_samples=False), **fields}
    )
    options = {"allow_other_lists": allow_other_lists, "conversion": Conversion(is_wanted=False)}
    return voxceleb.run(request, progress or SilentProgress(), **options)


def trials_text(names):
    a, b = names[:2]
    return f"1 {a}/AbC-_1/00001.wav {a}/x2/00001.wav\n0 {a}/AbC-_1/00001.wav {b}/x2/00002.wav\n"


def test_without_lists_vox2_dev_trains_and_vox1_test_evaluates(tmp_path, root):
    progress = Notes()
    result = prepare(tmp_path, root, progress)
    data = tmp_path / "exp" / "data"
    train, valid = read_manifest(data / "train.tsv"), read_manifest(data / "valid.tsv")
    assert {*train.speaker_ids, *valid.speaker_ids} == set(DEV2)
    evaluation = read_manifest(data / "eval.tsv")
    assert set(evaluation.speaker_ids) == set(TEST1)
    assert result.trials == {"voxceleb": {"targets": 8, "nontargets": 16}}
    row = evaluation.table.to_dict("records")[0]
    assert row["utterance_id"] == "id10270/AbC-_1/00001.wav" and row["session_id"] == "id10270/AbC-_1"
    assert row["path"] == str(root / "voxceleb1/test/wav/id10270/AbC-_1/00001.wav")
    assert (
        "VoxCeleb2 dev: 4 speakers and 16 utterances found, published 5,994 and 1,092,009" in progress.notes
    )
    assert "VoxCeleb1 test: 2 speakers and 8 utterances found, published 40 and 4,874" in progress.notes


def test_an_incomplete_training_set_is_refused_if_that_is_asked_for(tmp_path, root):
    request = CorpusRequest(exp=tmp_path / "exp", root=root)
    with pytest.raises(DataError, match="expected 5,994 speakers and 1,092,009 utterances, found 4 and 16"):
        voxceleb.run(request, SilentProgress(), is_strict=True)


@pytest.mark.parametrize(("wanted", "train", "evaluation"), [("2", 2, 2), ("0", 4, 0)])
def test_evaluation_speakers_may_be_held_out_of_the_training_set(tmp_path, wanted, train, evaluation):
    root = tmp_path / "v"
    for name in DEV2:
        speaker(root / "voxceleb2" / "dev", name)
    result = prepare(tmp_path, root, eval_speakers=wanted, valid_speakers=0)
    assert (result.train_speakers, result.eval_speakers) == (train, evaluation)


@pytest.mark.parametrize(
    "layout", [("vox1_dev_wav", "vox1_test_wav", "vox2_dev_wav"), ("VoxCeleb1/wav",) * 2 + ("a/b/c",)]
)
def test_other_upper_directories(tmp_path, layout):
    root = tmp_path / "v"
    for directory, names in zip(layout, (DEV1, TEST1, DEV2), strict=True):
        for name in names:
            speaker(root / directory, name)
    result = prepare(tmp_path, root)
    assert (result.train_speakers + result.valid_speakers, result.eval_speakers) == (4, 2)


def test_ids_end_in_wav_and_readable_files_win(tmp_path, root):
    speaker(root / "voxceleb1/flac", "id10280", ".flac")
    aac = root / "voxceleb2/dev/aac/id00012/x2/00001.m4a"
    aac.parent.mkdir(parents=True)
    aac.write_bytes(b"\0")
    list_file = tmp_path / "mine.txt"
    list_file.write_text(trials_text(["id10280", "id10270"]))
    prepare(tmp_path, root, trials=(list_file,))
    evaluation = read_manifest(tmp_path / "exp/data/eval.tsv")
    assert [Path(path).suffix for path in evaluation.column("path")] == [".wav", ".flac", ".flac"]
    assert list(evaluation.utterance_ids) == [
        "id10270/x2/00002.wav", "id10280/AbC-_1/00001.wav", "id10280/x2/00001.wav",
    ]  # fmt: skip


def test_undecoded_m4a_is_a_bad_file_with_advice(tmp_path, root):
    aac = root / "voxceleb2/dev/aac/id00012/x3/00001.m4a"
    aac.parent.mkdir(parents=True)
    aac.write_bytes(b"\0")
    with pytest.raises(DataError, match=r"id00012/x3/00001.wav \(.m4a is not read by libsndfile; convert it"):
        prepare(tmp_path, root)


@pytest.fixture
def official(monkeypatch):
    def entry(name, file, lines, targets):
        return OfficialList(
            name=name, file=file, title=f"{name}!", address="https://x", lines=lines, targets=targets, md5="0"
        )

    entries = (
        entry("vox1-O", "veri_test2.txt", 2, 1),
        entry("vox1-H", "list_test_hard2.txt", 9, 4),
        entry("vox1-O-original", "veri_test.txt", 3, 1),
    )
    monkeypatch.setattr(official_module, "official_lists", lambda: entries)


@pytest.mark.usefixtures("official")
@pytest.mark.parametrize("place", ["", "meta", "voxceleb1", "voxceleb1/meta"])
def test_official_lists_are_found_and_named(tmp_path, root, place):
    (root / place).mkdir(exist_ok=True)
    (root / place / "veri_test2.txt").write_text(trials_text(TEST1))
    (root / "veri_test.txt").write_text(trials_text(TEST1) + "0 x y\n")
    progress = Notes()
    result = prepare(tmp_path, root, progress)
    assert result.trials == {"vox1-O": {"targets": 1, "nontargets": 1}}
    copy = tmp_path / "exp/data/trials/vox1-O.txt"
    assert copy.read_text() == trials_text(TEST1)
    assert len(read_manifest(tmp_path / "exp/data/eval.tsv")) == 3
    assert any("its cleaned version is there" in note for note in progress.notes)
    assert any("differs from the published vox1-O!" in note for note in progress.notes)


@pytest.mark.usefixtures("official")
def test_mixed_up_lists_are_named(tmp_path, root):
    path = tmp_path / "veri_test2.txt"
    path.write_text(trials_text(TEST1) + "0 id10270/x2/00001.wav id10309/x2/00002.wav\n")
    message = (
        r"its counts are those of vox1-O-original!, not of vox1-O!: expected 2 lines and 1 targets \(vox1-O!\),"
        r" found 3 and 1"
    )
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, root, trials=(path,))
    result = prepare(tmp_path, root, trials=(path,), allow_other_lists=True)
    assert result.trials == {"vox1-O": {"targets": 1, "nontargets": 2}}


@pytest.mark.usefixtures("official")
def test_a_second_list_for_one_name_is_refused(tmp_path, root):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "veri_test2.txt").write_text(trials_text(TEST1))
    with pytest.raises(DataError, match="a second list for vox1-O"):
        prepare(tmp_path, root, trials=(tmp_path / "a/veri_test2.txt", tmp_path / "b/veri_test2.txt"))


def test_the_real_counts_hold_by_default(tmp_path, root):
    (root / "list_test_hard2.txt").write_text(trials_text(TEST1))
    with pytest.raises(DataError, match="expected 550,894 lines and 275,488 targets"):
        prepare(tmp_path, root)


def test_vox1_trains_where_vox2_is_missing_but_not_on_evaluation_speakers(tmp_path):
    root = tmp_path / "v"
    for name in [*DEV1, "id10002", "id10003", *TEST1]:
        speaker(root / "wav", name)
    result = prepare(tmp_path, root)
    assert result.train_speakers + result.valid_speakers == 4 and result.eval_speakers == 2
    (tmp_path / "e.txt").write_text(trials_text(DEV1))
    with pytest.raises(DataError, match=r"names training speakers \(id10001, id11251\); without VoxCeleb2"):
        prepare(tmp_path, root, trials=(tmp_path / "e.txt",), overwrite=True)


def test_lists_naming_absent_or_bad_files(tmp_path, root):
    (tmp_path / "t.txt").write_text("0 id10270/x2/00001.wav id10309/x2/00009.wav\n")
    with pytest.raises(DataError, match=r"utterances that the corpus lacks: id10309/x2/00009.wav \(line 1\)"):
        prepare(tmp_path, root, trials=(tmp_path / "t.txt",))
    (root / "voxceleb1/test/wav/id10309/x2/00009.wav").write_text("text")
    skipping = ScanOptions(reads_samples=False, skip_bad=True)
    with pytest.raises(DataError, match="names utterances that cannot be read: id10309/x2/00009.wav"):
        prepare(tmp_path, root, trials=(tmp_path / "t.txt",), scan=skipping)


def test_wrong_places_show_the_layout(tmp_path, monkeypatch):
    with pytest.raises(
        DataError, match=r"no such directory; give ROOT or set SVKIT_VOXCELEB; expected below ROOT"
    ):
        prepare(tmp_path, tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="VoxCeleb: no such directory"):
        prepare(tmp_path, Path("VoxCeleb"))
    (tmp_path / "other" / "music").mkdir(parents=True)
    with pytest.raises(DataError, match="no speaker directories idXXXXX"):
        prepare(tmp_path, tmp_path / "other")
    speaker(tmp_path / "only", "id10270")
    with pytest.raises(DataError, match="no training speakers"):
        prepare(tmp_path, tmp_path / "only")
    speaker(tmp_path / "train", "id00012")
    with pytest.raises(DataError, match="no evaluation speakers"):
        prepare(tmp_path, tmp_path / "train")
