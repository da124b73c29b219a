"""Measure the peak memory of training with 351,834 classes, by the exact softmax and by one over some of the classes.

    python benchmarks/classifier.py [--batch-sizes 64 256] [--fractions 1 0.1] [--json FILE]

The classes are the speakers of VoxCeleb2 and VoxBlink2 at three speeds, embeddings have 256 dimensions as published,
and the encoder is the smallest there is (preset `smoke`), so that the classifier decides the peak. Each row takes two
optimiser steps in its own process on the CPU. The first row, with few classes, shows what everything else needs.
"""

import argparse
import json
import resource
import subprocess
import sys
from datetime import date
from pathlib import Path

NUM_CLASSES = 3 * (5_994 + 111_284)
FEW_CLASSES = 1_000
EMBEDDING_DIM = 256
CROP_SECONDS = 0.5
NUM_STEPS = 2


def run(num_classes: int, class_fraction: float, batch_size: int) -> dict[str, object]:
    """Take the steps in this process."""
    from dataclasses import replace

    import torch

    from svkit.config.architecture import ModelArchitecture
    from svkit.config.load import load_recipe
    from svkit.models.load import tiny_architecture
    from svkit.models.session import make_accelerator
    from svkit.nn.margin import make_classifier
    from svkit.nn.speaker import SpeakerNetwork
    from svkit.training.loop import make_optimizer, seed_step
    from svkit.training.tasks import ClassificationTask

    accelerator = make_accelerator("fp32")
    recipe = load_recipe("smoke")
    head = replace(recipe.head, embedding_dim=EMBEDDING_DIM)
    torch.manual_seed(0)
    network = SpeakerNetwork(
        ModelArchitecture(encoder=tiny_architecture(recipe.encoder_overrides), head=head)
    )
    config = recipe.dense.joint
    margin = replace(config.margin, class_fraction=class_fraction)
    classifier = make_classifier(EMBEDDING_DIM, num_classes, margin, batch_size=batch_size, seed=0)
    task = ClassificationTask(network, classifier, config.margin).train()
    optimizer = make_optimizer(task, config.optim)
    for step in range(NUM_STEPS):
        seed_step(0, step, 0)
        waveforms = 0.1 * torch.randn(batch_size, int(CROP_SECONDS * 16_000))
        labels = torch.randint(0, num_classes, (batch_size,))
        losses = task(waveforms, task.choose(labels, step), step)
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(losses["loss"])
        optimizer.step()
        assert torch.isfinite(losses["loss"])
    return {
        "classes": num_classes,
        "class_fraction": class_fraction,
        "classes_of_a_step": len(classifier.rows()),
        "batch_size": batch_size,
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
    }


def main() -> None:
    """Measure every combination and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--fractions", type=float, nargs="+", default=[1.0, 0.1])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inside", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        classes, fraction, size = options.inside
        print(json.dumps(run(int(classes), float(fraction), int(size))))
        return
    rows = []
    print(f"{'classes':>9}{'of a step':>11}{'batch':>7}{'peak GB':>9}")
    for size in options.batch_sizes:
        for classes, fraction in ((FEW_CLASSES, 1.0), *((NUM_CLASSES, part) for part in options.fractions)):
            command = [sys.executable, __file__, "--inside", str(classes), str(fraction), str(size)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            row = json.loads(output.strip().splitlines()[-1])
            rows.append(row)
            columns = (row["classes"], row["classes_of_a_step"], row["batch_size"], row["peak_gb"])
            print("{:>9}{:>11}{:>7}{:>9}".format(*columns), flush=True)
    if options.json:
        record = {
            "date": date.today().isoformat(),
            "device": "cpu",
            "embedding_dim": EMBEDDING_DIM,
            "crop_seconds": CROP_SECONDS,
            "encoder": "smoke",
            "rows": rows,
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
