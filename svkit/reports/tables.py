"""One table and its renderings: terminal, markdown and page (by `page.html.j2`); and how numbers are written."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from svkit.errors import terminal_text
from svkit.eval.results import Interval

MISSING = "-"
_MARKS = re.compile(
    r"""[\\`*\[\]|$]        # code, emphasis, links, cells of tables, formulas
    | ~(?=~) | <(?=[A-Za-z/!?]) | &(?=\#?\w+;)
    | (?<![^\W_])_ | _(?![^\W_])  # within a word it marks nothing
    | ^[#>](?=[#>\s])""",
    re.VERBOSE,
)


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


def number(value: float | None, interval: Interval | None = None, digits: int = 2, scale: float = 1.0) -> str:
    """Write a number, with its interval in brackets where there is one: `14.81 (6.92 to 25.93)`.

    A number that is not zero but would look like it keeps two significant digits; None is `MISSING`.
    """
    if value is None:
        return MISSING

    def text(part: float) -> str:
        rounded = f"{scale * part:.{digits}f}"
        return f"{scale * part:.2g}" if part and float(rounded) == 0 else rounded

    spread = "" if interval is None else f" ({text(interval.low)} to {text(interval.high)})"
    return text(value) + spread


def percent(value: float | None, interval: Interval | None = None, digits: int = 2) -> str:
    """Write a fraction in percent, without the sign, with its interval as `number` does."""
    return number(value, interval, digits, scale=100)


def escape(text: str) -> str:
    """Return text that markdown shows as it is: names of people, files and systems may hold anything."""
    return _MARKS.sub(r"\\\g<0>", terminal_text(text, sys.maxsize).replace("\n", " "))


def to_markdown(table: Table) -> str:
    """Render headings and rows; the title is left to the page."""
    first, *others = [f"| {' | '.join(map(escape, cells))} |" for cells in (table.headings, *table.rows)]
    return "\n".join([first, f"|{'---|' * len(table.headings)}", *others])


def to_terminal(table: Table, width: int | None) -> str:
    """Render title, headings and rows in so many columns; None: those of the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    drawn = RichTable(
        title=terminal_text(table.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )  # fmt: skip
    for index, name in enumerate(table.headings):
        drawn.add_column(
            terminal_text(name), justify="left" if index in table.left else "right", overflow="fold"
        )
    for row in table.rows:
        drawn.add_row(*map(terminal_text, row))
    console = Console(highlight=False, markup=False, width=width)
    with console.capture() as capture:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
