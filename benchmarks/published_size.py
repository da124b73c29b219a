"""Convert a full-size `.pth` of the published pruned structure, and compare two recordings with it.

    python benchmarks/published_size.py [--work DIR] [--json FILE]

The weights are random, so this tests size, format and memory, but not decisions. Nothing is downloaded: the script
itself writes the file in the published format (names as in the published code, wrapped for DistributedDataParallel).
The embeddings of the converted checkpoint must equal those of the model that was written. Needs 2 GB of disk in DIR.
"""

import argparse
import functools
import json
import os
import tempfile
from pathlib import Path

import measuring
import numpy as np
import pruned_speed
import soundfile
import torch
from torch import Tensor

import svkit
from svkit.config.architecture import W2V_BERT_2, ModelArchitecture
from svkit.config.schema import HeadConfig
from svkit.nn.speaker import SpeakerNetwork
from svkit.store.upstream import SPEEDS

_HEAD = {
    ".down.": ".0.", ".norm.": ".1.", ".out.": ".3.", "head.layer_adapters.": "adapter_layers.",
    "head.pooling.attention_in.": "pooling.attention.0.", "head.pooling.batch_norm.": "pooling.attention.2.",
    "head.pooling.attention_out.": "pooling.attention.3.", "head.embedding.": "bottleneck.",
}  # fmt: skip
"""Our names in the head, and the published ones."""


def published_state(network: SpeakerNetwork) -> dict[str, Tensor]:
    """Return the state of a model with the names and shapes of the published code."""
    state = {}
    for name, tensor in network.state_dict().items():
        if name.startswith("encoder."):
            state[f"front.{name}"] = tensor.unsqueeze(-1) if "pointwise_conv" in name else tensor
            continue
        convolved = ".attention_" in name and name.endswith("weight")
        for ours, theirs in _HEAD.items():
            name = name.replace(ours, theirs)
        state[name] = tensor.unsqueeze(-1) if convolved else tensor
    return state


def main() -> None:
    """Write, convert, describe, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, help="directory for temporary files")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measuring.start(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for the commands
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        home = Path(folder)
        torch.manual_seed(0)
        pruned = W2V_BERT_2.with_widths(
            {
                kind: [int(width) for width in widths.split()]
                for kind, widths in pruned_speed.PUBLISHED.items()
            }
        )
        network = SpeakerNetwork(ModelArchitecture(encoder=pruned, head=HeadConfig())).eval()
        state = {f"module.{name}": tensor for name, tensor in published_state(network).items()}
        classifier = {"module.weight": torch.randn(5_994 * len(SPEEDS), 256)}
        pth, out = home / "pruned.pth", home / "out"
        torch.save({"modules": {"spk_model": state, "classifier": classifier}}, pth)
        rng = np.random.default_rng(0)
        paths = [home / "a.wav", home / "b.wav"]
        for seconds, path in zip((3, 5), paths, strict=True):
            soundfile.write(path, 0.1 * rng.standard_normal(16_000 * seconds), 16_000, subtype="FLOAT")
        waves = [soundfile.read(path, dtype="float32")[0] for path in paths]
        with torch.inference_mode():
            expected = np.concatenate([network.embed_padded([wave]) for wave in waves])
        del network, state, classifier
        svkit_alone = functools.partial(measuring.run_alone, "-m", "svkit")
        converted = svkit_alone("convert", pth, out)
        facts = json.loads(svkit_alone("info", out, "--json").printed)
        verified = svkit_alone("verify", *paths, "--model", out, "--json")
        embeddings = np.concatenate([svkit.load(out).embed([wave]) for wave in waves])
        a, b = (row / np.linalg.norm(row) for row in expected.astype(np.float64))
        result = {
            "pth_mb": pth.stat().st_size / 1e6,
            "encoder_parameters": facts["encoder_parameters"],
            "sparsity": facts["sparsity"],
            "convert": {"seconds": converted.taken.wall, "peak_gb": converted.peak_gb},
            "verify": {"seconds": verified.taken.wall, "peak_gb": verified.peak_gb},
            "embedding_difference": float(np.abs(embeddings - expected).max() / np.abs(expected).max()),
            "score_difference": abs(json.loads(verified.printed)["score"] - float(a @ b)),
            "score": float(a @ b),
        }
    print(json.dumps(result, indent=1))
    if max(result["embedding_difference"], result["score_difference"]) > 1e-5:
        raise SystemExit("the converted checkpoint does not compute what the written model computes")
    measuring.save(options.json, options.threads, **result)


if __name__ == "__main__":
    main()
