"""What the user sees: results on stdout, progress and notes on stderr.

On a terminal rich draws bars with rate and remaining time; elsewhere (a log file, CI) each task says one
plain line every few seconds. Under torchrun only the main process speaks.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, TextIO

import typer

from svkit.errors import terminal_text
from svkit.progress import Progress, SilentProgress, Task

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID

    from svkit.reports.tables import Table

PLAIN_INTERVAL_SECONDS = 5.0
"""At most one plain line a task in this time."""
FILE_WIDTH = 200
"""Columns of a table where stdout is not a terminal."""


def result(values: object, *, as_json: bool = False) -> None:
    """Print a command's result on stdout: a line for each value, or one JSON document.

    Args:
        values: a text, a path, or a list of them; any JSON value with `as_json`.
        as_json: print one JSON document.
    """
    if not is_main_process():
        return
    if as_json:
        is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        say(json.dumps(values, indent=1, ensure_ascii=not is_unicode, default=str))
        return
    several = values if isinstance(values, list | tuple) else (values,)
    for value in several:
        say(str(value))


def say(text: str) -> None:
    """Print a line on stdout: as it is for other programs, without control characters on a terminal."""
    sys.stdout.write(f"{terminal_text(text, sys.maxsize) if sys.stdout.isatty() else text}\n")
    sys.stdout.flush()


def table(shown: "Table") -> None:
    """Print a table on stdout, as wide as the terminal; in a file or pipe its lines are not wrapped."""
    from svkit.reports.tables import to_terminal

    sys.stdout.write(f"{to_terminal(shown, None if sys.stdout.isatty() else FILE_WIDTH)}\n")
    for text in shown.notes:
        sentence(text)
    sys.stdout.write("\n" if shown.notes else "")
    sys.stdout.flush()


def sentence(text: str) -> None:
    """Print a sentence on stdout: on a terminal in its width, in a file or pipe on one line."""
    from rich.console import Console

    Console(highlight=False, markup=False).print(terminal_text(text), soft_wrap=not sys.stdout.isatty())


def note(message: str) -> None:
    """Print one line on stderr."""
    if is_main_process():
        typer.echo(terminal_text(message), err=True)


def error(message: str) -> None:
    """Print one red line on stderr."""
    text = f"error: {terminal_text(message)}"
    # Not by `typer.echo`, which writes UTF-8 where the terminal says that it knows ASCII only.
    sys.stderr.write(f"{typer.style(text, fg='red') if sys.stderr.isatty() else text}\n")
    sys.stderr.flush()


@contextmanager
def progress() -> Iterator[Progress]:
    """Yield the progress receiver that fits this process and this stderr."""
    if not is_main_process():
        yield SilentProgress()
    elif sys.stderr.isatty():
        with _rich_bars() as bars:
            yield _RichProgress(bars)
    else:
        yield PlainProgress(sys.stderr)


def is_main_process() -> bool:
    """Whether this is the one process of a torchrun job that speaks and writes."""
    return os.environ.get("RANK", "0") == "0"


class PlainProgress:
    """One line every few seconds, for logs."""

    def __init__(self, stream: TextIO, interval_seconds: float = PLAIN_INTERVAL_SECONDS) -> None:
        self._stream = stream
        self._interval_seconds = interval_seconds

    @contextmanager
    def _task(self, description: str, total: float | None) -> Iterator[Task]:
        task = _PlainTask(self, description, total, self._interval_seconds)
        yield task
        task.finish()

    def task(self, description: str, total: float | None) -> AbstractContextManager[Task]:
        """Open a counted task; its last line is printed when it ends well."""
        return self._task(description, total)

    def note(self, message: str) -> None:
        """Print one line."""
        self._stream.write(f"{terminal_text(message)}\n")
        self._stream.flush()


class _PlainTask:
    def __init__(
        self, owner: PlainProgress, description: str, total: float | None, interval_seconds: float
    ) -> None:
        self._owner = owner
        self._description = description
        self._total = total
        self._interval_seconds = interval_seconds
        self._done = 0.0
        self._fields: dict[str, float | str] = {}
        self._start = self._last_line = time.monotonic()

    def advance(self, amount: float = 1, **fields: float | str) -> None:
        """Count, and print a line if the last one is old enough."""
        self._done += amount
        self._fields.update(fields)
        now = time.monotonic()
        if now - self._last_line >= self._interval_seconds:
            self._last_line = now
            self._owner.note(self._line(now))

    def finish(self) -> None:
        """Say how much was done in what time."""
        self._owner.note(self._line(time.monotonic(), is_finished=True))

    def _line(self, now: float, *, is_finished: bool = False) -> str:
        elapsed = max(now - self._start, 1e-9)
        rate = self._done / elapsed
        count = f"{self._done:,.0f}"
        if self._total:
            count += f"/{self._total:,.0f} ({100 * self._done / self._total:.0f} %)"
        if is_finished:
            when = f"done in {clock(elapsed)}"
        elif self._total and rate > 0:
            when = f"{clock((self._total - self._done) / rate)} left"
        else:
            when = f"{clock(elapsed)} so far"
        return ", ".join([f"{self._description}: {count}", f"{_rate(rate)}/s", when, *_fields(self._fields)])


class _RichProgress:
    def __init__(self, bars: "RichBars") -> None:
        self._bars = bars

    @contextmanager
    def _task(self, description: str, total: float | None) -> Iterator[Task]:
        row = self._bars.add_task(terminal_text(description), total=total, rate="", fields="")
        task = _RichTask(self._bars, row)
        try:
            yield task
            self.note(f"{description}: {task.done:,.0f} in {clock(task.elapsed_seconds)}")
        finally:
            self._bars.remove_task(row)

    def task(self, description: str, total: float | None) -> AbstractContextManager[Task]:
        """Open a bar; it leaves one line behind when it ends well."""
        return self._task(description, total)

    def note(self, message: str) -> None:
        """Print one line above the bars."""
        self._bars.print(terminal_text(message), highlight=False, markup=False, soft_wrap=True)


class _RichTask:
    def __init__(self, bars: "RichBars", row: "TaskID") -> None:
        self._bars = bars
        self._row = row
        self._fields: dict[str, float | str] = {}
        self._start = time.monotonic()
        self.done = 0.0

    @property
    def elapsed_seconds(self) -> float:
        """Time since the task was opened."""
        return max(time.monotonic() - self._start, 1e-9)

    def advance(self, amount: float = 1, **fields: float | str) -> None:
        """Move the bar."""
        self.done += amount
        self._fields.update(fields)
        self._bars.update(
            self._row,
            advance=amount,
            rate=f"{_rate(self.done / self.elapsed_seconds)}/s",
            fields=" ".join(_fields(self._fields)),
        )


def _rich_bars() -> "RichBars":
    from rich import progress as rich_progress
    from rich.console import Console

    return rich_progress.Progress(
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(bar_width=24),
        rich_progress.TextColumn("{task.completed:,.0f}"),
        rich_progress.TaskProgressColumn(),
        rich_progress.TextColumn("{task.fields[rate]}"),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[fields]}", markup=False),
        console=Console(stderr=True),
    )


def clock(seconds: float) -> str:
    """Render a duration as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _fields(fields: Mapping[str, float | str]) -> list[str]:
    return [
        terminal_text(f"{name}={format(value, '.4g') if isinstance(value, float) else value}")
        for name, value in fields.items()
    ]
