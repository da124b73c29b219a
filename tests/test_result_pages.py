"""The pages of docs/results are those that their scripts render from the records beside them."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("pruning_quality", "quality_page"),
        ("soak", "tests.soak.__main__"),
        ("sweep", "sparsity_sweep"),
        ("voices", "voices"),
    ],
)
def test_the_page_is_of_its_record(name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    facts = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert importlib.import_module(script).render(facts) == (RESULTS / f"{name}.md").read_text(
        encoding="utf-8"
    )
