"""The page of the simulated intervals, and what docs/decisions.md says of it, are of the figures beside it."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from svkit.eval.metrics import equal_error_rate, error_curve

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


def test_the_page_is_of_the_figures(benchmark):
    page = benchmark("intervals_page").page(json.loads((RESULTS / "intervals.json").read_text()))
    assert page == (RESULTS / "intervals.md").read_text()
    table = page.split("\n\n")[4]
    assert table.startswith("| speakers |") and table in (ROOT / "docs" / "decisions.md").read_text()


@pytest.mark.parametrize("is_chosen_on", [False, True])
def test_the_page_of_one_population_has_gaps(benchmark, is_chosen_on):
    """As after `--populations NAME --out FILE`, interrupted before the last number of speakers."""
    facts = json.loads((RESULTS / "intervals.json").read_text())
    names = [row["population"] for row in facts["rows"] if row["chosen_on"] == is_chosen_on]
    rows = [row for row in facts["rows"] if row["population"] == names[0]]
    page = benchmark("intervals_page").page
    assert f"| {names[0]}" in page(facts | {"rows": rows})
    other = next(row for row in facts["rows"] if row["population"] == names[1])
    line = next(
        line for line in page(facts | {"rows": [*rows, other]}).splitlines() if f"| {names[1]}" in line
    )
    assert line.count("| - ") == len(rows) - 1 and line.count(" -> ") == 1


def test_a_population_is_drawn_as_its_truth_says(benchmark, monkeypatch):
    """Many speakers: what is measured of them is what is held for true."""
    intervals = benchmark("intervals")
    monkeypatch.setattr(intervals, "MARGINAL", 100_000)
    for name in ("a tenth of the speakers bad, 2 %", "all pairs, 3 %", "cosines of embeddings"):
        population = intervals.POPULATIONS[name]
        systems, labels, _, _ = population.draw(600, np.random.default_rng(0))
        eers = [equal_error_rate(error_curve(scores, labels)) for scores in systems]
        truth = intervals.truth_of(population).values["EER"]
        assert np.mean(eers) == pytest.approx(truth, rel=0.2), name
