"""Measure what conditions cost in training: CPU time for each on a crop, and crops per second if a recipe uses some.

    python benchmarks/conditions.py ../shared/voices [--crops 20] [--json docs/results/conditions.json]

Crops are 3 s long and changed on one core. The conditions take turns, after one crop of warm-up. For ffmpeg's codecs
the CPU time of its processes counts too; wall time would say little on a busy machine. Conditions whose codec this
machine lacks are listed in the record.
"""

import argparse
import resource
import statistics
from pathlib import Path

import measuring
import numpy as np
from data_loading import BATCH_SIZE, CROP_SECONDS, crops_per_second, list_audio

from svkit.audio.crop import repeat_to
from svkit.audio.resample import SAMPLE_RATE_HZ
from svkit.config.conditions import CHANNELS
from svkit.config.schema import AugmentConfig, DataConfig
from svkit.data.audio_source import read_whole
from svkit.data.conditions import change, require_condition
from svkit.data.dataset import CropDataset
from svkit.errors import ConfigError

SHARE = 0.3
"""Share of the crops to which a condition is applied."""
FAST = ("alaw", "ulaw", "gsm", "mp3-16k", "loss10", "narrowband", "clip")
"""The conditions that docs/conditions.md proposes for training."""


def computing_seconds() -> float:
    """Return the CPU time of this process and of those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Measure every condition that works on this machine, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--crops", type=int, default=20, help="number of crops for each condition")
    parser.add_argument(
        "--batches", type=int, default=4, help=f"batches of {BATCH_SIZE} crops through the loader"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measuring.start(1)
    voices = list_audio(options.root, sorted((options.root / "wav").rglob("*.flac"))[::9])
    rows = np.random.default_rng(0).choice(len(voices), options.crops + 1, replace=False)
    crops = [repeat_to(read_whole(voices, int(row)), round(CROP_SECONDS * SAMPLE_RATE_HZ)) for row in rows]
    taken: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    for name in CHANNELS:
        try:
            require_condition(name)
            taken[name] = []
        except ConfigError:
            missing[name] = "no codec on this machine"
    for number, crop in enumerate(crops):
        for name, times in taken.items():
            before = computing_seconds()
            change(name, crop, np.random.default_rng(number))
            times += [1000 * (computing_seconds() - before)] if number else []
    milliseconds = {name: statistics.median(times) for name, times in taken.items()}
    print(
        measuring.table(["condition", "ms a crop"], [[name, value] for name, value in milliseconds.items()])
    )
    data = DataConfig(batch_size=BATCH_SIZE, crop_seconds=(CROP_SECONDS, CROP_SECONDS))
    recipe = {"noise_probability": 0.0, "reverb_probability": 1 / 3, "allow_simulated_rooms": True}
    cases = {
        "rooms": AugmentConfig(**recipe),
        "rooms and conditions": AugmentConfig(**recipe, condition_probability=SHARE, conditions=FAST),
    }
    loader = {
        name: crops_per_second(CropDataset(voices, data, config, seed=1), data, options.batches)
        for name, config in cases.items()
    }
    for name, measured in loader.items():
        print(f"{name}: {measured['crops_per_cpu_second']:.0f} crops per second of CPU time")
    measuring.save(
        options.json,
        1,
        crop_seconds=CROP_SECONDS,
        rows=[{"condition": name, "milliseconds": value} for name, value in milliseconds.items()],
        missing=missing,
        share=SHARE,
        fast=FAST,
        loader=[{"case": name, **measured} for name, measured in loader.items()],
    )


if __name__ == "__main__":
    main()
