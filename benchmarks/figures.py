"""Write measured figures from docs/results into README.md and docs/; `--check` only says which pages differ.

    python benchmarks/figures.py [--check]

A comment behind each figure names its record, the path to it inside the record, and its format:

    10.4<!-- full_size > stages > joint > peak_gb: .1f --> GB

Each step of the path is a key, or a value that chooses the rows of a list that have it. ` / ` divides two figures. A
format with % multiplies by 100, and the text has the sign. A comment above a table makes its rows, one for each row of
a record. If a row lacks a field inside [[ ]], everything inside is left out:

    <!-- rows of pruning_quality > pooled: | {method} | {pooled > eer:.2%} | [[{pooled > p_value:.2f}]] | -->

Figures with a unit but without such a comment are listed in `figures_by_hand.toml`, each with the reason.
"""

import argparse
import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
WRITTEN_WHOLE = {"commands.md"}
"""Pages that other scripts write, besides those in docs/results."""
FIGURE = re.compile(r"(?P<figure>[+-]?[\w.,+?-]+)<!-- (?P<source>[a-z_]+ > [^\n]+?): (?P<spec>[^:\n]*?) -->")
ROWS = re.compile(
    r"(?P<head><!-- rows of (?P<source>[^:\n]+): (?P<row>\|.*\|) -->\n\n?\|.*\n\|[-:| ]+\n)(?P<rows>(?:\|.*\n)*)"
)
FIELD = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")
OPTIONAL = re.compile(r"\[\[(.*?)\]\]")
UNIT = (
    r"(?:%|x(?! ?\d)\b|×|m?s\b|[kMGTE]i?B\b|GMAC/s|minutes?\b|hours?\b|points?\b|crops/s|trials/s|bytes\b|USD\b|times\b"
    r"|[PE]FLOP\b|[GT]FLOP)"
)
WITH_UNIT = re.compile(
    rf"(?<![\w.,])[+-]?\d[\d,.]*(?:e-?\d+)?(?:(?: to | and | or |, | / |/)[+-]?\d[\d,.]*)* ?{UNIT}"
)


def pages() -> list[Path]:
    """Return README and the pages that are written by hand."""
    return [
        ROOT / "README.md",
        *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in WRITTEN_WHOLE),
    ]


@cache
def record(name: str) -> Any:
    """Return a record of docs/results."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def resolve(start: Any, path: str) -> Any:
    """Follow a path of keys and of values of rows; raises KeyError if it leads nowhere."""
    found = start
    for step in path.split(" > "):
        if isinstance(found, list):
            rows = [row for row in found if step in map(str, row.values())]
            found = rows[0] if len(rows) == 1 else rows
        else:
            found = found[step]
        if found == []:
            raise KeyError(f"{step!r} of {path!r}")
    return found


def measured(source: str) -> Any:
    """Return the figure that a source names, or the ratio of two."""
    parts = []
    for path in source.split(" / "):
        name, step, rest = path.partition(" > ")
        parts.append(resolve(record(name), rest) if step else float(path))
    return parts[0] / parts[1] if len(parts) == 2 else parts[0]


def written(value: Any, spec: str | None) -> str:
    """Format a value, a percentage without its sign."""
    return "-" if value is None else format(value, spec or "").removesuffix("%")


def row_of(template: str, row: dict[str, Any]) -> str:
    """Fill a line of a table."""

    def fill(text: str) -> str:
        return FIELD.sub(lambda field: written(resolve(row, field[1]), field[2]), text)

    def fill_if_there(match: re.Match[str]) -> str:
        try:
            return fill(match[1])
        except KeyError:
            return ""

    return fill(OPTIONAL.sub(fill_if_there, template))


def renewed(text: str) -> str:
    """Return the page with every figure taken from its record."""

    def table(match: re.Match[str]) -> str:
        rows = measured(match["source"])
        return match["head"] + "".join(row_of(match["row"], row) + "\n" for row in rows)

    def figure(match: re.Match[str]) -> str:
        comment = match[0][len(match["figure"]) :]
        return written(measured(match["source"]), match["spec"]) + comment

    return FIGURE.sub(figure, ROWS.sub(table, text))


def unmarked(text: str) -> list[str]:
    """Return the figures with a unit but without a comment that names a record, outside of code."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = FIGURE.sub("#", ROWS.sub("", text))
    text = re.sub(r"<!--.*?-->|`[^`\n]*`|\]\([^)]*\)|\*\*", "", text, flags=re.DOTALL)
    return WITH_UNIT.findall(" ".join(text.split()))


def main() -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="exit 1 unless all figures are current")
    is_check, num_stale = parser.parse_args().check, 0
    for page in pages():
        text = page.read_text(encoding="utf-8")
        new = renewed(text)
        if new != text:
            num_stale += 1
            print(f"{page.relative_to(ROOT)}: {'differs from the records' if is_check else 'updated'}")
            if not is_check:
                page.write_text(new, encoding="utf-8")
    return 1 if is_check and num_stale else 0


if __name__ == "__main__":
    sys.exit(main())
