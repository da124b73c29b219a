"""Convert a pruned model of the published structure at full size from a `.pth` alone, and compare two recordings.

The weights are random: this tries the size, the format and the memory, not the decisions. The file is written in the
published format (names as in the published code, wrapped for DistributedDataParallel), so nothing is downloaded.
Needs 2 GB of disk and 3 GB of memory: `python benchmarks/published_size.py [DIR]`.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from svkit.config.architecture import ModelArchitecture
from svkit.config.schema import HeadConfig
from svkit.nn.speaker import SpeakerNetwork
from tests.pruning.published import PRUNED

_HEAD = {
    ".down.": ".0.", ".norm.": ".1.", ".out.": ".3.", "head.layer_adapters.": "adapter_layers.",
    "head.pooling.attention_in.": "pooling.attention.0.", "head.pooling.batch_norm.": "pooling.attention.2.",
    "head.pooling.attention_out.": "pooling.attention.3.", "head.embedding.": "bottleneck.",
}  # fmt: skip
"""Our names of the head, and the published ones."""


def published_state(network: SpeakerNetwork) -> dict[str, Tensor]:
    """Return a model's state in the names and shapes of the published code."""
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


def timed(*command: str) -> tuple[str, float]:
    """Run svkit in a process of its own; return what it prints and its seconds."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "svkit", *command], capture_output=True, text=True, check=True
    )
    print(done.stderr, end="", file=sys.stderr)
    return done.stdout, time.monotonic() - started


def main() -> None:
    """Write, convert, describe, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path)
    with tempfile.TemporaryDirectory(dir=parser.parse_args().directory) as folder:
        home = Path(folder)
        torch.manual_seed(0)
        network = SpeakerNetwork(ModelArchitecture(encoder=PRUNED, head=HeadConfig()))
        state = {f"module.{name}": tensor for name, tensor in published_state(network).items()}
        classifier = {"module.weight": torch.randn(5_994, 256)}
        pth = home / "pruned.pth"
        torch.save({"modules": {"spk_model": state, "classifier": classifier}}, pth)
        rng = np.random.default_rng(0)
        waves = [0.1 * rng.standard_normal(16_000 * seconds).astype(np.float32) for seconds in (3, 5)]
        for name, wave in zip("ab", waves, strict=True):
            soundfile.write(home / f"{name}.wav", wave, 16_000)
        with torch.inference_mode():
            expected = network.eval().embed_padded(waves)
        del network, state
        out = str(home / "out")
        _, convert_seconds = timed("convert", str(pth), out)
        facts = json.loads(timed("info", out, "--json")[0])
        answer, verify_seconds = timed(
            "verify", str(home / "a.wav"), str(home / "b.wav"), "--model", out, "--json"
        )
        a, b = expected.astype(np.float64)
        cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        result = {
            "pth_megabytes": round(pth.stat().st_size / 1e6),
            "encoder_parameters": facts["encoder_parameters"],
            "sparsity": round(facts["sparsity"], 4),
            "convert_seconds": round(convert_seconds, 1),
            "verify_seconds": round(verify_seconds, 1),
            "cosine_minus_that_before": json.loads(answer)["score"] - cosine,
            "peak_memory_gigabytes": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6, 1),
        }
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
