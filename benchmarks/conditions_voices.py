"""Does the pruned model lose more than the dense one on a telephone, through a codec, in a short recording?

    python benchmarks/conditions_voices.py --exp exp-folds/fold-0 \
        [--dense exp-folds/fold-0/finetune/lmft] [--pruned exp-folds/fold-0/quality/ours/finetune/lmft] \
        [--conditions alaw gsm ...] [--home exp-conditions] [--out docs/results]
    python benchmarks/conditions_voices.py --exp exp-folds/fold-0 --train [...]

`--exp` is an experiment that `folds.py` and `pruning_quality.py` have made: its speakers trained no model. Embeddings
and scores go to HOME, finished ones are kept, and conditions may be added later. The test side is under the condition,
enrollments are as recorded. With `--train`, a dense model is trained in HOME under some of the conditions, by the same
stages, steps and seed as the dense model of `--exp`, and takes the place of the pruned one: does that help, and does it
help under conditions that training never met? Writes conditions_voices.{json,md} or conditions_training.{json,md}.
"""

import argparse
import json
import sys
from pathlib import Path

import measuring
import numpy as np
from stage_commands import make, score

from svkit.config.conditions import CUTS, NAMES, under
from svkit.data.conditions import require_condition
from svkit.errors import ConfigError
from svkit.progress import SilentProgress
from svkit.reports import conditions as shown
from svkit.reports.tables import to_markdown
from svkit.scoring.conditions import compare_conditions
from svkit.store.atomic import write_text
from svkit.store.manifest import read_manifest
from svkit.store.metrics import Metrics, plain_record, read_metrics

SEED = 24
"""Seed of the bootstrap, as in `svkit score`."""
PROBABILITY, TRAINED_UNDER = 0.3, ("alaw", "gsm", "mp3-16k", "loss10", "narrowband", "clip", "far")
"""Share of the crops that `--train` puts under a condition, and the conditions: the cheap one of each kind."""


def usable(name: str) -> bool:
    """Say whether this machine has what a condition needs, and print what is missing."""
    try:
        require_condition(name)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return False
    return True


def train(exp: Path, home: Path) -> Path:
    """Train a dense model under conditions, with all else as in the dense model of `exp`; return its checkpoint."""
    names = json.dumps(TRAINED_UNDER)
    changes = [
        f"{stage}.augment.{setting}"
        for stage in ("lora", "joint", "lmft")
        for setting in (f"condition_probability={PROBABILITY}", f"conditions={names}")
    ]
    flags = ["--exp", exp, "--preset", "tiny", "--set", "precision=fp32"]
    flags += [word for change in changes for word in ("--set", change)]
    return make(home / "trained", "finetune", *flags, last="lmft")


def main() -> None:
    """Embed, score, compare, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--exp", type=Path, required=True)
    parser.add_argument("--dense", type=Path, help="[default: finetune/lmft of --exp]")
    parser.add_argument("--pruned", type=Path, help="[default: quality/ours/finetune/lmft of --exp]")
    parser.add_argument(
        "--train", action="store_true", help="compare dense with a model trained under conditions"
    )
    parser.add_argument("--conditions", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--home", type=Path, default=Path("exp-conditions"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    exp, home = options.exp, options.home
    models = {"dense": options.dense or exp / "finetune/lmft"}
    if options.train:
        models["trained"] = train(exp, home)
    else:
        models["pruned"] = options.pruned or exp / "quality/ours/finetune/lmft"
    chosen = [name for name in options.conditions if usable(name)]
    manifest, (trials,) = exp / "data/eval.tsv", (exp / "data/trials").glob("*.txt")
    embeddings = [
        make(
            home / "embeddings" / under(model, condition),
            *("extract", manifest, "--model", path, "--exp", home, "--set", "precision=fp32"),
            *([] if condition is None else ["--condition", condition]),
        )
        for condition in (None, *chosen)
        for model, path in models.items()
    ]
    places = score(home, trials, embeddings).values()
    measured = [(place, metrics) for place in places if isinstance(metrics := read_metrics(place), Metrics)]
    rows = compare_conditions(measured, SEED, SilentProgress())
    seconds = read_manifest(manifest).durations_seconds
    first = measured[0][1]
    counts = (
        f"{trials.stem} has {first.num_targets:,} target and {first.num_nontargets:,} nontarget trials. Share of the"
        " recordings that a cut shortens: "
        + ", ".join(f"{name} {np.mean(seconds > CUTS[name]):.0%}" for name in chosen if name in CUTS)
    )
    (table,) = shown.tables(rows)
    findings = shown.findings(rows)
    out = options.out / ("conditions_training" if options.train else "conditions_voices")
    measuring.save(
        out.with_suffix(".json"),
        1,
        rows=plain_record(rows),
        findings=findings,
        trials=trials.stem,
        num_targets=first.num_targets,
        num_nontargets=first.num_nontargets,
        checkpoints={model: metrics.checkpoint["sha256"] for model in models for _, metrics in measured
                     if metrics.name == model and metrics.checkpoint},
        missing=[name for name in options.conditions if name not in chosen],
    )  # fmt: skip
    parts = [f"# {table.title}", f"{counts}."]
    if options.train:
        parts.append(
            f"`trained` is a dense model with {PROBABILITY:.0%} of its training crops under one of "
            + ", ".join(f"`{name}`" for name in TRAINED_UNDER)
            + "; it is otherwise trained like `dense`. It has never met the other conditions."
        )
    parts += [to_markdown(table), *findings, shown.NOTE]
    parts.append(f"Made by `python benchmarks/conditions_voices.py{' --train' if options.train else ''}`.")
    write_text(out.with_suffix(".md"), "\n\n".join(parts) + "\n")
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
