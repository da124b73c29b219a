"""A training step of every stage against the published way to compute it: CPU time, peak memory, bf16 against fp32.

    python benchmarks/training_speed.py [--size full|tiny] [--stages lora joint prune distill]
        [--dtypes fp32 bf16] [--ways svkit published] [--batch-size 2] [--threads 1] [--json FILE]

Random weights, noise as audio. A step: features, forward, backward, clipping, AdamW. Each measurement runs in a
process of its own, so that the peak of its memory is its own; the time is the fastest of the steps after the first.
`benchmarks/published_training.py` is the baseline.
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
NUM_CLASSES = {"full": 3 * 5994, "tiny": 5 * 42}


def build(stage: str, way: str, recipe: Any, num_classes: int) -> tuple[Any, Any]:
    """Make the task of a stage, ours or the published one, and the settings of its optimiser."""
    import torch
    from published_training import StockEncoder
    from torch.nn import functional

    from svkit.config.architecture import W2V_BERT_2, ModelArchitecture
    from svkit.nn import lora
    from svkit.nn.margin import ArcFaceClassifier, arcface_logits
    from svkit.nn.speaker import SpeakerNetwork
    from svkit.pruning.gates import EncoderGates
    from svkit.train.tasks import (
        ClassificationTask,
        DistillationTask,
        PruningTask,
        distillation_losses,
    )

    encoder = W2V_BERT_2
    if recipe.name == "tiny":
        from svkit.stages.models import tiny_architecture  # reads audio, which a lent GPU machine cannot

        encoder = tiny_architecture(recipe)
    network = SpeakerNetwork(ModelArchitecture(encoder=encoder, head=recipe.head))
    is_stock = way == "published"
    if is_stock:
        network.encoder = StockEncoder(encoder)
    if stage in ("prune", "distill"):
        config = getattr(recipe, stage)
        student, teacher = copy.deepcopy(network.encoder), network.encoder

        class StockDistillation(DistillationTask):
            def distil(self, waveforms_BN, gates):  # type: ignore[no-untyped-def]
                with torch.no_grad():
                    targets = self._teacher[0](waveforms_BN)
                l1, cosine = distillation_losses(self.student(waveforms_BN, gates or ()), targets)
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
            head = self.network.head
            embeddings = head.pool([head.adapt(i, state) for i, state in enumerate(states)], None)
            logits = arcface_logits(
                self.classifier(embeddings), labels_B, self.margin.scale, self.margin.margin
            )
            return {"loss": functional.cross_entropy(logits, labels_B)}

    kind = StockClassification if is_stock else ClassificationTask
    classifier = ArcFaceClassifier(recipe.head.embedding_dim, num_classes)
    return kind(network, classifier, config.margin), config.optim


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run a few steps in this process."""
    import torch

    from svkit.config.load import load_recipe
    from svkit.stages.training import make_accelerator
    from svkit.train.loop import make_optimizer

    stage, way, dtype = options.stages[0], options.ways[0], options.dtypes[0]
    measuring.start(options.threads)
    preset, batch_size, seconds = SIZES[options.size]
    batch_size = options.batch_size or batch_size
    recipe = load_recipe(preset, None, [], [])
    accelerator = make_accelerator(dtype)
    torch.manual_seed(0)
    task, optim = build(stage, way, recipe, NUM_CLASSES[options.size])
    optimizer = make_optimizer(task, optim)
    wrapped = accelerator.prepare_model(task).train()
    waveforms = 0.1 * torch.randn(batch_size, int(seconds * 16_000))
    labels = torch.arange(batch_size)
    losses: dict[str, Any] = {}

    def step() -> None:
        losses.update(wrapped(waveforms, labels, 0))
        accelerator.backward(losses["loss"])
        for parameters in task.clip_groups().values():
            if parameters:
                torch.nn.utils.clip_grad_norm_(parameters, optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    times = [measuring.timed(step) for _ in range(options.steps + 1)]
    assert torch.isfinite(losses["loss"])
    return {
        "cpu_seconds": min(taken.cpu for taken in times[1:]),
        "wall_seconds": min(taken.wall for taken in times[1:]),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "loss": float(losses["loss"].detach()),
        "precision": accelerator.mixed_precision,
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
    columns = ("stage", "dtype", "way", "cpu s", "wall s", "peak GB", "x published", "x fp32", "loss")
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
                rows.append((stage, dtype, way, *times, *ratios, taken["loss"]))
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
