"""Measure training crops per CPU second from files, tar shards, and tar shards at URLs, with and without a cache.

    python benchmarks/shard_loading.py ../shared/voices --json shard_loading.json

The directory holds `wav/SPEAKER/*.flac`. The server runs on this machine too: the CPU time of one loading process,
including features, and its requests to the server are compared; a real network would add its delays. The ways take
turns.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import measuring
import torch
from data_loading import BATCH_SIZE, CROP_SECONDS, crops_per_second, list_audio

from svkit.config.schema import DataConfig
from svkit.data.dataset import CropDataset
from svkit.lists import shards
from svkit.progress import SilentProgress
from svkit.store.block_cache import BlockCache
from svkit.store.manifest import Manifest, read_manifest, write_manifest
from svkit.store.remote_file import RemoteFile

_PER_SHARD = 256
_CACHE_GB = 1.0
_asked: list[int] = []
"""Number of bytes of each request."""


def main() -> None:
    """Pack the recordings, load crops in every way in turns, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--batches", type=int, default=6, help=f"batches of {BATCH_SIZE} crops in each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    _count_requests()
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = list_audio(arguments.root, (arguments.root / "wav").rglob("*.flac"))
        write_manifest(place / "train.tsv", files.table)
        request = shards.ShardsRequest(
            list=place / "train.tsv", out=place / "shards", audio_root=arguments.root, per_shard=_PER_SHARD
        )
        packed = Path(shards.run(request, SilentProgress()).list)
        command = [sys.executable, Path(__file__).with_name("range_server.py"), packed.parent]
        server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(server.kill)
        local = read_manifest(packed)
        remote = read_manifest(packed, server.stdout.readline().strip())  # type: ignore[union-attr]
        turns: dict[str, list[dict[str, float]]] = {}
        for number in range(arguments.rounds):
            cache = BlockCache.make(place / f"cache-{number}", _CACHE_GB)
            ways = {
                "files": files,
                "shards": local,
                "shards at URLs": remote,
                "the same, cache empty at first": replace(remote, cache=cache),
                "the same, all in the cache": replace(remote, cache=cache),
            }
            for way, manifest in ways.items():
                turns.setdefault(way, []).append(_load(manifest, arguments.batches))
    rows = [{"way": way, **_median(found)} for way, found in turns.items()]
    for row in rows:
        row["cpu_time_over_files"] = rows[0]["crops_per_cpu_second"] / row["crops_per_cpu_second"]
    columns = [
        "way",
        "crops_per_cpu_second",
        "cpu_time_over_files",
        "requests_per_crop",
        "kilobytes_per_crop",
    ]
    print(measuring.table(columns, [[row[name] for name in columns] for row in rows]))
    measuring.save(
        arguments.json,
        1,
        crop_seconds=CROP_SECONDS,
        utterances=len(files),
        rounds=arguments.rounds,
        rows=rows,
    )


def _load(manifest: Manifest, batches: int) -> dict[str, float]:
    data = DataConfig(batch_size=BATCH_SIZE, crop_seconds=(CROP_SECONDS, CROP_SECONDS), speeds=(1.0,))
    _asked.clear()
    measured = crops_per_second(CropDataset(manifest, data, None, seed=1), data, batches)
    loaded = BATCH_SIZE * (batches + max(4, batches // 4))  # requests of the warm-up are counted too
    return {
        "crops_per_cpu_second": measured["crops_per_cpu_second"],
        "requests_per_crop": len(_asked) / loaded,
        "kilobytes_per_crop": sum(_asked) / loaded / 1000,
    }


def _median(found: list[dict[str, float]]) -> dict[str, Any]:
    return {name: statistics.median(turn[name] for turn in found) for name in found[0]}


def _count_requests() -> None:
    read = RemoteFile.read

    def counted(self: RemoteFile, offset: int, count: int) -> bytes:
        _asked.append(count)
        return read(self, offset, count)

    RemoteFile.read = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
