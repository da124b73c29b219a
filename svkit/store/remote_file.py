"""Files at URLs, read by ranges of bytes: http(s) with the standard library, all others with fsspec's back-ends.

Temporary errors of the network are tried again. A file that has changed since it was opened is refused.
"""

import errno
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from svkit.errors import ConfigError, DataError, first_line

URL = r"[A-Za-z][A-Za-z0-9+.-]*://"
"""How the text of a URL begins."""
_WAITS_SECONDS = (1, 2, 4, 8, 16)
"""Waits before further tries; most outages of a server are shorter than their sum."""
_TIMEOUT_SECONDS = 60
_PASSING = frozenset({408, 425, 429})
"""HTTP errors of the 4xx range that are worth another try: time-outs and too many requests."""
_RANGE = re.compile(r"bytes (?P<first>[0-9]{1,18})-[0-9]{1,18}/(?P<total>[0-9]{1,18})", re.IGNORECASE)
"""A Content-Range that tells the size of the file."""
_VERSION_KEYS = ("ETag", "etag", "generation", "LastModified", "last_modified", "mtime", "created")
"""Names in fsspec's back-ends of facts that differ if the content of a file has changed."""
_OPEN_FILES = 1 << 14
"""Number of files whose size and version a process remembers."""
_RETRY = "check the network and the server, then run the same command again"
_PACK = "use the list that belongs to these shards, or pack them again"
Value = TypeVar("Value")


class _Refused(Exception):
    """A refusal that another try would not change; the message has the reason and what to do."""


def is_url(path: object) -> bool:
    """Say whether a path is a text that begins like a URL (`s3://...`)."""
    return isinstance(path, str) and re.match(URL, path) is not None


def require_backend(url: str) -> None:
    """Raise ConfigError for a URL of an unknown kind, or of one whose package is not installed."""
    scheme = url.partition(":")[0].lower()
    if scheme in ("http", "https"):
        return
    import fsspec  # imported here: commands that read only local files start faster

    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        package = getattr(error.__cause__, "name", None)
        advice = f"pip install {package}" if package else first_line(error)
        raise ConfigError(f"{url}: no package that reads {scheme}:// is installed: {advice}") from error
    except ValueError as error:
        raise ConfigError(f"{url}: {scheme}:// is not known; expected s3://, gs://, https:// ...") from error


class RemoteFile:
    """A file at a URL, asked once for its size and version."""

    def __init__(self, url: str) -> None:
        """Ask for size and version (errors as `read` and `require_backend`)."""
        require_backend(url)
        self._url = url
        is_http = url.lower().startswith(("http://", "https://"))
        kind: Callable[[str], _Http | _Fsspec] = _Http if is_http else _Fsspec
        self._transport = self._try("size", partial(kind, url))
        self.size = self._transport.size
        """In bytes."""
        digest = hashlib.sha256(self._transport.version.encode()).digest()
        self.version = int.from_bytes(digest[:7], "big")
        """A number that differs if the content does, as far as the server tells."""

    def read(self, offset: int, count: int) -> bytes:
        """Read `count` bytes from `offset` on.

        Raises:
            DataError: the bytes cannot be read, even after several tries, or the file has changed.
            FileNotFoundError: there is no such file.
        """

        def read() -> bytes:
            data = self._transport.read(offset, count)
            if len(data) != count:
                raise EOFError(f"only {len(data)} bytes came")
            return data

        return self._try(f"bytes {offset} to {offset + count}", read)

    def _try(self, what: str, action: Callable[[], Value]) -> Value:
        waits = list(_WAITS_SECONDS)
        while True:
            try:
                return action()
            except FileNotFoundError as error:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
            except _Refused as error:
                raise DataError(f"{self._url}: {what} cannot be read: {error}") from error
            except Exception as error:  # back-ends raise errors of many libraries
                if not waits or isinstance(error, PermissionError):
                    tries = len(_WAITS_SECONDS) - len(waits) + 1
                    reason = f"{first_line(error)} (tries: {tries})"
                    raise DataError(f"{self._url}: {what} cannot be read: {reason}; {_RETRY}") from error
            time.sleep(waits.pop(0))


class _Http:
    """A file on a web server that answers range requests; each answer names size and version."""

    def __init__(self, url: str) -> None:
        self._url = url
        _, self.size, self.version = self._get(0, 1)

    def read(self, offset: int, count: int) -> bytes:
        data, *facts = self._get(offset, count)
        if facts != [self.size, self.version]:
            found = f"{facts[0]} bytes, version {facts[1] or 'unknown'}"
            expected = f"{self.size} bytes, version {self.version or 'unknown'}"
            raise _Refused(f"the file has changed: expected {expected}, found {found}; {_PACK}")
        return data

    def _get(self, offset: int, count: int) -> tuple[bytes, int, str]:
        asked = f"bytes={offset}-{offset + count - 1}"
        try:
            with urlopen(Request(self._url, headers={"Range": asked}), timeout=_TIMEOUT_SECONDS) as answer:
                stated = answer.headers.get("Content-Range", "")
                found = _RANGE.fullmatch(stated.strip())
                # Proxies exist that answer with another part of the file, or do not know its size.
                if answer.status != 206 or found is None or int(found["first"]) != offset:
                    other = f" with the range {stated!r} for {asked}" if answer.status == 206 else ""
                    reason = f"expected an answer to a range of bytes (HTTP 206), found HTTP {answer.status}{other}"
                    raise _Refused(f"{reason}; use a server that supports range requests")
                version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
                return answer.read(count), int(found["total"]), version
        except HTTPError as error:
            if error.code in (404, 410):
                raise FileNotFoundError(self._url) from error
            if error.code == 416:  # also where the upload of a file has failed
                raise _Refused(f"HTTP 416: the file ends before byte {offset + 1}; {_PACK}") from error
            if 400 <= error.code < 500 and error.code not in _PASSING:
                raise _Refused(f"HTTP {error.code} {error.reason}; check the URL and your rights") from error
            raise


class _Fsspec:
    """A file of an fsspec back-end. Changes are noticed when a file is opened; only S3 notices them later as well."""

    def __init__(self, url: str) -> None:
        import fsspec

        system, path = fsspec.core.url_to_fs(url)
        info: dict[str, Any] = system.info(path)
        if info.get("size") is None:
            raise _Refused("the server does not tell the size; use another server")
        self.size = int(info["size"])
        self.version = " ".join(str(info[key]) for key in _VERSION_KEYS if key in info)
        self._file = system.open(path, "rb", cache_type="none")
        self._lock = threading.Lock()

    def read(self, offset: int, count: int) -> bytes:
        with self._lock:  # a file has one position, and `prepare check` reads in threads
            self._file.seek(offset)
            return bytes(self._file.read(count))


open_remote = lru_cache(maxsize=_OPEN_FILES)(RemoteFile)
"""Return the file at a URL; a process asks the server only once."""
# A loader's worker cannot use the connections and event loops of its parent.
os.register_at_fork(after_in_child=open_remote.cache_clear)
