"""Measure training crops per second on one core: reading, speed change, noise, reverberation, and features.

    python benchmarks/data_loading.py ../shared/voices --json data_loading.json

The directory holds `wav/SPEAKER/*.flac`, `noise/` and `music/`. Each row of the table is one configuration, run in this
process with one thread. Both wall time and CPU time are given; the target is for one core.
"""

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import measuring
import pandas as pd
import torch

from svkit.audio.features import FeatureExtractor
from svkit.config.schema import AugmentConfig, DataConfig
from svkit.data.dataset import CropDataset
from svkit.data.loader import build_loader
from svkit.data.sampler import EpochBatches
from svkit.store.audio_file import probe
from svkit.store.manifest import Manifest

CROP_SECONDS = 3.0
BATCH_SIZE = 50


def list_audio(root: Path, files: Iterable[Path], **extra: str) -> Manifest:
    """List the audio files of a tree as a manifest; the speaker is the directory."""
    rows = []
    for path in sorted(files):
        info = probe(path)
        name = path.relative_to(root).as_posix()
        rate, length = str(info.sample_rate_hz), str(info.num_samples)
        rows.append((name, path.parent.name, name, rate, length, "", *extra.values()))
    columns = ["utterance_id", "speaker_id", "path", "sample_rate_hz", "num_samples", "session_id", *extra]
    return Manifest(root / "list.tsv", root, pd.DataFrame(rows, columns=columns))


def crops_per_second(dataset: CropDataset, data: DataConfig, num_batches: int) -> dict[str, float]:
    """Load batches in this process and time them, after a warm-up of a quarter as many, but at least four."""
    batches, features = EpochBatches(len(dataset), data, seed=1), FeatureExtractor()
    for _ in build_loader(dataset, map(batches.batch, range(max(4, num_batches // 4))), num_workers=0):
        pass
    wall, cpu = time.perf_counter(), time.process_time()
    count = 0
    for waveforms, _ in build_loader(
        dataset, map(batches.batch, range(1000, 1000 + num_batches)), num_workers=0
    ):
        features(waveforms)
        count += len(waveforms)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"crops": count, "crops_per_wall_second": count / wall, "crops_per_cpu_second": count / cpu}


def main() -> None:
    """Measure every configuration, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument(
        "--batches", type=int, default=20, help=f"batches of {BATCH_SIZE} crops for each configuration"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    root = arguments.root
    train = list_audio(root, (root / "wav").rglob("*.flac"))
    tables = [
        list_audio(root, (root / name).glob("*.flac"), category=name).table for name in ("noise", "music")
    ]
    noise = Manifest(root / "noise.tsv", root, pd.concat(tables, ignore_index=True))
    everything = AugmentConfig(allow_simulated_rooms=True, allow_missing_noise=True)
    cases: list[tuple[str, tuple[float, ...], AugmentConfig | None, float]] = [
        ("read only", (1.0,), None, 400),
        ("read + speeds", (1.0, 0.9, 1.1), None, 400),
        ("recipe: a third noise, a third rooms, speeds", (1.0, 0.9, 1.1), everything, 100),
        ("always noise, music or babble", (1.0,), _only(noise_probability=1.0, reverb_probability=0.0), 100),
        ("always rooms", (1.0,), _only(noise_probability=0.0, reverb_probability=1.0), 100),
        (
            "always babble of 3-8",
            (1.0,),
            _only(noise_probability=1.0, reverb_probability=0.0, kinds=("babble",)),
            100,
        ),
    ]
    results = []
    for name, speeds, augment, target in cases:
        data = DataConfig(batch_size=BATCH_SIZE, crop_seconds=(CROP_SECONDS, CROP_SECONDS), speeds=speeds)
        dataset = CropDataset(train, data, augment, seed=1, noise=noise)
        measured = crops_per_second(dataset, data, arguments.batches)
        results.append({"case": name, "target": target, **measured})
        wall, cpu = measured["crops_per_wall_second"], measured["crops_per_cpu_second"]
        sys.stdout.write(
            f"{name:46s} {wall:8.0f} crops/s wall {cpu:8.0f} crops/s cpu   target {target:.0f}\n"
        )
    measuring.save(arguments.json, 1, crop_seconds=CROP_SECONDS, results=results)


def _only(
    *,
    noise_probability: float,
    reverb_probability: float,
    kinds: tuple[str, ...] = AugmentConfig().noise_types,
) -> AugmentConfig:
    return AugmentConfig(
        noise_probability=noise_probability,
        reverb_probability=reverb_probability,
        noise_types=kinds,
        allow_simulated_rooms=True,
        allow_missing_noise=True,
    )


if __name__ == "__main__":
    main()
