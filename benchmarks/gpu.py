"""Measure on a GPU, in one run of some minutes: a sanity check, then extraction and a training step of every stage.

    python benchmarks/gpu.py [--device cuda|cpu] [--preset w2v-bert-2.0] [--stages extract joint lora prune distill
        lmft head] [--steps 10] [--batch-size N] [--minutes 8] [--no-compile] [--threads 1] [--json FILE]

`--device cpu --preset smoke` is a dry run, which only shows that the script works.

The sanity check compares the device with the CPU: embeddings of the preset's model in fp32 (cosine at least 0.9999),
and loss and gradient norm of one step of each stage at the tiny size, without random draws. The exit code is 1 if it
fails or a target is missed.

Weights are random, audio is noise, the precision is that of `auto`, and times are wall times after the warm-up.
Extraction takes utterances of 8 s in batches of the recipe's size, from samples in host memory to embeddings in host
memory, with the dense model and with the published 80 % structure, its widths in multiples of 8. Training takes the
recipe's batches and longest crops through svkit's own loop, without augmentation; student and teacher of `prune` and
`distill` are both dense. A batch that does not fit is halved until it does. In the rows `compiled`, extraction is
compiled as a whole, training layer by layer (`compile_layers`). The most important cases come first; if the time is up,
the rest are reported as such.

`peak GB` is memory of the device, including weights and optimiser. `waits` is how often the host waited for the GPU in
10 steps, according to torch's debug mode for synchronisation. `of peak` is the multiply-adds per second, as a share of
what large products reach in the same precision. For a forward pass, `svkit.pruning.counting.macs` counts them, without
products with distance embeddings, features, LoRA, gates and classifier (about 2 %). For training, see
`training_speed.PASSES`.
"""

import argparse
import contextlib
import functools
import gc
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import measuring
import torch
import training_speed
from pruned_speed import published_structure, rounded
from torch import Tensor
from torch.nn import functional

from svkit.audio.features import SAMPLE_RATE_HZ, num_frames
from svkit.config.architecture import W2V_BERT_2, EncoderArchitecture, ModelArchitecture
from svkit.config.load import load_recipe
from svkit.config.schema import Recipe
from svkit.models.session import make_accelerator
from svkit.nn import inference
from svkit.nn.encoder import Encoder, initialise
from svkit.nn.precision import product_dtype, set_gpu_arithmetic
from svkit.nn.speaker import SpeakerNetwork
from svkit.pruning.counting import macs
from svkit.training.loop import LOG_EVERY, LoopPlan, make_optimizer, run_loop
from svkit.training.tasks import DistillationTask, PruningTask

EXTRACT, COMPILED = "extract", " compiled"
STAGES = ("joint", "lora", "prune", "distill", "lmft", "head")
TARGETS = {"extract dense": 0.5, "joint": 0.4}
"""Share of the device's product rate that the full size should reach, in the faster of compiled and not."""
SANE_COSINE, SANE_LOSS, SANE_NORM = 0.9999, 1e-3, 1e-2
UTTERANCE_SECONDS = 8.0
COLUMNS = ("what", "batch", "s each", "ms", "examples/s", "peak GB", "waits", "TMAC/s", "of peak", "target")
OUT_OF_MEMORY = ("out of memory", "allocate memory", "_ALLOC_FAILED")
"""Words in the error messages of CUDA, of torch's allocator on a CPU, and of cuBLAS and cuDNN."""
Result = TypeVar("Result")


class Taken(NamedTuple):
    """Time and memory of a step."""

    seconds: float
    peak_gb: float | str
    waits: int | str = "-"


@dataclass(kw_only=True)
class Report:
    """Rows of the table, printed as they come."""

    rate: float
    """Multiply-adds per second in large products."""
    targets: dict[str, float]
    deadline: float
    rows: list[tuple[Any, ...]] = field(default_factory=list)

    def measure(
        self, what: str, batch: int, seconds: float, work: float, case: Callable[[int], Taken]
    ) -> None:
        """Measure a case: `batch` items of `seconds` and `work` multiply-adds each, or fewer if they do not fit."""
        target = self.targets.get(what.removesuffix(COMPILED), "-")
        if time.perf_counter() > self.deadline:
            self.rows.append((what, batch, seconds, "no time left", *"-----", target))
            return
        taken = attempt(functools.partial(case, batch))
        while taken is None and batch > 1:
            batch //= 2
            taken = attempt(functools.partial(case, batch))
        if taken is None:
            self.rows.append((what, batch, seconds, "out of memory", *"-----", target))
        else:
            rate = batch / taken.seconds
            speed = (1000 * taken.seconds, rate, taken.peak_gb, taken.waits, rate * work / 1e12)
            self.rows.append((what, batch, seconds, *speed, rate * work / self.rate, target))
        print(measuring.table(COLUMNS, self.rows[-1:]), flush=True)

    def missed(self) -> list[str]:
        """Return the targets that no row reaches."""
        best: dict[str, float] = {}
        for what, *_, reached, target in self.rows:
            name = what.removesuffix(COMPILED)
            if target != "-":
                best[name] = max(best.get(name, 0.0), 0.0 if reached == "-" else reached)
        return [name for name, reached in best.items() if reached < self.targets[name]]


def clock(device: torch.device) -> float:
    """Return the time at which the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_each(call: Callable[[], object], count: int, device: torch.device) -> float:
    """Return the mean time of `count` calls in a row."""
    started = clock(device)
    for _ in range(count):
        call()
    return (clock(device) - started) / count


def matmul_peak(dtype: torch.dtype, device: torch.device, rounds: int = 5) -> float:
    """Return the multiply-adds per second of wall time in square products of random values, in the best round."""
    size = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    multiply = functools.partial(torch.matmul, left, right)
    seconds_each(multiply, 3, device)
    return size**3 / min(seconds_each(multiply, 10, device) for _ in range(rounds))


def peak_gb(device: torch.device) -> float | str:
    """Return the largest device memory that tensors took since the last call."""
    if device.type != "cuda":
        return "-"
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return peak


@contextlib.contextmanager
def counted_waits(device: torch.device) -> Iterator[Callable[[], int | str]]:
    """Count how often the host waits for a GPU inside the block."""
    if device.type != "cuda":
        yield lambda: "-"
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lambda: sum("synchronizing" in str(warning.message) for warning in caught)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def attempt(call: Callable[[], Result]) -> Result | None:
    """Make a measurement and free its memory; None if there was not enough memory."""
    result = None
    try:
        result = call()
    except (RuntimeError, MemoryError) as error:  # torch raises its own type, libraries below it others
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
    torch.compiler.reset()  # compiled code keeps weights
    gc.collect()
    torch.cuda.empty_cache()  # does nothing if CUDA was not used
    return result


def compiler(device: torch.device) -> str:
    """Return the backend of `torch.compile`; in a dry run on a CPU, one that compiles nothing."""
    return "inductor" if device.type == "cuda" else "eager"


def noise(batch: int, seconds: float, device: torch.device) -> Tensor:
    """Make a batch in host memory as a loader does, page-locked for a GPU."""
    waveforms = 0.1 * torch.randn(batch, int(seconds * SAMPLE_RATE_HZ))
    return waveforms.pin_memory() if device.type == "cuda" else waveforms


def pruned(dense: EncoderArchitecture) -> EncoderArchitecture:
    """Return the published 80 % structure, or for encoders of another size a fifth of each width, in multiples of 8."""
    if dense == W2V_BERT_2:
        return rounded(published_structure(), 8)
    widths = {name: [max(1, value // 5) for value in values] for name, values in dense.widths().items()}
    return rounded(dense.with_widths(widths), 8)


def random_network(architecture: ModelArchitecture, device: torch.device) -> SpeakerNetwork:
    """Draw a network on its device."""
    torch.manual_seed(0)
    with torch.device(device):
        network = SpeakerNetwork(architecture).eval().to(device)
    initialise(network.encoder, torch.Generator(device).manual_seed(0))
    return network


@torch.inference_mode()
def sane_embeddings(architecture: ModelArchitecture, device: torch.device) -> float:
    """Return the lowest cosine between embeddings of the device and of the CPU, in fp32 (TF32 where svkit uses it)."""
    set_gpu_arithmetic("fp32", device)
    network, waveforms = random_network(architecture, torch.device("cpu")), noise(2, 3.0, device)
    expected = network(waveforms)
    found = network.to(device)(waveforms.to(device)).cpu()
    return float(functional.cosine_similarity(found, expected).min())


def one_step(stage: str, device: torch.device, is_compiled: bool = False) -> tuple[float, float]:
    """Return loss and gradient norm of a step at the tiny size, without random draws on the device."""
    torch.manual_seed(0)
    recipe = load_recipe("tiny")
    task, _ = training_speed.build(stage, "svkit", recipe, 20)
    if isinstance(task, DistillationTask):
        # Otherwise the student equals the teacher, and the loss has no gradient.
        for parameter in task.student.parameters():
            parameter.data *= 1.05
    task.to(device).train()
    if isinstance(task, PruningTask):
        task.gates.eval()
        if is_compiled:
            task.student.compile_layers(compiler(device))
    labels = torch.arange(4, device=device)
    loss = task(noise(4, 2.0, device).to(device), labels, 0)["loss"]
    loss.backward()
    norms = [parameter.grad.norm() for parameter in task.parameters() if parameter.grad is not None]
    return float(loss.detach()), float(torch.stack(norms).norm())


def sanity(
    architecture: ModelArchitecture, stages: list[str], is_compiling: bool, device: torch.device
) -> dict[str, Any]:
    """Compare the device with the CPU; `failed` lists what differs."""
    facts: dict[str, Any] = {"embeddings": sane_embeddings(architecture, device), "steps": {}}
    failed = [] if facts["embeddings"] >= SANE_COSINE else ["embeddings"]
    set_gpu_arithmetic("fp32-precise", device)
    # Compiled too: `prune`, whose layers have everything that a layer can have.
    compiled = [f"prune{COMPILED}"] if is_compiling and "prune" in stages else []
    for name in [*stages, *compiled]:
        stage = name.removesuffix(COMPILED)
        here = one_step(stage, device, is_compiled=name != stage)
        errors = [
            abs(a - b) / abs(b) for a, b in zip(here, one_step(stage, torch.device("cpu")), strict=True)
        ]
        facts["steps"][name] = {"loss": errors[0], "gradient_norm": errors[1]}
        if not (errors[0] <= SANE_LOSS and errors[1] <= SANE_NORM):
            failed.append(name)
    return {**facts, "failed": failed}


@torch.inference_mode()
def extraction(
    architecture: ModelArchitecture, is_compiled: bool, steps: int, device: torch.device, batch: int
) -> Taken:
    """Time batches of extraction with the model prepared as in `svkit extract`."""
    accelerator = make_accelerator("auto")
    dtype, network = product_dtype(accelerator.mixed_precision), random_network(architecture, device)
    if not (is_compiled and inference.can_pack(device, dtype)):  # packed products cannot be compiled
        inference.prepare(network, dtype)
    model: Callable[[Tensor], Tensor] = network
    if is_compiled:  # without the features, which have complex numbers
        embed = torch.compile(network.embed_features, dynamic=False, backend=compiler(device))

        def model(waveforms_BN: Tensor) -> Tensor:
            return embed(network.features(waveforms_BN)[0])

    waveforms = noise(batch, UTTERANCE_SECONDS, device)

    def call() -> Tensor:
        with accelerator.autocast():
            return model(waveforms.to(device)).float().cpu()

    seconds_each(call, 3, device)
    peak_gb(device)  # resets the peak
    return Taken(seconds_each(call, steps, device), peak_gb(device))


def training(
    recipe: Recipe, stage: str, is_compiled: bool, steps: int, device: torch.device, batch: int
) -> Taken:
    """Time steps of a stage in svkit's loop: copying to the device, losses, gradients, clipping, AdamW."""
    torch.manual_seed(0)
    num_classes = training_speed.NUM_CLASSES["full" if recipe.encoder != "tiny" else "tiny"]
    task, optim = training_speed.build(stage, "svkit", recipe, num_classes)
    config = getattr(recipe.dense, stage, None) or getattr(recipe, stage)
    for module in task.modules():
        if isinstance(module, Encoder):  # a frozen one has no dropout
            module.set_conv_dropout(0.0 if stage in ("lora", "head") else config.conv_dropout)
            if is_compiled:
                module.compile_layers(compiler(device))
    accelerator = make_accelerator("auto")
    task.to(accelerator.device)
    if isinstance(task, DistillationTask):
        task.prepare_teacher(product_dtype(accelerator.mixed_precision))
    optimizer, wrapped = make_optimizer(task, optim), accelerator.prepare_model(task)
    waveforms, labels = noise(batch, config.data.crop_seconds[1], device), torch.arange(batch) % num_classes
    # Steps come in whole intervals of the log; in the last interval, waits are counted and nothing is timed.
    warm_up = watched = LOG_EVERY if device.type == "cuda" else 1
    num_steps, times, found = warm_up + steps + watched, [], []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(warm_up + steps):
            if step == warm_up:
                peak_gb(device)  # resets the peak
                times.append(clock(device))
            yield waveforms, labels
        times.append(clock(device))
        with counted_waits(device) as waits:
            for _ in range(watched):
                yield waveforms, labels
            found.append(waits())

    plan = LoopPlan(
        num_steps=num_steps,
        steps_per_epoch=num_steps,
        seed=recipe.seed,
        optim=optim,
        validate_after=(),
        save_every=sys.maxsize,
        ask_every=LOG_EVERY,
    )
    hooks: Any = SimpleNamespace(should_stop=lambda: False, on_log=lambda _: None, on_save=lambda _: None)
    skipped = run_loop(wrapped, optimizer, batches(), plan, accelerator, hooks)
    assert not skipped, f"{stage}: {skipped} steps were not finite"
    return Taken((times[1] - times[0]) / steps, peak_gb(device), found[0])


def measure_all(report: Report, options: argparse.Namespace, recipe: Recipe, device: torch.device) -> None:
    """Run every case, the most important first."""
    dense = training_speed.architecture_of(recipe)
    for suffix in [""] if options.no_compile else ["", COMPILED]:
        for name in ("dense", "pruned") if EXTRACT in options.stages else ():
            encoder = dense.encoder if name == "dense" else pruned(dense.encoder)
            architecture = ModelArchitecture(encoder=encoder, head=recipe.head)
            work = macs(architecture, num_frames(int(UTTERANCE_SECONDS * SAMPLE_RATE_HZ))).total
            batch = options.batch_size or max(1, int(recipe.extract.batch_seconds / UTTERANCE_SECONDS))
            case = functools.partial(extraction, architecture, bool(suffix), options.steps, device)
            report.measure(f"{EXTRACT} {name}{suffix}", batch, UTTERANCE_SECONDS, work, case)
        for stage in [stage for stage in STAGES if stage in options.stages]:
            data = (getattr(recipe.dense, stage, None) or getattr(recipe, stage)).data
            seconds, batch = data.crop_seconds[1], options.batch_size or data.batch_size
            work = training_speed.multiply_adds(stage, dense, seconds)
            case = functools.partial(training, recipe, stage, bool(suffix), options.steps, device)
            report.measure(f"{stage}{suffix}", batch, seconds, work, case)


def main() -> None:
    """Check, measure, print, compare with the targets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--preset", default="w2v-bert-2.0")
    parser.add_argument("--stages", nargs="+", choices=(EXTRACT, *STAGES), default=[EXTRACT, *STAGES])
    parser.add_argument("--steps", type=int, default=10, help="number of timed steps")
    parser.add_argument("--batch-size", type=int, help="for extraction and training (default: the recipe's)")
    parser.add_argument("--minutes", type=float, default=8, help="no case begins in the last minute")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    deadline = time.perf_counter() + 60 * max(0.5, options.minutes - 1)
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # svkit would use a GPU if there is one
    measuring.start(options.threads)
    device, recipe = torch.device(options.device), load_recipe(options.preset)
    name = torch.cuda.get_device_name() if options.device == "cuda" else measuring.machine(1)["cpu"]
    dense = training_speed.architecture_of(recipe)
    stages = [stage for stage in STAGES if stage in options.stages]
    checked = sanity(dense, stages, not options.no_compile, device)
    print(f"sanity, device against CPU: lowest cosine {checked['embeddings']:.6f};", end=" ")
    print("failed:", ", ".join(checked["failed"]) or "none", flush=True)
    dtype = product_dtype(make_accelerator("auto").mixed_precision)
    report = Report(
        rate=matmul_peak(dtype, device),
        targets=TARGETS if recipe.encoder != "tiny" else {},
        deadline=deadline,
    )
    print(f"{name}: {report.rate / 1e12:.3g} TMAC/s in {dtype} products", flush=True)
    measure_all(report, options, recipe, device)
    print(measuring.table(COLUMNS, report.rows))
    print("missed:", ", ".join(report.missed()) or "none")
    measuring.save(
        options.json,
        options.threads,
        device=name,
        preset=options.preset,
        steps=options.steps,
        dtype=str(dtype).removeprefix("torch."),
        macs_per_second=report.rate,
        sanity=checked,
        rows=[dict(zip(COLUMNS, row, strict=True)) for row in report.rows],
    )
    sys.exit(bool(checked["failed"] or report.missed()))


if __name__ == "__main__":
    main()
