"""The page of the simulated adaptation is of the figures beside it, and they speak for the weights that are default."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("plda_adaptation")


def test_the_page_is_of_the_figures(benchmark):
    facts = json.loads((RESULTS / "plda_adaptation.json").read_text())
    assert facts["mean"] == benchmark.means(facts["domains"])
    assert benchmark.page(facts) == (RESULTS / "plda_adaptation.md").read_text()


def test_the_weights_that_are_default_help_and_are_close_to_the_best(benchmark):
    for material, found in json.loads((RESULTS / "plda_adaptation.json").read_text())["mean"].items():
        default = f"{benchmark.UNLABELLED_WEIGHT:g}" if material.endswith("unlabelled") else benchmark.DEFAULT
        for measure in ("eer", "cllr"):
            values = {label: one[measure] for label, one in found.items()}
            assert values[default] < values["0"] < values["none"], (material, measure, values)
            assert values[default] < 1.03 * min(values.values()), (material, measure, values)


def test_a_domain_is_drawn_as_it_is_described(benchmark):
    rng = np.random.default_rng(0)
    source = benchmark.new_population(rng)
    domain = benchmark.Domain(moved=2.0, sessions=6.0)
    target = source.changed(domain, rng)
    assert np.linalg.norm(target.mean - source.mean) / np.sqrt(benchmark.DIM) == pytest.approx(2, rel=0.4)
    stretch = np.linalg.eigvalsh(np.linalg.inv(source.sessions) @ target.sessions)
    num_grown = benchmark.DIM // 3
    assert stretch == pytest.approx([1.0] * (benchmark.DIM - num_grown) + [np.sqrt(6)] * num_grown)
    np.testing.assert_allclose(target.voices.T @ target.voices, source.voices.T @ source.voices)
    rows, groups = target.draw(rng, 4000, 2)
    within = (rows[::2] - rows[1::2]) / np.sqrt(2)
    assert np.trace(np.cov(within.T)) == pytest.approx(
        np.trace(target.sessions.T @ target.sessions), rel=0.05
    )
    assert len(rows) == 8000 and groups[1] == 0 and groups[2] == 1
