"""Standard streams that tolerate what callers do: close them, stop reading, or use another encoding."""

import errno
import io
import os
import sys
from typing import Any

_NOBODY_READS = (errno.EPIPE, errno.EIO)
"""A pipe without a reader, a terminal that is gone."""


class _Patient(io.FileIO):
    """A stream that writes as long as somebody reads, and drops the rest.

    A command's product is its files. Whether `head -1` left before or after the last line, and whether a terminal still
    exists, must neither end hours of work nor decide the exit code. So the command continues and exits 0, as ripgrep
    does. (git, whose product is its output, ends by SIGPIPE instead: 141.)
    """

    is_dropped = False

    def write(self, data: Any, /) -> int:
        """Write the data, or only report it as written once nobody reads."""
        if not self.is_dropped:
            try:
                return super().write(data) or 0
            except OSError as error:
                self.is_dropped = True  # so that Python does not try again when it exits
                # A full disk below a log (stderr) ends nothing either; below a result (stdout) it is an error.
                if error.errno not in _NOBODY_READS and self.fileno() == 1:
                    raise
        return int(memoryview(data).nbytes)


def open_streams() -> None:
    """Make the standard streams of this process safe to write to, whatever the caller has done to them.

    A closed stream (`>&-`) is opened on the null device. Otherwise the next file to be opened would get its number, and
    with it whatever libraries print. Characters that the terminal's encoding lacks are escaped.
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
