"""What the user sees: results on stdout, progress and notes on stderr.

On a terminal rich draws bars with rate and remaining time; elsewhere (a log file, CI) each task prints one
plain line every few seconds. Under torchrun only the main process prints.
"""

import functools
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import typer

from svkit.errors import terminal_text
from svkit.progress import Progress, SilentProgress, Task

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID

    from svkit.reports.tables import Table

Result = TypeVar("Result")
PLAIN_INTERVAL_SECONDS = 5.0
"""At most one plain line per task in this time."""
STEPS_SEEN = 5
"""So many advances after the first are seen before the time left is estimated from the last `STEPS_KEPT`: the first
also waits for processes to start and for kernels to be chosen."""
STEPS_KEPT = 100
FILE_WIDTH = 200
"""Columns of a table where stdout is not a terminal."""


def result(values: object, *, as_json: bool = False) -> None:
    """Print a command's result on stdout: one line, a line for each item of a list, or one JSON document."""
    if not is_main_process():
        return
    if as_json:
        is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        values = json.dumps(values, indent=1, ensure_ascii=not is_unicode, default=str)
    for value in values if isinstance(values, list | tuple) else (values,):
        say(str(value))


def say(text: str) -> None:
    """Print a line on stdout: unchanged for other programs, with control characters escaped on a terminal."""
    sys.stdout.write(f"{terminal_text(text, sys.maxsize) if sys.stdout.isatty() else text}\n")
    sys.stdout.flush()


def table(shown: "Table") -> None:
    """Print a table on stdout, as wide as the terminal; in a file or pipe its lines are not wrapped."""
    from svkit.reports.tables import to_terminal

    if not is_main_process():
        return
    sys.stdout.write(f"{to_terminal(shown, None if sys.stdout.isatty() else FILE_WIDTH)}\n")
    for text in shown.notes:
        sentence(text)
    sys.stdout.write("\n" if shown.notes else "")
    sys.stdout.flush()


def sentence(text: str) -> None:
    """Print a sentence on stdout: wrapped between words on a terminal, on one line in a file or pipe."""
    from rich.console import Console

    Console(highlight=False, markup=False).print(
        terminal_text(text), soft_wrap=not sys.stdout.isatty(), overflow="ignore", crop=False
    )


def note(message: str) -> None:
    """Print one line on stderr."""
    if is_main_process():
        typer.echo(terminal_text(message), err=True)


def error(message: str) -> None:
    """Print one red line on stderr."""
    text = f"error: {terminal_text(message)}"
    # `typer.echo` would write UTF-8 even to a terminal that declares itself ASCII.
    sys.stderr.write(f"{typer.style(text, fg='red') if sys.stderr.isatty() else text}\n")
    sys.stderr.flush()


def announced(command: Callable[..., Result]) -> Callable[..., Result]:
    """Wrap a command to print a line on a terminal at once, because its libraries take seconds to load."""

    @functools.wraps(command)
    def speaking(*arguments: Any, **values: Any) -> Result:
        if sys.stderr.isatty():
            note(f"{command.__name__}: loading")
        return command(*arguments, **values)

    return speaking


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
    """Whether this is the one process of a torchrun job that prints and writes."""
    return os.environ.get("RANK", "0") == "0"


class _Count:
    """A counted task; `show` is called after every step."""

    def __init__(
        self, description: str, total: float | None, begun: int, show: "Callable[[_Count], None]"
    ) -> None:
        self.description, self.total, self.begun = description, total, begun
        self.done: float = begun
        self.fields = dict[str, float | str]()
        self._show, self._start = show, time.monotonic()
        self._seen: deque[tuple[float, float]] = deque(maxlen=STEPS_KEPT)

    def advance(self, amount: float = 1, **fields: float | str) -> None:
        self.done += amount
        self._seen += [(time.monotonic(), self.done)] if amount else []
        self.fields.update(fields)
        self._show(self)

    @property
    def seconds(self) -> float:
        """Time since the task was opened."""
        return max(time.monotonic() - self._start, 1e-9)

    @property
    def mean(self) -> str:
        """Units per second of the whole run, without what an earlier one has done."""
        return per_second((self.done - self.begun) / self.seconds)

    @property
    def pace(self) -> float | None:
        """Units per second of the latest steps; None until enough were seen."""
        if len(self._seen) <= STEPS_SEEN:
            return None
        (since, before), (now, done) = self._seen[0], self._seen[-1]
        return (done - before) / max(now - since, 1e-9)

    @property
    def rate(self) -> str:
        return per_second(self.pace) if self.pace else self.mean

    @property
    def left(self) -> str:
        """Time left at this pace; empty if it or the total is not known."""
        return f"{clock((self.total - self.done) / self.pace)} left" if self.total and self.pace else ""

    @property
    def facts(self) -> list[str]:
        """The latest fields given to `advance`, each as `name=value`."""
        return [
            terminal_text(f"{name}={format(value, '.4g') if isinstance(value, float) else value}")
            for name, value in self.fields.items()
        ]

    @property
    def count(self) -> str:
        """Units done, with the total if it is known: `10/14`."""
        return f"{self.done:,.0f}" + (f"/{self.total:,.0f}" if self.total else "")

    def line(self, *, is_finished: bool = False) -> str:
        count = self.count + (f" ({100 * self.done / self.total:.0f} %)" if self.total else "")
        so_far = clock(self.seconds)
        when = f"done in {so_far}" if is_finished else self.left or f"{so_far} so far"
        rate = self.mean if is_finished else self.rate
        return ", ".join([f"{self.description}: {count}", rate, when, *self.facts])


class PlainProgress:
    """One line every few seconds, for logs."""

    def __init__(self, stream: TextIO, interval_seconds: float = PLAIN_INTERVAL_SECONDS) -> None:
        self._stream = stream
        self._interval_seconds = interval_seconds

    @contextmanager
    def task(self, description: str, total: float | None, begun: int = 0) -> Iterator[Task]:
        """Open a counted task; a closing line is printed if it succeeds."""
        last = time.monotonic()

        def show(task: _Count) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= self._interval_seconds:
                last = now
                self.note(task.line())

        task = _Count(description, total, begun, show)
        yield task
        self.note(task.line(is_finished=True))

    def note(self, message: str) -> None:
        """Print one line."""
        self._stream.write(f"{terminal_text(message)}\n")
        self._stream.flush()


class _RichProgress:
    def __init__(self, bars: "RichBars") -> None:
        self._bars = bars

    @contextmanager
    def task(self, description: str, total: float | None, begun: int = 0) -> Iterator[Task]:
        """Open a bar, which leaves one line behind if the task succeeds."""
        row: TaskID

        def show(task: _Count) -> None:
            facts = " ".join(task.facts)
            self._bars.update(
                row, completed=task.done, count=task.count, rate=task.rate, left=task.left, fields=facts
            )

        task = _Count(description, total, begun, show)
        row = self._bars.add_task(
            terminal_text(description),
            total=total,
            completed=begun,
            count=task.count,
            rate="",
            left="",
            fields="",
        )
        try:
            yield task
            self.note(f"{description}: {task.done - begun:,.0f} in {clock(task.seconds)}")
        finally:
            self._bars.remove_task(row)

    def note(self, message: str) -> None:
        """Print one line above the bars."""
        self._bars.print(terminal_text(message), highlight=False, markup=False, soft_wrap=True)


def _rich_bars() -> "RichBars":
    from rich import progress as rich_progress
    from rich.console import Console

    return rich_progress.Progress(
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(bar_width=24),
        rich_progress.TextColumn("{task.fields[count]}"),
        rich_progress.TaskProgressColumn(),
        rich_progress.TextColumn("{task.fields[rate]}"),
        rich_progress.TextColumn("{task.fields[left]}"),
        rich_progress.TextColumn("{task.fields[fields]}", markup=False),
        console=Console(stderr=True),
    )


def per_second(rate: float) -> str:
    """Render a rate."""
    return f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.3g}/s"


def clock(seconds: float) -> str:
    """Render a duration as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
