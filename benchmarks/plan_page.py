"""Writes docs/results/plan.json, which docs/distributed.md quotes: how the published recipe fits a GPU of 24 GiB.

    python benchmarks/plan_page.py [--preset w2v-bert-2.0] [--gpu-memory 24] [--json docs/results/plan.json]

Like `svkit doctor --plan`, it works from the shapes of a step, without a GPU; it takes about a minute of CPU time.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import measuring

from svkit.config.load import load_recipe
from svkit.progress import SilentProgress
from svkit.training.planning import RESERVE, plan

RECORD = Path(__file__).parents[1] / "docs" / "results" / "plan.json"


def main() -> None:
    """Plan, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="w2v-bert-2.0")
    parser.add_argument("--gpu-memory", type=float, default=24)
    parser.add_argument("--json", type=Path, default=RECORD)
    options = parser.parse_args()
    measuring.start(1)
    stages = [
        asdict(stage) for stage in plan(load_recipe(options.preset), options.gpu_memory, SilentProgress())
    ]
    print(measuring.table(list(stages[0]), [list(stage.values()) for stage in stages]))
    measuring.save(
        options.json, 1, preset=options.preset, gpu_memory=options.gpu_memory, reserve=RESERVE, stages=stages
    )


if __name__ == "__main__":
    main()
