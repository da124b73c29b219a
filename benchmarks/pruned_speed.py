"""The published 80 % structure against the dense encoder, at full size with random weights, and what rounding brings.

    python benchmarks/pruned_speed.py [--seconds 3] [--batch-size 8] [--threads 1] [--rounds 5] [--json FILE]

Models take turns, and the median of the rounds is given, in process CPU time and wall time. `round_to` k: every width
of FFN and convolution is rounded to a multiple of k, then those rounded up furthest lose a block until the encoder is
again within the parameters of the published structure.
"""

import argparse
import json
import platform
import statistics
import time
from datetime import date
from pathlib import Path

import torch

from svkit.config.architecture import W2V_BERT_2, EncoderArchitecture, ModelArchitecture
from svkit.config.schema import HeadConfig
from svkit.nn.speaker import SpeakerNetwork
from svkit.pruning.counting import encoder_parameters, macs
from svkit.train.allocator import keep_freed_memory

# Widths of the published pruned model (arXiv 2510.04213, published checkpoint).
PUBLISHED = {
    "num_heads": "13 11 12 9 8 2 8 5 5 3 1 1 2 3 5 4 5 6 5 3 2 4 1 0",
    "conv_dim": (
        "812 848 735 702 630 533 481 89 421 269 149 90 86 194 207 222 373 323 224 157 132 45 33 162"
    ),
    "ffn1_dim": (
        "1662 2417 2329 1847 1581 759 666 1005 1717 639 323 194 63 103 483 420 596 854 707 359 232 200 243 160"
    ),
    "ffn2_dim": (
        "1916 1982 1587 1189 679 330 828 55 518 328 118 40 94 218 182 441 669 795 509 370 297 331 224 16"
    ),
}
ROUNDINGS = (1, 8, 16, 32, 64)


def rounded(published: EncoderArchitecture, step: int) -> EncoderArchitecture:
    """Round the widths to multiples of `step` within the parameters of `published`."""
    if step == 1:
        return published
    exact = published.widths()
    widths = {
        name: values if name == "num_heads" else [round(value / step) * step for value in values]
        for name, values in exact.items()
    }
    limit = encoder_parameters(published)
    while encoder_parameters(published.with_widths(widths)) > limit:
        excess, name, layer = max(
            (widths[name][layer] - exact[name][layer], name, layer)
            for name in ("conv_dim", "ffn1_dim", "ffn2_dim")
            for layer in range(published.num_layers)
            if widths[name][layer] >= step
        )
        widths[name][layer] -= step
    return published.with_widths(widths)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    published = W2V_BERT_2.with_widths(
        {name: list(map(int, text.split())) for name, text in PUBLISHED.items()}
    )
    structures = {"dense": W2V_BERT_2} | {f"round_to {step}": rounded(published, step) for step in ROUNDINGS}
    torch.manual_seed(0)
    models = {
        name: SpeakerNetwork(ModelArchitecture(encoder=encoder, head=HeadConfig())).eval()
        for name, encoder in structures.items()
    }
    waveforms = 0.1 * torch.randn(options.batch_size, int(options.seconds * 16_000))
    rows = []
    for dtype in ("fp32", "bf16"):
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
        for turn in range(options.rounds + 1):
            for name, model in models.items():
                wall, cpu = time.perf_counter(), time.process_time()
                with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
                    assert torch.isfinite(model(waveforms)).all()
                if turn:  # the first turn warms up
                    times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        medians = {
            name: tuple(statistics.median(column) for column in zip(*values, strict=True))
            for name, values in times.items()
        }
        for name, (wall, cpu) in medians.items():
            architecture = models[name].architecture
            rows.append(
                {
                    "dtype": dtype,
                    "structure": name,
                    "encoder_parameters": encoder_parameters(architecture.encoder),
                    "gmacs": macs(architecture).total / 1e9,
                    "wall_seconds": wall,
                    "cpu_seconds": cpu,
                    "speed_up_cpu": medians["dense"][1] / cpu,
                    "speed_up_wall": medians["dense"][0] / wall,
                }
            )
    print(
        f"{'dtype':6}{'structure':14}{'parameters':>13}{'GMACs':>8}{'cpu s':>8}"
        f"{'x dense, cpu':>14}{'x dense, wall':>15}"
    )
    for row in rows:
        print(
            f"{row['dtype']:6}{row['structure']:14}{row['encoder_parameters']:>13,}{row['gmacs']:>8.3f}"
            f"{row['cpu_seconds']:>8.2f}{row['speed_up_cpu']:>14.2f}{row['speed_up_wall']:>15.2f}"
        )
    if options.json:
        facts = {
            "date": date.today().isoformat(),
            "machine": platform.machine(),
            "threads": options.threads,
            "batch_size": options.batch_size,
            "seconds": options.seconds,
            "rows": rows,
        }
        options.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
