"""SIGINT, SIGTERM and SIGHUP where no stage waits for them: one line and exit code 130 or 143, wherever they strike.

A handler that raises is not enough by itself: Python drops what a finalizer raises, and a library may take the
exception for a failure of its own. So what was received is kept, and what was dropped is sent again.
"""

import os
import signal
import sys
import threading
from types import FrameType

from svkit.cli import console

RESEND_SECONDS = 0.05
"""By then the finalizer that swallowed the signal has ended."""


class Terminated(BaseException):
    """SIGTERM or SIGHUP; SIGINT is a KeyboardInterrupt, as everywhere."""


INTERRUPTED = 130
STOPS = (KeyboardInterrupt, Terminated)
_received: list[int] = []


def install() -> None:
    """Handle the signals from now on; what is ignored (background jobs of a shell, nohup) stays ignored."""
    signal.signal(signal.SIGTERM, _raise)
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)
    sys.unraisablehook = _resend


def was_received() -> bool:
    """Whether a signal has come, so that an error after it is no error of its own."""
    return bool(_received)


def exit_code(stop: BaseException | None = None) -> int:
    """Say in one line that a signal ended the command; return 130 for SIGINT, else 143."""
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
