"""What the guided cut is worth: against one-shot magnitude pruning and against the small structure from scratch.

    python benchmarks/pruning_quality.py --exp exp-folder [--preset tiny] [--seeds 24 25 26] [--out docs/results]

Needs an experiment with data (speakers held out for validation among them) and a trained dense model. All methods get
the same teacher, the same counted sparsity and the same number of training steps:

- ours: prune (gates, Lagrangian), distil, fine-tune, as the recipe says;
- magnitude: units with the smallest L2 norm of their weights are cut at once, then distilled for the steps of our
  pruning and distillation together, then fine-tuned like ours;
- scratch: a random model with the widths that ours found, trained as a dense one (ArcFace only) for all of our steps.

The dense model is trained once; seeds are those of everything after it. Distances to the teacher are measured on crops
of held-out speakers; every reported model is evaluated once on the evaluation trials, and nothing is chosen by them.
Finished parts are kept in EXP/pruning-quality, so an interrupted run goes on; `quality_page.py` renders the page.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from magnitude import RULES, cut_by_magnitude
from quality_page import render
from stage_commands import is_current, make, score

from svkit.cli.options import RunOptions
from svkit.config.architecture import ModelArchitecture
from svkit.config.schema import Recipe
from svkit.data.sampler import EpochBatches
from svkit.models.load import load_model, new_network
from svkit.models.session import make_accelerator
from svkit.nn.encoder import Encoder, initialise
from svkit.progress import SilentProgress
from svkit.pruning.counting import sparsity
from svkit.reports.timing import describe_machine
from svkit.scoring import comparison
from svkit.store import checkpoint as store
from svkit.store.atomic import write_json, write_text
from svkit.store.manifest import read_manifest
from svkit.store.metrics import Metrics, metrics_record, plain_record, read_metrics
from svkit.store.output import Output
from svkit.store.provenance import is_finished, read_provenance
from svkit.store.report import read_log
from svkit.training.tasks import DistillationTask
from svkit.training.validation import DistanceMeter, Validator

STAGES = ("head", "joint", "lmft")
NUM_RESAMPLES = 1000
COMPARED = ("ours", "magnitude", "scratch")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One seed of the comparison."""

    exp: Path
    work: Path
    recipe: Recipe
    """As resolved for this seed."""
    options: list[str]
    """The same as options of every command."""
    target: float
    rule: str
    trials: Path

    @property
    def teacher(self) -> Path:
        """The dense model that guides: stage 2."""
        return self.exp / "finetune" / "joint"

    @property
    def home(self) -> Path:
        """Where this seed's own parts are."""
        return self.work / f"seed-{self.recipe.seed}"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A row of the table."""

    method: str
    stage: str
    checkpoint: Path
    steps: int
    """Training steps since the teacher (scratch: since its random start)."""


def num_steps(*checkpoints: Path) -> int:
    """Training steps that were made for these checkpoints, by their logs."""
    return sum(
        max(record["step"] for record in read_log(path) if record["kind"] == "train") for path in checkpoints
    )


def epochs_for(run: Run, data: Any, steps: int) -> str:
    """Epochs that make so many steps."""
    rows = len(read_manifest(run.exp / "data" / "train.tsv"))
    return repr(steps / EpochBatches(rows, data, 0).steps_per_epoch)


def run_ours(run: Run) -> list[Model]:
    """Prune, distil, fine-tune; what the experiment itself has made from the same is taken from there."""
    prune = ["prune", *run.options, "--sparsity", f"{run.target:g}", "--teacher", run.teacher]
    distil = ["distill", *run.options, "--teacher", run.teacher, "--student"]
    exp, home = run.exp, run.home / "ours"
    cut, distilled, tuned = exp / "prune", exp / "distill", exp / "finetune-pruned"
    has_all = all(is_finished(path) for path in (cut, distilled, *(tuned / stage for stage in STAGES)))
    if not (
        has_all
        and is_current([cut], *prune)
        and is_current([distilled], *distil, cut)
        and is_current([tuned / stage for stage in STAGES], "finetune", *run.options, "--from", distilled)
    ):
        cut = make(home / "prune", *prune)
        distilled = make(home / "distill", *distil, cut)
        tuned = home / "finetune"
        make(tuned, "finetune", *run.options, "--from", distilled, last="lmft")
    steps = [num_steps(cut), num_steps(distilled), num_steps(*(tuned / stage for stage in STAGES))]
    return [
        Model(method="ours", stage="cut", checkpoint=cut, steps=steps[0]),
        Model(method="ours", stage="distilled", checkpoint=distilled, steps=sum(steps[:2])),
        Model(method="ours", stage="fine-tuned", checkpoint=tuned / "lmft", steps=sum(steps)),
    ]


def run_magnitude(run: Run, ours: list[Model]) -> list[Model]:
    """Cut by weight norms at once, distil for the steps of our pruning and distillation, fine-tune."""
    home = run.home / f"magnitude-{run.rule}"
    cut = cut_by_magnitude(run.work / f"magnitude-{run.rule}", run.teacher, run.target, run.rule)
    epochs = epochs_for(run, run.recipe.distill.data, ours[1].steps)
    distil = [
        "distill",
        *run.options,
        "--teacher",
        run.teacher,
        "--student",
        cut,
        "--set",
        f"distill.epochs={epochs}",
    ]
    distilled = make(home / "distill", *distil)
    final = make(home / "finetune", "finetune", *run.options, "--from", distilled, last="lmft")
    steps = [num_steps(distilled), num_steps(*(home / "finetune" / stage for stage in STAGES))]
    assert steps[0] == ours[1].steps and sum(steps) == ours[2].steps
    return [
        Model(method="magnitude", stage="cut", checkpoint=cut, steps=0),
        Model(method="magnitude", stage="distilled", checkpoint=distilled, steps=steps[0]),
        Model(method="magnitude", stage="fine-tuned", checkpoint=final, steps=sum(steps)),
    ]


def run_scratch(run: Run, ours: list[Model]) -> list[Model]:
    """Train our structure from random weights by the dense recipe (joint, lmft) for all of our steps."""
    home = run.home / "scratch"
    start = draw_model(home / "start", ours[2].checkpoint, run.recipe.seed)
    dense = run.recipe.dense
    rows = len(read_manifest(run.exp / "data" / "train.tsv"))
    lmft_steps = EpochBatches(rows, dense.lmft.data, 0).count_steps(dense.lmft.epochs)
    epochs = epochs_for(run, dense.joint.data, max(1, ours[2].steps - lmft_steps))
    finetune = ["finetune", *run.options, "--set", f"dense.joint.epochs={epochs}", "--stage"]
    joint = make(home / "joint", *finetune, "joint", "--from", start)
    final = make(home / "lmft", *finetune, "lmft", "--from", joint)
    return [Model(method="scratch", stage="trained", checkpoint=final, steps=num_steps(joint, final))]


def draw_model(out: Path, structure: Path, seed: int) -> Path:
    """Write a random model with the widths of a pruned one, as if they were its own."""
    output = Output(
        out, command="draw", config={"seed": seed}, inputs={"structure": structure}, overwrite=True
    )
    if output.is_current:
        return out
    pruned = store.read_architecture(structure)
    architecture = ModelArchitecture(encoder=pruned.encoder, head=pruned.head)
    with output.open():
        encoder = Encoder(architecture.encoder)
        initialise(encoder, torch.Generator().manual_seed(seed))
        network = new_network(architecture, encoder.state_dict(), seed)
        store.write_model(out, architecture, network.state_dict())
        output.finish()
    return out


class Measure:
    """Distances and error rates of models, each on the same material."""

    def __init__(self, run: Run) -> None:
        data = run.exp / "data"
        self.run = run
        self.accelerator = make_accelerator(run.recipe.precision)
        self.validator = Validator(data / "valid.tsv", data / "valid_trials.txt")
        self.meter = DistanceMeter(data / "valid.tsv", run.recipe.prune.data, run.recipe.seed)
        self.teacher = load_model(run.teacher)

    def gates(self, pruned: Path) -> dict[str, Any]:
        """Distance under the gates' deterministic mask at the end of pruning, as its last validation found it."""
        last = [record for record in read_log(pruned) if record["kind"] == "valid"][-1]
        return {"l1": last["l1"], "cosine": last["cosine"]}

    def distance(self, model: Model) -> dict[str, Any]:
        """Distance to the teacher's hidden states; none for a model that was never near them."""
        if model.method == "scratch":
            return {"l1": None, "cosine": None}
        student = load_model(model.checkpoint).encoder
        task = DistillationTask(student, self.teacher.encoder, self.run.recipe.distill).to(
            self.accelerator.device
        )
        return self.meter.measure(task, self.accelerator)

    def valid_eer(self, model: Model) -> float:
        """EER on trials among held-out training speakers."""
        network = load_model(model.checkpoint).to(self.accelerator.device)
        return self.validator.measure(network, self.run.recipe.extract, self.accelerator)["eer"]


def evaluate(run: Run, models: list[Model]) -> Iterator[tuple[Model, Path]]:
    """Score models on the evaluation trials; yields each with its scores directory."""
    names = [f"{model.method}-{model.stage.split()[0]}" for model in models]
    embeddings = [
        make(run.home / "embeddings" / name, "extract", *run.options, "--model", model.checkpoint)
        for name, model in zip(names, models, strict=True)
    ]
    scores = score(run.home, run.trials, embeddings)
    return zip(models, (scores[name] for name in names), strict=True)


def measure_run(run: Run, models: list[Model]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Measure every model of a seed; returns the rows and the paired differences of the final ones."""
    measure = Measure(run)
    rows, finals = [], {}
    for model, directory in evaluate(run, models):
        architecture = store.read_architecture(model.checkpoint)
        metrics = metrics_record(read_metrics(directory))
        rows.append(
            {
                "method": model.method,
                "stage": model.stage,
                "seed": run.recipe.seed,
                "steps": model.steps,
                "sparsity": sparsity(architecture.encoder, measure.teacher.architecture.encoder),
                **measure.distance(model),
                "valid_eer": measure.valid_eer(model),
                "eer": metrics["eer"],
                "eer_interval": metrics["eer_interval"],
                "min_dcf": metrics["min_dcf"],
            }
        )
        finals[model.method] = directory  # the last of a method
    pruned = next(model.checkpoint for model in models if (model.method, model.stage) == ("ours", "cut"))
    gated = {"method": "ours", "stage": "gates", "seed": run.recipe.seed, "steps": num_steps(pruned)}
    rows.append({**gated, **measure.gates(pruned)})
    return rows, differences(run, finals)


def differences(run: Run, finals: dict[str, Path]) -> list[dict[str, Any]]:
    """Paired differences of EER, ours minus the other, over resampled speakers."""
    names = [name for name in (*COMPARED, "dense") if name in finals]
    found = []
    for name in names:
        metrics = read_metrics(finals[name])
        assert isinstance(metrics, Metrics), f"{finals[name]}: trials of one class"
        resamples = comparison.find_resamples(finals[name], metrics, NUM_RESAMPLES, 24, SilentProgress())
        assert resamples is not None, f"{finals[name]}: too few speakers for a comparison"
        found.append((metrics, resamples))
    differences = [comparison.compare(found[0], other) for other in found[1:]]
    return [
        {**plain_record(one), "seed": run.recipe.seed, "first": names[0], "second": name}
        for name, one in zip(names[1:], differences, strict=True)
    ]


def dense_models(run: Run) -> list[Model]:
    """The teacher and the final dense model."""
    stages = {"joint (teacher)": run.teacher, "lmft": run.exp / "finetune" / "lmft"}
    return [Model(method="dense", stage=stage, checkpoint=path, steps=0) for stage, path in stages.items()]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--exp", type=Path, default=Path("exp-folder"))
    parser.add_argument("--preset", help="recipe (default: the experiment's)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: the recipe's")
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument(
        "--rule", choices=RULES, default=RULES[0], help="which units the magnitude baseline cuts"
    )
    parser.add_argument(
        "--trials", type=Path, help="evaluation trials (default: the experiment's first list)"
    )
    parser.add_argument("--work", type=Path, help="default: EXP/pruning-quality")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    missing = [
        path
        for path in (
            "data/train.tsv",
            "data/valid.tsv",
            "finetune/joint/provenance.json",
            "finetune/lmft/provenance.json",
        )
        if not (options.exp / path).is_file()
    ]
    if missing:
        parser.error(
            f"{options.exp}: {missing[0]} is missing; prepare with held-out speakers and finetune first"
        )
    return options


def main() -> None:
    """Run every method with every seed, measure, write, print the page."""
    options = parse()
    exp: Path = options.exp
    trials = options.trials or sorted((exp / "data" / "trials").glob("*.txt"))[0]
    asked = RunOptions(exp=exp, preset=options.preset, overrides=options.overrides)
    base = asked.open_recipe(["prune", "distill", "dense", "pruned"])
    rows: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    seeds = options.seeds or [base.seed]
    for seed in seeds:
        flags = ["--exp", str(exp), "--preset", base.name]
        flags += [word for override in (*options.overrides, f"seed={seed}") for word in ("--set", override)]
        run = Run(
            exp=exp,
            work=options.work or exp / "pruning-quality",
            recipe=replace(base, seed=seed),
            options=flags,
            target=options.sparsity,
            rule=options.rule,
            trials=trials,
        )
        ours = run_ours(run)
        models = [*dense_models(run), *ours, *run_magnitude(run, ours), *run_scratch(run, ours)]
        found, compared = measure_run(run, models)
        rows += found
        pairs += compared
    facts = {
        "date": date.today().isoformat(),
        "machine": asdict(describe_machine()),
        "command": " ".join(["python", "benchmarks/pruning_quality.py", *sys.argv[1:]]),
        "preset": base.name,
        "teacher_seed": read_provenance(exp / "finetune" / "joint")["seed"],
        "seeds": seeds,
        "target_sparsity": options.sparsity,
        "magnitude_rule": options.rule,
        "trials": trials.stem,
        "rows": rows,
        "differences": pairs,
    }
    write_json(
        options.out / "pruning_quality.json",
        {"format": "svkit-pruning-quality", "format_version": 1, **facts},
    )
    write_text(options.out / "pruning_quality.md", render(facts))
    print(render(facts))
    print(options.out / "pruning_quality.md")


if __name__ == "__main__":
    main()
