"""What a stage may say while it works; the command line draws it, tests pass the silent version."""

import os
import stat
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Task(Protocol):
    """One counted piece of work."""

    def advance(self, amount: float = 1, **fields: float | str) -> None:
        """Count `amount` units done; `fields` are shown beside the bar (loss=1.23)."""


class Progress(Protocol):
    """Receiver of progress; implementations live in `svkit.cli.console`."""

    def task(self, description: str, total: float | None) -> AbstractContextManager[Task]:
        """Open a counted task; `total` None when unknown."""

    def note(self, message: str) -> None:
        """Tell the user one thing worth a line."""


class _SilentTask:
    def advance(self, amount: float = 1, **fields: float | str) -> None:
        """Ignore."""


class SilentProgress:
    """Says nothing."""

    def task(self, description: str, total: float | None) -> AbstractContextManager[Task]:
        """Return a task that ignores everything."""
        return nullcontext(_SilentTask())

    def note(self, message: str) -> None:
        """Ignore."""


def leave_lost_terminal() -> None:
    """Send stdout and stderr nowhere where their terminal has gone: writing to it would be an error in the middle."""
    for handle in (1, 2):
        try:
            if os.isatty(handle) or not stat.S_ISCHR(os.fstat(handle).st_mode):
                continue
        except OSError:  # closed
            continue
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, handle)
        os.close(nowhere)
