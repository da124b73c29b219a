"""Compare two recordings with an exported model: needs onnxruntime, numpy and soundfile, and neither torch nor svkit.

Usage: python onnx_embed.py exp/onnx/pruned/model.onnx a.wav b.wav
"""

import sys

import numpy as np
import onnxruntime
import soundfile


def read(path: str) -> np.ndarray:
    """Read channel 0 of a 16 kHz file."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    assert rate == 16_000, f"{path}: expected 16 kHz, found {rate}"
    return samples[: 60 * rate, 0]


session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
recordings = [read(path) for path in sys.argv[2:]]
lengths = np.array([len(samples) for samples in recordings], dtype=np.int64)
batch = np.stack([np.pad(samples, (0, lengths.max() - len(samples))) for samples in recordings])
(embeddings,) = session.run(None, {"waveforms": batch, "num_samples": lengths})
units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
print(f"cosine {units[0] @ units[1]:.4f}")
