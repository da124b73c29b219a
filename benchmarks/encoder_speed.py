"""Time a forward pass of the full-size encoder and of transformers' `Wav2Vec2BertModel`, with equal weights and dtype.

    python benchmarks/encoder_speed.py [--lengths 4 10 30 60] [--dtypes fp32 bf16] [--threads 1] [--json FILE]

The batch size is 1, weights are random, and transformers uses its default attention. The last hidden states are checked
to be equal before anything is timed. The memory is the largest resident size above the weights during one pass over the
longest input. Our encoder holds one state at a time and has prepared linear layers, as in extraction. `products alone`
is the ratio that would be reached if all products ran at the highest measured rate of the dtype and nothing else took
time.
"""

import argparse
import copy
import functools
import sys
from pathlib import Path

import measuring
import torch
from torch import Tensor
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

from svkit.audio.features import FEATURE_DIM
from svkit.config.architecture import W2V_BERT_2, ModelArchitecture
from svkit.config.schema import HeadConfig
from svkit.nn import inference
from svkit.nn.encoder import Encoder
from svkit.pruning.counting import macs
from svkit.store.upstream import encoder_tensors

TARGETS = {
    "fp32": {4.0: 1.0, 10.0: 1.2, 30.0: 1.7, 60.0: 2.5},
    "bf16": {4.0: 1.0, 10.0: 1.25, 30.0: 2.0, 60.0: 3.0},
}
TARGET_MEMORY = 1 / 3
FRAMES_PER_SECOND = 50
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = {"fp32": 1e-4, "bf16": 0.05}
"""Largest relative distance between the last hidden states."""


def make_pair() -> tuple[Wav2Vec2BertModel, Encoder]:
    """Return both encoders with the same random weights, scaled so that every part has an effect."""
    torch.manual_seed(0)
    stock = Wav2Vec2BertModel(Wav2Vec2BertConfig()).eval()
    with torch.no_grad():
        for name, parameter in stock.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, parameter[0].numel() ** -0.5)
            elif "norm" in name and name.endswith("weight"):
                parameter.uniform_(0.8, 1.2)
            else:
                parameter.normal_(0.0, 0.1)
    own = Encoder(W2V_BERT_2).eval()
    own.load_state_dict(encoder_tensors(stock.state_dict()))
    return stock, own


def last_state(encoder: Encoder, features: Tensor) -> Tensor:
    """Run the encoder as extraction does, one state at a time."""
    for state in encoder.states(features):
        last = state
    return last


@torch.inference_mode()
def main() -> None:
    """Check, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=float, nargs="+", default=[4.0, 10.0, 30.0, 60.0], help="seconds")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measuring.start(options.threads)
    stock, own = make_pair()
    architecture = ModelArchitecture(encoder=W2V_BERT_2, head=HeadConfig())
    longest = max(options.lengths)
    rows, missed = [], 0
    columns = (
        "dtype",
        "seconds",
        "stock cpu s",
        "svkit cpu s",
        "x, cpu",
        "x, wall",
        "target",
        "products alone",
    )
    memory = {}
    for name in options.dtypes:
        dtype = DTYPES[name]
        stock, prepared = stock.to(dtype), copy.deepcopy(own).to(dtype)
        inference.prepare(prepared, dtype)
        rate = measuring.matmul_peak(dtype)
        for seconds in options.lengths:
            features = torch.randn(1, int(seconds * FRAMES_PER_SECOND), FEATURE_DIM).to(dtype)
            expected = stock(features).last_hidden_state.float()
            error = float((last_state(prepared, features).float() - expected).norm() / expected.norm())
            assert error < TOLERANCE[name], f"{name}, {seconds} s: the states differ by {error:.2g}"
            calls = {
                "stock": functools.partial(stock, features),
                "svkit": functools.partial(last_state, prepared, features),
            }
            if seconds == longest:
                memory[name] = {which: measuring.peak_gb_above(call) for which, call in calls.items()}
            times = measuring.take_turns(calls, options.rounds)
            ratio = times["stock"].cpu / times["svkit"].cpu
            limit = macs(architecture, features.shape[1]).encoder / rate
            target = TARGETS[name].get(seconds, 0.0)
            missed += ratio < target
            rows.append(
                (
                    name,
                    seconds,
                    times["stock"].cpu,
                    times["svkit"].cpu,
                    ratio,
                    times["stock"].wall / times["svkit"].wall,
                    target,
                    times["stock"].cpu / limit,
                )
            )
            print(measuring.table(columns, rows[-1:]), flush=True)
    print(measuring.table(columns, rows))
    for name, peaks in memory.items():
        ratio = peaks["svkit"] / peaks["stock"]
        missed += ratio > TARGET_MEMORY
        print(
            f"{name}: memory above the weights at {longest:g} s: {peaks['stock']:.2f} GB stock, "
            f"{peaks['svkit']:.2f} GB svkit, {ratio:.2f} x (target {TARGET_MEMORY:.2f})"
        )
    measuring.save(
        options.json,
        options.threads,
        rows=[dict(zip(columns, row, strict=True)) for row in rows],
        memory_gb=memory,
    )
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
