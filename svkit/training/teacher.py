"""What pruning and distillation share: teacher and student, and their distance on fixed crops of held-out speakers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from svkit.config.schema import DataConfig
from svkit.data.dataset import CropDataset, CropKey
from svkit.errors import ArtifactError
from svkit.nn.precision import product_dtype
from svkit.store.manifest import read_manifest
from svkit.training.tasks import DistillationTask

NUM_VALIDATION_CROPS = 64
_BATCH = 16


def training_inputs(exp: Path, manifest: Path | None) -> dict[str, Path]:
    """Lists that pruning and distillation read."""
    inputs = {"train": manifest or exp / "data" / "train.tsv"}
    if (exp / "data" / "valid.tsv").exists():
        inputs["valid"] = exp / "data" / "valid.tsv"
    return inputs


def default_teacher(exp: Path, teacher: Path | None) -> Path:
    """Checkpoint of the teacher: the stage-2 model unless given."""
    path = teacher or exp / "finetune" / "joint"
    if not path.exists():
        raise ArtifactError(
            f"{path}: no such teacher checkpoint; run `svkit finetune` first, or pass --teacher"
        )
    return path


def place(task: DistillationTask, accelerator: Accelerator) -> None:
    """Move a task to its device and prepare the teacher there (in place)."""
    task.to(accelerator.device)
    task.prepare_teacher(product_dtype(accelerator.mixed_precision))


@dataclass(frozen=True, kw_only=True, slots=True)
class DistanceMeter:
    """Measures the distillation losses on the same crops every time."""

    dataset: CropDataset
    keys: tuple[CropKey, ...]

    @classmethod
    def open(cls, valid: Path | None, data: DataConfig, seed: int) -> "DistanceMeter | None":
        """Take crops evenly over the validation list; None without one."""
        if valid is None:
            return None
        manifest = read_manifest(valid)
        dataset = CropDataset(manifest, DataConfig(batch_size=_BATCH, speeds=(1.0,)), None, seed=seed)
        count = min(NUM_VALIDATION_CROPS, len(manifest))
        num_samples = int(data.crop_seconds[1] * 16_000)
        rows = [index * len(manifest) // count for index in range(count)]
        return cls(dataset=dataset, keys=tuple(CropKey(0, row, 0, 0, num_samples) for row in rows))

    @torch.inference_mode()
    def measure(self, task: nn.Module, accelerator: Accelerator) -> dict[str, Any]:
        """Mean L1 distance and cosine of the hidden states, gates in their deterministic state."""
        assert isinstance(task, DistillationTask)
        was_training = task.training
        task.eval()
        sums = {"l1": 0.0, "cosine": 0.0}
        for first in range(0, len(self.keys), _BATCH):
            items = [self.dataset[key] for key in self.keys[first : first + _BATCH]]
            waveforms = torch.stack([waveform for waveform, _ in items]).to(accelerator.device)
            with accelerator.autocast():
                losses = task.distance(waveforms)
            for name in sums:
                sums[name] += float(losses[name]) * len(items)
        task.train(was_training)
        return {name: total / len(self.keys) for name, total in sums.items()}
