"""The alternative texts of the figures: what they show, in words."""

import numpy as np

from svkit.reports import wording
from svkit.reports.tables import percent
from svkit.store.report import System, Tippett


def det(system: System) -> str:
    """Describe a curve of misses over false accepts."""
    far = system.thresholds.get("far_0.01")  # None: too few trials for this rate
    misses = "" if far is None else f"; at 1 % false accepts, {percent(far.miss_rate)} % misses"
    return f"{wording.label(system)}: equal error rates of {percent(system.eer)} %{misses}."


def scores(system: System) -> str:
    """Describe where the scores of both classes lie."""
    found, middles = [], np.asarray(system.histogram.edges[:-1]) + np.diff(system.histogram.edges) / 2
    for name, counts in (
        ("nontargets", system.histogram.nontargets),
        ("targets", system.histogram.targets),
    ):
        share = np.cumsum(counts) / sum(counts)
        low, middle, high = middles[np.searchsorted(share, (0.05, 0.5, 0.95))]
        found.append(f"Most {name} lie between {low:.3f} and {high:.3f}; their median is {middle:.3f}.")
    threshold = system.thresholds["eer"].threshold
    return " ".join([*found, f"The error rates are equal at the threshold {threshold:.3f}."])


def tippett(system: System, drawn: Tippett) -> str:
    """Describe how far the shares of both classes are apart."""
    first = int(np.searchsorted(drawn.llr, 0))
    accepted, mistaken = (
        100 * (above[first] if first < len(above) else 0.0)
        for above in (drawn.targets_above, drawn.nontargets_above)
    )
    return (
        f"{wording.label(system)}: {accepted:.1f} % of the targets and {mistaken:.1f} % of the nontargets have a ratio"
        " of 1 or more."
    )


def reliability(system: System, drawn: Tippett) -> str:
    """Describe how far stated ratios are from observed ones."""
    off = np.abs(np.subtract(drawn.stated, drawn.observed)) / np.log(10)
    return f"{wording.label(system)}: up to {off.max(initial=0):.2f} off the dotted line."
