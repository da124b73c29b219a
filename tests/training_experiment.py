"""A prepared experiment of a few synthetic speakers and a recipe of a few steps: for tests of the training stages."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from accelerate.state import AcceleratorState

from svkit.config.architecture import EncoderArchitecture, ModelArchitecture
from svkit.config.load import load_recipe
from svkit.config.schema import HeadConfig, Recipe
from svkit.nn.speaker import SpeakerNetwork
from svkit.progress import SilentProgress
from svkit.store import checkpoint as store
from svkit.store.experiment import update_experiment
from svkit.store.manifest import COLUMNS, write_manifest
from svkit.store.provenance import sha256_file
from svkit.store.trials import Trials, write_trials
from tests.fake_experiment import finish
from tests.random_models import draw_weights

RATE_HZ = 16_000
SPEAKERS = ("0007", "NA", "carol", "dave", "eve")
VALID_SPEAKERS = ("val-1", "val-2", "val-3")

OVERRIDES = (
    "precision=fp32",
    "encoder_overrides.hidden_size=12",
    "encoder_overrides.num_attention_heads=3",
    "encoder_overrides.intermediate_size=20",
    "head.adapter_dim=6",
    "head.attention_dim=5",
    "head.embedding_dim=8",
    "lora.rank=2",
    *(f"{stage}.data.batch_size=4" for stage in ("lora", "head", "joint", "lmft", "prune", "distill")),
    *(
        f"{stage}.data.crop_seconds=[0.3, 0.4]"
        for stage in ("lora", "head", "joint", "lmft", "prune", "distill")
    ),
    *(f"{stage}.epochs=0.5" for stage in ("lora", "head", "joint", "lmft")),
    *(f"{stage}.data.speeds=[1.0, 0.9, 1.1]" for stage in ("lora", "head", "joint")),
    "lmft.data.speeds=[1.0]",
    *(f"{stage}.keep=best" for stage in ("lora", "head", "joint", "lmft")),
    "prune.epochs=1.2",
    "distill.epochs=0.8",
)
"""Changes to `smoke`: 2 layers of 12 channels, steps in single figures."""


def recipe(*overrides: str) -> Recipe:
    """Return the recipe of these tests."""
    return load_recipe("smoke", overrides=[*OVERRIDES, *overrides])


def set_options(*overrides: str) -> list[str]:
    """Return the same recipe as options of the command line."""
    return [text for override in (*OVERRIDES, *overrides) for text in ("--set", override)]


def write_list(path: Path, speakers: tuple[str, ...], per_speaker: int, root: Path) -> list[str]:
    """Write tones with a pitch of their own for each speaker, and their manifest."""
    rows, root = [], root.resolve()
    for number, speaker in enumerate(speakers):
        for take in range(per_speaker):
            rng = np.random.default_rng([sum(speaker.encode()), take])
            time = np.arange(int(RATE_HZ * (0.45 + 0.1 * take))) / RATE_HZ
            wave = np.sin(2 * np.pi * (120 + 90 * number) * time) + 0.3 * rng.standard_normal(len(time))
            audio = root / speaker / f"{take}.wav"
            audio.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(audio, 0.2 * wave, RATE_HZ)
            rows.append(
                (f"{speaker}/{take}.wav", speaker, audio.as_posix(), str(RATE_HZ), str(len(wave)), str(take))
            )
    write_manifest(path, pd.DataFrame(rows, columns=list(COLUMNS)))
    return [row[0] for row in rows]


def prepare(exp: Path, speakers: tuple[str, ...] = SPEAKERS, *, valid: bool = True) -> Path:
    """Write what `svkit prepare` would have written."""
    update_experiment(exp, preset="smoke", encoder="tiny")
    write_list(exp / "data" / "train.tsv", speakers, 4, exp / "audio")
    if valid:
        ids = write_list(exp / "data" / "valid.tsv", VALID_SPEAKERS, 3, exp / "audio")
        pairs = [(a, b) for index, a in enumerate(ids) for b in ids[index + 1 :]]
        labels = np.array([a.split("/")[0] == b.split("/")[0] for a, b in pairs], dtype=np.int8)
        sides = [np.array([pair[side] for pair in pairs], dtype=object) for side in (0, 1)]
        write_trials(exp / "data" / "valid_trials.txt", Trials.of(sides[0], sides[1], labels))
    return exp


TEACHER = ModelArchitecture(
    encoder=EncoderArchitecture.uniform(num_layers=2, hidden_size=12, num_heads=3, ffn_dim=200),
    head=HeadConfig(adapter_dim=6, attention_dim=5, embedding_dim=8),
)


def make_teacher(directory: Path, architecture: ModelArchitecture = TEACHER, seed: int = 1) -> Path:
    """Write a finished checkpoint of random weights, with a classifier of the training speakers at three speeds."""
    network = SpeakerNetwork(architecture)
    draw_weights(network, seed)
    store.write_model(directory, architecture, network.state_dict())
    speeds = [speed for speed in (1.0, 0.9, 1.1) for _ in SPEAKERS]
    weight = torch.randn(
        (len(speeds), architecture.head.embedding_dim), generator=torch.Generator().manual_seed(seed)
    )
    store.write_classifier(
        directory, store.Classifier(weight=weight, speakers=list(SPEAKERS) * 3, speeds=speeds)
    )
    finish(directory)
    return directory


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    """Forget the processes and the precision of other tests, before and after."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@dataclass
class Notes(SilentProgress):
    """Keeps what a stage says."""

    messages: list[str] = field(default_factory=list)

    def note(self, message: str) -> None:
        """Keep one line."""
        self.messages.append(message)

    def __contains__(self, text: str) -> bool:
        return any(text in message for message in self.messages)


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int, *, kill: bool = False) -> None:
    """After so many optimiser steps: SIGTERM to this process, or (kill) an error that no one expects."""
    original, count = torch.optim.AdamW.step, [0]

    def counted(self: torch.optim.AdamW, *arguments: Any, **options: Any) -> Any:
        result = original(self, *arguments, **options)
        count[0] += 1
        if count[0] == step:
            if kill:
                raise MemoryError("killed")
            signal.raise_signal(signal.SIGTERM)
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)


def contents(directory: Path) -> dict[str, str]:
    """Hashes of the files that must not depend on how a run came to its end."""
    names = (store.MODEL_NAME, store.CLASSIFIER_NAME, store.SPEAKERS_NAME, store.CONFIG_NAME)
    names += (f"{store.LAST_NAME}/{store.MODEL_NAME}", f"{store.ADAPTER_NAME}/adapter_model.safetensors")
    return {name: sha256_file(directory / name) for name in names if (directory / name).exists()}


def log(directory: Path) -> list[dict[str, Any]]:
    """Return the training log without its timings."""
    import json

    lines = (directory / store.LOG_NAME).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "examples_per_second"} for line in lines]
