"""The table type, how numbers are written, and all renderings but HTML's, which is in `page.html.j2`."""

import csv
import io
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from svkit.errors import terminal_text
from svkit.eval.results import Interval
from svkit.store.atomic import write_text

MISSING = "-"
_MARKS = re.compile(
    r"""[\\`*\[\]|$]        # code, emphasis, links, cells of tables, formulas
    | ~(?=~) | <(?=[A-Za-z/!?]) | &(?=\#?\w+;)
    | (?<![^\W_])_ | _(?![^\W_])  # within a word, an underscore is no markup
    | ^[#>](?=[#>\s])""",
    re.VERBOSE,
)


_ANY_WIDTH = 10_000
LEVEL = " (95 %)"
"""Ends the heading of a column of numbers with intervals."""
_SPREAD = re.compile(r"(\S+)(?: \((\S+) to (\S+)\)| \(none of \S+\))?")
"""A number as `number` writes it, or a rate without errors as `reports.results` writes it."""
_THOUSANDS = re.compile(r"[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?")
_LATEX = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Headings and rows of plain text."""

    title: str = ""
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int] = (0,)
    """Columns of text, aligned left; the others hold numbers, aligned right."""
    notes: Sequence[str] = ()
    """Sentences below the table on a terminal."""


def shown_hours(hours: float) -> str:
    """Return a duration in hours, in minutes below one, or in seconds below one of those."""
    if hours >= 1:
        return f"{hours:,.2f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.1f} s"


def number(value: float | None, interval: Interval | None = None, digits: int = 2, scale: float = 1.0) -> str:
    """Write a number, with its interval in brackets where there is one: `14.81 (6.92 to 25.93)`.

    A nonzero number that would round to zero keeps two significant digits; None is `MISSING`.
    """
    if value is None:
        return MISSING

    def text(part: float) -> str:
        rounded = f"{scale * part:.{digits}f}"
        return f"{scale * part:.2g}" if part and float(rounded) == 0 else rounded

    spread = ""
    if interval is not None:
        low = interval.low if interval.low > interval.high / 1000 else 0.0  # not `2.3e-06 to 4.22`
        spread = f" ({text(low)} to {text(interval.high)})"
    return text(value) + spread


def percent(value: float | None, interval: Interval | None = None, digits: int = 2) -> str:
    """Write a fraction in percent, without the sign, with its interval as `number` does."""
    return number(value, interval, digits, scale=100)


def points(difference: float, low: float, high: float) -> str:
    """Write a difference of rates in percentage points, signed, with its interval."""
    return f"{100 * difference:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def escape(text: str) -> str:
    """Return text that markdown shows as it is: names of people, files and systems may hold anything."""
    return _MARKS.sub(r"\\\g<0>", terminal_text(text, sys.maxsize).replace("\n", " "))


def to_markdown(table: Table) -> str:
    """Render headings and rows; the title is left to the page."""
    first, *others = [f"| {' | '.join(map(escape, cells))} |" for cells in (table.headings, *table.rows)]
    return "\n".join([first, f"|{'---|' * len(table.headings)}", *others])


def to_terminal(table: Table, width: int | None) -> str:
    """Render title, headings and rows in `width` columns; None means the terminal's width.

    If the table would not fit without breaking words, the cells of a row stand below each other, each with its heading.
    """
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table as RichTable

    drawn = RichTable(
        box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(table.headings),
    )  # fmt: skip
    for index, name in enumerate(table.headings):
        drawn.add_column(
            terminal_text(name), justify="left" if index in table.left else "right", overflow="fold"
        )
    for row in table.rows:
        drawn.add_row(*map(terminal_text, row))
    console = Console(highlight=False, markup=False, width=width)
    if Measurement.get(console, console.options.update(width=_ANY_WIDTH), drawn).minimum > console.width:
        return _to_blocks(table, console.width)
    with console.capture() as capture:
        if table.title:  # not the table's own title, which would wrap at the table's width
            console.print(terminal_text(table.title), style="bold")
        console.print(drawn)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _to_blocks(table: Table, width: int) -> str:
    """Render each row as lines of heading and cell; a cell without a heading stands alone, empty cells are left out."""
    lines = [table.title, ""] if table.title else []
    for row in table.rows:
        cells = [(heading, cell) for heading, cell in zip(table.headings, row, strict=True) if cell]
        named = [f"{heading}: {cell}" if heading else cell for heading, cell in cells]
        lines += [named[0], *(f"  {text}" for text in named[1:])]
    wrapper = textwrap.TextWrapper(
        width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(part for line in lines for part in wrapper.wrap(terminal_text(line)) or [""])


def to_csv(table: Table) -> str:
    """Render headings and rows for programs: missing values are empty cells, interval ends have their own columns.

    Numbers are rounded as in the other renderings, but have no commas between thousands.
    """
    columns: list[list[str]] = []
    for index, heading in enumerate(table.headings):
        cells = [terminal_text(row[index], sys.maxsize) for row in table.rows]
        if index in table.left:
            columns.append([heading, *cells])
            continue
        cells = [cell.replace(",", "") if _THOUSANDS.fullmatch(cell) else cell for cell in cells]
        cells = ["" if cell == MISSING else cell for cell in cells]
        found = [_SPREAD.fullmatch(cell) for cell in cells]
        if heading.endswith(LEVEL) or any(spread and spread[2] for spread in found):
            name = heading.removesuffix(LEVEL)
            parts = [
                spread.groups("") if spread else (cell, "", "")
                for spread, cell in zip(found, cells, strict=True)
            ]
            headings = (name, f"{name}, low{LEVEL}", f"{name}, high{LEVEL}")
            columns += [list(column) for column in zip(headings, *parts, strict=True)]
        else:
            columns.append([heading, *cells])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(zip(*columns, strict=True))
    return text.getvalue()


def to_latex(table: Table) -> str:
    """Render headings and rows as a `tabular` with the rules of the package booktabs, all text escaped."""

    def line(cells: Sequence[str]) -> str:
        shown = (
            "--" if cell == MISSING else terminal_text(cell, sys.maxsize).replace("\n", " ") for cell in cells
        )
        return " & ".join("".join(_LATEX.get(mark, mark) for mark in cell) for cell in shown) + r" \\"

    sides = "".join("l" if index in table.left else "r" for index in range(len(table.headings)))
    rules = [rf"\begin{{tabular}}{{{sides}}}", r"\toprule", line(table.headings), r"\midrule"]
    return "\n".join([*rules, *map(line, table.rows), r"\bottomrule", r"\end{tabular}", ""])


FORMS: Mapping[str, Callable[[Table], str]] = {"csv": to_csv, "tex": to_latex}
"""Renderings for files, by suffix."""


def write_tables(directory: Path, suffix: str, tables: Mapping[str, Table]) -> list[Path]:
    """Write each table that has rows to a file named after it, in one of `FORMS`."""
    shown = {name: table for name, table in tables.items() if table.rows}
    paths = [directory / f"{name}.{suffix}" for name in file_names(shown)]
    for path, table in zip(paths, shown.values(), strict=True):
        write_text(path, FORMS[suffix](table))
    return paths


def file_names(names: Iterable[str]) -> list[str]:
    """Return a file name for each of the names, all different."""
    found: dict[str, None] = {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9._+]+", "-", name).strip("-")[:100]
        while plain in found:
            plain += "-2"
        found[plain] = None
    return list(found)
