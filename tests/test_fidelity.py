"""Every difference to the published work, and every promise of reliability, is held by tests that exist."""

import ast
import json
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
DOCUMENT = REPOSITORY / "docs" / "fidelity.md"
RELIABILITY = REPOSITORY / "docs" / "reliability.md"
TEST_ID = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def table_rows() -> list[list[str]]:
    """Cells of every row of the tables, headings left out."""
    lines = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows if row[0] != "quantity" and not row[0].startswith("---")]


def test_rows_are_complete():
    for row in table_rows():
        quantity, published, ours, compared, difference = row
        assert quantity and published and ours and difference, row
        assert TEST_ID.search(compared) or "`benchmarks/fidelity.py`" in compared, row
    assert len(table_rows()) == len({row[0] for row in table_rows()})


def named_tests() -> dict[str, set[str]]:
    """Test functions that the documents name, by file."""
    named: dict[str, set[str]] = {}
    for document in (DOCUMENT, RELIABILITY):
        for match in TEST_ID.finditer(document.read_text(encoding="utf-8")):
            named.setdefault(match[1], set()).add(match[2])
    return named


@pytest.mark.parametrize(("name", "wanted"), sorted(named_tests().items()))
def test_the_named_tests_exist(name, wanted):
    tree = ast.parse((REPOSITORY / name).read_text(encoding="utf-8"))
    assert wanted <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_counts_of_the_soak_are_those_of_its_last_run():
    facts = json.loads((REPOSITORY / "docs" / "results" / "soak.json").read_text())
    num_faults = sum(sum(kinds.values()) for kinds in facts["survived"].values())
    page = " ".join(RELIABILITY.read_text(encoding="utf-8").split())
    assert f"{num_faults:,} faults in seven stages in the run of {facts['date']}" in page
    assert len(facts["survived"]) == 7 and re.findall(r"([\d,]+) faults", page) == [f"{num_faults:,}"]
