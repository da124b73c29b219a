"""Draws the figures of the report from the facts of `report.json`: PNG for markdown, SVG for the page.

One figure is one panel, narrow enough to be read on a phone; the page sets panels of a group side by side where there
is room. Colours: Okabe and Ito's palette, which colour-blind readers tell apart; line styles and markers differ as
well.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.special import ndtri

from svkit.reports import wording
from svkit.reports.wording import Report

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999",
)  # fmt: skip
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^v<>"
WIDTH_INCHES = 5.0
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
    "text.parse_math": False,  # a name may hold dollars
    "svg.hashsalt": "svkit",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """One figure in both forms."""

    name: str
    group: str
    """Part of the report it belongs to: one of `GROUPS`."""
    caption: str
    png: bytes
    svg: str
    is_tall: bool
    """Higher than wide."""


GROUPS = {
    "errors": "Errors",
    "calibration": "Calibration",
    "cost": "Accuracy against cost",
    "structure": "Structure",
    "training": "Training",
}
"""Title of each group of figures, in the order of the report."""

_Plot = tuple[str, str, Callable[[], Figure]]
"""Name, caption, and what makes the figure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One figure that the facts allow, not drawn yet."""

    name: str
    """Unique in the report, and good as the name of a file."""
    group: str
    caption: str
    plot: Callable[[], Figure]


def panels(report: Report) -> list[Panel]:
    """Return every figure that the facts allow, in the order of the report."""
    groups: dict[str, Iterator[_Plot]] = {
        "errors": _errors(report),
        "calibration": _calibration(report),
        "cost": _tradeoff(report),
        "structure": _structure(report),
        "training": _training(report["training"]),
    }
    names: set[str] = set()
    return [
        Panel(name=_unique(name, names), group=group, caption=caption, plot=plot)
        for group, plots in groups.items()
        for name, caption, plot in plots
    ]


def draw(panel: Panel) -> Drawing:
    """Draw a figure; the style of others in this process stays as it is."""
    with rc_context(_STYLE):
        figure = panel.plot()
        png, svg = io.BytesIO(), io.StringIO()
        figure.savefig(png, format="png", dpi=130, metadata={"Software": "svkit"})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": "svkit"})
    return Drawing(
        name=panel.name,
        group=panel.group,
        caption=panel.caption,
        png=png.getvalue(),
        svg=svg.getvalue(),
        is_tall=bool(figure.get_figheight() > figure.get_figwidth()),
    )


def _unique(name: str, names: set[str]) -> str:
    plain = re.sub(r"[^A-Za-z0-9._+]+", "-", name).strip("-")[:100]
    while plain in names:
        plain += "-2"
    names.add(plain)
    return plain


def _panel(height_inches: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _legend(figure: Figure, columns: int = 1) -> None:
    """Put the legend of all axes below the panel, where it covers nothing."""
    figure.legend(loc="outside lower center", ncols=columns, fontsize=9)


def _looks(report: Report) -> dict[str, tuple[str, str, str]]:
    """Colour, line style and marker of each system."""
    labels = list(dict.fromkeys(wording.label(system) for system in report["systems"]))
    return {
        name: (COLOURS[i % len(COLOURS)], STYLES[i % len(STYLES)], MARKERS[i % len(MARKERS)])
        for i, name in enumerate(labels)
    }


def _errors(report: Report) -> Iterator[_Plot]:
    for name in wording.trial_names(report):
        members = [system for system in report["systems"] if system["trials"]["name"] == name]
        caption = f"{name}: detection error trade-off, with the EER marked"
        if any(system["det"].get("band") for system in members):
            caption += "; shaded: 95 % intervals over speakers"
        yield f"det-{name}", caption, partial(_det, members, _looks(report))
    for system in report["systems"]:
        caption = f"{wording.system_title(system)}: distribution of the scores, with thresholds"
        yield (
            f"scores-{wording.label(system)}-{system['trials']['name']}",
            caption,
            partial(_histogram, system),
        )


def _det(members: Sequence[Mapping[str, Any]], looks: Mapping[str, tuple[str, str, str]]) -> Figure:
    figure, panel = _panel(5.4)
    low, high = _det_limits(members)
    for system in members:
        colour, style, marker = looks[wording.label(system)]
        accept, miss = (
            ndtri(np.clip(system["det"][key], 1e-7, 1 - 1e-7)) for key in ("false_accept_rate", "miss_rate")
        )
        text = f"{wording.label(system)}: EER {wording.eer_text(system)}"
        panel.plot(accept, miss, style, color=colour, linewidth=1.8)
        point = ndtri(np.clip(system["eer"], 1e-7, 1 - 1e-7))
        panel.plot(point, point, marker, color=colour, markersize=7, markeredgecolor="white")
        panel.plot([], [], style, marker=marker, color=colour, label=text)
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
        xlabel="false accepts, % of nontarget trials", ylabel="misses, % of target trials",
    )  # fmt: skip
    _legend(figure)
    return figure


def _det_limits(members: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the ends of both axes: what the trials resolve, down to a hundredth of the best EER."""
    resolved = min(0.5 / max(system["num_targets"], system["num_nontargets"]) for system in members)
    eers = [system["eer"] for system in members]
    return max(1e-5, resolved, min(min(eers) / 100, 0.01)), min(0.9, max(0.4, 2.2 * max(eers)))


def _histogram(system: Mapping[str, Any]) -> Figure:
    figure, panel = _panel(3.6)
    edges = np.asarray(system["histogram"]["edges"])
    for key, colour, style in (("nontargets", VERMILLION, "--"), ("targets", BLUE, "-")):
        counts = np.asarray(system["histogram"][key], dtype=float)
        density = 100 * counts / counts.sum()
        panel.stairs(density, edges, fill=True, color=colour, alpha=0.35)
        panel.stairs(density, edges, color=colour, linewidth=1.3, linestyle=style, label=key)
    marks = [("EER", system["thresholds"]["eer"]["threshold"], "-")]
    marks += [
        (f"FAR {rate}", point["threshold"], style)
        for (rate, point), style in zip(wording.far_points(system), ("--", "-.", ":"), strict=True)
        if point["is_resolved"]
    ]
    for text, threshold, style in marks:
        panel.axvline(
            threshold, color=BLACK, linestyle=style, linewidth=1.1, label=f"{text}: {threshold:.3f}"
        )
    panel.set(xlabel="score", ylabel="trials of the class, %")
    panel.set_ylim(0, panel.get_ylim()[1] * 1.05)
    _legend(figure, columns=3)
    return figure


def _calibration(report: Report) -> Iterator[_Plot]:
    looks = _looks(report)
    for name in wording.trial_names(report):
        members = [system for system in report["systems"] if system["trials"]["name"] == name]
        members = [system for system in members if system["tippett"]]
        if members:
            caption = f"{name}: Tippett plot, the share of trials whose log-likelihood ratio is at least this"
            yield f"tippett-{name}", caption, partial(_tippett, members, looks)
            caption = f"{name}: reliability, on the dotted line ratios mean what they say"
            yield f"reliability-{name}", caption, partial(_reliability, members, looks)


def _tippett(members: Sequence[Mapping[str, Any]], looks: Mapping[str, tuple[str, str, str]]) -> Figure:
    figure, panel = _panel(4.2)
    for number, system in enumerate(members):
        facts, (colour, _, marker) = system["tippett"], looks[wording.label(system)]
        ratios = np.asarray(facts["llr"]) / np.log(10)
        every = (number * 9, 30)  # markers of several systems do not cover each other
        for key, style in (("targets", "-"), ("nontargets", "--")):
            panel.plot(
                ratios, 100 * np.asarray(facts[f"{key}_above"]), style, color=colour, marker=marker, markevery=every,
                markersize=5, label=f"{wording.label(system)}: {key}",
            )  # fmt: skip
    panel.axvline(0, color=GREY, linestyle=":", linewidth=1)
    panel.set(xlabel="log10 of the likelihood ratio", ylabel="trials at or above, %")
    _legend(figure, columns=2)
    return figure


def _reliability(members: Sequence[Mapping[str, Any]], looks: Mapping[str, tuple[str, str, str]]) -> Figure:
    figure, panel = _panel(4.2)
    for system in members:
        facts, (colour, style, marker) = system["tippett"], looks[wording.label(system)]
        text = (
            f"{wording.label(system)}: Cllr {system['cllr']:.3f} bits (at best {system['min_cllr_llr']:.3f})"
        )
        points = [np.asarray(facts[key]) / np.log(10) for key in ("stated", "observed")]
        panel.plot(*points, style, marker=marker, color=colour, markersize=4, label=text)
    low, high = panel.get_xlim()
    panel.plot([low, high], [low, high], ":", color=GREY, linewidth=1)
    panel.set(xlabel="stated log10 likelihood ratio", ylabel="observed log10 likelihood ratio")
    _legend(figure)
    return figure


def _tradeoff(report: Report) -> Iterator[_Plot]:
    if len([system for system in report["systems"] if system["model_path"]]) < 2:
        return
    yield (
        "tradeoff-size",
        "EER against size; bars: 95 % intervals",
        partial(_against, report, "size on disk, MB", lambda model: model["size_bytes"] / wording.MEGA),
    )
    if all(model.get("timing") for model in report["models"] if model["is_evaluated"]):
        yield (
            "tradeoff-time",
            "EER against computing time; bars: 95 % intervals",
            partial(
                _against,
                report,
                "computing time for 1 s of audio, ms, one thread",
                lambda model: 1000 * model["timing"]["cpu"],
            ),
        )


def _against(report: Report, text: str, measure: Callable[[Mapping[str, Any]], float]) -> Figure:
    looks, names = _looks(report), wording.trial_names(report)
    figure, panel = _panel(3.8)
    for system in report["systems"]:
        model = wording.model_of(report, system)
        if model is None:
            continue
        colour, _, marker = looks[wording.label(system)]
        interval = system["eer_interval"]
        spread = None
        if interval:
            ends = (system["eer"] - interval["low"], interval["high"] - system["eer"])
            spread = [[100 * max(end, 0.0)] for end in ends]
        fill = ("full", "none", "left", "right", "top", "bottom")[names.index(system["trials"]["name"]) % 6]
        name = wording.label(system) + (f", {system['trials']['name']}" if len(names) > 1 else "")
        panel.errorbar(
            measure(model), 100 * system["eer"], yerr=spread, fmt=marker, fillstyle=fill, markersize=7, color=colour,
            capsize=4, label=name,
        )  # fmt: skip
    # From zero, so that distances on paper are what the cut saves.
    panel.set(xlabel=text, ylabel="EER, %", xlim=(0, panel.get_xlim()[1] * 1.05), ylim=(0, None))
    _legend(figure, columns=min(3, len(report["systems"])))
    return figure


def _structure(report: Report) -> Iterator[_Plot]:
    for model in report["models"]:
        if not model["is_evaluated"] or model["sparsity"] <= 0:
            continue
        for key, text in WIDTHS:
            kept, dense = np.asarray(model["widths"][key]), np.asarray(model["dense_widths"][key])
            share = 100 * kept.sum() / max(dense.sum(), 1)
            caption = f"{model['path']}: {text}, {kept.sum():,} of {dense.sum():,} kept ({share:.0f} %)"
            yield f"structure-{model['path']}-{text}", caption, partial(_widths, key, kept, dense)


def _widths(key: str, kept: NDArray[np.int64], dense: NDArray[np.int64]) -> Figure:
    figure, panel = _panel(3.0)
    num_layers = len(kept)
    layers = np.arange(1, num_layers + 1)
    panel.bar(layers, dense, width=0.8, color="#e6e6e6", edgecolor=GREY, linewidth=0.6, label="dense")
    panel.bar(layers, kept, width=0.8, color=BLUE, label="kept")
    unit = {"num_heads": "heads", "conv_dim": "channels"}.get(key, "units")
    panel.set(xlabel="layer", ylabel=unit, ylim=(0, dense.max() * 1.12))
    panel.grid(axis="x", visible=False)
    panel.set_xticks(layers if num_layers <= 12 else layers[(layers == 1) | (layers % 4 == 0)])
    panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    if num_layers <= 8:
        for layer, value in zip(layers, kept, strict=True):
            panel.annotate(str(value), (layer, value), ha="center", va="bottom", fontsize=9, color=BLACK)
    _legend(figure, columns=2)
    return figure


def _training(stages: Sequence[Mapping[str, Any]]) -> Iterator[_Plot]:
    for stage in stages:
        yield f"training-{stage['stage']}", f"{stage['stage']}: training", partial(_curves, stage)


def _curves(stage: Mapping[str, Any]) -> Figure:
    figure, panel = _panel(3.4)
    train, valid = stage["train"], stage["valid"]
    panel.set(xlabel="step", ylabel="loss")
    if "loss" in train:
        panel.plot(*_points(train["loss"]), color=BLUE, label="training loss", linewidth=1.3)
    shares = [
        ("eer", valid, VERMILLION, "validation EER", "o--"),
        ("sparsity", train, GREEN, "sparsity", "-."),
        ("target_sparsity", train, BLACK, "target sparsity", ":"),
    ]
    shown = [entry for entry in shares if entry[0] in entry[1]]
    if shown:
        other = panel.twinx()
        other.spines["right"].set_visible(True)
        other.grid(visible=False)
        for key, source, colour, text, style in shown:
            steps, values = _points(source[key])
            other.plot(steps, 100 * values, style, color=colour, label=text, linewidth=1.3, markersize=4)
        other.set(
            ylabel=" and ".join(dict.fromkeys("EER, %" if e[0] == "eer" else "sparsity, %" for e in shown))
        )
        other.set_ylim(bottom=0)
    elif "l1" in valid:
        panel.plot(*_points(valid["l1"]), "o--", color=VERMILLION, label="validation L1", markersize=4)
    _legend(figure, columns=3)
    return figure


def _points(curve: Mapping[str, Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(curve["step"]), np.asarray(curve["value"])
