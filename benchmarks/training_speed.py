"""Compare a training step of every stage with the published way to compute it: CPU time, memory, bf16 and fp32.

    python benchmarks/training_speed.py [--size full|tiny] [--stages lora joint prune distill]
        [--dtypes fp32 bf16] [--ways svkit published] [--batch-size 2] [--threads 1] [--json FILE]

Weights are random and audio is noise. A step consists of features, forward and backward pass, clipping and AdamW. Each
measurement runs in its own process, so that peaks of memory do not mix; the time is that of the fastest step after the
first. The baseline is `benchmarks/published_training.py`. `of the limit` compares the time with that of the
multiply-adds of `PASSES` at the rate of a square product.
"""

import argparse
import copy
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import measuring

STAGES = ("lora", "head", "joint", "lmft", "prune", "distill")
TARGETS = {"full": 1.05, "tiny": 1.5}
TARGET_BF16 = 2.0
SIZES = {"full": ("w2v-bert-2.0", 2, 3.0), "tiny": ("tiny", 16, 2.0)}
"""Preset, batch size and seconds of a crop."""
PASSES = {"lora": (2, 3), "head": (1, 3), "joint": (3, 3), "lmft": (3, 3), "prune": (4, 0), "distill": (4, 0)}
"""Multiply-adds of a training step, as multiples of a forward pass of encoder and of head. Each product of a trained
layer is computed three times: forward, for the gradient of its input, and for that of its weight. In `lora`, gradients
pass through the frozen encoder, so it counts twice; in `head` they end before it, so it counts once. `prune` and
`distill` have the teacher's forward pass and three of the student, and no head."""
NUM_CLASSES = {"full": 3 * 5994, "tiny": 5 * 42}


def architecture_of(recipe: Any) -> Any:
    """Return the architecture of the model that a recipe trains."""
    from svkit.config.architecture import W2V_BERT_2, ModelArchitecture, tiny_architecture

    is_tiny = recipe.encoder == "tiny"
    encoder = tiny_architecture(recipe.encoder_overrides) if is_tiny else W2V_BERT_2
    return ModelArchitecture(encoder=encoder, head=recipe.head)


def multiply_adds(stage: str, architecture: Any, seconds: float) -> int:
    """Count the multiply-adds of a step for one crop, without LoRA, distance embeddings, gates and classifier."""
    from svkit.audio.features import SAMPLE_RATE_HZ, num_frames
    from svkit.pruning.counting import macs

    count = macs(architecture, num_frames(int(seconds * SAMPLE_RATE_HZ)))
    return PASSES[stage][0] * count.encoder + PASSES[stage][1] * count.head


def build(stage: str, way: str, recipe: Any, num_classes: int) -> tuple[Any, Any]:
    """Return the task of a stage, ours or the published one, and the settings of its optimiser."""
    import torch
    from published_training import StockEncoder
    from torch.nn import functional

    from svkit.nn import lora
    from svkit.nn.margin import ArcFaceClassifier, arcface_logits
    from svkit.nn.speaker import SpeakerNetwork
    from svkit.pruning.gates import EncoderGates
    from svkit.training.tasks import (
        ClassificationTask,
        DistillationTask,
        PruningTask,
        distillation_losses,
    )

    network = SpeakerNetwork(architecture_of(recipe))
    encoder = network.architecture.encoder
    is_stock = way == "published"
    if is_stock:
        network.encoder = StockEncoder(encoder)
    if stage in ("prune", "distill"):
        config = getattr(recipe, stage)
        student, teacher = copy.deepcopy(network.encoder), network.encoder

        class StockDistillation(DistillationTask):
            def distance(self, waveforms_BN, part=0):  # type: ignore[no-untyped-def]
                gates = self.draw_gates() or ()
                with torch.no_grad():
                    targets = self._teacher[0](waveforms_BN)
                l1, cosine = distillation_losses(self.student(waveforms_BN, gates), targets)
                loss = self.config.l1_weight * l1 - self.config.cosine_weight * cosine
                return {"loss": loss, "l1": l1.detach(), "cosine": cosine.detach()}

        class StockPruning(StockDistillation, PruningTask):
            pass

        if stage == "prune":
            gates = EncoderGates(encoder, config, recipe.seed)
            kind = StockPruning if is_stock else PruningTask
            return kind(student, teacher, gates, config, config.sparsity_warmup_steps), config.optim
        return (StockDistillation if is_stock else DistillationTask)(student, teacher, config), config.optim
    config = getattr(recipe.dense, stage)
    if stage == "lora":
        lora.attach(network.encoder, recipe.lora)
    if stage == "head":
        network.encoder.requires_grad_(False)

    class StockClassification(ClassificationTask):
        def forward(self, waveforms_BN, labels_B, step):  # type: ignore[no-untyped-def]
            states = self.network.encoder(waveforms_BN)
            embeddings = self.network.head(states, None)
            logits = arcface_logits(
                self.classifier(embeddings), labels_B, self.margin.scale, self.margin.margin
            )
            return {"loss": functional.cross_entropy(logits, labels_B)}

    kind = StockClassification if is_stock else ClassificationTask
    classifier = ArcFaceClassifier(recipe.head.embedding_dim, num_classes)
    return kind(network, classifier, config.margin), config.optim


def take_step(
    wrapped: Any, task: Any, optimizer: Any, accelerator: Any, optim: Any, waveforms: Any, labels: Any
) -> dict[str, Any]:
    """Take a step as svkit's loop does: losses, gradients, clipping of each group, optimiser."""
    import torch

    losses = wrapped(waveforms, labels, 0)
    accelerator.backward(losses["loss"])
    for parameters in task.clip_groups().values():
        if parameters:
            torch.nn.utils.clip_grad_norm_(parameters, optim.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return losses


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run a few steps in this process."""
    import torch

    from svkit.config.load import load_recipe
    from svkit.models.session import make_accelerator
    from svkit.training.loop import make_optimizer
    from svkit.training.tasks import DistillationTask

    stage, way, dtype = options.stages[0], options.ways[0], options.dtypes[0]
    measuring.start(options.threads)
    preset, batch_size, seconds = SIZES[options.size]
    batch_size = options.batch_size or batch_size
    recipe = load_recipe(preset, None, [], [])
    accelerator = make_accelerator(dtype)
    torch.manual_seed(0)
    task, optim = build(stage, way, recipe, NUM_CLASSES[options.size])
    arithmetic = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    if isinstance(task, DistillationTask) and way == "svkit":
        task.prepare_teacher(arithmetic)
    optimizer = make_optimizer(task, optim)
    wrapped = accelerator.prepare_model(task).train()
    waveforms = 0.1 * torch.randn(batch_size, int(seconds * 16_000))
    labels = torch.arange(batch_size)
    losses: dict[str, Any] = {}

    def step() -> None:
        losses.update(take_step(wrapped, task, optimizer, accelerator, optim, waveforms, labels))

    times = [measuring.timed(step) for _ in range(options.steps + 1)]
    assert torch.isfinite(losses["loss"])
    return {
        "cpu_seconds": min(taken.cpu for taken in times[1:]),
        "wall_seconds": min(taken.wall for taken in times[1:]),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "loss": float(losses["loss"].detach()),
        "precision": accelerator.mixed_precision,
        "limit_seconds": batch_size
        * multiply_adds(stage, architecture_of(recipe), seconds)
        / measuring.matmul_peak(arithmetic),
    }


def main() -> None:
    """Run every measurement in its own process, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=["lora", "joint", "prune", "distill"])
    parser.add_argument("--dtypes", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--ways", nargs="+", choices=("svkit", "published"), default=["svkit", "published"])
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(measure(options)))
        return
    columns = (
        "stage",
        "dtype",
        "way",
        "cpu s",
        "wall s",
        "peak GB",
        "x published",
        "x fp32",
        "of the limit",
        "loss",
    )
    rows: list[tuple[Any, ...]] = []
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for stage in options.stages:
        for dtype in options.dtypes:
            for way in reversed(options.ways):
                words = [
                    "--inside",
                    "--size",
                    options.size,
                    "--stages",
                    stage,
                    "--dtypes",
                    dtype,
                    "--ways",
                    way,
                ]
                words += ["--steps", str(options.steps), "--threads", str(options.threads)]
                words += ["--batch-size", str(options.batch_size)] if options.batch_size else []
                command = [sys.executable, __file__, *words]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                taken = json.loads(output.strip().splitlines()[-1])
                found[stage, dtype, way] = taken
                against = found.get((stage, dtype, "published"), {}).get("cpu_seconds", float("nan"))
                slow = found.get((stage, "fp32", way), {}).get("cpu_seconds", float("nan"))
                ratios = (against / taken["cpu_seconds"], slow / taken["cpu_seconds"])
                times = (taken["cpu_seconds"], taken["wall_seconds"], taken["peak_gb"])
                rows.append(
                    (
                        stage,
                        dtype,
                        way,
                        *times,
                        *ratios,
                        taken["limit_seconds"] / taken["cpu_seconds"],
                        taken["loss"],
                    )
                )
                print(measuring.table(columns, rows[-1:]), flush=True)
    print(measuring.table(columns, rows))
    ours = [row for row in rows if row[2] == "svkit"]
    missed = [row for row in ours if row[6] < TARGETS[options.size]]
    missed += [row for row in ours if options.size == "full" and row[1] == "bf16" and row[7] < TARGET_BF16]
    measuring.save(
        options.json,
        options.threads,
        size=options.size,
        batch_size=options.batch_size or SIZES[options.size][1],
        crop_seconds=SIZES[options.size][2],
        rows=[dict(zip(columns, row, strict=True)) for row in rows],
    )
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
