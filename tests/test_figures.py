"""Every figure of README and docs is that of its record in docs/results, or has a reason why there is none."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
BY_HAND = tomllib.loads((ROOT / "benchmarks" / "figures_by_hand.toml").read_text(encoding="utf-8"))
PAGES = [
    "README.md",
    *(path.name for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "commands.md"),
]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("figures")


def text_of(page: str) -> str:
    return (ROOT / page if page == "README.md" else ROOT / "docs" / page).read_text(encoding="utf-8")


def differing(old: str, new: str) -> list[str]:
    """Lines that are not those of the records, as they are and as they should be."""
    pairs = zip(old.splitlines(), new.splitlines(), strict=False)
    return [f"line {number}: {a!r}, not {b!r}" for number, (a, b) in enumerate(pairs, 1) if a != b][:5]


@pytest.mark.parametrize("page", PAGES)
def test_figures_are_those_of_their_records(figures: ModuleType, page: str) -> None:
    text = text_of(page)
    wrong = differing(text, figures.renewed(text))
    assert not wrong, f"run python benchmarks/figures.py; {page}: {wrong}"


@pytest.mark.parametrize("page", PAGES)
def test_a_figure_without_a_record_has_a_reason(figures: ModuleType, page: str) -> None:
    found, named = set(figures.unmarked(text_of(page))), set(BY_HAND.get(page, {}))
    assert found <= named, f"{page}: no record and no reason in figures_by_hand.toml: {sorted(found - named)}"
    assert named <= found, f"{page}: gone, but still in figures_by_hand.toml: {sorted(named - found)}"


def test_every_page_is_looked_at(figures: ModuleType) -> None:
    assert [path.name for path in figures.pages()] == PAGES and set(BY_HAND) <= set(PAGES)


@pytest.fixture
def a_record(figures: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    rows = [
        {"stage": "joint", "gb": 10.44, "over": {"eer": 0.126}},
        {"stage": "prune", "gb": 12.7},
    ]
    (tmp_path / "made.json").write_text(json.dumps({"rows": rows, "bytes": 2_500_000_000}))
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    figures.record.cache_clear()
    yield figures
    figures.record.cache_clear()


@pytest.mark.parametrize(("old", "new"), [
    ("9.9<!-- made > rows > joint > gb: .1f --> GB", "10.4<!-- made > rows > joint > gb: .1f --> GB"),
    ("?<!-- made > rows > joint > over > eer: .1% --> %", "12.6<!-- made > rows > joint > over > eer: .1% --> %"),
    ("**1<!-- made > bytes / 1e9: .1f -->** GB", "**2.5<!-- made > bytes / 1e9: .1f -->** GB"),
    ("1<!-- made > bytes: ,d -->, 2 GB", "2,500,000,000<!-- made > bytes: ,d -->, 2 GB"),
])  # fmt: skip
def test_a_figure_is_written_anew(a_record: ModuleType, old: str, new: str) -> None:
    assert a_record.renewed(old) == new and a_record.renewed(new) == new


def test_rows_of_a_table_are_written_anew(a_record: ModuleType) -> None:
    head = "<!-- rows of made > rows: | {stage} | {gb:.0f} | [[{over > eer:.1%}]] | -->\n\n| a | b | c |\n|--|--|--|\n"
    new = head + "| joint | 10 | 12.6 |\n| prune | 13 |  |\n"
    assert a_record.renewed(head + "| old | 1 | 2 |\n") == a_record.renewed(new) == new


@pytest.mark.parametrize("source", ["made > rows > lmft > gb", "made > rows > joint > mb", "made > gone"])
def test_a_source_that_leads_nowhere_is_an_error(a_record: ModuleType, source: str) -> None:
    with pytest.raises(KeyError):
        a_record.renewed(f"1<!-- {source}: .1f --> GB")


def test_figures_with_units_are_seen(figures: ModuleType) -> None:
    text = (
        "Takes 2.5 times as long, 3 to 4 % more, 0.2\nGB, 4.1 x and **7** points; 64 x 3 s; fp32, x dense; 16 kHz; "
        "`5 GB`; [a](b_6%.md); 8<!-- full_size > stages > joint > peak_gb: .1f --> GB\n```\n9 GB\n```\n"
    )
    assert figures.unmarked(text) == ["2.5 times", "3 to 4 %", "0.2 GB", "4.1 x", "7 points", "3 s"]
