"""Compare embedding by ONNX Runtime, with graphs of `svkit export`, and by svkit as `svkit extract` does it.

    python benchmarks/onnx_speed.py [--tiny] [--threads 1] [--rounds 3] [--work DIR] [--json FILE]

The models have random weights and full size, dense and in the published 80 % structure (with `--tiny`: the dense model
of that preset). They run in float32 and int8, on single recordings of 2, 4 and 8 s and on a batch of eight of 3 s. All
take turns in one process, and the median CPU time of the rounds is given. Needs the extra `export`, 12 GB of memory and
8 GB of disk.
"""

import argparse
import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import measuring
import numpy as np
import torch
from numpy.typing import NDArray
from pruned_speed import published_structure

from svkit.config.architecture import W2V_BERT_2, EncoderArchitecture, ModelArchitecture, tiny_architecture
from svkit.config.load import load_recipe
from svkit.config.schema import HeadConfig
from svkit.nn import inference
from svkit.nn.speaker import SpeakerNetwork
from svkit.tools import onnx_graph

SINGLE_SECONDS = (2, 4, 8)
BATCH, BATCH_SECONDS = 8, 3
Embed = Callable[[list[NDArray[np.float32]]], NDArray[np.float32]]


def network(encoder: EncoderArchitecture) -> SpeakerNetwork:
    """Build a network with random weights that are the same on every call."""
    torch.manual_seed(0)
    return SpeakerNetwork(ModelArchitecture(encoder=encoder, head=HeadConfig())).eval()


def prepared(encoder: EncoderArchitecture, dtype: torch.dtype) -> Embed:
    """Return svkit's network, packed for `dtype`, as a function that embeds a list of recordings."""
    model = network(encoder)
    inference.prepare(model, dtype)

    def embed(waveforms: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return model(torch.from_numpy(np.stack(waveforms))).numpy()

    return embed


def runners(encoder: EncoderArchitecture, threads: int, work: Path) -> dict[str, Embed]:
    """Write the graphs and return the four ways to embed."""
    paths = {name: work / f"{name}.onnx" for name in ("float32", "int8")}
    onnx_graph.write_graph(network(encoder), paths["float32"], torch.float32, {})
    onnx_graph.quantise(paths["float32"], paths["int8"])
    found: dict[str, Embed] = {}
    for name, path in paths.items():
        found[f"svkit {name}"] = prepared(encoder, getattr(torch, name))
        found[f"ONNX Runtime {name}"] = onnx_graph.OnnxModel(path, threads).embed
    return found


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="directory for temporary files")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measuring.start(options.threads)
    structures = {"dense": W2V_BERT_2, "pruned as published": published_structure()}
    if options.tiny:
        structures = {"tiny": tiny_architecture(load_recipe("tiny").encoder_overrides)}
    rng = np.random.default_rng(0)

    def recordings(number: int, seconds: int) -> list[NDArray[np.float32]]:
        return [(0.1 * rng.standard_normal(16_000 * seconds)).astype(np.float32) for _ in range(number)]

    inputs = {f"1 x {seconds} s": recordings(1, seconds) for seconds in SINGLE_SECONDS}
    inputs[f"{BATCH} x {BATCH_SECONDS} s"] = recordings(BATCH, BATCH_SECONDS)
    rows = []
    for structure, encoder in structures.items():
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            ways = runners(encoder, options.threads, Path(folder))
            # Weights are the same, so embeddings must be equal.
            (expected,) = ways["svkit float32"](inputs["1 x 4 s"])
            (found,) = ways["ONNX Runtime float32"](inputs["1 x 4 s"])
            cosine = float(expected @ found / np.linalg.norm(expected) / np.linalg.norm(found))
            if not cosine > 0.9999:
                sys.exit(f"{structure}: expected equal embeddings, found a cosine of {cosine:.6f}")
            for name, waveforms in inputs.items():
                calls = {way: functools.partial(embed, waveforms) for way, embed in ways.items()}
                times = measuring.take_turns(calls, options.rounds)
                for dtype in ("float32", "int8"):
                    ours, theirs = times[f"svkit {dtype}"].cpu, times[f"ONNX Runtime {dtype}"].cpu
                    rows.append((structure, dtype, name, ours, theirs, theirs / ours))
                    print(*rows[-1], flush=True)
            del ways
    columns = ("structure", "dtype", "recordings", "svkit, cpu s", "ONNX Runtime, cpu s", "x ONNX Runtime")
    print(measuring.table(columns, rows))
    measuring.save(
        options.json,
        options.threads,
        onnxruntime=onnx_graph.versions()["onnxruntime"],
        rows=[dict(zip(columns, row, strict=True)) for row in rows],
    )


if __name__ == "__main__":
    main()
