"""A web server that answers ranges of the files in a directory, as object stores do, for benchmarks and tests.

    python benchmarks/range_server.py DIRECTORY

It prints its address and serves until it is killed.
"""

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CUT = 0
"""Used in place of a status: the answer breaks off half-way."""


@dataclass
class Served:
    """A directory that is served, and the requests for it."""

    root: Path
    address: str = ""
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    """Name, first byte and number of bytes of each request."""
    faults: list[int] = field(default_factory=list)
    """Error statuses of the next answers, after which the server works again."""
    knows_ranges: bool = True

    def opened(self) -> list[str]:
        """Return the names of the files whose size was asked for, in order."""
        return [name for name, _, count in self.asked if count == 1]


class _Handler(BaseHTTPRequestHandler):
    served: Served

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
        self.served.asked.append((self.path.removeprefix("/"), first, last - first + 1))
        path = self.served.root / self.path.removeprefix("/")
        fault = self.served.faults.pop(0) if self.served.faults else None
        if fault or not path.is_file():
            self.send_error(fault or 404)
            return
        status = path.stat()
        self.send_response(206 if self.served.knows_ranges else 200)
        count = max(0, min(last, status.st_size - 1) - first + 1)
        self.send_header("Content-Length", str(count))
        self.send_header("Content-Range", f"bytes {first}-{first + count - 1}/{status.st_size}")
        self.send_header("ETag", f'"{status.st_mtime_ns:x}-{status.st_size:x}"')
        self.end_headers()
        with path.open("rb") as file:
            file.seek(first)
            self.wfile.write(file.read(count // 2 if fault == CUT else count))


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Answer requests in a thread on a free port of the loopback interface; yields the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serving(root: Path) -> Iterator[Served]:
    """Serve a directory."""
    served = Served(root)
    with listening(type("Handler", (_Handler,), {"served": served})) as served.address:
        yield served


if __name__ == "__main__":
    with serving(Path(sys.argv[1])) as here:
        print(here.address, flush=True)
        threading.Event().wait()
