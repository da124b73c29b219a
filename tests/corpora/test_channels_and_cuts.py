"""Recordings with the voice on another channel than the first, and cut ones: from `prepare` to the samples."""

import struct

import numpy as np
import pytest
import soundfile

from svkit.corpora.joining import join_short
from svkit.corpora.layouts import csv_table, folder, kaldi, noise
from svkit.corpora.request import CorpusRequest
from svkit.corpora.scan import BadFilesError, Candidate, ScanOptions, scan_files
from svkit.data.audio_source import read_crop, read_whole
from svkit.errors import DataError
from svkit.lists import check, merge, shards, split, stats
from svkit.progress import SilentProgress
from svkit.store.manifest import read_manifest, write_manifest
from svkit.store.provenance import read_provenance
from tests import corpus_trees
from tests.corpus_trees import Notes

RATE = 16_000


def voice(seed, seconds=1.0):
    return 0.2 * np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32)


@pytest.fixture
def root(tmp_path):
    """Six speakers: `right.wav` has the voice on channel 1 only, `left.wav` nearly all of it on channel 0."""
    for seed, speaker in enumerate("abcdef"):
        directory = tmp_path / "root" / speaker
        directory.mkdir(parents=True)
        for number, name in enumerate(("left", "right", "mono")):
            sound = voice(10 * seed + number)
            channels = {"left": (sound, 0.1 * sound), "right": (0 * sound, sound), "mono": (sound,)}[name]
            soundfile.write(directory / f"{name}.wav", np.stack(channels, 1), RATE, subtype="FLOAT")
    return tmp_path / "root"


def prepare(tmp_path, root, progress=None, *, run=folder.run, exp="exp", **scan):
    request = CorpusRequest(
        exp=tmp_path / exp, root=root, valid_speakers=0, eval_speakers="2", scan=ScanOptions(**scan)
    )
    run(request, progress or SilentProgress())
    return read_manifest(tmp_path / exp / "data" / "train.tsv")


def row(manifest, name):
    return list(manifest.utterance_ids).index(name)


def test_without_the_option_lists_are_as_they_were_and_a_note_names_louder_channels(tmp_path, root):
    progress = Notes()
    manifest = prepare(tmp_path, root, progress)
    assert "channel" not in manifest.table.columns and manifest.channel(0) == 0
    assert "channel" not in read_provenance(tmp_path / "exp" / "data")["config"]
    assert (
        "(--channel N|mix|loudest chooses) in 6 of 18 recordings: a/right.wav (channel 1 has sound"
        in progress.all()
    )
    assert progress.all().count("right.wav") == 5 and "left.wav" not in progress.all()


@pytest.mark.parametrize("reads_samples", [True, False])
def test_the_loudest_channel_is_found_out_for_each_file_and_written_down(tmp_path, root, reads_samples):
    progress = Notes()
    manifest = prepare(tmp_path, root, progress, channel="loudest", reads_samples=reads_samples)
    speaker = manifest.speaker_ids[0]
    seed = 10 * "abcdef".index(speaker)
    for number, (name, channel) in enumerate((("left", "0"), ("right", "1"), ("mono", "0"))):
        place = row(manifest, f"{speaker}/{name}.wav")
        assert manifest.text("channel", place) == channel
        assert np.array_equal(read_whole(manifest, place), voice(seed + number))
    crop = read_crop(manifest, row(manifest, f"{speaker}/right.wav"), 800, np.random.default_rng(0))
    assert len(crop) == 800 and crop.any()
    assert "louder" not in progress.all()
    assert read_provenance(tmp_path / "exp" / "data")["config"]["channel"] == "loudest"


def test_the_mean_of_all_channels(tmp_path, root):
    manifest = prepare(tmp_path, root, channel="mix")
    place = row(manifest, f"{manifest.speaker_ids[0]}/right.wav")
    assert set(manifest.column("channel")) == {"mix"}
    seed = 10 * "abcdef".index(manifest.speaker_ids[0]) + 1
    assert np.allclose(read_whole(manifest, place), voice(seed) / 2, atol=1e-7)


def test_a_channel_that_a_file_lacks_is_a_bad_file(tmp_path, root):
    with pytest.raises(
        BadFilesError, match=r"6 no such channel\): a/mono.wav \(channel 1 asked for, the file has 1"
    ):
        prepare(tmp_path, root, channel=1)
    for path in root.glob("*/mono.wav"):
        path.unlink()
    manifest = prepare(tmp_path, root, channel=1, exp="other")
    assert set(manifest.column("channel")) == {"1"}


def test_lists_made_from_lists_keep_the_channel(tmp_path, root):
    manifest = prepare(tmp_path, root, channel="loudest")
    listed, speaker = manifest.source, manifest.speaker_ids[0]
    expected = read_whole(manifest, row(manifest, f"{speaker}/right.wav"))
    silent = SilentProgress()
    merge.run(merge.MergeRequest(lists=(f"x={listed}",), out=tmp_path / "m.parquet"), silent)
    split.run(split.SplitRequest(list=listed, out=tmp_path / "s", parts=("one=1",)), silent)
    check.run(check.CheckRequest(list=listed, out=tmp_path / "c.tsv"), silent)
    shards.run(shards.ShardsRequest(list=listed, out=tmp_path / "t"), silent)
    pieces = [read_manifest(tmp_path / name) for name in ("s/one.tsv", "s/train.tsv")]
    split_up = next(piece for piece in pieces if speaker in piece.speaker_ids)
    for made in (
        split_up,
        *(read_manifest(tmp_path / name) for name in ("m.parquet", "c.tsv", "t/train.tsv")),
    ):
        place = row(made, f"{speaker}/right.wav")
        assert made.channel(place) == 1 and np.array_equal(read_whole(made, place), expected)
    assert stats.run(listed).columns["channel"] == {"0": 8, "1": 4}


def test_joined_recordings_are_made_of_the_channels_of_their_parts(tmp_path, root):
    manifest = prepare(tmp_path, root, channel="loudest")
    table = manifest.table[manifest.table["speaker_id"] == manifest.speaker_ids[0]]
    made = join_short(table, ["g"] * 3, 2.0, tmp_path / "made", 1, SilentProgress())
    write_manifest(tmp_path / "list.tsv", made)
    joined = read_manifest(tmp_path / "list.tsv")
    assert len(joined) == 1 and "channel" not in joined.table.columns
    right = row(manifest, f"{manifest.speaker_ids[0]}/right.wav")
    found = read_whole(joined, 0)
    assert np.abs(found[2 * RATE :] - np.clip(read_whole(manifest, right), -1, 1)).max() < 1e-4
    plain = join_short(table.drop(columns="channel"), ["g"] * 3, 2.0, tmp_path / "made", 1, SilentProgress())
    assert list(plain["path"]) != list(made["path"])
    again = Notes()
    join_short(table, ["g"] * 3, 2.0, tmp_path / "made", 1, again)
    assert "needs about 0.0 MB" in again.all()  # what an earlier run has made needs no more room


def test_check_names_a_silent_channel_with_the_one_that_has_the_voice(tmp_path, root):
    manifest = prepare(tmp_path, root)
    with pytest.raises(BadFilesError) as caught:
        check.run(check.CheckRequest(list=manifest.source), SilentProgress())
    assert {file.reason for file in caught.value.bad_files} == {"silent"}
    assert (
        "channel 1 has sound, channel 0 is silent: prepare takes --channel"
        in caught.value.bad_files[0].detail
    )


def test_bad_channels_in_a_list_are_named_by_their_line(tmp_path, root):
    manifest = prepare(tmp_path, root)
    write_manifest(manifest.source, manifest.table.assign(channel="left"))
    with pytest.raises(
        DataError, match=r"train.tsv:2: channel: expected a number from 0 on, mix, or nothing"
    ):
        read_manifest(manifest.source)


def test_noises_have_channels_too(tmp_path, root):
    request = noise.NoiseRequest(exp=tmp_path / "exp", root=root / "a", scan=ScanOptions(channel="loudest"))
    noise.run_tree(request, SilentProgress(), "noise")
    request = noise.NoiseRequest(exp=tmp_path / "exp", root=root / "b")
    noise.run_tree(request, SilentProgress(), "music")
    manifest = read_manifest(tmp_path / "exp" / "data" / "noise.tsv")
    assert [manifest.channel(place) for place in range(6)] == [0, 0, 0, 0, 0, 1]


def test_a_table_of_recordings_takes_the_option(tmp_path, root):
    rows = [
        f"{path.relative_to(root).as_posix()},{path.parent.name}" for path in sorted(root.glob("*/*.wav"))
    ]
    (root / "list.csv").write_text("\n".join(["path,speaker", *rows]) + "\n")
    manifest = prepare(
        tmp_path,
        root / "list.csv",
        run=lambda *given: csv_table.run(*given, columns=csv_table.Columns()),
        channel="loudest",
    )
    assert set(manifest.column("channel")) == {"0", "1"}


def of_no_size(number):
    """Return WAV whose header states no size, as a program writes it that cannot go back in its output."""
    left = np.random.default_rng(number).integers(-9000, 9000, 16000).astype("<i2")
    header = struct.pack("<IHHIIHH", 16, 1, 2, 16000, 64000, 4, 16)
    data = np.stack((left // 100, left), 1).tobytes()
    return b"RIFF" + bytes(4) + b"WAVEfmt " + header + b"data" + bytes(4) + data


@pytest.mark.parametrize("channel", [0, 1, "loudest"])
def test_commands_and_segments_of_kaldi(tmp_path, channel):
    """The commands write to a pipe, so they cannot state a size."""
    root = corpus_trees.kaldi(tmp_path / "data", tmp_path / "audio")
    speakers = [line.split() for line in (root / "utt2spk").read_text().splitlines()]
    for number in range(len(speakers)):
        (tmp_path / f"{number}.out").write_bytes(of_no_size(number))
    lines = [f"{name} cat {tmp_path}/{number}.out |\n" for number, (name, _) in enumerate(speakers)]
    (root / "wav.scp").write_text("".join(lines))
    run = lambda request, progress: kaldi.run(request, progress, allow_pipes=True)  # noqa: E731
    manifest = prepare(tmp_path, root, run=run, channel=channel)
    assert all((read_whole(manifest, place).max() > 0.1) == (channel != 0) for place in range(2))
    (root / "segments").write_text("".join(f"{name} {name} 0.1 0.9\n" for name, _ in speakers))
    manifest = prepare(tmp_path, root, run=run, channel=channel, exp="cut")
    assert all((read_whole(manifest, place).max() > 0.1) == (channel != 0) for place in range(2))
    assert set(manifest.num_samples) == {12_800} and "channel" not in manifest.table.columns


@pytest.mark.parametrize("reads_samples", [True, False])
def test_a_cut_recording_is_bad_unless_what_is_there_is_wanted(tmp_path, reads_samples):
    soundfile.write(tmp_path / "a.wav", voice(0), RATE)
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(whole[: 44 + RATE])
    listed = [Candidate(utterance_id="a.wav", speaker_id="s", session_id="", path=str(tmp_path / "a.wav"))]
    journal, progress = tmp_path / "journal", Notes()
    options = {"reads_samples": reads_samples, "journal": journal}
    _, bad = scan_files(listed, ScanOptions(**options), progress)
    assert (
        bad[0].reason == "truncated"
        and "32000 bytes of audio (16000 samples), 16000 are there" in bad[0].detail
    )
    assert "--allow-cut" in bad[0].detail
    table, bad = scan_files(listed, ScanOptions(**options, allow_cut=True), progress)
    assert not bad and list(table["num_samples"]) == [RATE // 2]
    assert "1 recordings are truncated and used as far as they go: a.wav (truncated" in progress.all()
    write_manifest(tmp_path / "list.tsv", table)
    manifest = read_manifest(tmp_path / "list.tsv")
    assert len(read_whole(manifest, 0)) == RATE // 2
    assert check.run(check.CheckRequest(list=manifest.source), SilentProgress()).bad == 0


def test_a_list_made_before_its_recording_was_cut_fails_by_name(tmp_path, root):
    manifest = prepare(tmp_path, root)
    name = f"{manifest.speaker_ids[0]}/mono.wav"
    path = root / name
    path.write_bytes(path.read_bytes()[:-1000])
    place = row(manifest, name)
    for read in (read_whole, lambda *given: read_crop(*given, 100, np.random.default_rng(3))):
        with pytest.raises(DataError, match=rf"{name}: truncated: the header says"):
            read(manifest, place)
    with pytest.raises(BadFilesError) as caught:
        check.run(check.CheckRequest(list=manifest.source), SilentProgress())
    assert "truncated" in {file.reason for file in caught.value.bad_files}
