"""Throughput on a GPU: extraction and a training step of every stage, against the bf16 products of the same device.

    python benchmarks/gpu.py [--device cuda|cpu] [--size full|tiny] [--stages extract lora head joint lmft prune
        distill] [--batch-size 64] [--batch-seconds 160] [--steps 10] [--no-compile] [--threads 1] [--json FILE]

Random weights, noise as audio, bf16, wall time of the steps after the warm-up, the device synchronised before the
clock is read. Extraction: utterances of 8 s in batches as `svkit extract` makes them, from samples in host memory to
embeddings in host memory, dense and in the published 80 % structure with widths in multiples of 8; before it is timed,
bf16 is compared with fp32, and compiled with not compiled. Training: crops of 3 s through svkit's own loop, without
augmentation; student and teacher of `prune` and `distill` are both dense. `ms`: a step. `peak GB`: of the device,
weights and optimiser included. A case that the device lacks memory for is a row that says so.

`of peak`: multiply-adds a second as a part of what large bf16 products reach. Forward, they are counted by
`svkit.pruning.counting.macs`: the products with distance embeddings, features, LoRA, gates and classifier are left out
(together about 2 %), so it is a little low. Training: see `training_speed.PASSES`. The target of extraction is for the
faster of both ways, compiled and not; there are no targets at the tiny size.
"""

import argparse
import functools
import gc
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import measuring
import torch
import training_speed
from accelerate import Accelerator
from pruned_speed import PUBLISHED, rounded
from torch import Tensor
from torch.nn import functional

from svkit.audio.features import SAMPLE_RATE_HZ, num_frames
from svkit.config.architecture import TINY, W2V_BERT_2, EncoderArchitecture, ModelArchitecture
from svkit.config.load import load_recipe
from svkit.nn import inference
from svkit.nn.encoder import Encoder, initialise
from svkit.nn.speaker import SpeakerNetwork
from svkit.pruning.counting import macs
from svkit.training.loop import LoopPlan, make_optimizer, run_loop
from svkit.training.tasks import DistillationTask

EXTRACT, COMPILED = "extract", " compiled"
SIZES = {"full": ("w2v-bert-2.0", W2V_BERT_2, 64), "tiny": ("tiny", TINY, 16)}
"""Preset, dense encoder, batch size of the training stages."""
TARGETS = {"full": {"extract dense": 0.5, "joint": 0.4}, "tiny": {}}
"""Part of the device's bf16 product rate."""
TARGET_COSINE = 0.999
CROP_SECONDS, UTTERANCE_SECONDS = 3.0, 8.0
WARM_UP = 3
"""Steps before the clock starts."""
COLUMNS = ("what", "batch", "s each", "ms", "items/s", "audio s/s", "peak GB", "TMAC/s", "of peak", "target")
OUT_OF_MEMORY = ("out of memory", "allocate memory", "_ALLOC_FAILED")
"""In messages of CUDA, of torch's allocator on a CPU, of cuBLAS and cuDNN."""
Result = TypeVar("Result")


class Taken(NamedTuple):
    """What a step takes."""

    seconds: float
    peak_gb: float | str
    cosine: float | None = None
    """Of extraction: the lowest to what it was compared with."""


@dataclass(kw_only=True)
class Report:
    """Rows of the table, printed as they come."""

    rate: float
    """Multiply-adds a second in bf16 products."""
    targets: dict[str, float]
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    cosines: dict[str, float] = field(default_factory=dict)

    def add(self, what: str, batch: int, seconds: float, work: float, taken: Taken | None) -> None:
        """Add a case: `batch` items of `seconds` and `work` multiply-adds each; None: memory did not suffice."""
        target = self.targets.get(what.removesuffix(COMPILED), "-")
        if taken is None:
            self.rows.append((what, batch, seconds, "out of memory", *"-----", target))
        else:
            items = batch / taken.seconds
            speed = (1000 * taken.seconds, items, items * seconds, taken.peak_gb, items * work / 1e12)
            self.rows.append((what, batch, seconds, *speed, items * work / self.rate, target))
            if taken.cosine is not None:
                self.cosines[what] = taken.cosine
        print(measuring.table(COLUMNS, self.rows[-1:]), flush=True)

    def missed(self) -> list[str]:
        """Targets that no row of theirs reaches."""
        best: dict[str, float] = {}
        for what, *_, reached, target in self.rows:
            name = what.removesuffix(COMPILED)
            if target != "-":
                best[name] = max(best.get(name, 0.0), 0.0 if reached == "-" else reached)
        return [name for name, reached in best.items() if reached < self.targets[name]]


def clock(device: torch.device) -> float:
    """Read the time when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_each(call: Callable[[], object], count: int, device: torch.device) -> float:
    """Time `count` calls in a row."""
    started = clock(device)
    for _ in range(count):
        call()
    return (clock(device) - started) / count


def matmul_peak(device: torch.device, rounds: int = 5) -> float:
    """Multiply-adds a second of wall time in square bf16 products of random values, the best of the rounds."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))
    multiply = functools.partial(torch.matmul, left, right)
    seconds_each(multiply, WARM_UP, device)
    return size**3 / min(seconds_each(multiply, 10, device) for _ in range(rounds))


def peak_gb(device: torch.device) -> float | str:
    """Largest device memory that tensors took since the last call."""
    if device.type != "cuda":
        return "-"
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return peak


def attempt(call: Callable[[], Result]) -> Result | None:
    """Make a measurement and free what it took; None when the memory did not suffice."""
    result = None
    try:
        result = call()
    except (RuntimeError, MemoryError) as error:  # torch's own type, and what libraries below it raise
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
    torch.compiler.reset()  # compiled code holds weights
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where CUDA was not used
    return result


def noise(batch: int, seconds: float, device: torch.device) -> Tensor:
    """Make a batch in host memory as a loader does: page-locked for a GPU."""
    waveforms = 0.1 * torch.randn(batch, int(seconds * SAMPLE_RATE_HZ))
    return waveforms.pin_memory() if device.type == "cuda" else waveforms


def pruned(dense: EncoderArchitecture) -> EncoderArchitecture:
    """Cut an encoder to the published 80 % structure, another than the full size to a fifth, in multiples of 8."""
    widths = {name: [max(1, value // 5) for value in values] for name, values in dense.widths().items()}
    if dense == W2V_BERT_2:
        widths = {name: list(map(int, text.split())) for name, text in PUBLISHED.items()}
    return rounded(dense.with_widths(widths), 8)


@torch.inference_mode()
def extraction(
    architecture: ModelArchitecture, batch: int, steps: int, device: torch.device, is_compiled: bool
) -> Taken:
    """Check, then time, batches of extraction, the model prepared as `svkit extract` does it."""
    torch.manual_seed(0)
    with torch.device(device):
        network = SpeakerNetwork(architecture).eval().to(device)
    initialise(network.encoder, torch.Generator(device).manual_seed(0))
    waveforms = noise(batch, UTTERANCE_SECONDS, device)

    def embed(model: Callable[[Tensor], Tensor], is_bf16: bool = True) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
            return model(waveforms.to(device)).float().cpu()

    model: Callable[[Tensor], Tensor] = network
    expected = embed(model, is_bf16=False)
    if not (is_compiled and inference.can_pack(device, torch.bfloat16)):  # packed products cannot be compiled
        inference.prepare(network, torch.bfloat16)
    if is_compiled:
        expected = embed(model)
        embed_features = torch.compile(network.embed_features, dynamic=False)  # features: complex numbers

        def model(waveforms_BN: Tensor) -> Tensor:
            return embed_features(network.features(waveforms_BN)[0])

    cosine = float(functional.cosine_similarity(embed(model), expected).min())
    assert cosine >= TARGET_COSINE, f"lowest cosine {cosine:.6f}, expected {TARGET_COSINE}"
    call = functools.partial(embed, model)
    seconds_each(call, WARM_UP, device)
    peak_gb(device)  # of what came before
    return Taken(seconds_each(call, steps, device), peak_gb(device), cosine)


def training(stage: str, size: str, batch: int, steps: int, device: torch.device) -> Taken:
    """Time steps of a stage in svkit's loop: copy to the device, losses, gradients, clipping, AdamW."""
    recipe = load_recipe(SIZES[size][0], None, [], [])
    torch.manual_seed(0)
    num_classes = training_speed.NUM_CLASSES[size]
    task, optim = training_speed.build(stage, "svkit", recipe, num_classes)
    config = getattr(recipe.dense, stage, None) or getattr(recipe, stage)
    for module in task.modules():
        if isinstance(module, Encoder):  # a frozen one runs without
            module.set_conv_dropout(0.0 if stage in ("lora", "head") else config.conv_dropout)
    if isinstance(task, DistillationTask):
        task.to(device).prepare_teacher(torch.bfloat16)
    optimizer = make_optimizer(task, optim)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16")
    wrapped = accelerator.prepare_model(task)
    waveforms, labels = noise(batch, CROP_SECONDS, device), torch.arange(batch) % num_classes
    started = 0.0

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal started
        for step in range(WARM_UP + steps):
            if step == WARM_UP:
                peak_gb(device)  # of what came before
                started = clock(device)
            yield waveforms, labels

    plan = LoopPlan(
        num_steps=WARM_UP + steps,
        steps_per_epoch=WARM_UP + steps,
        seed=recipe.seed,
        optim=optim,
        validate_after=(),
        save_every=sys.maxsize,
    )
    hooks = SimpleNamespace(should_stop=lambda: False, on_log=lambda _: None, on_save=lambda _: None)
    skipped = run_loop(wrapped, optimizer, batches(), plan, accelerator, hooks)
    assert not skipped, f"{stage}: {skipped} steps were not finite"
    return Taken((clock(device) - started) / steps, peak_gb(device))


def main() -> None:
    """Measure, print, compare with the targets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=(EXTRACT, *training_speed.PASSES),
        default=[EXTRACT, *training_speed.PASSES],
    )
    parser.add_argument("--batch-size", type=int, help="crops in a training step (default: 64, tiny 16)")
    parser.add_argument("--batch-seconds", type=float, help="audio in a batch of extraction (the recipe's)")
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measuring.start(options.threads)
    device = torch.device(options.device)
    preset, dense, batch_size = SIZES[options.size]
    recipe = load_recipe(preset, None, [], [])
    batch_size = options.batch_size or batch_size
    utterances = max(1, int((options.batch_seconds or recipe.extract.batch_seconds) / UTTERANCE_SECONDS))
    name = torch.cuda.get_device_name() if options.device == "cuda" else measuring.machine(1)["cpu"]
    report = Report(rate=matmul_peak(device), targets=TARGETS[options.size])
    print(f"{name}: {report.rate / 1e12:.3g} TMAC/s in bf16 products", flush=True)
    structures = {"dense": dense, "pruned": pruned(dense)} if EXTRACT in options.stages else {}
    for structure, encoder in structures.items():
        architecture = ModelArchitecture(encoder=encoder, head=recipe.head)
        work = macs(architecture, num_frames(int(UTTERANCE_SECONDS * SAMPLE_RATE_HZ))).total
        for way in [""] if options.no_compile else ["", COMPILED]:
            case = functools.partial(extraction, architecture, utterances, options.steps, device, bool(way))
            what = f"{EXTRACT} {structure}{way}"
            report.add(what, utterances, UTTERANCE_SECONDS, work, attempt(case))
    architecture = ModelArchitecture(encoder=dense, head=recipe.head)
    for stage in [stage for stage in options.stages if stage != EXTRACT]:
        work = training_speed.multiply_adds(stage, architecture, CROP_SECONDS)
        case = functools.partial(training, stage, options.size, batch_size, options.steps, device)
        report.add(stage, batch_size, CROP_SECONDS, work, attempt(case))
    print(measuring.table(COLUMNS, report.rows))
    for what, cosine in report.cosines.items():
        against = "not compiled" if what.endswith(COMPILED) else "fp32"
        print(f"{what}: lowest cosine to {against}: {cosine:.6f}")
    print("missed:", ", ".join(report.missed()) or "none")
    measuring.save(
        options.json,
        options.threads,
        device=name,
        size=options.size,
        steps=options.steps,
        bf16_macs_per_second=report.rate,
        lowest_cosine=report.cosines,
        rows=[dict(zip(COLUMNS, row, strict=True)) for row in report.rows],
    )
    sys.exit(bool(report.missed()))


if __name__ == "__main__":
    main()
