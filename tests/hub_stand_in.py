"""A stand-in for the Hugging Face hub on this machine, for its real client: models with files, commits and cards."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

_QUESTION = re.compile("/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
_FILE = re.compile("/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class StandIn:
    """What is on the hub, and what was asked of it."""

    address: str = ""
    models: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """Repository -> revision (`main`, commits) -> file -> content."""
    licences: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def put(self, repository: str, files: dict[str, bytes], licence: str | None = None) -> str:
        """Make a commit that has these files; it is `main` from now on."""
        parts = [name.encode() + content for name, content in sorted(files.items())]
        commit = hashlib.sha1(b"".join(parts)).hexdigest()
        self.models.setdefault(repository, {}).update({"main": files, commit: files})
        if licence:
            self.licences[repository] = licence
        return commit

    def commit(self, repository: str, revision: str) -> str:
        """Return the commit that a revision means."""
        revisions = self.models[repository]
        return next(
            name
            for name, files in reversed(revisions.items())
            if name != "main" and files is revisions[revision]
        )


@contextmanager
def stand_in_hub() -> Iterator[StandIn]:
    """Serve a hub on a free port of the loopback interface."""
    hub = StandIn()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use(monkeypatch: pytest.MonkeyPatch, address: str, home: Path) -> None:
    """Point the hub's client, imported already, at an address, with caches of the user below `home`."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "huggingface"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_HEAD(self) -> None:  # noqa: N802
        self.do_GET()

    def do_GET(self) -> None:  # noqa: N802
        self.hub.asked.append(self.path)
        question = _QUESTION.fullmatch(self.path.partition("?")[0])
        wanted = question or _FILE.fullmatch(self.path.partition("?")[0])
        if wanted is None:
            return self._answer(404)
        repository, revision = unquote(wanted[1]), unquote(wanted[2] or "main")
        revisions = self.hub.models.get(repository)
        if revisions is None:
            return self._answer(404, X_Error_Code="RepoNotFound")
        if revision not in revisions:
            return self._answer(404, X_Error_Code="RevisionNotFound")
        commit = self.hub.commit(repository, revision)
        if question:
            licence = self.hub.licences.get(repository)
            facts = {
                "id": repository,
                "sha": commit,
                "siblings": [{"rfilename": file} for file in revisions[revision]],
                "cardData": {"license": licence} if licence else None,
            }
            return self._answer(200, json.dumps(facts).encode(), Content_Type="application/json")
        content = revisions[revision].get(unquote(wanted[3]))
        if content is None:
            return self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        return self._answer(200, content, X_Repo_Commit=commit, ETag=f'"{hashlib.sha1(content).hexdigest()}"')
