"""Handle SIGINT, SIGTERM and SIGHUP while no stage waits for them: print one line and exit with 130 or 143.

A handler that raises is not enough. Python discards an exception raised in a finalizer, and a library may take it for
a failure of its own. So every signal received is recorded, and one whose exception was discarded is sent again.
"""

import os
import signal
import sys
import threading
from types import FrameType

from svkit.cli import console

RESEND_SECONDS = 0.05
"""Long enough for the finalizer that swallowed the signal to end."""


class Terminated(BaseException):
    """Raised by SIGTERM and SIGHUP; SIGINT raises KeyboardInterrupt, as usual."""


INTERRUPTED = 130
STOPS = (KeyboardInterrupt, Terminated)
_received: list[int] = []


def install() -> None:
    """Install the handlers; SIGINT and SIGHUP stay ignored where they are (background jobs of a shell, nohup)."""
    signal.signal(signal.SIGTERM, _raise)
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)
    sys.unraisablehook = _resend


def was_received() -> bool:
    """Whether a signal was received, so that a later error is only its consequence."""
    return bool(_received)


def exit_code(stop: BaseException | None = None) -> int:
    """Print one line that a signal ended the command; return 130 for SIGINT, else 143."""
    is_sigint = isinstance(stop, KeyboardInterrupt) if stop is not None else set(_received) == {signal.SIGINT}
    console.error("interrupted" if is_sigint else "terminated")
    return INTERRUPTED if is_sigint else 143


def _raise(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _resend(dropped: "sys.UnraisableHookArgs") -> None:
    if not issubclass(dropped.exc_type, STOPS):
        return sys.__unraisablehook__(dropped)
    number = signal.SIGTERM if issubclass(dropped.exc_type, Terminated) else signal.SIGINT
    timer = threading.Timer(RESEND_SECONDS, os.kill, (os.getpid(), number))
    timer.daemon = True
    return timer.start()
