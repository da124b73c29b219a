"""Time the features of 64 utterances of 3 s, by svkit and by transformers' `SeamlessM4TFeatureExtractor`.

    python benchmarks/features.py [--threads 1] [--rounds 5] [--json FILE]

Ours must be equal to 1e-3, and should be at least 10 times as fast.
"""

import argparse
import sys
from pathlib import Path

import measuring
import numpy as np
import torch
from transformers import SeamlessM4TFeatureExtractor

from svkit.audio.features import FFT_SAMPLES, NUM_MELS, FeatureExtractor

BATCH_SIZE, SECONDS = 64, 3
TARGET = 10.0


def speech_like(rng: np.random.Generator, count: int, samples: int) -> np.ndarray:
    """Noise whose spectrum falls with frequency and whose level changes, [count, samples] float32."""
    noise = np.cumsum(rng.normal(size=(count, samples)), axis=1)
    noise -= np.apply_along_axis(lambda row: np.convolve(row, np.ones(200) / 200, "same"), 1, noise)
    level = 0.2 + np.abs(np.sin(np.linspace(0, 20, samples)))
    white = rng.normal(size=noise.shape)
    return (0.02 * (noise / noise.std() + 0.3 * white) * level).astype(np.float32)


def main() -> None:
    """Check, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measuring.start(options.threads)
    waveforms = speech_like(np.random.default_rng(0), BATCH_SIZE, SECONDS * 16_000)
    batch = torch.from_numpy(waveforms)
    stock, own = SeamlessM4TFeatureExtractor(feature_size=NUM_MELS), FeatureExtractor()
    expected = stock(list(waveforms), sampling_rate=16_000, return_tensors="pt")["input_features"]
    difference = (own(batch)[0] - expected).abs()
    assert float(difference.max()) < 1e-3, f"the features differ by {float(difference.max()):.2g}"
    times = measuring.take_turns(
        {
            "transformers": lambda: stock(list(waveforms), sampling_rate=16_000, return_tensors="pt"),
            "svkit": lambda: own(batch),
        },
        options.rounds,
    )
    # The usual count for the FFT of real input (2.5 n log2 n operations, half as many multiply-adds) and the mel
    # product, at the rate of a matrix product.
    frames = BATCH_SIZE * (SECONDS * 100 - 2)
    operations = frames * (1.25 * FFT_SAMPLES * np.log2(FFT_SAMPLES) + (FFT_SAMPLES // 2 + 1) * NUM_MELS)
    limit = float(operations) / measuring.matmul_peak(torch.float32)
    rows = [
        (
            name,
            taken.wall,
            taken.cpu,
            times["transformers"].cpu / taken.cpu,
            times["transformers"].wall / taken.wall,
            limit / taken.cpu,
        )
        for name, taken in times.items()
    ]
    columns = ("features", "wall s", "cpu s", "x, cpu", "x, wall", "of the limit")
    print(measuring.table(columns, rows))
    measuring.save(
        options.json,
        options.threads,
        target=TARGET,
        largest_difference=float(difference.max()),
        limit_seconds=limit,
        limit="multiply-adds of FFT and mel product at the measured rate of a matrix product",
        rows=[dict(zip(columns, row, strict=True)) for row in rows],
    )
    sys.exit(rows[-1][3] < TARGET)


if __name__ == "__main__":
    main()
