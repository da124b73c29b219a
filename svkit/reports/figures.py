"""Draws the figures of the report from the facts of `report.json`: PNG for markdown, SVG for the page.

One figure is one panel, narrow enough to be read on a phone; the page sets the panels of a group side by side where
there is room. Colour-blind readers can tell the colours (Okabe and Ito's palette) apart; line styles and markers differ
as well.
"""

import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeGuard

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from svkit.reports import seen, wording
from svkit.reports.results import MEGA, far_points
from svkit.reports.tables import file_names, percent
from svkit.store.report import Curve, Report, StageCurves, System, Tippett

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999",
)  # fmt: skip
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^v<>"
WIDTH_INCHES = 5.0
HOMES = ("finetune", "finetune-pruned")
"""Directories whose stages follow each other."""
DET_TICKS = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
FEWEST_POINTS = 3
"""Shorter curves are not drawn; the table of stages has the first and last value of each."""
_WIDTHS = (
    ("num_heads", "attention heads", "attention heads"),
    ("ffn1_dim", "FFN 1", "units"),
    ("conv_dim", "convolution", "channels"),
    ("ffn2_dim", "FFN 2", "units"),
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


_Looks = Mapping[str, tuple[str, str, str]]
"""Colour, line style and marker of each system, the same in every figure."""
_Costs = dict[str | None, list[float]]
"""What a model costs, by its path: the value, followed by that of each round where it was timed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One figure that the facts allow, not drawn yet."""

    name: str
    """Unique in the report, and usable as a file name."""
    section: str
    """Title of the section of the report that it belongs to."""
    caption: str
    alt: str
    """Alternative text: what the figure shows."""
    height_inches: float
    xlabel: str
    ylabel: str
    plot: Callable[[Axes], None]
    """Draws the facts into the axes; what has a label appears in the legend."""
    legend_columns: int = 1

    @property
    def is_tall(self) -> bool:
        """Taller than wide."""
        return self.height_inches > WIDTH_INCHES


def panels(report: Report) -> list[Panel]:
    """Return every figure that the facts allow, in the order of the report."""
    groups = (_errors(report), _calibration(report), _cost(report), _structure(report), _sparsities(report))
    found = [*itertools.chain(*groups, _training(report))]
    names = file_names(panel.name for panel in found)
    return [replace(panel, name=name) for panel, name in zip(found, names, strict=True)]


def draw(panel: Panel) -> tuple[bytes, str]:
    """Draw a figure as PNG and SVG, without changing matplotlib's style for the rest of the process."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, panel.height_inches), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel)
        panel.plot(axes)
        # One legend for all axes, below the panel, where it covers nothing.
        figure.legend(loc="outside lower center", ncols=panel.legend_columns, fontsize=9)
        png, svg = io.BytesIO(), io.StringIO()
        figure.savefig(png, format="png", dpi=130, metadata={"Software": "svkit"})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": "svkit"})
    return png.getvalue(), svg.getvalue()


def _looks(report: Report) -> _Looks:
    labels = dict.fromkeys(wording.label(system) for system in report.systems)
    looks = zip(itertools.cycle(COLOURS), itertools.cycle(STYLES), itertools.cycle(MARKERS), strict=False)
    return dict(zip(labels, looks, strict=False))


def _deviates(rates: ArrayLike) -> NDArray[np.float64]:
    """Return where rates lie on the axes of a DET plot."""
    return np.asarray(ndtri(np.clip(rates, 1e-7, 1 - 1e-7)))


def _errors(report: Report) -> Iterator[Panel]:
    looks = _looks(report)
    for name, members in _by_trials(report.systems).items():
        caption = f"{name}: detection error trade-off, with the EER marked"
        if rates := [
            rate for system in members if (band := system.det.band) for rate in band.false_accept_rate
        ]:
            caption += (
                f"; shaded: 95 % intervals over speakers, computed up to {100 * max(rates):g} % false accepts"
            )
        yield Panel(
            name=f"det-{name}", section="Errors", caption=caption, height_inches=5.4,
            alt=f"Miss rates that fall as false-accept rates rise. {' '.join(map(seen.det, members))}",
            xlabel="false accepts, % of nontarget trials", ylabel="misses, % of target trials",
            plot=partial(_det, members, looks),
        )  # fmt: skip
    for system in report.systems:
        yield Panel(
            name=f"scores-{wording.label(system)}-{system.trials.name}", section="Errors", height_inches=3.6,
            caption=f"{wording.system_title(system)}: distribution of the scores, with thresholds",
            alt=f"Two histograms of scores. {seen.scores(system)}",
            xlabel="score", ylabel="trials of the class, %", legend_columns=3, plot=partial(_histogram, system),
        )  # fmt: skip


def _by_trials(systems: Sequence[System]) -> dict[str, list[System]]:
    found: dict[str, list[System]] = {}
    for system in systems:
        found.setdefault(system.trials.name, []).append(system)
    return found


def _det(members: Sequence[System], looks: _Looks, axes: Axes) -> None:
    for system in members:
        name, det = wording.label(system), system.det
        colour, style, marker = looks[name]
        point = _deviates(system.eer)
        accept, miss = _deviates(det.false_accept_rate), _deviates(det.miss_rate)
        axes.plot(accept, miss, style, color=colour, linewidth=1.8)
        axes.plot(point, point, marker, color=colour, markersize=7, markeredgecolor="white")
        # Without points: a legend entry that shows both line and marker.
        axes.plot([], [], style, marker=marker, color=colour, label=f"{name}: EER {percent(system.eer)} %")
        if band := det.band:
            rates, low, high = map(_deviates, (band.false_accept_rate, band.low, band.high))
            axes.fill_between(rates, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.plot([-5, 5], [-5, 5], ":", color=GREY, linewidth=1)  # equal error rates
    accepts, misses = _det_limits(members)
    for axis, (first, last) in ((axes.xaxis, accepts), (axes.yaxis, misses)):
        ticks = [tick for tick in DET_TICKS if first <= tick <= last]
        axis.set_ticks(ndtri(ticks), [f"{100 * tick:g}" for tick in ticks])
    axes.set(xlim=ndtri(accepts), ylim=ndtri(misses))


def _det_limits(members: Sequence[System]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the first and the last rate of both axes.

    An axis begins at the lowest rate that the trials resolve, but at no less than a hundredth of the best EER. It ends
    where the curves reach the beginning of the other axis.
    """
    best = max(1e-5, min(min(system.eer for system in members) / 100, 0.01))
    first_accept = max(best, 0.5 / max(system.num_nontargets for system in members))
    first_miss = max(best, 0.5 / max(system.num_targets for system in members))
    drawn = [(np.array(one.det.false_accept_rate), np.array(one.det.miss_rate)) for one in members]
    last_accept = max((accept[miss >= first_miss].max(initial=0) for accept, miss in drawn), default=0)
    last_miss = max((miss[accept >= first_accept].max(initial=0) for accept, miss in drawn), default=0)
    worst = max(system.eer for system in members)
    last_accept, last_miss = (min(0.97, max(last, 1.5 * worst, 0.02)) for last in (last_accept, last_miss))
    return (first_accept, float(last_accept)), (first_miss, float(last_miss))


def _histogram(system: System, axes: Axes) -> None:
    drawn = system.histogram
    for label, counts, colour, style in (
        ("nontargets", drawn.nontargets, VERMILLION, "--"),
        ("targets", drawn.targets, BLUE, "-"),
    ):
        density = 100 * np.asarray(counts, dtype=float) / sum(counts)
        axes.stairs(density, drawn.edges, fill=True, color=colour, alpha=0.35)
        axes.stairs(density, drawn.edges, color=colour, linewidth=1.3, linestyle=style, label=label)
    marks = [("EER", system.thresholds["eer"], "-")]
    for (rate, point), style in zip(far_points(system), ("--", "-.", ":"), strict=True):
        if point.is_resolved:
            marks.append((f"FAR {100 * rate:g} %", point, style))
    for text, point, style in marks:
        label = f"{text}: {point.threshold:.3f}"
        axes.axvline(point.threshold, color=BLACK, linestyle=style, linewidth=1.1, label=label)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.05)


def _calibration(report: Report) -> Iterator[Panel]:
    looks = _looks(report)
    for name, systems in _by_trials(report.systems).items():
        members = [(system, system.tippett) for system in systems if system.tippett]
        if not members:
            continue
        yield Panel(
            name=f"tippett-{name}", section="Calibration", height_inches=4.2, legend_columns=2,
            caption=f"{name}: Tippett plot, the share of trials with at least this likelihood ratio",
            alt=f"Shares that fall from 100 to 0 %. {' '.join(seen.tippett(*one) for one in members)}",
            xlabel="log10 of the likelihood ratio", ylabel="trials at or above, %",
            plot=partial(_tippett, members, looks),
        )  # fmt: skip
        yield Panel(
            name=f"reliability-{name}", section="Calibration", height_inches=4.2,
            caption=f"{name}: reliability; on the dotted line, ratios mean what they say",
            alt=f"Observed against stated ratios. {' '.join(seen.reliability(*one) for one in members)}",
            xlabel="stated log10 likelihood ratio", ylabel="observed log10 likelihood ratio",
            plot=partial(_reliability, members, looks),
        )  # fmt: skip


def _tippett(members: Sequence[tuple[System, Tippett]], looks: _Looks, axes: Axes) -> None:
    for number, (system, drawn) in enumerate(members):
        name = wording.label(system)
        colour, _, marker = looks[name]
        ratios = np.asarray(drawn.llr) / np.log(10)
        every = (number * 9, 30)  # so that markers of several systems do not cover each other
        for text, above, style in (
            ("targets", drawn.targets_above, "-"),
            ("nontargets", drawn.nontargets_above, "--"),
        ):
            axes.plot(
                ratios, 100 * np.asarray(above), style, color=colour, marker=marker,
                markevery=every, markersize=5, label=f"{name}: {text}",
            )  # fmt: skip
    axes.axvline(0, color=GREY, linestyle=":", linewidth=1)


def _reliability(members: Sequence[tuple[System, Tippett]], looks: _Looks, axes: Axes) -> None:
    for system, drawn in members:
        name = wording.label(system)
        colour, style, marker = looks[name]
        label = f"{name}: Cllr {system.cllr:.3f} bits (at best {system.min_cllr_llr:.3f})"
        stated, observed = (np.asarray(ratios) / np.log(10) for ratios in (drawn.stated, drawn.observed))
        axes.plot(stated, observed, style, marker=marker, color=colour, markersize=4, label=label)
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], ":", color=GREY, linewidth=1)


def _cost(report: Report) -> Iterator[Panel]:
    models = {model.path: model for model in report.models if model.is_evaluated}
    members = [system for system in report.systems if system.model_path]
    if len(members) < 2:
        return
    sizes: _Costs = {path: [model.size_bytes / MEGA] for path, model in models.items()}
    measures = [("size", "size", "size on disk, MB", "", sizes)]
    times: _Costs = {
        path: [1000 * model.timing.cpu, *(1000 * seconds for seconds in model.timing.cpu_rounds)]
        for path, model in models.items()
        if model.timing
    }
    if len(times) == len(models):
        xlabel = "computing time for 1 s of audio, ms, one thread"
        measures.append(("time", "computing time", xlabel, ", and the least and most of the rounds", times))
    for name, noun, xlabel, rounds, costs in measures:
        yield Panel(
            name=f"tradeoff-{name}", section="Accuracy against cost",
            caption=f"EER against {noun}; bars: 95 % intervals of the EER{rounds}",
            alt=" ".join(
                f"{wording.system_title(one)}: {noun} {costs[one.model_path][0]:.3g}, EER {percent(one.eer)} %."
                for one in members
            ),
            height_inches=3.8, xlabel=xlabel, ylabel="EER, %", legend_columns=min(3, len(members)),
            plot=partial(_tradeoff, members, costs, _looks(report)),
        )  # fmt: skip


def _tradeoff(members: Sequence[System], costs: _Costs, looks: _Looks, axes: Axes) -> None:
    names = wording.trial_names(members)
    for system in members:
        colour, _, marker = looks[wording.label(system)]
        eer, interval, spread = 100 * system.eer, system.eer_interval, None
        if interval:
            spread = [[max(eer - 100 * interval.low, 0.0)], [max(100 * interval.high - eer, 0.0)]]
        fill = ("full", "none", "left", "right", "top", "bottom")[names.index(system.trials.name) % 6]
        name = wording.label(system) + (f", {system.trials.name}" if len(names) > 1 else "")
        cost, *rounds = costs[system.model_path]
        # A cost that was timed shows the least and the most of its rounds, as the table of speed does.
        of_rounds = [[cost - min(rounds)], [max(rounds) - cost]] if rounds else None
        axes.errorbar(
            cost, eer, yerr=spread, xerr=of_rounds, fmt=marker, fillstyle=fill, markersize=7, color=colour,
            capsize=4, label=name,
        )  # fmt: skip
    # From zero, so that distances show savings in proportion.
    axes.set(xlim=(0, axes.get_xlim()[1] * 1.05), ylim=(0, None))


def _structure(report: Report) -> Iterator[Panel]:
    for model in report.models:
        if not model.is_evaluated or model.sparsity <= 0:
            continue
        for key, text, unit in _WIDTHS:
            kept, dense = np.asarray(model.widths[key]), np.asarray(model.dense_widths[key])
            share = 100 * kept.sum() / max(dense.sum(), 1)
            yield Panel(
                name=f"structure-{model.path}-{text}", section="Structure", height_inches=3.0, legend_columns=2,
                caption=f"{model.path}: {text}, {kept.sum():,} of {dense.sum():,} kept ({share:.0f} %)",
                alt=f"One bar per layer. Kept of {dense.max():,}: {', '.join(map(str, kept))}.",
                xlabel="layer", ylabel=unit, plot=partial(_widths, kept, dense),
            )  # fmt: skip


def _widths(kept: NDArray[np.int64], dense: NDArray[np.int64], axes: Axes) -> None:
    layers = np.arange(1, len(kept) + 1)
    axes.bar(layers, dense, width=0.8, color="#e6e6e6", edgecolor=GREY, linewidth=0.6, label="dense")
    axes.bar(layers, kept, width=0.8, color=BLUE, label="kept")
    axes.set(ylim=(0, dense.max() * 1.12))
    axes.grid(axis="x", visible=False)
    axes.set_xticks(layers if len(kept) <= 12 else layers[(layers == 1) | (layers % 4 == 0)])
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    for layer, value in zip(layers, kept, strict=True) if len(kept) <= 8 else ():
        axes.annotate(str(value), (layer, value), ha="center", va="bottom", fontsize=9, color=BLACK)


def _is_drawn(curve: Curve | None) -> TypeGuard[Curve]:
    return curve is not None and len(curve.step) >= FEWEST_POINTS


def _sparsities(report: Report) -> Iterator[Panel]:
    for stage in report.training:
        if _is_drawn(reached := stage.train.get("sparsity")):
            caption = f"{stage.stage}: sparsity (target, expected by the gates, counted if cut at that step)"
            yield Panel(
                name=f"sparsity-{stage.stage}", section="Structure", caption=caption, height_inches=3.4,
                alt=f"The expected sparsity goes from {percent(reached.value[0])} to {percent(reached.value[-1])} %"
                f" in {reached.step[-1]:,} steps.",
                xlabel="step", ylabel="sparsity, %", legend_columns=3, plot=partial(_sparsity, stage),
            )  # fmt: skip


def _sparsity(stage: StageCurves, axes: Axes) -> None:
    for name, label, colour, style in (
        ("counted_sparsity", "counted", ORANGE, "--"),
        ("sparsity", "expected", GREEN, "-"),
        ("target_sparsity", "target", BLACK, ":"),  # drawn last, because the others may coincide with it
    ):
        if curve := stage.train.get(name):
            axes.plot(curve.step, 100 * np.asarray(curve.value), style, color=colour, label=label)
    axes.set_ylim(bottom=0)


def _training(report: Report) -> Iterator[Panel]:
    """Yield one panel for the successive stages of each model, and one for every other stage."""
    chains: dict[str, list[StageCurves]] = {}
    for stage in report.training:
        home, _, name = stage.stage.rpartition("/")
        chains.setdefault(home if home in HOMES else stage.stage, []).append(stage)
    for name, chain in chains.items():
        # A stage too short for a curve would leave an empty place.
        drawn = [(stage, loss) for stage in chain if _is_drawn(loss := stage.train.get("loss"))]
        if not drawn:
            continue
        stages = [stage for stage, _ in drawn]
        short = [_short(stage) for stage in chain if stage not in stages]
        names = f", stages {', '.join(map(_short, stages))}" if name in HOMES else ""
        yield Panel(
            name=f"training-{name}", section="Training", height_inches=2.6, legend_columns=2,
            caption=f"{name}: training{names}" + (f"; too short for a curve: {', '.join(short)}" if short else ""),
            alt=" ".join(
                f"{stage.stage}: a loss from {loss.value[0]:.3g} to {loss.value[-1]:.3g} in {loss.step[-1]:,} steps."
                for stage, loss in drawn
            ),
            xlabel="step", plot=partial(_curves, stages),
            ylabel="loss; L1" if any(_is_drawn(stage.valid.get("l1")) for stage in stages) else "loss",
        )  # fmt: skip


def _short(stage: StageCurves) -> str:
    return stage.stage.rpartition("/")[2]


def _curves(stages: Sequence[StageCurves], axes: Axes) -> None:
    other: Axes | None = None
    start, margin, label = 0, stages[0].margin, "training loss"
    for stage in stages:
        if start:
            text, style = _short(stage), ":"
            if stage.margin != margin and None not in (stage.margin, margin):
                text, style = f"{text}: margin {margin:g} to {stage.margin:g}, so the loss jumps", "-"
            axes.axvline(start, color=GREY, linestyle=style, linewidth=1.2, label=text)
        margin = stage.margin
        loss, eer, distance = stage.train.get("loss"), stage.valid.get("eer"), stage.valid.get("l1")
        if _is_drawn(loss):
            axes.plot(np.add(start, loss.step), loss.value, color=BLUE, label=label, linewidth=1.1)
            label = ""
        if eer is not None:
            if other is None:
                other = axes.twinx()
                other.spines["right"].set_visible(True)
                other.grid(visible=False)
                other.set(ylabel="validation EER, %")
            other.plot(
                np.add(start, eer.step), 100 * np.asarray(eer.value), "o--", color=VERMILLION, linewidth=1.1,
                markersize=3, label="validation EER" if len(other.lines) == 0 else None,
            )  # fmt: skip
        elif _is_drawn(distance):
            axes.plot(
                distance.step, distance.value, "o--", color=VERMILLION, label="L1 in validation", markersize=3
            )
        # The next stage continues on the same axis.
        start += max(curve.step[-1] for curve in (*stage.train.values(), *stage.valid.values()))
    if other is not None:  # once all points are drawn: a limit keeps the other end from following later ones
        other.set_ylim(0, 1.08 * max(other.get_ylim()[1], 0.01))  # with room for the markers
