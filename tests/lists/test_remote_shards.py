"""Shards on a web server: the samples, batches and resumed training of single files, in few requests, from a cache."""

import importlib
import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.config.schema import DataConfig
from svkit.data.audio_source import read_whole
from svkit.data.dataset import CropDataset
from svkit.data.loader import build_loader
from svkit.data.sampler import EpochBatches
from svkit.errors import DataError
from svkit.lists import check, shards
from svkit.progress import SilentProgress
from svkit.store import remote_file
from svkit.store.audio_file import examine, read_audio
from svkit.store.block_cache import BLOCK_BYTES, BlockCache
from svkit.store.manifest import Manifest, read_manifest, write_manifest
from svkit.store.remote_file import open_remote
from svkit.store.tables import read_table
from svkit.training.finetune import FinetuneRequest
from svkit.training.finetune import run as finetune
from tests.training_experiment import contents, interrupt, log, one_process, recipe

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def packed(prepared: Path) -> Path:
    request = shards.ShardsRequest(list=prepared / "data/train.tsv", out=prepared / "shards", per_shard=6)
    return Path(shards.run(request, SilentProgress()).list)


@pytest.fixture
def served(packed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(remote_file, "_WAITS_SECONDS", (0, 0))
    with importlib.import_module("range_server").serving(packed.parent) as server:
        open_remote.cache_clear()
        yield server
    open_remote.cache_clear()


def batches(manifest: Manifest, *, workers: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    data = DataConfig(batch_size=5, crop_seconds=(0.3, 0.5))
    dataset = CropDataset(manifest, data, None, seed=3)
    batches = map(EpochBatches(len(dataset), data, seed=3).batch, range(2, 22))
    return list(build_loader(dataset, batches, num_workers=workers))


def are_equal(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) > 0 and all(
        torch.equal(a, b) for pair in zip(one, other, strict=True) for a, b in zip(*pair, strict=True)
    )


def test_a_shard_is_opened_once_and_a_crop_is_one_request(prepared, packed, served):
    files = read_manifest(prepared / "data/train.tsv")
    remote = read_manifest(packed, f"{served.address}/")
    for row in range(len(files)):
        assert np.array_equal(
            read_audio(remote.audio(row), 100, 500), read_audio(files.audio_path(row), 100, 500)
        )
    assert Counter(served.opened()) == {f"shard-00000{number}.tar": 1 for number in range(4)}
    places = [remote.audio(row) for row in range(len(files))]
    asked = [(place.tar.rpartition("/")[2], place.offset, place.size) for place in places]
    assert [request for request in served.asked if request[2] > 1] == asked
    assert examine(places[3]) == examine(files.audio_path(3))


@pytest.mark.e2e
def test_batches_equal_those_from_files_and_the_cache_answers_the_second_time(
    prepared, packed, served, tmp_path
):
    expected = batches(read_manifest(prepared / "data/train.tsv"))
    remote = read_manifest(packed, served.address)
    assert are_equal(batches(remote), expected)
    assert len(served.opened()) == 4 and len(served.asked) == 4 + 20 * 5

    cached = replace(remote, cache=BlockCache.make(tmp_path, 0.02))
    served.asked.clear()
    assert are_equal(batches(cached), expected)
    # Still open; each block of 64 KiB is fetched once.
    blocks = sum(-(-path.stat().st_size // BLOCK_BYTES) for path in packed.parent.glob("*.tar"))
    assert not served.opened() and 0 < len(served.asked) <= blocks
    assert sum(count for _, _, count in served.asked) <= blocks * BLOCK_BYTES
    served.asked.clear()
    assert are_equal(batches(cached), expected) and not served.asked
    # New processes ask for the version of a shard once each, and for no bytes.
    assert are_equal(batches(cached, workers=2), expected)
    assert len(served.opened()) == len(served.asked) and max(Counter(served.opened()).values()) <= 2
    assert (tmp_path / "shards.cache").stat().st_size <= 0.02e9


@pytest.mark.e2e
def test_shards_on_a_slow_disk_are_read_through_the_cache_too(prepared, packed, tmp_path, monkeypatch):
    expected = batches(read_manifest(prepared / "data/train.tsv"))
    cached = read_manifest(packed, cache=BlockCache.make(tmp_path, 0.02))
    assert are_equal(batches(cached), expected)
    monkeypatch.setattr("svkit.store.audio_bytes.OpenFile.read", None)
    assert are_equal(batches(cached), expected)


@pytest.mark.e2e
def test_training_resumes_exactly_and_equals_training_from_files(
    prepared, packed, served, tmp_path, monkeypatch
):
    def train(out: Path, manifest: Path | None, *overrides: str) -> None:
        with one_process():
            request = FinetuneRequest(
                exp=prepared, recipe=recipe(*overrides), out=out, stage="lora", manifest=manifest, augment=False,
                audio_root=served.address if manifest else None,
            )  # fmt: skip
            finetune(request, SilentProgress())

    options = [
        f"lora.data.cache_dir={tmp_path / 'cache'}",
        "lora.data.cache_gb=0.02",
        "lora.data.num_workers=1",
    ]
    train(tmp_path / "files", None)
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        served.faults = [503, 0]
        with pytest.raises(SystemExit) as stop:
            train(tmp_path / "remote", packed, *options)
        assert stop.value.code == 128 + signal.SIGTERM
    assert served.asked and not served.faults
    train(tmp_path / "remote", packed, *options)
    assert contents(tmp_path / "remote") == contents(tmp_path / "files")
    validated = [
        [entry for entry in log(tmp_path / name) if entry["kind"] == "valid"] for name in ("remote", "files")
    ]
    assert validated[0] == validated[1] and validated[0]
    assert (tmp_path / "cache/shards.cache").stat().st_size <= 0.02e9


def test_check_reads_remote_lists_and_tells_an_outage_from_a_bad_recording(packed, served, tmp_path):
    listed = tmp_path / packed.name
    listed.write_bytes(packed.read_bytes())
    request = check.CheckRequest(list=listed, audio_root=served.address, min_seconds=0.1)
    served.faults = [503] * 3
    with pytest.raises(DataError, match=r"shard-\d+.tar: .* HTTP Error 503: .*; check the network"):
        check.run(replace(request, out=tmp_path / "bad.tsv"), SilentProgress())
    assert not (tmp_path / "bad.tsv").exists()
    served.faults.clear()
    result = check.run(replace(request, out=tmp_path / "clean.tsv"), SilentProgress())
    assert (result.bad, result.utterances) == (0, 20)
    # The new list names the URLs, wherever it goes.
    clean = read_manifest(tmp_path / "clean.tsv")
    assert str(clean.audio(0)).startswith(f"{served.address}/shard-00000")
    assert len(read_whole(clean, 0)) == clean.num_samples[0]
    merged = CliRunner().invoke(
        app, ["prepare", "merge", str(tmp_path / "clean.tsv"), "--out", str(tmp_path / "x/m.parquet")]
    )
    assert merged.exit_code == 0, merged.stderr
    again = read_manifest(tmp_path / "x/m.parquet")
    assert [again.audio(row) for row in range(20)] == [clean.audio(row) for row in range(20)]


def test_what_is_wrong_with_a_remote_shard_is_one_line(packed, served, tmp_path, monkeypatch):
    remote = read_manifest(packed, served.address)
    place = remote.audio(3)
    shard = packed.parent / place.tar.rpartition("/")[2]
    whole, status = shard.read_bytes(), shard.stat()
    try:
        shard.write_bytes(whole[: place.offset + 100])
        with pytest.raises(
            DataError, match=rf"{shard.name} \(bytes .*: the tar file ends after \d+ bytes; has it cha"
        ):
            read_audio(place, 0, 10)
        open_remote.cache_clear()
        shard.write_bytes(whole)
        read_audio(place, 0, 10)
        shard.write_bytes(whole[512:])  # while it is open
        with pytest.raises(
            DataError, match=f"{shard.name}: bytes .*: the file has changed: expected .* found"
        ):
            read_audio(place, 0, 10)
        open_remote.cache_clear()
        shard.write_bytes(whole[: place.offset] + b"no audio" + whole[place.offset + 8 :])
        with pytest.raises(DataError, match=rf"{shard.name} \(bytes .*: not readable as audio"):
            read_audio(place, 0, 10)
    finally:
        shard.write_bytes(whole)
        os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    open_remote.cache_clear()
    with pytest.raises(DataError, match="gone.tar .*: does not exist"):
        read_audio(replace(place, tar=f"{served.address}/gone.tar"), 0, 10)


def test_an_outage_between_two_pieces_of_a_recording_is_said_as_it_is(prepared, packed, served, monkeypatch):
    """The decoder asks from C and only learns that there are no bytes."""
    monkeypatch.setattr("svkit.store.audio_bytes._WHOLE_BYTES", 0)
    monkeypatch.setattr("svkit.store.audio_bytes._PIECE_BYTES", 4096)
    monkeypatch.setattr("svkit.store.audio_file._READ_BYTES", 1024)
    place = read_manifest(packed, served.address).audio(0)
    expected = read_audio(read_manifest(prepared / "data/train.tsv").audio_path(0))
    assert np.array_equal(read_audio(place), expected)
    pieces = sum(count > 1 for _, _, count in served.asked)
    assert pieces > 2
    ask = remote_file.RemoteFile.read
    for number in range(1, pieces + 1):
        left = [number - 1]

        def read(file: Any, offset: int, count: int, left: list[int] = left) -> bytes:
            if not left[0]:
                raise DataError("no network")
            left[0] -= 1
            return ask(file, offset, count)

        with monkeypatch.context() as patch, pytest.raises(DataError, match="^no network$"):
            patch.setattr(remote_file.RemoteFile, "read", read)
            read_audio(place)


def test_the_command_line_takes_urls_and_refuses_what_cannot_be_read(prepared, packed, served, tmp_path):
    def run(*arguments: object) -> Any:
        return CliRunner().invoke(app, ["prepare", *map(str, arguments)])

    done = run("check", packed, "--audio-root", served.address, "--min-seconds", 0.1, "--json")
    assert done.exit_code == 0 and '"bad": 0' in done.stdout
    single = run(
        "shards", prepared / "data/valid.tsv", "--audio-root", served.address, "--out", tmp_path / "s"
    )
    assert single.exit_code == 0  # absolute paths stay what they are
    table = read_table(prepared / "data/valid.tsv")
    write_manifest(tmp_path / "l.tsv", table.assign(path="a.wav"))
    refused = run("check", tmp_path / "l.tsv", "--audio-root", served.address)
    assert refused.exit_code == 3
    assert "l.tsv:2: path: expected a local file: at URLs, only tar files" in refused.stderr
    unknown = run("check", packed, "--audio-root", "nonsense://bucket")
    assert unknown.exit_code == 2 and "nonsense:// is not known" in unknown.stderr
