"""An experiment directory as the stages leave it, made in milliseconds: for tests of score and report."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from svkit.config.architecture import WIDTHS, EncoderArchitecture, ModelArchitecture
from svkit.config.schema import HeadConfig
from svkit.nn.speaker import SpeakerNetwork
from svkit.store.atomic import write_json
from svkit.store.checkpoint import SPEAKERS_NAME, append_log, write_model
from svkit.store.embeddings import write_embeddings
from svkit.store.manifest import COLUMNS, write_manifest
from svkit.store.places import recorded_paths
from svkit.store.provenance import sha256_artifact, sha256_file
from svkit.store.report import Timing
from svkit.store.tables import write_table
from svkit.store.trials import Trials, write_trials

ENCODER = EncoderArchitecture.uniform(num_layers=3, hidden_size=32, num_heads=4, ffn_dim=64)
HEAD = HeadConfig(adapter_dim=8, attention_dim=8, embedding_dim=12)
DENSE = ModelArchitecture(encoder=ENCODER, head=HEAD)


PRUNING = {
    "constraint": "projection",
    "target": 0.8,
    "expected": 0.795,
    "counted": 0.8004,
    "before_cut": {"l1": 0.2, "cosine": 0.955},
    "after_cut": {"l1": 0.205, "cosine": 0.953},
    "moved": 0.025,
    "vanished": [],
    "cautions": [],
}
"""What `svkit prune` records."""


def finish(directory: Path, command: str = "test", made_from: dict[str, Path] | None = None, **facts) -> None:
    """Mark an output as complete, made from artifacts beside it by name."""
    write_json(
        directory / "provenance.json",
        {
            "format": "svkit-provenance",
            "format_version": 1,
            "command": command,
            "svkit": "0",
            "git_commit": None,
            "seed": 1,
            "device": "cpu",
            "started": "2026-01-01T00:00:00+00:00",
            "finished": "2026-01-01T00:01:00+00:00",
            "config": {},
            "inputs": [
                {"name": name, "path": path.as_posix(), "sha256": sha256_artifact(path)}
                for name, path in (made_from or {}).items()
            ],
            **facts,
        },
    )


def draw_and_time_nothing(patch: pytest.MonkeyPatch) -> None:
    """Let reports be written in no time."""
    timing = Timing(wall=0.1, cpu=0.1)
    patch.setattr("svkit.reports.figures.draw", lambda _: (b"a figure", "<svg></svg>"))
    patch.setattr("svkit.reports.timing.time_models", lambda models, _: dict.fromkeys(models, timing))


def pruned(architecture: ModelArchitecture) -> ModelArchitecture:
    """Cut to uneven widths, one branch gone."""
    full = architecture.encoder.widths()
    widths = {name: [width // (2 + layer) for layer, width in enumerate(full[name])] for name in WIDTHS}
    widths["num_heads"][-1] = 0
    return replace(
        architecture,
        encoder=architecture.encoder.with_widths(widths),
        dense_widths={name: tuple(full[name]) for name in WIDTHS},
    )


def make_checkpoint(directory: Path, architecture: ModelArchitecture, log: list[dict]) -> None:
    """Write a random model with a training log, as if trained on two speakers."""
    torch.manual_seed(0)
    write_model(directory, architecture, SpeakerNetwork(architecture).state_dict())
    speakers = pd.DataFrame({"row": ["0", "1"], "speaker_id": ["train-0", "train-1"], "speed": "1"})
    write_table(directory / SPEAKERS_NAME, speakers)
    for record in log:
        append_log(directory, record)
    finish(directory)


def training_log(num_steps: int = 40) -> list[dict]:
    """Losses that fall and a validation EER that falls with them."""
    records: list[dict] = [
        {"kind": "train", "step": step, "epoch": 0, "loss": 9.0 / (1 + step / 9), "lr": 1e-3}
        for step in range(1, num_steps + 1)
    ]
    return records + [
        {"kind": "valid", "step": step, "epoch": 0, "eer": 0.4 / step, "min_dcf": 0.9}
        for step in (10, 20, 40)
    ]


def pruning_log() -> list[dict]:
    """A sparsity that follows its target."""
    return [
        {"kind": "train", "step": step, "epoch": 0, "loss": 2.0 - step / 40, "l1": 1.0, "cosine": 0.5,
         "sparsity": 0.8 * min(1, step / 28), "target_sparsity": 0.8 * min(1, step / 25),
         "counted_sparsity": 0.8 * min(1, step / 26)}
        for step in range(1, 41)
    ]  # fmt: skip


def make_lists(exp: Path, num_speakers: int, per_speaker: int) -> list[str]:
    """Write a manifest and a list of all its pairs; return the utterances."""
    ids = [f"{speaker:05d}/{take}.wav" for speaker in range(num_speakers) for take in range(per_speaker)]
    table = pd.DataFrame(
        {"utterance_id": ids, "speaker_id": [name.split("/")[0] for name in ids], "path": ids,
         "sample_rate_hz": "16000", "num_samples": "32000", "session_id": ""}
    )[list(COLUMNS)]  # fmt: skip
    write_manifest(exp / "data" / "eval.tsv", table)
    pairs = [(a, b) for i, a in enumerate(ids) for b in ids[i + 1 :]]
    labels = np.array([a[:5] == b[:5] for a, b in pairs], dtype=np.int8)
    left, right = (np.array([pair[side] for pair in pairs], dtype=object) for side in (0, 1))
    write_trials(exp / "data" / "trials" / "all.txt", Trials.of(left, right, labels))
    return ids


def make_embeddings(
    exp: Path, name: str, ids: list[str], noise: float, checkpoint: Path, **more: object
) -> None:
    """Write embeddings of a system: voices with some noise, as if `checkpoint` had made them; `more` are facts."""
    speakers = np.array([int(name[:5]) for name in ids])
    voices = np.random.default_rng(0).normal(size=(speakers.max() + 1, 8))[speakers]
    rng = np.random.default_rng(int(1000 * noise))
    matrix = (voices + noise * rng.normal(size=voices.shape)).astype(np.float32)
    manifest = exp / "data" / "eval.tsv"
    facts = {
        "model": name,
        "checkpoint": {"path": checkpoint.as_posix(), "sha256": sha256_artifact(checkpoint)},
        "manifest": {"path": manifest.as_posix(), "sha256": sha256_file(manifest)},
        **more,
    }
    directory = exp / "embeddings" / name
    write_embeddings(directory, ids, matrix, recorded_paths(directory, facts, exp))
    finish(directory)


def finish_chain(exp: Path, pruned_into: str = "prune", **facts) -> None:
    """Record that the pruned model comes from `exp/prune`, and that from the dense one; `facts` are of the pruning."""
    finish(exp / pruned_into, "prune", {"teacher": exp / "finetune/joint"}, **(facts or {"pruning": PRUNING}))
    finish(exp / "distill", "distill", {"student": exp / pruned_into, "teacher": exp / "finetune/joint"})
    finish(exp / "finetune-pruned/lmft", "finetune", {"checkpoint": exp / "distill"})


def make_experiment(
    exp: Path, num_speakers: int = 8, per_speaker: int = 4, architecture: ModelArchitecture = DENSE
) -> None:
    """Write an experiment with a dense and a pruned model up to the embeddings."""
    small = pruned(architecture)
    for path, model, log in (
        ("finetune/joint", architecture, training_log()),
        ("finetune/lmft", architecture, training_log(20)),
        ("prune", small, pruning_log()),
        ("distill", small, []),
        ("finetune-pruned/lmft", small, training_log(30)),
    ):
        make_checkpoint(exp / path, model, log)
    # Random weights are equal in every stage; make the contents differ as trained ones would.
    for number, path in enumerate(("finetune/joint", "distill")):
        (exp / path / "classifier.safetensors").write_bytes(json.dumps(number).encode())
    finish_chain(exp)
    ids = make_lists(exp, num_speakers, per_speaker)
    make_embeddings(exp, "dense", ids, 0.6, exp / "finetune" / "lmft")
    make_embeddings(exp, "pruned", ids, 0.8, exp / "finetune-pruned" / "lmft")
