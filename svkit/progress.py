"""How a stage reports progress; the command line draws it, and tests pass the silent version."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Task(Protocol):
    """One counted piece of work."""

    def advance(self, amount: float = 1, **fields: float | str) -> None:
        """Count `amount` units done; `fields` are shown beside the bar (loss=1.23)."""


class Progress(Protocol):
    """Receiver of progress; implementations live in `svkit.cli.console`."""

    def task(self, description: str, total: float | None, begun: int = 0) -> AbstractContextManager[Task]:
        """Open a counted task; `total` None when unknown. An earlier run has done `begun` units of it."""

    def note(self, message: str) -> None:
        """Show the user a message of one line."""


class _SilentTask:
    def advance(self, amount: float = 1, **fields: float | str) -> None:
        """Ignore."""


class SilentProgress:
    """Progress that shows nothing."""

    def task(self, description: str, total: float | None, begun: int = 0) -> AbstractContextManager[Task]:
        """Return a task that ignores everything."""
        return nullcontext(_SilentTask())

    def note(self, message: str) -> None:
        """Ignore."""
