import json
import zlib

import numpy as np
import pytest
import soundfile

from svkit.corpora.layouts import noise
from svkit.corpora.layouts.noise import NoiseRequest
from svkit.corpora.scan import BadFilesError, ScanOptions
from svkit.errors import ConfigError, DataError
from svkit.progress import SilentProgress
from svkit.store import output
from svkit.store.experiment import read_experiment
from svkit.store.manifest import read_manifest
from tests import corpus_trees


def sound(path, num_samples=1600):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(path.as_posix().encode()))
    soundfile.write(path, rng.uniform(-0.5, 0.5, num_samples), 16000)


@pytest.fixture
def musan(tmp_path):
    root = tmp_path / "musan"
    for name in (
        "noise/free-sound/n-1",
        "noise/sound-bible/n-2",
        "music/fma/m-1",
        "music/fma/m-2",
        "speech/librivox/s-1",
    ):
        sound(root / f"{name}.wav")
    (root / "music" / "fma" / "ANNOTATIONS").write_text(
        "m-1 rock,pop N someone\nm-2 blues Y someone else\n\n"
    )
    return root


@pytest.fixture
def ask(tmp_path):
    def request(root, **fields):
        return NoiseRequest(exp=tmp_path / "exp", root=root, **fields)

    return request


def listed(tmp_path, name="noise.tsv"):
    table = read_manifest(tmp_path / "exp" / "data" / name).table
    return dict(zip(table["utterance_id"], table["category"], strict=True))


MUSAN = {
    "noise/free-sound/n-1.wav": "noise", "noise/sound-bible/n-2.wav": "noise", "music/fma/m-1.wav": "music",
    "speech/librivox/s-1.wav": "speech",
}  # fmt: skip


@pytest.mark.parametrize("is_above", [False, True])
def test_musan_without_vocal_music(tmp_path, musan, ask, is_above):
    result = noise.run_musan(ask(musan.parent if is_above else musan), SilentProgress())
    assert listed(tmp_path) == MUSAN
    assert result.files == {"noise": 2, "music": 1, "speech": 1}
    assert read_experiment(tmp_path / "exp").noise == "data/noise.tsv"
    manifest = read_manifest(tmp_path / "exp" / "data" / "noise.tsv")
    assert all(manifest.audio_path(row).is_file() for row in range(len(manifest)))


def test_music_without_annotations_is_all_taken(tmp_path, musan, ask):
    (musan / "music" / "fma" / "ANNOTATIONS").unlink()
    assert noise.run_musan(ask(musan), SilentProgress()).files["music"] == 2


def test_an_annotation_that_says_neither_is_named(musan, ask):
    (musan / "music" / "fma" / "ANNOTATIONS").write_text("m-1 rock N x\nm-2 blues maybe y\n")
    with pytest.raises(DataError, match="ANNOTATIONS:2: expected `piece genres Y|N artist`"):
        noise.run_musan(ask(musan), SilentProgress())


def test_a_tree_replaces_its_own_category_only(tmp_path, musan, ask):
    sound(tmp_path / "street" / "deep" / "car.flac", 1)
    with pytest.raises(ConfigError, match="use --overwrite"):
        noise.run_musan(ask(musan), SilentProgress())
        noise.run_tree(ask(tmp_path / "street"), SilentProgress(), "noise")
    noise.run_tree(ask(tmp_path / "street", overwrite=True), SilentProgress(), "noise")
    others = {name: category for name, category in MUSAN.items() if category != "noise"}
    assert listed(tmp_path) == {**others, "noise/deep/car.flac": "noise"}
    record = json.loads((tmp_path / "exp" / "data" / "noise.provenance.json").read_text())
    commands = {name: entry["command"] for name, entry in record["categories"].items()}
    assert commands == {"noise": "prepare noise", "music": "prepare musan", "speech": "prepare musan"}


def test_trees_of_two_categories_add_up(tmp_path, ask):
    sound(tmp_path / "n" / "a.wav")
    sound(tmp_path / "m" / "a.wav")
    noise.run_tree(ask(tmp_path / "n"), SilentProgress(), "noise")
    noise.run_tree(ask(tmp_path / "m"), SilentProgress(), "music")
    assert listed(tmp_path) == {"noise/a.wav": "noise", "music/a.wav": "music"}


def test_finished_material_is_kept_if_it_is_the_same(tmp_path, musan, ask):
    first = noise.run_musan(ask(musan), SilentProgress())
    path = tmp_path / "exp" / "data" / "noise.tsv"
    inode = path.stat().st_ino
    assert noise.run_musan(ask(musan, keep_finished=True, overwrite=True), SilentProgress()) == first
    assert path.stat().st_ino == inode
    moved = (tmp_path / "exp").rename(tmp_path / "moved") / "data" / "noise.tsv"
    request = NoiseRequest(exp=tmp_path / "moved", root=musan, keep_finished=True)
    assert noise.run_musan(request, SilentProgress()).list == str(moved)
    (tmp_path / "moved").rename(tmp_path / "exp")
    sound(tmp_path / "n" / "a.wav")
    with pytest.raises(
        ConfigError, match=r"noise.tsv \(noise\) is finished, and was made with another command"
    ):
        noise.run_tree(ask(tmp_path / "n", keep_finished=True), SilentProgress(), "noise")
    noise.run_tree(ask(tmp_path / "n", keep_finished=True, overwrite=True), SilentProgress(), "noise")
    assert listed(tmp_path)["noise/a.wav"] == "noise"


@pytest.mark.parametrize("place", ["", "RIRS_NOISES", "RIRS_NOISES/simulated_rirs"])
def test_small_and_medium_simulated_rooms(tmp_path, ask, place):
    rooms = tmp_path / "r" / "RIRS_NOISES"
    for kind in ("smallroom", "mediumroom", "largeroom"):
        sound(rooms / "simulated_rirs" / kind / "Room001" / "Room001-00001.wav", 400)
    sound(rooms / "real_rirs_isotropic_noises" / "RVB2014_type1_rir_largeroom1_far_angla.wav")
    result = noise.run_rirs(ask(tmp_path / "r" / place), SilentProgress())
    assert listed(tmp_path, "rirs.tsv") == {
        "smallroom/Room001/Room001-00001.wav": "smallroom",
        "mediumroom/Room001/Room001-00001.wav": "mediumroom",
    }  # fmt: skip
    assert result.files == {"smallroom": 1, "mediumroom": 1}
    experiment = read_experiment(tmp_path / "exp")
    assert (experiment.noise, experiment.rirs) == (None, "data/rirs.tsv")


@pytest.mark.parametrize("place", ["", "RIRS_NOISES", "RIRS_NOISES/simulated_rirs"])
def test_responses_of_every_type_without_the_noises_beside_them(tmp_path, ask, place):
    corpus_trees.rirs(tmp_path / "r" / "RIRS_NOISES")
    result = noise.run_rirs(
        ask(tmp_path / "r" / place), SilentProgress(), ["mediumroom", "largeroom", "real"]
    )
    assert listed(tmp_path, "rirs.tsv") == {
        "mediumroom/Room001/Room001-00001.wav": "mediumroom",
        "largeroom/Room001/Room001-00001.wav": "largeroom",
        "real/RWCP_type1_rir_cirline_ofc_imp_rev.wav": "real",
        "real/air_type1_air_binaural_aula_carolina_0_1.wav": "real",
    }
    assert result.files == {"mediumroom": 1, "largeroom": 1, "real": 2}
    manifest = read_manifest(tmp_path / "exp" / "data" / "rirs.tsv")
    assert all(manifest.audio_path(row).is_file() for row in range(len(manifest)))


def test_other_types_of_responses_replace_the_earlier_ones(tmp_path, ask):
    root = corpus_trees.rirs(tmp_path / "RIRS_NOISES")
    noise.run_rirs(ask(root), SilentProgress(), ["smallroom", "real"])
    with pytest.raises(
        ConfigError,
        match=r"rirs.tsv \(smallroom\) is finished, and was made with another setting \(categories",
    ):
        noise.run_rirs(ask(root, keep_finished=True), SilentProgress(), ["smallroom"])
    progress = corpus_trees.Notes()
    noise.run_rirs(ask(root, overwrite=True), progress)
    assert set(listed(tmp_path, "rirs.tsv").values()) == {"smallroom", "mediumroom"}
    assert progress.notes == ["left out, as in the published recipe: largeroom, real (--type includes them)"]
    assert noise.run_rirs(ask(root, keep_finished=True), progress).files == {"smallroom": 1, "mediumroom": 1}


def test_an_unknown_type_and_a_list_that_is_none(tmp_path, ask):
    root = corpus_trees.rirs(tmp_path / "RIRS_NOISES")
    with pytest.raises(ConfigError, match="--type huge: expected smallroom, mediumroom, largeroom, real"):
        noise.run_rirs(ask(root), SilentProgress(), ["huge"])
    real = root / "real_rirs_isotropic_noises" / "rir_list"
    real.write_text("--rir-id 1 --room-id 2\n")
    with pytest.raises(DataError, match="rir_list:1: expected `--rir-id ID"):
        noise.run_rirs(ask(root), SilentProgress(), ["real"])
    real.unlink()
    with pytest.raises(DataError, match="rir_list: does not exist"):
        noise.run_rirs(ask(root), SilentProgress(), ["real"])


def test_musan_as_it_is_distributed(tmp_path, ask):
    corpus_trees.musan(tmp_path / "musan")
    assert noise.run_musan(ask(tmp_path / "musan"), SilentProgress()).files == {
        "noise": 2,
        "music": 2,
        "speech": 2,
    }


def test_wrong_trees_show_the_layout(tmp_path, ask):
    (tmp_path / "x").mkdir()
    for run, layout in ((noise.run_musan, "OpenSLR 17"), (noise.run_rirs, "OpenSLR 28")):
        with pytest.raises(DataError, match=f"no such directory; .*{layout}"):
            run(ask(tmp_path / "none"), SilentProgress())
        with pytest.raises(DataError, match=f"no directories .*{layout}.*found an empty directory"):
            run(ask(tmp_path / "x"), SilentProgress())
        corpus_trees.voxblink2(tmp_path / layout)
        with pytest.raises(DataError, match="this looks like voxblink2: svkit prepare voxblink2"):
            run(ask(tmp_path / layout), SilentProgress())
    with pytest.raises(DataError, match="no audio files below"):
        noise.run_tree(ask(tmp_path / "x"), SilentProgress(), "noise")
    with pytest.raises(DataError, match="does not exist"):
        noise.run_tree(ask(tmp_path / "none"), SilentProgress(), "noise")


def test_bad_files_are_refused_or_left_out(tmp_path, ask):
    sound(tmp_path / "n" / "a.wav")
    (tmp_path / "n" / "b.wav").write_text("text")
    with pytest.raises(BadFilesError, match=r"1 of 2 .*noise/b.wav"):
        noise.run_tree(ask(tmp_path / "n"), SilentProgress(), "noise")
    assert not (tmp_path / "exp" / "data" / "noise.tsv").exists()
    skipping = ask(tmp_path / "n", scan=ScanOptions(min_seconds=0, skip_bad=True))
    result = noise.run_tree(skipping, SilentProgress(), "noise")
    assert [file.utterance_id for file in result.bad_files] == ["noise/b.wav"]
    assert listed(tmp_path) == {"noise/a.wav": "noise"}


def test_what_another_command_has_just_recorded_is_kept(tmp_path, musan, ask, monkeypatch):
    """`prepare noise` and `prepare music` at once: one has ended between the other's first look and its lock."""
    lock, others = output.lock_directory, []

    def end_first(directory):
        if not others:
            others.append(directory)
            noise.run_tree(ask(musan / "noise"), SilentProgress(), "noise")
        return lock(directory)

    monkeypatch.setattr(output, "lock_directory", end_first)
    noise.run_tree(ask(musan / "music"), SilentProgress(), "music")
    record = json.loads((tmp_path / "exp" / "data" / "noise.provenance.json").read_text())
    assert set(record["categories"]) == {"noise", "music"} == set(listed(tmp_path).values())
