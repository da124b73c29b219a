"""SIGINT and SIGTERM where no stage waits for them: one line and exit code 130 or 143, wherever they strike.

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
"""By then the finalizer that swallowed a signal is over."""


class Terminated(BaseException):
    """SIGTERM; SIGINT is a KeyboardInterrupt, as everywhere."""


STOPS = (KeyboardInterrupt, Terminated)
_received: list[int] = []


def install() -> None:
    """Handle both signals from now on; an ignored SIGINT (a background job of a shell) stays ignored."""
    signal.signal(signal.SIGTERM, _raise)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _raise)
    sys.unraisablehook = _resend


def was_received() -> bool:
    """Whether a signal has come, so that an error after it is no error of its own."""
    return bool(_received)


def exit_code(stop: BaseException | None = None) -> int:
    """Say in one line that a signal ended the command; return 143 for SIGTERM, else 130."""
    is_sigterm = isinstance(stop, Terminated) if stop is not None else signal.SIGTERM in _received
    console.error("terminated" if is_sigterm else "interrupted")
    return 143 if is_sigterm else 130


def _raise(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _resend(dropped: "sys.UnraisableHookArgs") -> None:
    if not issubclass(dropped.exc_type, STOPS):
        sys.__unraisablehook__(dropped)
        return
    number = signal.SIGTERM if issubclass(dropped.exc_type, Terminated) else signal.SIGINT
    timer = threading.Timer(RESEND_SECONDS, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()
