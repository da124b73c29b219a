"""Tables for people on stdout: on a terminal as wide as it is, in a file or pipe never wrapped."""

import sys
from collections.abc import Sequence

FILE_WIDTH = 200
"""Columns where stdout is not a terminal."""


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()
) -> None:
    """Print a table whose first column is text and whose others are right-aligned, with notes below.

    Args:
        title: above the table.
        columns: headings.
        rows: cells as text, one for each column.
        notes: lines below.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else FILE_WIDTH)
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True)


def percent(value: float, digits: int = 2) -> str:
    """Render a fraction in percent."""
    return f"{100 * value:.{digits}f}"


def interval(facts: dict[str, float] | None, digits: int = 1) -> str:
    """Render an interval of fractions in percent; a dash where there is none."""
    return "-" if facts is None else f"{percent(facts['low'], digits)} to {percent(facts['high'], digits)}"
