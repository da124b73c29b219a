"""Measure where the time goes in an extraction batch and a training step, by kind of operator.

    python benchmarks/where_time_goes.py [--size full|tiny] [--cases extract:fp32 joint:fp32 ...] [--threads 1]
        [--json FILE]

A case is `extract:DTYPE` (fp32, bf16 or int8; 8 x 3 s, with the model prepared as in `svkit extract`) or `STAGE:DTYPE`,
a step as in `training_speed.py`. torch's profiler gives the time inside each operator, without the operators that it
calls. `limit` is the share of the CPU time that the multiply-adds of linear layers, convolutions and attention would
take at the rate of a square product of the same dtype. `products` take longer than that because of their shapes and of
memory; the other columns are not products.
"""

import argparse
import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import torch
import training_speed
from torch.profiler import ProfilerActivity, profile, schedule

from svkit.audio.features import SAMPLE_RATE_HZ, num_frames
from svkit.config.load import load_recipe
from svkit.models.session import make_accelerator
from svkit.nn import inference
from svkit.nn.encoder import initialise
from svkit.nn.speaker import SpeakerNetwork
from svkit.pruning.counting import macs
from svkit.training.loop import make_optimizer
from svkit.training.tasks import DistillationTask

KINDS = {
    "products": ("mm", "addmm", "bmm", "baddbmm", "_linear_pointwise", "linear_dynamic"),
    "depthwise convolution": ("mkldnn_convolution", "convolution_backward"),
    "softmax": ("_softmax", "_softmax_backward_data"),
    "norms": ("native_layer_norm", "native_layer_norm_backward", "native_batch_norm"),
    "copies and zeros": ("copy_", "cat", "fill_", "zero_", "constant_pad_nd", "clone", "_to_copy"),
    "swish and GLU": ("silu", "silu_backward", "glu", "glu_backward", "sigmoid"),
    "optimiser": ("_fused_adamw_", "linalg_vector_norm", "_foreach_norm"),
    "features": ("_fft_r2c", "log_", "addcmul", "clamp_min_"),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
BATCH_SIZE, SECONDS = 8, 3.0


def extraction(recipe: Any, dtype: str) -> tuple[Callable[[], object], int]:
    """Return a call that embeds a batch, and its multiply-adds."""
    architecture = training_speed.architecture_of(recipe)
    network = SpeakerNetwork(architecture).eval()
    initialise(network.encoder, torch.Generator().manual_seed(0))
    inference.prepare(network, DTYPES[dtype])
    waveforms = 0.1 * torch.randn(BATCH_SIZE, int(SECONDS * SAMPLE_RATE_HZ))

    @torch.inference_mode()
    def embed() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            return network(waveforms)

    frames = num_frames(waveforms.shape[1])
    return embed, BATCH_SIZE * macs(architecture, frames).total


def training(recipe: Any, stage: str, dtype: str, size: str) -> tuple[Callable[[], object], int]:
    """Return a call that takes a step of a stage, and its multiply-adds."""
    _, batch_size, seconds = training_speed.SIZES[size]
    accelerator = make_accelerator(dtype)
    task, optim = training_speed.build(stage, "svkit", recipe, training_speed.NUM_CLASSES[size])
    if isinstance(task, DistillationTask):
        task.prepare_teacher(DTYPES[dtype])
    optimizer = make_optimizer(task, optim)
    wrapped = accelerator.prepare_model(task).train()
    waveforms, labels = 0.1 * torch.randn(batch_size, int(seconds * SAMPLE_RATE_HZ)), torch.arange(batch_size)
    work = training_speed.multiply_adds(stage, training_speed.architecture_of(recipe), seconds)
    step = functools.partial(
        training_speed.take_step, wrapped, task, optimizer, accelerator, optim, waveforms, labels
    )
    return step, batch_size * work


def by_kind(call: Callable[[], object]) -> Counter[str]:
    """Return the seconds inside the operators of a call, by kind."""
    kind_of = {name: kind for kind, names in KINDS.items() for name in names}
    seconds: Counter[str] = Counter()

    def count(profiler: profile) -> None:
        for event in profiler.key_averages():
            if not event.key.startswith("ProfilerStep"):
                kind = kind_of.get(event.key.rsplit("::", 1)[-1], "other arithmetic and overhead")
                seconds[kind] += event.self_cpu_time_total / 1e6

    # Four calls are warm-up, because page faults in new memory of the profiler would count as copies.
    warmup = schedule(wait=0, warmup=4, active=1, repeat=1)
    with profile(activities=[ProfilerActivity.CPU], schedule=warmup, on_trace_ready=count) as profiler:
        for _ in range(5):
            call()
            profiler.step()
    return seconds


def main() -> None:
    """Profile every case and print a table of shares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=training_speed.SIZES, default="tiny")
    parser.add_argument(
        "--cases",
        nargs="+",
        default=["extract:fp32", "extract:bf16", "extract:int8", "joint:fp32", "joint:bf16"],
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measuring.start(options.threads)
    recipe = load_recipe(training_speed.SIZES[options.size][0], None, [], [])
    kinds = [*KINDS, "other arithmetic and overhead"]
    columns = ("case", "cpu s", "limit, of cpu s", *kinds)
    rows = []
    for case in options.cases:
        what, dtype = case.split(":")
        torch.manual_seed(0)
        if what == "extract":
            call, work = extraction(recipe, dtype)
        else:
            call, work = training(recipe, what, dtype, options.size)
        taken = min(measuring.timed(call).cpu for _ in range(4))
        seconds = by_kind(call)
        total = sum(seconds.values())
        limit: float | str = "-"  # torch has no square product in int8 to compare with
        if dtype != "int8":
            limit = work / measuring.matmul_peak(DTYPES[dtype]) / taken
        rows.append((case, taken, limit, *(seconds[kind] / total for kind in kinds)))
        print(measuring.table(columns, rows[-1:]), flush=True)
    print(measuring.table(columns, rows))
    measuring.save(
        options.json,
        options.threads,
        size=options.size,
        rows=[dict(zip(columns, row, strict=True)) for row in rows],
    )


if __name__ == "__main__":
    main()
