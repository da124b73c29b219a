"""Validation while training, on speakers held out of training, never on the evaluation lists.

Fine-tuning measures the EER on trials among them; pruning and distillation measure the distance to the teacher on fixed
crops of them.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from svkit.audio.resample import SAMPLE_RATE_HZ
from svkit.config.schema import DataConfig, ExtractConfig
from svkit.data.dataset import CropDataset, CropKey
from svkit.errors import DataError, first_five
from svkit.eval.metrics import equal_error_rate, error_curve, min_dcf
from svkit.models.embed import embed_rows, refuse_short_rows
from svkit.nn.speaker import SpeakerNetwork
from svkit.store.manifest import read_manifest
from svkit.store.trials import read_trials
from svkit.training.tasks import DistillationTask

NUM_CROPS = 64
_BATCH = 16


class Validator:
    """EER of cosine scores on trials among held-out speakers."""

    def __init__(self, manifest_path: Path, trials_path: Path) -> None:
        """Read both files; DataError when they do not fit together, or all trials are of one class."""
        self.manifest, trials = read_manifest(manifest_path), read_trials(trials_path)
        refuse_short_rows(self.manifest)
        rows = {utterance: row for row, utterance in enumerate(self.manifest.utterance_ids)}
        unknown = sorted(set(trials.ids) - set(rows))
        if unknown:
            raise DataError(f"{trials_path}: utterances that {manifest_path} lacks: {first_five(unknown)}")
        if trials.labels.min() == trials.labels.max():
            raise DataError(f"{trials_path}: expected target and nontarget trials, found one class only")
        self.enroll_rows, self.test_rows = (
            side.look_up(np.array([rows[name] for name in side.values]))
            for side in (trials.enroll, trials.test)
        )
        self.labels = trials.labels

    def measure(
        self, network: SpeakerNetwork, extract: ExtractConfig, accelerator: Accelerator
    ) -> dict[str, float]:
        """Return EER and minDCF (p = 0.01); every process must call this, and embeds its share."""
        parts = list(embed_rows(network, self.manifest, extract, accelerator))
        if accelerator.num_processes > 1:
            parts = gather_object(parts)
        matrix = np.zeros((len(self.manifest), network.architecture.head.embedding_dim), dtype=np.float32)
        for rows, embeddings in parts:
            matrix[rows] = embeddings
        matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
        scores = np.einsum("nd,nd->n", matrix[self.enroll_rows], matrix[self.test_rows])
        curve = error_curve(scores, self.labels)
        return {"eer": equal_error_rate(curve), "min_dcf": min_dcf(curve, p_target=0.01)[0]}


class DistanceMeter:
    """Distillation losses on the same crops every time."""

    def __init__(self, valid: Path, data: DataConfig, seed: int) -> None:
        """Read up to `NUM_CROPS` crops of the longest training length, evenly spread over the validation list."""
        manifest = read_manifest(valid)
        dataset = CropDataset(manifest, replace(data, speeds=(1.0,)), None, seed=seed)
        count, num_samples = min(NUM_CROPS, len(manifest)), int(data.crop_seconds[1] * SAMPLE_RATE_HZ)
        rows = [index * len(manifest) // count for index in range(count)]
        crops = [dataset[CropKey(0, row, 0, 0, num_samples)][0] for row in rows]
        self.batches = torch.stack(crops).split(_BATCH)

    @torch.inference_mode()
    def measure(self, task: DistillationTask, accelerator: Accelerator) -> dict[str, float]:
        """Mean L1 distance and cosine of the hidden states, gates in their deterministic state."""
        was_training = task.training
        task.eval()
        sums, count = {"l1": 0.0, "cosine": 0.0}, 0
        # The crops are so few that every process measures them all; there is nothing to exchange.
        for waveforms in self.batches:
            with accelerator.autocast():
                losses = task.distance(waveforms.to(accelerator.device))
            count += len(waveforms)
            for name in sums:
                sums[name] += float(losses[name]) * len(waveforms)
        task.train(was_training)
        return {name: total / count for name, total in sums.items()}
