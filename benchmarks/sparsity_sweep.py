"""The whole curve of pruning: EER against parameters, MACs and measured time, at several sparsities.

    python benchmarks/sparsity_sweep.py --exp exp [--preset tiny] [--levels 0.5 0.6 0.7 0.8 0.9 0.95]

Needs an experiment with a finished dense model, made by `make all` or a fold of `folds.py`. Prunes, distils and
fine-tunes it once per level in `EXP/sweep` (a level that `make all` or `pruning_quality.py` has made is taken from
there), scores every model on the same trials, and writes figure, table and `sweep.json` to `EXP/report/sweep`. Finished
parts are kept, so an interrupted sweep can be continued.
"""

import argparse
import io
import sys
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from stage_commands import is_current, make, score

from svkit.cli.console import PlainProgress
from svkit.eval.results import Interval
from svkit.models.info import describe_checkpoint
from svkit.models.load import load_model
from svkit.reports import figures, timing
from svkit.reports.results import EER
from svkit.reports.tables import Table, percent, to_markdown
from svkit.store.atomic import write_bytes, write_json, write_text
from svkit.store.metrics import metrics_record, read_metrics
from svkit.store.provenance import is_finished, read_provenance

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
DENSE = "dense"


def make_level(exp: Path, work: Path, recipe: list[str], augment: list[str], level: float) -> Path:
    """Prune, distil and fine-tune at one sparsity; return the final checkpoint."""
    prune = ["prune", *recipe, "--sparsity", f"{level:g}"]
    quality = exp / "quality" / "ours"
    for cut, distilled, own in (
        (exp / "prune", exp / "distill", exp / "finetune-pruned" / "lmft"),
        (quality / "prune", quality / "distill", quality / "finetune" / "lmft"),
    ):
        if is_current([cut, distilled, own], *prune, "--out", cut):
            return own
    home = work / f"{level:g}"
    cut = make(home / "prune", *prune)
    distilled = make(home / "distill", "distill", *recipe, "--student", cut)
    return make(home / "finetune", "finetune", *recipe, *augment, "--from", distilled, last="lmft")


def measure(
    exp: Path, work: Path, models: dict[str, Path], trials: Path, recipe: list[str]
) -> list[dict[str, Any]]:
    """Extract, score, count and time every model; return a point of the curve for each."""
    embeddings = [
        make(work / "embeddings" / name, "extract", *recipe, "--model", path) for name, path in models.items()
    ]
    scores = score(work, trials, embeddings)
    torch.set_num_threads(timing.NUM_THREADS)
    loaded = {name: load_model(path).embed for name, path in models.items()}
    times = timing.time_models(loaded, PlainProgress(sys.stderr))
    points = []
    for name, path in models.items():
        size, metrics = asdict(describe_checkpoint(path)), metrics_record(read_metrics(scores[name]))
        sizes = ("sparsity", "encoder_parameters", "head_parameters", "macs_per_second", "size_bytes")
        points.append(
            {
                "name": name,
                "checkpoint": path.relative_to(exp).as_posix(),
                **{key: size[key] for key in sizes},
                "seconds_per_second": asdict(times[name]),
                "eer": metrics["eer"],
                "eer_interval": metrics["eer_interval"],
                "min_dcf": metrics["min_dcf"],
                "widths": size["widths"],
            }
        )
    return points


AXES = (
    (
        "parameters, encoder and head, millions",
        lambda p: (p["encoder_parameters"] + p["head_parameters"]) / 1e6,
    ),
    ("MACs for 1 s of audio, millions", lambda p: p["macs_per_second"]["total"] / 1e6),
    ("CPU time for 1 s of audio, ms, one thread", lambda p: 1000 * p["seconds_per_second"]["cpu"]),
)


def draw(points: list[dict[str, Any]], trials: str) -> Figure:
    """Draw EER with its interval against each measure of cost, every point labelled with its counted sparsity."""
    figure = Figure(figsize=(4.6 * len(AXES), 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    dense = next(point for point in points if point["name"] == DENSE)
    pruned = [point for point in points if point["name"] != DENSE]
    for panel, (text, cost) in zip(figure.subplots(1, len(AXES)), AXES, strict=True):
        curve = sorted([*pruned, dense], key=cost)
        panel.plot(
            [cost(p) for p in curve], [100 * p["eer"] for p in curve], ":", color=figures.GREY, zorder=1
        )
        for members, colour, marker, label in (
            (pruned, figures.BLUE, "o", "pruned (label: sparsity, counted)"),
            ([dense], figures.VERMILLION, "s", "dense"),
        ):
            spread = None
            if all(point["eer_interval"] for point in members):
                below = [100 * max(p["eer"] - p["eer_interval"]["low"], 0) for p in members]
                above = [100 * max(p["eer_interval"]["high"] - p["eer"], 0) for p in members]
                spread = [below, above]
            places = [cost(p) for p in members], [100 * p["eer"] for p in members]
            panel.errorbar(*places, yerr=spread, fmt=marker, color=colour, capsize=4, label=label)
        for point in pruned:  # above the bars, upright: neighbours would write over each other
            label = f"{100 * point['sparsity']:.0f} %"
            place = (cost(point), 100 * (point["eer_interval"] or {"high": point["eer"]})["high"])
            style = {"textcoords": "offset points", "fontsize": 9, "rotation": 90, "ha": "center"}
            panel.annotate(label, place, xytext=(0, 6), va="bottom", **style)
        panel.margins(y=0.15)
        panel.set(xlabel=text, ylabel=f"EER on {trials}, %")
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0)
        panel.grid(color="#dddddd", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def render(facts: dict[str, Any]) -> str:
    """The page."""
    machine = facts["machine"]
    rows = []
    for point in facts["points"]:
        times, interval = point["seconds_per_second"], point["eer_interval"]
        rows.append(
            [
                point["name"],
                f"{point['sparsity']:.4f}",
                f"{point['encoder_parameters']:,}",
                f"{point['head_parameters']:,}",
                f"{point['macs_per_second']['total'] / 1e6:.1f} M",
                f"{times['cpu']:.5f}",
                f"{times['wall']:.5f}",
                percent(point["eer"], Interval(**interval) if interval else None),
            ]
        )
    headings = ["model", "sparsity, counted", "encoder", "head", "MACs, 1 s", "CPU time", "wall time", EER]
    lines = [
        "# EER against sparsity",
        "",
        f"- Written by `{facts['command']}` on {facts['date']}; timed on one thread of {machine['processor']}.",
        f"- Trials: `{facts['trials']}`; interval: 95 %, bootstrap over speakers. Preset `{facts['preset']}`, seed "
        f"{facts['seed']}, one run for each sparsity.",
        "- Encoder and head are given in parameters, times in seconds for 1 s of audio. Utterances are embedded one at "
        "a time, and models take turns.",
        "",
        to_markdown(Table(headings=headings, rows=rows)),
    ]
    return "\n".join([*lines, "", "![EER against parameters, MACs and time](sweep.png)", ""])


def write(out: Path, facts: dict[str, Any]) -> None:
    """Write figure, page and facts."""
    figure = draw(facts["points"], facts["trials"])
    png, svg = io.BytesIO(), io.StringIO()
    figure.savefig(png, format="png", dpi=130)
    figure.savefig(svg, format="svg", metadata={"Date": None})
    write_bytes(out / "sweep.png", png.getvalue())
    write_text(out / "sweep.svg", svg.getvalue())
    write_text(out / "sweep.md", render(facts))
    write_json(out / "sweep.json", {"format": "svkit-sweep", "format_version": 1, **facts})


def main() -> None:
    """Make the levels, measure, write, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--exp", type=Path, default=Path("exp"))
    parser.add_argument("--preset", help="recipe (default: the experiment's)")
    parser.add_argument("--seed", type=int, help="seed (default: the recipe's)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS, metavar="SPARSITY")
    parser.add_argument("--no-augment", action="store_true", help="fine-tune without augmentation")
    parser.add_argument("--trials", type=Path, help="trial list (default: the experiment's first)")
    parser.add_argument("--out", type=Path, help="default: EXP/report/sweep")
    options = parser.parse_args()
    exp: Path = options.exp
    lists = [options.trials] if options.trials else sorted((exp / "data" / "trials").glob("*.txt"))
    if not is_finished(exp / "finetune" / "lmft") or not lists:
        parser.error(f"{exp}: expected a finished dense model and trials; run `make all` or folds.py first")
    recipe = ["--exp", str(exp)]
    recipe += ["--preset", options.preset] if options.preset else []
    recipe += ["--set", f"seed={options.seed}"] if options.seed is not None else []
    recipe += [word for override in options.overrides for word in ("--set", override)]
    augment = ["--no-augment"] if options.no_augment else []
    work = exp / "sweep"
    models = {DENSE: exp / "finetune" / "lmft"}
    for level in sorted(options.levels):
        models[f"sparsity-{level:g}"] = make_level(exp, work, recipe, augment, level)
    points = measure(exp, work, models, lists[0], recipe)
    config = read_provenance(models[DENSE])["config"]
    facts = {
        "date": date.today().isoformat(),
        "machine": asdict(timing.describe_machine()),
        "command": " ".join(["python", "benchmarks/sparsity_sweep.py", *sys.argv[1:]]),
        "preset": config["preset"],
        "seed": config["seed"],
        "trials": lists[0].stem,
        "points": points,
    }
    out = options.out or exp / "report" / "sweep"
    write(out, facts)
    print(render(facts))
    print(out / "sweep.md")


if __name__ == "__main__":
    main()
