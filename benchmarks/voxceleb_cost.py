"""Estimate what the VoxCeleb recipe costs, from its preset: operations, GPU-hours, money, crops per second.

    python benchmarks/voxceleb_cost.py [--json docs/results/voxceleb_cost.json]

Nothing is run. The operations are epochs x utterances x seconds of a crop x operations for a second of audio. A
backward pass counts as two forward passes. A frozen encoder has no backward pass, except with LoRA, where it counts as
one.
"""

import argparse
import json
from pathlib import Path

from svkit.config.load import load_recipe
from svkit.corpora.layouts.voxceleb import PUBLISHED, VOX2
from svkit.store.atomic import write_json

DENSE, PRUNED = 57.72e9, 12.75e9
"""Operations for a second of audio, as the paper states them."""
RATE = 125e12
"""Operations per second: 40 % of an A100's peak in bf16, 312 TFLOP/s."""
USD_AN_HOUR = 2
GPUS = 8


def main() -> None:
    """Print the estimate, and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    recipe = load_recipe("w2v-bert-2.0")
    utterances = PUBLISHED[VOX2][1]
    dense, pruned = recipe.dense, recipe.pruned
    stages = {
        "lora": (dense.lora, 2 * DENSE),
        "head": (dense.head, DENSE),
        "joint": (dense.joint, 3 * DENSE),
        "lmft": (dense.lmft, 3 * DENSE),
        "prune": (recipe.prune, 4 * DENSE),
        "distill": (recipe.distill, DENSE + 3 * PRUNED),
        "head, pruned": (pruned.head, PRUNED),
        "joint, pruned": (pruned.joint, 3 * PRUNED),
        "lmft, pruned": (pruned.lmft, 3 * PRUNED),
    }
    rows = {}
    for name, (stage, operations) in stages.items():
        crops = len(stage.data.speeds) * utterances
        seconds = sum(stage.data.crop_seconds) / 2
        total = stage.epochs * crops * seconds * operations
        hours = total / RATE / 3600
        rows[name] = {
            "stage": name,
            "epochs": stage.epochs,
            "crops": crops,
            "seconds": seconds,
            "eflop": total / 1e18,
            "hours": hours,
            "hours_8": hours / GPUS,
            "crops_per_second_8": GPUS * RATE / seconds / operations,
        }
    with_lora, without = ("lora", "joint", "lmft"), rows["lora"]["hours"] - rows["head"]["hours"]
    hours = {
        "dense": sum(rows[name]["hours"] for name in with_lora),
        "pruned": sum(row["hours"] for row in list(rows.values())[4:]),
    }
    total = sum(hours.values())
    facts = {
        "rows": [row for name, row in rows.items() if name != "head"],
        "hours": {**hours, "total": total, "saved without lora": without},
        "hours_8": {name: value / GPUS for name, value in {**hours, "total": total}.items()},
        "usd": USD_AN_HOUR * total,
        "usd_an_hour": USD_AN_HOUR,
        "tflops": RATE / 1e12,
        "gflop_a_second": {"dense": DENSE / 1e9, "pruned": PRUNED / 1e9},
    }
    print(json.dumps(facts, indent=1))
    if options.json:
        write_json(options.json, facts)


if __name__ == "__main__":
    main()
