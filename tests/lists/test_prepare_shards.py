"""Recordings in tar files: the same samples, batches, resumed training and embeddings as from single files."""

import json
import signal
import tarfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.config.schema import AugmentConfig, DataConfig
from svkit.data.audio_source import read_whole
from svkit.data.dataset import CropDataset
from svkit.data.loader import build_loader
from svkit.data.sampler import EpochBatches
from svkit.errors import DataError
from svkit.lists import check, shards
from svkit.models.extract import ExtractRequest
from svkit.models.extract import run as extract
from svkit.progress import SilentProgress
from svkit.store.audio_bytes import TarMember
from svkit.store.audio_file import examine, read_audio
from svkit.store.embeddings import read_embeddings
from svkit.store.manifest import COLUMNS, SHARD_COLUMNS, read_manifest, write_manifest
from svkit.store.tables import read_table, write_table
from svkit.training.finetune import FinetuneRequest
from svkit.training.finetune import run as finetune
from tests.training_experiment import (
    SPEAKERS,
    contents,
    interrupt,
    log,
    make_teacher,
    one_process,
    recipe,
)


def pack(prepared: Path, out: Path, name: str = "train.tsv", **options) -> Path:
    request = shards.ShardsRequest(list=prepared / "data" / name, out=out, per_shard=6, **options)
    return Path(shards.run(request, SilentProgress()).list)


@pytest.fixture(scope="module")
def packed(prepared: Path) -> Path:
    return pack(prepared, prepared / "shards")


def test_members_are_the_files_byte_for_byte_in_the_layout_of_webdataset(prepared, packed):
    files, members = read_manifest(prepared / "data/train.tsv"), read_manifest(packed)
    assert list(members.table.columns) == [*COLUMNS, *SHARD_COLUMNS]
    assert members.utterance_ids.tolist() == files.utterance_ids.tolist()
    assert sorted(path.name for path in packed.parent.glob("*.tar")) == [
        f"shard-00000{k}.tar" for k in range(4)
    ]
    for row in range(len(files)):
        place = members.audio(row)
        assert isinstance(place, TarMember) and place.tar.parent == packed.parent
        data = place.tar.read_bytes()[place.offset : place.offset + place.size]
        assert data == files.audio_path(row).read_bytes()
        assert np.array_equal(read_audio(place, 100, 500), read_audio(files.audio_path(row), 100, 500))
        assert examine(place) == examine(files.audio_path(row))
    with tarfile.open(packed.parent / "shard-000001.tar") as tar:
        names = tar.getnames()
        keys = [name.partition(".")[0] for name in names]
        assert keys[::2] == keys[1::2] and len(set(keys)) == 6
        assert {name.partition(".")[2] for name in names} == {"wav", "json"}
        facts = json.load(tar.extractfile(names[1]))
    row = int(keys[0])
    assert facts == {
        "utterance_id": files.utterance_ids[row], "speaker_id": files.speaker_ids[row], "sample_rate_hz": 16_000,
        "num_samples": int(files.num_samples[row]), "session_id": files.column("session_id")[row],
    }  # fmt: skip
    # Each shard is a sample of the corpus, not a run of speakers.
    assert len({files.speaker_ids[int(key)] for key in keys}) > 1


def test_equal_lists_give_equal_shards_and_parquet_says_the_same(prepared, packed, tmp_path):
    again = pack(prepared, tmp_path / "again")
    for path in packed.parent.glob("*.t*"):
        assert (again.parent / path.name).read_bytes() == path.read_bytes()
    write_manifest(tmp_path / "t.parquet", read_manifest(packed).table)
    table = read_manifest(tmp_path / "t.parquet", packed.parent)
    places = [read_manifest(packed).audio(row) for row in range(len(table))]
    assert [table.audio(row) for row in range(len(table))] == places


@pytest.mark.e2e
def test_batches_from_shards_equal_those_from_files(prepared, packed):
    data = DataConfig(batch_size=5, crop_seconds=(0.3, 0.5))
    augment = AugmentConfig(allow_simulated_rooms=True, allow_missing_noise=True)
    loaders = []
    for path, workers in ((prepared / "data/train.tsv", 0), (packed, 0), (packed, 2)):
        dataset = CropDataset(read_manifest(path), data, augment, seed=3)
        batches = map(EpochBatches(len(dataset), data, seed=3).batch, range(7, 16))
        loaders.append(build_loader(dataset, batches, num_workers=workers))
    count = 0
    for files, members, in_workers in zip(*loaders, strict=True):
        assert torch.equal(files[0], members[0]) and torch.equal(files[0], in_workers[0])
        assert torch.equal(files[1], members[1]) and torch.equal(files[1], in_workers[1])
        count += 1
    assert count == 9


@pytest.mark.e2e
def test_training_from_shards_resumes_exactly_and_equals_training_from_files(
    prepared, packed, tmp_path, monkeypatch
):
    def train(out: Path, manifest: Path | None) -> None:
        with one_process():
            request = FinetuneRequest(
                exp=prepared, recipe=recipe(), out=out, stage="lora", manifest=manifest, augment=False
            )
            finetune(request, SilentProgress())

    train(tmp_path / "files", None)
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        with pytest.raises(SystemExit) as stop:
            train(tmp_path / "shards", packed)
        assert stop.value.code == 128 + signal.SIGTERM
    train(tmp_path / "shards", packed)
    assert contents(tmp_path / "shards") == contents(tmp_path / "files")
    validated = [
        [entry for entry in log(tmp_path / name) if entry["kind"] == "valid"] for name in ("shards", "files")
    ]
    assert validated[0] == validated[1] and validated[0]


@pytest.mark.e2e
def test_embeddings_from_shards_equal_those_from_files(prepared, packed, tmp_path):
    teacher = make_teacher(tmp_path / "teacher")
    found = []
    for name, manifest in (("files", prepared / "data/train.tsv"), ("shards", packed)):
        with one_process():
            request = ExtractRequest(
                exp=prepared, recipe=recipe(), models=(teacher,), manifest=manifest, out=tmp_path / name
            )
            extract(request, SilentProgress())
        found.append(read_embeddings(tmp_path / name))
    assert len(found[0].ids) == 4 * len(SPEAKERS) and np.array_equal(found[0].matrix, found[1].matrix)
    assert found[0].ids.tolist() == found[1].ids.tolist()


def test_an_interrupted_packing_keeps_finished_shards(prepared, packed, tmp_path, monkeypatch):
    members, count = shards._members, [0]

    def fail(manifest, row):
        count[0] += 1
        if count[0] == 14:
            raise KeyboardInterrupt
        return members(manifest, row)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_members", fail)
        with pytest.raises(KeyboardInterrupt):
            pack(prepared, tmp_path / "s", num_workers=1)
    finished = sorted((tmp_path / "s").glob("*.tar"))
    assert 0 < len(finished) < 4 and not (tmp_path / "s/train.tsv").exists()
    times = [path.stat().st_mtime_ns for path in finished]
    finished[0].write_bytes(finished[0].read_bytes()[:700])  # not by svkit: it is made again
    again = pack(prepared, tmp_path / "s")
    assert [path.stat().st_mtime_ns for path in finished][1:] == times[1:]
    for path in packed.parent.glob("*.t*"):
        assert (again.parent / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["../../outside.wav", "/outside.wav", "000000001/../../outside.wav"])
def test_members_that_climb_are_no_paths(prepared, packed, tmp_path, name):
    """A shard is read by the places of its bytes; one that svkit did not write is made anew."""
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_write_all", Mock(side_effect=KeyboardInterrupt))
        pack(prepared, tmp_path / "s")
    with tarfile.open(tmp_path / "s" / "shard-000000.tar", "w") as tar:
        for kind in (tarfile.REGTYPE, tarfile.SYMTYPE):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "../../outside.wav"
            tar.addfile(member)
    again = pack(prepared, tmp_path / "s")
    assert not list(tmp_path.rglob("outside.wav")) and not (tmp_path.parent / "outside.wav").exists()
    for path in packed.parent.glob("*.t*"):
        assert (again.parent / path.name).read_bytes() == path.read_bytes()


def test_check_reads_shards_and_names_the_place(prepared, tmp_path):
    path = pack(prepared, tmp_path / "s")
    result = check.run(check.CheckRequest(list=path, min_seconds=0.1), SilentProgress())
    assert result.bad == 0 and result.utterances == 20
    place = read_manifest(path).audio(3)
    with place.tar.open("r+b") as file:
        file.seek(place.offset)
        file.write(b"no audio")
    with pytest.raises(DataError, match="1 of 20 audio files cannot be used") as caught:
        check.run(check.CheckRequest(list=path, min_seconds=0.1), SilentProgress())
    (bad,) = caught.value.bad_files  # type: ignore[attr-defined]
    assert bad.utterance_id == read_manifest(path).utterance_ids[3] and bad.path == str(place)
    assert f"bytes {place.offset} to {place.offset + place.size}" in bad.path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shard_offset": "-1"}, "shard_offset: expected a number of bytes"),
        ({"shard_size": "x"}, "shard_size: expected a number of bytes"),
        ({"shard_size": ""}, "shard_size: expected a number above 0"),
        ({"shard_size": None}, "expected both or neither of the columns"),
    ],
)
def test_bad_places_are_named(packed, tmp_path, changes, message):
    table = read_table(packed)
    for name, value in changes.items():
        table = table.drop(columns=name) if value is None else table.assign(**{name: value})
    write_table(tmp_path / "l.tsv", table)
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path / "l.tsv")


def test_files_and_members_mix_and_faults_are_one_line(prepared, packed, tmp_path):
    table = read_table(packed)
    row = table.index[0]
    source = read_manifest(prepared / "data/train.tsv").audio_path(0)
    table.loc[row, ["path", *SHARD_COLUMNS]] = [str(source), "", ""]
    write_table(tmp_path / "l.tsv", table)
    mixed = read_manifest(tmp_path / "l.tsv", packed.parent)
    assert mixed.audio(0) == source and isinstance(mixed.audio(1), TarMember)
    assert len(read_whole(mixed, 0)) == mixed.num_samples[0]
    with pytest.raises(DataError, match="gone.tar .bytes 0 to 9.: does not exist"):
        read_audio(TarMember(tmp_path / "gone.tar", 0, 9))
    short = tmp_path / "short.tar"
    member = mixed.audio(1)
    short.write_bytes(member.tar.read_bytes()[: member.offset + 100])
    with pytest.raises(DataError, match="truncated|ends after"):
        read_audio(TarMember(short, member.offset, member.size), sample_rate_hz=16_000)


def test_the_command_refuses_what_it_cannot_pack(prepared, packed, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(app, ["prepare", "shards", *map(str, arguments)])

    again = run(packed, "--out", tmp_path / "a")
    assert again.exit_code == 3 and "already points into shards" in again.stderr
    table = read_table(prepared / "data/train.tsv").assign(path="gone.wav")
    write_table(tmp_path / "l.tsv", table)
    gone = run(tmp_path / "l.tsv", "--out", tmp_path / "b")
    assert gone.exit_code == 3 and "gone.wav: does not exist" in gone.stderr
    done = run(prepared / "data/valid.tsv", "--out", tmp_path / "c", "--per-shard", "4")
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'c' / 'valid.tsv'}\n")
    finished = run(prepared / "data/valid.tsv", "--out", tmp_path / "c")
    assert finished.exit_code == 2 and "--overwrite" in finished.stderr
