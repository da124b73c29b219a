"""Compare the guided cut with the dense model, one-shot cuts and its structure alone, over four folds of the voices.

    python benchmarks/pruning_quality.py [--folds 0 1 2 3] [--methods ours magnitude ...] [--set precision=bf16]

Every speaker of `../shared/voices` is evaluated once, by models trained on the other folds (`folds.py`, which also
trains the dense models). In each fold all methods get the same teacher, the same counted sparsity and the same number
of training steps since the teacher:

- ours: prune with gates, distil and fine-tune, as the recipe says;
- magnitude: cut the units whose weights have the smallest L2 norm at once (`magnitude.py`), distil for as many steps as
  our pruning and distillation take together, then fine-tune like ours;
- peer: the same with the cut of Torch-Pruning (`peer.py`, which needs `pip install -e '.[bench]'`);
- scratch: train a random model with the widths that ours found, like a dense one (ArcFace only), for all of our steps;
- shares: like ours, but divide the steps as published, so that most of them are distillation;
- continued: train the teacher itself further, for all of our steps.

Distances to the teacher are measured on crops of held-out training speakers, and all choices were made on those
speakers. Every final model is evaluated once on the trials of its fold. Finished parts are kept in HOME/fold-N, so the
same command continues after an interruption, and several commands can work on different folds side by side. The results
of a method in a fold are kept in OUT/folds (`evidence.py`), which is in the repository, so they need not be made again.
Each run ends with writing the page of all results so far (`quality_page.py`); with `--page-only` it does only that.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from evidence import Evidence, read_evidence, trials_sha256, write_evidence
from folds import NUM_FOLDS, add_fold_options, fold_trials, prepare_fold, train_dense
from magnitude import RULES, cut_by_magnitude
from quality_page import render
from quality_pool import gather
from stage_commands import make, score

from svkit.config.architecture import EncoderArchitecture, ModelArchitecture
from svkit.config.load import load_recipe
from svkit.config.schema import Recipe
from svkit.data.sampler import EpochBatches
from svkit.models.load import load_encoder, load_model, new_network
from svkit.models.session import make_accelerator
from svkit.nn.encoder import Encoder, initialise
from svkit.pruning.counting import sparsity
from svkit.reports.timing import describe_machine
from svkit.store import checkpoint as store
from svkit.store.atomic import write_json, write_text
from svkit.store.manifest import read_manifest
from svkit.store.metrics import metrics_record, read_metrics
from svkit.store.output import Output
from svkit.store.provenance import read_provenance, sha256_file
from svkit.store.report import read_log
from svkit.store.scores import read_scores
from svkit.store.trials import Trials
from svkit.training.tasks import DistillationTask
from svkit.training.validation import DistanceMeter, Validator

STAGES = ("head", "joint", "lmft")
PUBLISHED = "w2v-bert-2.0"
"""The recipe by which `shares` divides the steps."""
MANY_ROWS = 10_000_000
"""With so many recordings, rounding steps to whole numbers does not matter."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One fold, and the settings of its methods."""

    exp: Path
    fold: int
    recipe: Recipe
    options: list[str]
    """Experiment and recipe as options of every command."""
    target: float
    rules: dict[str, str]
    """Rules of the one-shot cuts, by method."""
    changed: list[str]
    """Settings other than precision and seed that differ from the preset's."""
    out: Path
    """Where evidence goes: docs/results."""

    def settings(self, method: str) -> dict[str, Any]:
        """Return the settings that evidence on this method must share to be pooled."""
        recipe = self.recipe
        return {
            "preset": recipe.name,
            "seed": recipe.seed,
            "changed": self.changed,
            "target": self.target,
        } | ({"rule": self.rules[method]} if method in self.rules else {})

    def known(self, method: str) -> Evidence | None:
        """Read the evidence on a method in this fold."""
        return read_evidence(self.out, self.fold, method, self.settings(method))

    @property
    def teacher(self) -> Path:
        """The dense model that guides: stage 2."""
        return self.exp / "finetune" / "joint"

    @property
    def home(self) -> Path:
        """Directory of the methods of this fold."""
        return self.exp / "quality"

    @property
    def train(self) -> Path:
        """The training list."""
        return self.exp / "data" / "train.tsv"

    @property
    def trials(self) -> Path:
        """Trials among the speakers of the fold."""
        return self.exp / "data" / "trials" / f"fold-{self.fold}.txt"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A row of the table."""

    method: str
    stage: str
    checkpoint: Path
    steps: int
    """Training steps since the teacher (scratch: since its random start)."""


def num_steps(*checkpoints: Path) -> int:
    """Return the number of training steps of these checkpoints, by their logs."""
    return sum(
        max(record["step"] for record in read_log(path) if record["kind"] == "train") for path in checkpoints
    )


def stage_parts(recipe: Recipe) -> dict[str, Any]:
    """Return the stages between teacher and result, by the names of their tables in the recipe."""
    return {"prune": recipe.prune, "distill": recipe.distill} | {
        f"pruned.{stage}": getattr(recipe.pruned, stage) for stage in STAGES
    }


def planned_steps(recipe: Recipe, rows: int) -> dict[str, int]:
    """Return the steps of each stage for a number of training recordings."""
    return {
        name: EpochBatches(rows, part.data, 0).count_steps(part.epochs)
        for name, part in stage_parts(recipe).items()
    }


def our_steps(run: Run) -> dict[str, int]:
    """Return the steps of each stage of ours in this fold."""
    return planned_steps(run.recipe, len(read_manifest(run.train)))


def epochs(run: Run, table: str, steps: int) -> list[str]:
    """Return the option that sets the steps of a stage; `table` is `prune`, or for example `pruned.joint`."""
    part: Any = run.recipe
    for name in table.split("."):
        part = getattr(part, name)
    batches = EpochBatches(len(read_manifest(run.train)), part.data, 0)
    return ["--set", f"{table}.epochs={steps / batches.steps_per_epoch!r}"]


def finish_cut(run: Run, method: str, cut: Path, steps: int, extra: Sequence[str] = ()) -> list[Model]:
    """Distil a cut encoder for the rest of the steps of our pruning and distillation, then fine-tune it like ours."""
    home, ours = run.home / method, our_steps(run)
    distil = epochs(run, "distill", ours["prune"] + ours["distill"] - steps)
    distilled = make(
        home / "distill",
        *("distill", *run.options, "--teacher", run.teacher, "--student", cut, *(extra or distil)),
    )
    final = make(home / "finetune", "finetune", *run.options, "--from", distilled, *extra, last="lmft")
    made = [steps, steps + num_steps(distilled)]
    made.append(made[1] + num_steps(*(home / "finetune" / stage for stage in STAGES)))
    assert made[2] == sum(ours.values()), f"{method}: {made[2]} steps, ours {ours}"
    return [
        Model(method=method, stage="cut", checkpoint=cut, steps=made[0]),
        Model(method=method, stage="distilled", checkpoint=distilled, steps=made[1]),
        Model(method=method, stage="fine-tuned", checkpoint=final, steps=made[2]),
    ]


def run_dense(run: Run) -> list[Model]:
    """Return the teacher, and the dense model of the last stage."""
    stages = {"joint (teacher)": run.teacher, "lmft": run.exp / "finetune" / "lmft"}
    return [
        Model(method="dense", stage=stage, checkpoint=path, steps=num_steps(path) if stage == "lmft" else 0)
        for stage, path in stages.items()
    ]


def run_ours(run: Run, method: str = "ours", extra: Sequence[str] = ()) -> list[Model]:
    """Prune, distil, fine-tune."""
    prune = ["prune", *run.options, "--sparsity", f"{run.target:g}", "--teacher", run.teacher, *extra]
    cut = make(run.home / method / "prune", *prune)
    return finish_cut(run, method, cut, num_steps(cut), extra)


def run_shares(run: Run) -> list[Model]:
    """Do as ours, with the same number of steps divided as published."""
    published, ours = planned_steps(load_recipe(PUBLISHED), MANY_ROWS), our_steps(run)
    total, left = sum(published.values()), sum(ours.values())
    extra = []
    for name, steps in published.items():
        mine = left if name == "pruned.lmft" else round(sum(ours.values()) * steps / total)
        left -= mine
        extra += epochs(run, name, mine)
    return run_ours(run, "shares", extra)


def run_magnitude(run: Run) -> list[Model]:
    """Cut by weight norms at once."""
    cut = cut_by_magnitude(run.home / "magnitude" / "cut", run.teacher, run.target, run.rules["magnitude"])
    return finish_cut(run, "magnitude", cut, 0)


def run_peer(run: Run) -> list[Model]:
    """Cut by Torch-Pruning at once."""
    from peer import cut_by_peer

    out, recipe, rule = run.home / "peer" / "cut", run.recipe, run.rules["peer"]
    cut = cut_by_peer(out, run.teacher, run.train, recipe.dense.joint, run.target, rule, recipe.seed)
    return finish_cut(run, "peer", cut, 0)


def train_whole(run: Run, method: str, start: Path, extra: Sequence[str] = ()) -> list[Model]:
    """Train a model by the dense recipe (joint, lmft) for all of our steps."""
    home, dense = run.home / method, run.recipe.dense
    lmft = EpochBatches(len(read_manifest(run.train)), dense.lmft.data, 0).count_steps(dense.lmft.epochs)
    steps = sum(our_steps(run).values())
    finetune = [
        "finetune",
        *run.options,
        *epochs(run, "dense.joint", max(1, steps - lmft)),
        *extra,
        "--stage",
    ]
    joint = make(home / "joint", *finetune, "joint", "--from", start)
    final = make(home / "lmft", *finetune, "lmft", "--from", joint)
    made = num_steps(joint, final)
    assert made == steps, f"{method}: {made} steps, ours {steps}"
    return [Model(method=method, stage="trained", checkpoint=final, steps=made)]


def run_scratch(run: Run) -> list[Model]:
    """Train our structure from random weights."""
    ours = run.known("ours")
    if ours is None:
        sys.exit(f"fold {run.fold}: scratch takes the widths of ours, which is not finished")
    return train_whole(run, "scratch", draw_model(run, ours.rows[-1]["widths"]))


def run_continued(run: Run) -> list[Model]:
    """Train the teacher further, at the learning rate of our fine-tuning."""
    rate = f"dense.joint.optim.lr={run.recipe.pruned.joint.optim.lr!r}"
    return train_whole(run, "continued", run.teacher, ["--set", rate])


METHODS: dict[str, Callable[[Run], list[Model]]] = {
    "dense": run_dense,
    "ours": run_ours,
    "magnitude": run_magnitude,
    "scratch": run_scratch,
    "peer": run_peer,
    "shares": run_shares,
    "continued": run_continued,
}
WITHOUT_TEACHER = {"scratch"}


def dense_architecture(recipe: Recipe) -> EncoderArchitecture:
    """Return the architecture of the encoder before any cut."""
    return load_encoder(recipe.encoder, recipe)[0]


def draw_model(run: Run, widths: dict[str, list[int]]) -> Path:
    """Write a random model of these widths, as an uncut model."""
    out, seed = run.home / "scratch" / "start", run.recipe.seed
    output = Output(out, command="draw", config={"seed": seed, "widths": widths}, inputs={}, overwrite=True)
    if output.is_current:
        return out
    encoder = Encoder(dense_architecture(run.recipe).with_widths(widths))
    initialise(encoder, torch.Generator().manual_seed(seed))
    architecture = ModelArchitecture(encoder=encoder.architecture, head=run.recipe.head)
    with output.open():
        network = new_network(architecture, encoder.state_dict(), seed)
        store.write_model(out, architecture, network.state_dict())
        output.finish()
    return out


class Measure:
    """Measures distances and error rates of the models of a fold, all on the same recordings."""

    def __init__(self, run: Run) -> None:
        data = run.exp / "data"
        self.run = run
        self.accelerator = make_accelerator(run.recipe.precision)
        self.validator = Validator(data / "valid.tsv", data / "valid_trials.txt")
        self.meter = DistanceMeter(data / "valid.tsv", run.recipe.prune.data, run.recipe.seed)
        self.dense = dense_architecture(run.recipe)

    def row(self, model: Model, scores: Path) -> dict[str, Any]:
        """Return a row of the table; `scores` is the directory of the model's scores of the fold's trials."""
        network = load_model(model.checkpoint)
        distance: dict[str, Any] = {"l1": None, "cosine": None}
        if model.method not in WITHOUT_TEACHER:
            teacher = load_model(self.run.teacher)
            task = DistillationTask(
                load_model(model.checkpoint).encoder, teacher.encoder, self.run.recipe.distill
            )
            distance = self.meter.measure(task.to(self.accelerator.device), self.accelerator)
        network.to(self.accelerator.device)
        metrics = metrics_record(read_metrics(scores))
        return {
            "method": model.method,
            "stage": model.stage,
            "steps": model.steps,
            "sparsity": sparsity(network.architecture.encoder, self.dense),
            **distance,
            "valid_eer": self.validator.measure(network, self.run.recipe.extract, self.accelerator)["eer"],
            "eer": metrics["eer"],
            "widths": network.architecture.encoder.widths(),
        }


def measure(run: Run, method: str, models: Sequence[Model], trials: Trials) -> Evidence:
    """Measure the models that a method has made."""
    embeddings = [
        make(
            run.home / "embeddings" / f"{method}-{model.stage.split()[0]}",
            *("extract", *run.options, "--model", model.checkpoint),
        )
        for model in models
    ]
    scores = score(run.home, run.trials, embeddings)
    meter = Measure(run)
    rows = [
        meter.row(model, scores[directory.name]) for model, directory in zip(models, embeddings, strict=True)
    ]
    pruning = read_provenance(models[0].checkpoint).get("pruning")
    if pruning:
        gates = {
            "method": method,
            "stage": "gates",
            "steps": models[0].steps,
            "sparsity": pruning["expected"],
        }
        rows.insert(0, gates | pruning["before_cut"])
    final = read_scores(scores[embeddings[-1].name])
    assert trials_sha256(final.trials) == trials_sha256(trials), "scores keep the order of the list"
    return Evidence(
        fold=run.fold,
        method=method,
        settings=run.settings(method),
        made={
            "date": date.today().isoformat(),
            "machine": asdict(describe_machine()),
            "precision": run.recipe.precision,
            "teacher": None if method in WITHOUT_TEACHER else sha256_file(run.teacher / store.MODEL_NAME),
        },
        rows=rows,
        scores=final.scores,
        trials_sha256=trials_sha256(trials),
    )


def work(run: Run, methods: Sequence[str], voices: Path, home: Path) -> None:
    """Train and measure the methods that have no results in this fold yet."""
    missing = [method for method in methods if run.known(method) is None]
    if not missing:
        return
    prepare_fold(voices, home, run.fold)
    if set(missing) - WITHOUT_TEACHER:
        train_dense(run.exp, run.options)
    trials = fold_trials(voices, run.fold)[1]
    for method in missing:
        write_evidence(run.out, measure(run, method, METHODS[method](run), trials))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_fold_options(parser)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--rule", choices=RULES, default=RULES[0], help="how `magnitude` chooses units")
    parser.add_argument(
        "--peer-rule", default="taylor-isomorphic", help="a rule of peer.py: IMPORTANCE-SCOPE"
    )
    parser.add_argument("--page-only", action="store_true", help="only write the page of the results so far")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    return parser.parse_args()


def main() -> None:
    """Run the methods in the folds, then write the page of all finished results."""
    options = parse()
    flags = ["--preset", options.preset]
    flags += [word for override in options.overrides for word in ("--set", override)]
    recipe = load_recipe(options.preset, overrides=options.overrides)
    runs = [
        Run(
            exp=options.home / f"fold-{fold}",
            fold=fold,
            recipe=recipe,
            options=["--exp", str(options.home / f"fold-{fold}"), *flags],
            target=options.sparsity,
            rules={"magnitude": options.rule, "peer": options.peer_rule},
            changed=sorted(o for o in options.overrides if o.split("=")[0] not in ("precision", "seed")),
            out=options.out,
        )
        for fold in range(NUM_FOLDS)
    ]
    for fold in () if options.page_only else options.folds:
        work(runs[fold], options.methods, options.voices, options.home)
    found = {method: {run.fold: run.known(method) for run in runs} for method in METHODS}
    facts = gather(found, options.voices) | {
        "settings": runs[0].settings("ours"),
        "command": " ".join(["python", "benchmarks/pruning_quality.py", *sys.argv[1:]]),
        "magnitude_rule": options.rule,
        "peer_rule": options.peer_rule,
        "num_folds": NUM_FOLDS,
    }
    write_json(
        options.out / "pruning_quality.json",
        {"format": "svkit-pruning-quality", "format_version": 3, **facts},
    )
    write_text(options.out / "pruning_quality.md", render(facts))
    print(render(facts))
    print(options.out / "pruning_quality.md")


if __name__ == "__main__":
    main()
