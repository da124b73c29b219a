"""Miniature corpora in the layouts people have, and a way to run make as a user does."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from tests.e2e.fork_server import serve

REPOSITORY = Path(__file__).resolve().parents[2]
RATE_HZ = 16_000


def speech(speaker: int, take: int, seconds: float) -> NDArray[np.float32]:
    """Render a buzz with the speaker's pitch and resonances, in syllables."""
    voice = np.random.default_rng([7, speaker])
    rng = np.random.default_rng([8, speaker, take])
    f0, formants = voice.uniform(90, 240), voice.uniform([300, 900, 2200], [800, 2000, 3200])
    time_s = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    pitch = f0 * (1 + 0.08 * np.sin(2 * np.pi * rng.uniform(1, 3) * time_s + rng.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE_HZ
    wave = np.zeros_like(time_s)
    for harmonic in range(1, int(4000 / f0)):
        gain = sum(np.exp(-(((harmonic * f0 - formant) / 200) ** 2)) for formant in formants) + 0.01
        wave += gain * np.sin(harmonic * phase)
    wave *= 0.3 + 0.7 * np.clip(np.sin(2 * np.pi * 3.5 * time_s + rng.uniform(0, 6)), 0, 1)
    wave = wave / np.abs(wave).max() + 0.02 * rng.standard_normal(len(time_s))
    return (0.4 * wave).astype(np.float32)


def write_audio(path: Path, samples: NDArray[np.float32]) -> None:
    """Write a file and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE_HZ)


def write_noise(path: Path, seed: int, seconds: float = 3.0) -> None:
    """Write coloured noise."""
    rng = np.random.default_rng([9, seed])
    white = rng.standard_normal(int(seconds * RATE_HZ))
    write_audio(path, (0.1 * np.convolve(white, rng.standard_normal(8), "same") / 3).astype(np.float32))


def write_rir(path: Path, seed: int) -> None:
    """Write a room impulse response: a direct path and an exponential tail."""
    rng = np.random.default_rng([10, seed])
    tail = rng.standard_normal(4000) * np.exp(-np.arange(4000) / 600)
    tail[0] = 4.0
    write_audio(path, (tail / np.abs(tail).max()).astype(np.float32))


@dataclass(frozen=True)
class MakeRun:
    """One finished run of make."""

    returncode: int
    stdout: str
    stderr: str


def run_make(workplace: Path, *settings: str) -> MakeRun:
    """Run the repository's Makefile with the environment the tests run in; outputs go below `workplace`."""
    prefix = Path(sys.prefix)
    command = ["make", "--file", str(REPOSITORY / "Makefile"), *settings, "SETUP=", f"VENV={prefix}"]
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL")}
    done = subprocess.run(
        command, cwd=workplace, env=environment, capture_output=True, text=True, check=False
    )
    return MakeRun(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def quick_svkit() -> Iterator[str]:
    """Setting of make for an svkit that starts at once."""
    with serve() as client:
        yield f"SVKIT={client}"


@pytest.fixture(scope="session")
def encoder_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers directory as `save_pretrained` writes it, feature extractor included."""
    import torch
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

    folder = tmp_path_factory.mktemp("hub") / "w2v-bert small"
    torch.manual_seed(0)
    config = Wav2Vec2BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        conv_depthwise_kernel_size=7,
    )
    Wav2Vec2BertModel(config).save_pretrained(folder)
    SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, stride=2).save_pretrained(folder)
    return folder


def stage_files(exp: Path) -> dict[str, tuple[int, int]]:
    """Return name -> (inode, time) of every result in an experiment, to see what was made again."""
    kinds = ("model.safetensors", "embeddings.safetensors", "scores.tsv", "train.tsv")
    found = {
        path: path.stat() for kind in kinds for path in exp.rglob(kind) if "checkpoints" not in path.parts
    }
    return {path.relative_to(exp).as_posix(): (stat.st_ino, stat.st_mtime_ns) for path, stat in found.items()}
