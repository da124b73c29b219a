"""One optimiser step of every stage at full size (580 M parameters, random weights): time and peak memory.

    python benchmarks/full_size.py [--batch-size 2] [--seconds 3] [--stages joint prune] [--json FILE]

Each stage runs in a process of its own, so that the peak is its own.
"""

import argparse
import copy
import json
import platform
import resource
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

STAGES = ("lora", "head", "joint", "lmft", "prune", "distill")
NUM_CLASSES = 3 * 5994


def run_stage(stage: str, batch_size: int, seconds: float, steps: int) -> dict[str, object]:
    """Run a few steps of one stage in this process."""
    import torch

    from svkit.config.architecture import W2V_BERT_2, ModelArchitecture
    from svkit.config.load import load_recipe
    from svkit.config.schema import HeadConfig
    from svkit.nn import lora
    from svkit.nn.margin import ArcFaceClassifier
    from svkit.nn.speaker import SpeakerNetwork
    from svkit.pruning.gates import EncoderGates
    from svkit.stages.training import make_accelerator
    from svkit.train.loop import make_optimizer
    from svkit.train.tasks import ClassificationTask, DistillationTask, PruningTask

    accelerator = make_accelerator("auto")
    recipe = load_recipe("w2v-bert-2.0", None, [], [])
    torch.manual_seed(0)
    network = SpeakerNetwork(ModelArchitecture(encoder=W2V_BERT_2, head=HeadConfig()))
    if stage in ("prune", "distill"):
        config = getattr(recipe, stage)
        student = copy.deepcopy(network.encoder)
        student.set_conv_dropout(config.conv_dropout)
        if stage == "prune":
            gates = EncoderGates(W2V_BERT_2, config, recipe.seed)
            task = PruningTask(student, network.encoder, gates, config, config.sparsity_warmup_steps)
        else:
            task = DistillationTask(student, network.encoder, config)
        optim = config.optim
    else:
        config = getattr(recipe.dense, stage)
        classes = NUM_CLASSES // 3 if stage == "lmft" else NUM_CLASSES
        if stage == "lora":
            lora.attach(network.encoder, recipe.lora)
        if stage == "head":
            network.encoder.requires_grad_(False)
        network.encoder.set_conv_dropout(0.0 if stage in ("lora", "head") else config.conv_dropout)
        task = ClassificationTask(network, ArcFaceClassifier(256, classes), config.margin)
        optim = config.optim
    optimizer = make_optimizer(task, optim)
    wrapped = accelerator.prepare_model(task).train()
    waveforms = 0.1 * torch.randn(batch_size, int(seconds * 16_000))
    labels = torch.arange(batch_size)
    times = []
    for step in range(steps):
        started = time.perf_counter()
        losses = wrapped(waveforms.to(accelerator.device), labels.to(accelerator.device), step)
        accelerator.backward(losses["loss"])
        for parameters in task.clip_groups().values():
            if parameters:
                torch.nn.utils.clip_grad_norm_(parameters, optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - started)
    assert torch.isfinite(losses["loss"])
    return {
        "stage": stage,
        "loss": round(float(losses["loss"].detach()), 4),
        "first_step_seconds": round(times[0], 1),
        "step_seconds": round(min(times), 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "precision": accelerator.mixed_precision,
        "device": str(accelerator.device),
    }


def main() -> None:
    """Run every stage in its own process and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(run_stage(options.stages[0], options.batch_size, options.seconds, options.steps)))
        return
    rows = []
    print(f"{'stage':9}{'peak GB':>9}{'s/step':>9}{'loss':>10}")
    for stage in options.stages:
        command = [
            sys.executable,
            __file__,
            "--inside",
            "--stages",
            stage,
            "--batch-size",
            str(options.batch_size),
            "--seconds",
            str(options.seconds),
            "--steps",
            str(options.steps),
        ]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        row = json.loads(output.strip().splitlines()[-1])
        rows.append(row)
        print(f"{stage:9}{row['peak_gb']:>9}{row['step_seconds']:>9}{row['loss']:>10}", flush=True)
    if options.json:
        record = {
            "date": date.today().isoformat(),
            "machine": platform.processor() or platform.machine(),
            "batch_size": options.batch_size,
            "crop_seconds": options.seconds,
            "stages": rows,
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
