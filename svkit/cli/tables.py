"""Tables for people on stdout: on a terminal as wide as it is, in a file or pipe never wrapped."""

import sys
from collections.abc import Sequence

from svkit.errors import terminal_text

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

    table = Table(
        title=terminal_text(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for number, name in enumerate(columns):
        table.add_column(terminal_text(name), justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(terminal_text, row))
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else FILE_WIDTH)
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        sys.stdout.write(f"{line.rstrip()}\n")
    for note in notes:
        print_note(note)
    if notes:
        sys.stdout.write("\n")
    sys.stdout.flush()


def print_note(text: str) -> None:
    """Print a sentence: on a terminal in its width, in a file or pipe on one line."""
    from rich.console import Console

    Console(highlight=False, markup=False).print(terminal_text(text), soft_wrap=not sys.stdout.isatty())


def percent(value: float, digits: int = 2) -> str:
    """Render a fraction in percent."""
    return f"{100 * value:.{digits}f}"
