"""Renders the facts of `intervals.py` as a page of markdown."""

from typing import Any

import numpy as np

from svkit.reports.tables import Table, to_markdown


def page(facts: dict[str, Any]) -> str:
    """Return docs/results/intervals.md, from the content of the JSON beside it, not always of every population."""
    rows = facts["rows"]
    methods = list(rows[0]["coverage"])

    def cell(shares: list[float]) -> str:
        return f"{100 * np.mean(shares):.0f} ({100 * min(shares):.0f})" if shares else "-"

    def shares(method: str, statistic: str, num_speakers: int, *, chosen_on: bool) -> list[float]:
        return [
            row["coverage"][method][statistic]
            for row in rows
            if (row["num_speakers"], row["chosen_on"]) == (num_speakers, chosen_on)
        ]

    sizes = sorted({row["num_speakers"] for row in rows})
    statistics = list(rows[0]["coverage"]["adopted"])
    shown = [*statistics[:7], "few false accepts"]
    coverage = [["speakers", *shown, "p < 0.05"]]
    for size in sizes:
        level = [100 * row["p_below"]["0.05"] for row in rows if row["num_speakers"] == size]
        cells = [cell(shares("adopted", one, size, chosen_on=False)) for one in shown]
        coverage.append([str(size), *cells, f"{np.mean(level):.1f} ({max(level):.1f})"])
    compared = [["EER, 17 speakers", "on which it was chosen", "others"]]
    compared += [
        [method, cell(shares(method, "EER", 17, chosen_on=True)), others]
        for method, others in (
            ("adopted", cell(shares("adopted", "EER", 17, chosen_on=False))),
            ("percentiles, expanded", cell(shares("percentiles, expanded", "EER", 17, chosen_on=False))),
            *((method, "-") for method in methods if method not in ("adopted", "percentiles, expanded")),
        )
    ]
    single = [["population", *(f"{size} speakers" for size in sizes)]]
    for name in dict.fromkeys(row["population"] for row in rows):
        found = {row["num_speakers"]: row for row in rows if row["population"] == name}
        cells = []
        for size in sizes:
            coverages = found[size]["coverage"] if size in found else {}
            both = [coverages.get(method, {}).get("EER") for method in ("percentiles, expanded", "adopted")]
            cells.append("-" if None in both else " -> ".join(f"{100 * share:.0f}" for share in both))
        mark = " (chosen on)" if next(iter(found.values()))["chosen_on"] else ""
        single.append([name + mark, *cells])
    counts = {size: min(row["num_draws"] for row in rows if row["num_speakers"] == size) for size in sizes}
    draws = ", ".join(f"{count} times with {size} speakers" for size, count in counts.items())
    doubt = ", ".join(f"{200 * np.sqrt(0.95 * 0.05 / count):.0f}" for count in counts.values())
    bounds = [100 * row["bound_of_pairs_holds"] for row in rows]
    parts = [
        "# Do the intervals contain the true value?",
        "Written by `python benchmarks/intervals.py`; every figure is in `intervals.json`.",
        f"Date: {facts['machine']['date']}; machine: {facts['machine']['cpu']}. Each population was drawn at least"
        f" {draws}; every draw has {rows[0]['num_resamples']} resamples. With so few draws, a share of 95 % in a"
        f" single population may be off by {doubt} points, in this order.",
        "The table shows how often, in %, the 95 % intervals of `svkit score` contain the true value: the mean over the"
        " populations on which the method was *not* chosen, and in brackets the lowest share among them. The last"
        " column shows how often p is below 0.05 for two equally good systems: the mean over all populations, and in"
        " brackets the highest share.",
        to_markdown(Table(headings=coverage[0], rows=coverage[1:])),
        "The next table shows the same for the EER of each population: the former method (expanded percentiles) -> the"
        " present one. The present method was chosen on the populations marked so.",
        to_markdown(Table(headings=single[0], rows=single[1:])),
        "The last table compares the candidates, with mean and lowest share as above. Most of them give no interval if"
        " a draw has no error; that counts as a miss.",
        to_markdown(Table(headings=compared[0], rows=compared[1:])),
        "If there was no false accept, the rate is stated as at most 1 - 0.05 ** (1 / pairs of speakers). This is true"
        f" in {np.mean(bounds):.0f} % of the draws, and in {min(bounds):.0f} % in the worst population.",
    ]
    return "\n\n".join(parts) + "\n"
