"""Validation while training: EER on trials among speakers held out of training, never on the evaluation lists."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray

from svkit.config.schema import ExtractConfig
from svkit.errors import DataError, first_five
from svkit.eval.metrics import equal_error_rate, error_curve, min_dcf
from svkit.models.embed import embed_rows, refuse_short
from svkit.nn.speaker import SpeakerNetwork
from svkit.store.manifest import Manifest, read_manifest
from svkit.store.trials import read_trials


@dataclass(frozen=True, kw_only=True, slots=True)
class Validator:
    """Validation list and trials, checked once."""

    manifest: Manifest
    enroll_rows: NDArray[np.int64]
    test_rows: NDArray[np.int64]
    labels: NDArray[np.int8]

    @classmethod
    def open(cls, manifest_path: Path, trials_path: Path) -> "Validator":
        """Read both files (DataError when a trial names an utterance the manifest lacks, or one is too short)."""
        manifest, trials = read_manifest(manifest_path), read_trials(trials_path)
        refuse_short(manifest)
        rows = {utterance: row for row, utterance in enumerate(manifest.utterance_ids)}
        unknown = sorted(set(trials.ids) - set(rows))
        if unknown:
            raise DataError(f"{trials_path}: utterances that {manifest_path} lacks: {first_five(unknown)}")
        if trials.labels.min() == trials.labels.max():
            raise DataError(f"{trials_path}: expected target and nontarget trials, found one class only")
        return cls(
            manifest=manifest,
            enroll_rows=trials.enroll.look_up(np.array([rows[name] for name in trials.enroll.values])),
            test_rows=trials.test.look_up(np.array([rows[name] for name in trials.test.values])),
            labels=trials.labels,
        )

    def measure(
        self, network: SpeakerNetwork, extract: ExtractConfig, accelerator: Accelerator
    ) -> dict[str, float]:
        """EER and minDCF (p = 0.01) of cosine scores; every process must call it."""
        share = embed_rows(network, self.manifest, extract, accelerator)
        parts = gather_object([share]) if accelerator.num_processes > 1 else [share]
        matrix = np.zeros((len(self.manifest), network.architecture.head.embedding_dim), dtype=np.float32)
        for rows, embeddings in parts:
            matrix[rows] = embeddings
        matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
        scores = np.einsum("nd,nd->n", matrix[self.enroll_rows], matrix[self.test_rows])
        curve = error_curve(scores, self.labels)
        return {"eer": equal_error_rate(curve), "min_dcf": min_dcf(curve, p_target=0.01)[0]}
