"""Draws the figures of the report from the facts of `report.json`: PNG for markdown, SVG for the page.

Colours: Okabe and Ito's palette, which colour-blind readers tell apart; line styles differ as well.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.special import ndtri

from svkit.stages.reporting import wording
from svkit.stages.reporting.wording import Report

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999",
)  # fmt: skip
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
STYLES = ("-", "--", "-.", ":")
DET_TICKS = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
WIDTHS = (
    ("num_heads", "attention heads"),
    ("ffn1_dim", "FFN 1"),
    ("conv_dim", "convolution"),
    ("ffn2_dim", "FFN 2"),
)
_STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "svkit",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """One figure in both forms."""

    name: str
    caption: str
    png: bytes
    svg: str
    width_inches: float


def draw_all(report: Report) -> Iterator[Drawing]:
    """Draw every figure that the facts allow, in the order of the report."""
    systems = report["systems"]
    pruned = [model for model in report["models"] if model["is_evaluated"] and model["sparsity"] > 0]
    with rc_context(_STYLE):
        if systems:
            yield _drawn(
                "det", "Detection error trade-off; shaded: 95 % of the resampled speakers", _det(report)
            )
            yield _drawn("scores", "Score distributions with thresholds", _histograms(systems))
        calibrated = [system for system in systems if system["tippett"]]
        if calibrated:
            yield _drawn("calibration", "Calibration of the log-likelihood ratios", _calibration(calibrated))
        if len([system for system in systems if system["model_path"]]) > 1:
            yield _drawn("tradeoff", "EER against size and speed; bars: 95 % intervals", _tradeoff(report))
        for model in pruned:
            name = f"structure-{model['path'].replace('/', '-')}"
            yield _drawn(name, f"What pruning kept of each layer ({model['path']})", _structure(model))
        if report["training"]:
            yield _drawn("training", "Training curves of every stage", _training(report["training"]))


def _drawn(name: str, caption: str, figure: Figure) -> Drawing:
    png, svg = io.BytesIO(), io.StringIO()
    figure.savefig(png, format="png", dpi=130, metadata={"Software": "svkit"})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": "svkit"})
    return Drawing(
        name=name,
        caption=caption,
        png=png.getvalue(),
        svg=svg.getvalue(),
        width_inches=float(figure.get_figwidth()),
    )


def _grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _looks(report: Report) -> dict[str, tuple[str, str]]:
    labels = list(dict.fromkeys(wording.label(system) for system in report["systems"]))
    return {name: (COLOURS[i % len(COLOURS)], STYLES[i % len(STYLES)]) for i, name in enumerate(labels)}


def _det(report: Report) -> Figure:
    names, looks = wording.trial_names(report), _looks(report)
    columns = min(len(names), 3)
    figure, panels = _grid(-(-len(names) // columns), columns, 5.2 if columns > 1 else 6.2, 5.2)
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    for panel, name in zip(panels, names, strict=False):
        members = [system for system in report["systems"] if system["trials"]["name"] == name]
        low, high = _det_limits(members)
        for system in members:
            colour, style = looks[wording.label(system)]
            accept, miss = (
                ndtri(np.clip(system["det"][key], 1e-7, 1 - 1e-7))
                for key in ("false_accept_rate", "miss_rate")
            )
            text = f"{wording.label(system)}: EER {wording.percent(system['eer'])} %"
            panel.plot(accept, miss, style, color=colour, label=text, linewidth=1.8)
            point = ndtri(np.clip(system["eer"], 1e-7, 1 - 1e-7))
            panel.plot(point, point, "o", color=colour, markersize=5)
            band = system["det"].get("band")
            if band:
                rates = ndtri(np.clip(band["false_accept_rate"], 1e-7, 1 - 1e-7))
                edges = [ndtri(np.clip(band[key], 1e-7, 1 - 1e-7)) for key in ("low", "high")]
                panel.fill_between(rates, *edges, color=colour, alpha=0.12, linewidth=0)
        panel.plot([-5, 5], [-5, 5], ":", color=GREY, linewidth=1)
        ticks = [tick for tick in DET_TICKS if low <= tick <= high]
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_ticks(ndtri(ticks), [f"{100 * tick:g}" for tick in ticks])
        panel.set(
            xlim=(ndtri(low), ndtri(high)), ylim=(ndtri(low), ndtri(high)), aspect="equal",
            xlabel="false accepts, %", ylabel="misses, %", title=name,
        )  # fmt: skip
        _legend_below(panel, 5.2)
    return figure


def _legend_below(panel: Axes, height_inches: float, columns: int = 1) -> None:
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.7 / height_inches), ncols=columns, fontsize=9)


def _det_limits(members: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the ends of both axes: what the trials resolve, down to a hundredth of the best EER."""
    resolved = min(0.5 / max(system["num_targets"], system["num_nontargets"]) for system in members)
    eers = [system["eer"] for system in members]
    return max(1e-5, resolved, min(min(eers) / 100, 0.01)), min(0.9, max(0.4, 2.2 * max(eers)))


def _histograms(systems: Sequence[Mapping[str, Any]]) -> Figure:
    columns = min(len(systems), 2)
    figure, panels = _grid(-(-len(systems) // columns), columns, 5.4 if columns > 1 else 7.0, 3.3)
    for panel in panels[len(systems) :]:
        panel.set_visible(False)
    for panel, system in zip(panels, systems, strict=False):
        edges = np.asarray(system["histogram"]["edges"])
        for key, colour, style in (("nontargets", VERMILLION, "--"), ("targets", BLUE, "-")):
            counts = np.asarray(system["histogram"][key], dtype=float)
            density = 100 * counts / counts.sum()
            panel.stairs(density, edges, fill=True, color=colour, alpha=0.35, label=key)
            panel.stairs(density, edges, color=colour, linewidth=1.2, linestyle=style)
        marks = [("EER", system["thresholds"]["eer"]["threshold"], "-")]
        marks += [
            (f"FAR {100 * float(name.removeprefix('far_')):g} %", point["threshold"], style)
            for (name, point), style in zip(
                [item for item in system["thresholds"].items() if item[0].startswith("far_")],
                ("--", "-.", ":"), strict=False,
            )
            if point["is_resolved"]
        ]  # fmt: skip
        for text, threshold, style in marks:
            panel.axvline(
                threshold, color=BLACK, linestyle=style, linewidth=1.1, label=f"{text}: {threshold:.3f}"
            )
        panel.set(
            title=f"{wording.label(system)}, {system['trials']['name']}",
            xlabel="score",
            ylabel="trials of a class, %",
        )
        panel.set_ylim(0, panel.get_ylim()[1] * 1.05)
        _legend_below(panel, 3.3, columns=3)
    return figure


def _calibration(systems: Sequence[Mapping[str, Any]]) -> Figure:
    figure, (tippett, reliability) = _grid(1, 2, 5.4, 4.0)
    for number, system in enumerate(systems):
        facts, colour = system["tippett"], COLOURS[number % len(COLOURS)]
        name = f"{wording.label(system)}, {system['trials']['name']}"
        ratios = np.asarray(facts["llr"]) / np.log(10)
        tippett.plot(ratios, 100 * np.asarray(facts["targets_above"]), color=colour, label=f"{name}: targets")
        tippett.plot(
            ratios,
            100 * np.asarray(facts["nontargets_above"]),
            "--",
            color=colour,
            label=f"{name}: nontargets",
        )
        text = f"{name}: Cllr {system['cllr']:.3f} bits (at best {system['min_cllr_llr']:.3f})"
        points = [np.asarray(facts[key]) / np.log(10) for key in ("stated", "observed")]
        reliability.plot(*points, "o-", color=colour, markersize=4, label=text)
    tippett.axvline(0, color=GREY, linestyle=":", linewidth=1)
    tippett.set(title="Tippett plot", xlabel="log10 likelihood ratio", ylabel="trials above, %")
    low, high = reliability.get_xlim()
    reliability.plot([low, high], [low, high], ":", color=GREY, linewidth=1)
    reliability.set(title="Reliability", xlabel="stated log10 likelihood ratio", ylabel="observed")
    for panel in (tippett, reliability):
        _legend_below(panel, 4.0)
    return figure


def _tradeoff(report: Report) -> Figure:
    looks = _looks(report)
    measures = [("size on disk, MB", lambda model: model["size_bytes"] / wording.MEGA)]
    if all(model.get("timing") for model in report["models"] if model["is_evaluated"]):
        measures.append(("real-time factor, one thread", lambda model: model["timing"]["cpu"]))
    names = wording.trial_names(report)
    figure, panels = _grid(1, len(measures), 5.2, 4.0)
    for panel, (text, measure) in zip(panels, measures, strict=True):
        for system in report["systems"]:
            model = wording.model_of(report, system)
            if model is None:
                continue
            colour, _ = looks[wording.label(system)]
            marker = "osD^v<>"[names.index(system["trials"]["name"]) % 7]
            interval = system["eer_interval"]
            spread = None
            if interval:
                ends = (system["eer"] - interval["low"], interval["high"] - system["eer"])
                spread = [[100 * max(end, 0.0)] for end in ends]
            x, y = measure(model), 100 * system["eer"]
            name = wording.label(system) + (f", {system['trials']['name']}" if len(names) > 1 else "")
            panel.errorbar(x, y, yerr=spread, fmt=marker, color=colour, capsize=4, label=name)
        panel.set_xscale("log")
        panel.margins(x=0.25)
        panel.set(xlabel=f"{text} (log scale)", ylabel="EER, %")
        panel.set_ylim(bottom=0)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("{x:g}")
        panel.tick_params(axis="x", which="minor", labelsize=8)
        panel.legend(fontsize=8)
    return figure


def _structure(model: Mapping[str, Any]) -> Figure:
    num_layers = len(model["widths"]["num_heads"])
    figure, panels = _grid(2, 2, max(4.2, 0.24 * num_layers), 2.6)
    layers = np.arange(1, num_layers + 1)
    for panel, (key, text) in zip(panels, WIDTHS, strict=True):
        kept, dense = np.asarray(model["widths"][key]), np.asarray(model["dense_widths"][key])
        panel.bar(layers, dense, width=0.8, color="#e6e6e6", edgecolor=GREY, linewidth=0.6, label="dense")
        panel.bar(layers, kept, width=0.8, color=BLUE, label="kept")
        share = kept.sum() / max(dense.sum(), 1)
        panel.set_title(f"{text}: {kept.sum():,} of {dense.sum():,} kept ({100 * share:.0f} %)")
        panel.set(xlabel="layer", ylabel="heads" if key == "num_heads" else "channels")
        panel.grid(axis="x", visible=False)
        panel.set_xticks(layers if num_layers <= 12 else layers[(layers == 1) | (layers % 4 == 0)])
        if num_layers <= 8:
            for layer, value in zip(layers, kept, strict=True):
                panel.annotate(str(value), (layer, value), ha="center", va="bottom", fontsize=8, color=BLACK)
        panel.set_ylim(0, dense.max() * 1.12)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _training(stages: Sequence[Mapping[str, Any]]) -> Figure:
    columns = min(len(stages), 3)
    figure, panels = _grid(-(-len(stages) // columns), columns, 4.2, 3.0)
    for panel in panels[len(stages) :]:
        panel.set_visible(False)
    known: dict[Any, Any] = {}
    for panel, stage in zip(panels, stages, strict=False):
        train, valid = stage["train"], stage["valid"]
        panel.set(title=stage["stage"], xlabel="step", ylabel="loss")
        handles = []
        if "loss" in train:
            handles += panel.plot(*_points(train["loss"]), color=BLUE, label="training loss", linewidth=1.3)
        shares = [
            ("eer", valid, VERMILLION, "validation EER", "o-"),
            ("sparsity", train, GREEN, "sparsity", "-"),
            ("target_sparsity", train, BLACK, "target sparsity", ":"),
        ]
        shown = [entry for entry in shares if entry[0] in entry[1]]
        if shown:
            other = panel.twinx()
            other.spines["right"].set_visible(True)
            other.grid(visible=False)
            for key, source, colour, text, style in shown:
                steps, values = _points(source[key])
                handles += other.plot(
                    steps, 100 * values, style, color=colour, label=text, linewidth=1.3, markersize=4
                )
            other.set_ylabel("%")
            other.set_ylim(bottom=0)
        elif "l1" in valid:
            handles += panel.plot(
                *_points(valid["l1"]), "o-", color=VERMILLION, label="validation L1", markersize=4
            )
        known.update({handle.get_label(): handle for handle in handles})
    figure.legend(handles=list(known.values()), loc="outside lower center", ncols=len(known))
    return figure


def _points(curve: Mapping[str, Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(curve["step"]), np.asarray(curve["value"])
