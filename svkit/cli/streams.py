"""stdin, stdout and stderr as callers leave them: closed, with a reader that goes away, in another encoding."""

import errno
import io
import os
import sys
from typing import Any

_NOBODY_READS = (errno.EPIPE, errno.EIO)
"""A pipe without a reader, a terminal that is gone."""


class _Patient(io.FileIO):
    """Writes as long as somebody reads, and drops the rest.

    A command's product is its files. Whether `head -1` left before or after the last line, and whether a terminal still
    exists, must neither end hours of work nor decide the exit code, so the command continues and exits 0, as ripgrep
    does, and not by SIGPIPE (141), as git does, whose product is its output.
    """

    is_dropped = False

    def write(self, data: Any, /) -> int:
        """Write, or claim to have written where nobody reads."""
        if not self.is_dropped:
            try:
                return super().write(data) or 0
            except OSError as error:
                self.is_dropped = True  # nor is it tried again when Python ends
                # A full disk under a log ends nothing either; under a result it is an error.
                if error.errno not in _NOBODY_READS and self.fileno() == 1:
                    raise
        return int(memoryview(data).nbytes)


def open_streams() -> None:
    """Let no write to the streams of this process end it.

    A closed stream (`>&-`) is opened to nowhere: otherwise the next file that is opened gets its number, and what
    libraries print. What a terminal's encoding cannot express is escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number, this one
    sys.stdout, sys.stderr = _patient(1, sys.stdout), _patient(2, sys.stderr)


def _patient(number: int, before: Any) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(_Patient(number, "wb", closefd=False)),
        encoding=getattr(before, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=getattr(before, "line_buffering", False),
    )
