"""The page of the chain on real voices, where there are too few speakers for an interval or a comparison."""

import importlib.util
import json
from pathlib import Path

import pytest

from svkit.store.atomic import write_json

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def voices():
    spec = importlib.util.spec_from_file_location("voices", REPOSITORY / "benchmarks" / "voices.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_metrics_without_an_interval_are_read(voices, tmp_path):
    costs = [{"p_target": prior, "value": 0.5} for prior in (0.01, 0.05)]
    path = tmp_path / "scores" / "dense" / voices.TRIALS / "metrics.json"
    write_json(path, {"eer": 0.1, "eer_interval": None, "min_dcf": costs})
    found = voices.metrics(tmp_path, "dense")
    assert (found["eer"], found["low"], found["high"]) == (0.1, None, None)


def test_the_page_stands_without_intervals_and_comparison(voices):
    facts = json.loads((REPOSITORY / "docs" / "results" / "voices.json").read_text())
    assert "points** of EER" in voices.render(facts)
    for row in facts["rows"].values():
        row["low"] = row["high"] = None
    facts["pruned_minus_dense"] = None
    page = voices.render(facts)
    assert "(no interval)" in page and "too few speakers for a comparison" in page
