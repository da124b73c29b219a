"""A stand-in for the Hugging Face hub on this machine, for its real client: models with files, commits and cards.

Models are fetched and pushed as the client does over HTTP; large files go by Git LFS, not by Xet.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from benchmarks.range_server import listening

_LARGE = (".safetensors", ".pth")
_LICENCES = {"mit", "apache-2.0", "cc-by-nc-sa-4.0", "other"}
_QUESTION = re.compile("/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
_FILE = re.compile("/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_CHANGE = re.compile("/api/models/([^/]+/[^/]+)/(branch|preupload|commit)/([^/]+)")
_BATCH = re.compile("/([^/]+/[^/]+)\\.git/info/lfs/objects/batch")


@dataclass
class StandIn:
    """What is on the hub, and what was asked of it."""

    address: str = ""
    models: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """Repository -> revision (`main`, commits) -> file -> content."""
    licences: dict[str, str] = field(default_factory=dict)
    """By repository; `other: NAME` for one that is not on the hub's list."""
    asked: list[str] = field(default_factory=list)
    writers: dict[str, str] = field(default_factory=dict)
    """Token -> organisation that it may write to."""
    private: set[str] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)
    """Of the commits that were pushed."""
    rival: dict[str, bytes] | None = None
    """What another process commits while the files of a push are uploaded."""
    large: dict[str, bytes] = field(default_factory=dict)
    """What was uploaded by Git LFS, by sha256."""

    faults: dict[str, int] = field(default_factory=dict)
    """Error status of each POST and PUT with this text in its path."""

    def put(
        self, repository: str, files: dict[str, bytes], licence: str | None = None, branch: str = "main"
    ) -> str:
        """Make a commit that has these files; it is the branch from now on."""
        parts = [name.encode() + content for name, content in sorted(files.items())]
        commit = hashlib.sha1(b"".join(parts)).hexdigest()
        self.models.setdefault(repository, {}).update({branch: files, commit: files})
        if licence:
            self.licences[repository] = licence
        return commit

    def commit(self, repository: str, revision: str) -> str:
        """Return the commit that a revision means."""
        revisions = self.models[repository]
        return next(
            name
            for name, files in reversed(revisions.items())
            if re.fullmatch("[0-9a-f]{40}", name) and files is revisions[revision]
        )


@contextmanager
def stand_in_hub() -> Iterator[StandIn]:
    """Serve a hub."""
    hub = StandIn()
    with listening(type("Handler", (_Handler,), {"hub": hub})) as hub.address:
        yield hub


def use(monkeypatch: pytest.MonkeyPatch, address: str, home: Path) -> None:
    """Point the hub's client, imported already, at an address, with caches of the user below `home`."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
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
                "cardData": dict(zip(("license", "license_name"), licence.split(": "), strict=False))
                if licence
                else None,
                "private": repository in self.hub.private,
            }
            return self._answer(200, json.dumps(facts).encode(), Content_Type="application/json")
        content = revisions[revision].get(unquote(wanted[3]))
        if content is None:
            return self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        return self._answer(200, content, X_Repo_Commit=commit, ETag=f'"{hashlib.sha1(content).hexdigest()}"')

    def do_PUT(self) -> None:  # noqa: N802
        content = self._body()
        if self._fails():
            return None
        self.hub.large[hashlib.sha256(content).hexdigest()] = content
        return self._answer(200)

    def _fails(self) -> bool:
        """Answer with a fault if there is one for this path."""
        status = next((code for place, code in self.hub.faults.items() if place in self.path), None)
        if status is not None:
            self._answer(status, b"<html>")
        return status is not None

    def do_POST(self) -> None:  # noqa: N802
        path, body = self.path.partition("?")[0], self._body()
        self.hub.asked.append(path)
        if self._fails():
            return None
        organisation = self.hub.writers.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if organisation is None:
            return self._answer(401)
        if path == "/api/validate-yaml":
            return self._check_card(json.loads(body)["content"])
        if path == "/api/repos/create":
            return self._create(organisation, json.loads(body))
        change = _CHANGE.fullmatch(path) or _BATCH.fullmatch(path)
        if change is None:
            return self._answer(404)
        if change[1].partition("/")[0] != organisation:
            return self._answer(403)
        if change.re is _BATCH:
            return self._say(200, objects=[self._upload_of(entry) for entry in json.loads(body)["objects"]])
        repository, what, branch = change[1], change[2], unquote(change[3])
        revisions = self.hub.models[repository]
        if what == "branch":
            status = 409 if branch in revisions else 200
            revisions.setdefault(branch, revisions["main"])
            return self._say(status)
        if what == "preupload":
            if self.hub.rival is not None:
                self.hub.put(repository, self.hub.rival)
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(_LARGE) else "regular" for name in names}
            return self._say(
                200, files=[{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]
            )
        return self._commit(repository, branch, [json.loads(line) for line in body.splitlines()])

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _say(self, status: int, **facts: Any) -> None:
        self._answer(status, json.dumps(facts).encode(), Content_Type="application/json")

    def _check_card(self, card: str) -> None:
        """Refuse front matter that is no YAML, or names a licence that is not on the list."""
        _, front, _ = card.split("---\n", 2)
        licence = yaml.safe_load(front).get("license")
        if licence in {None, *_LICENCES}:
            return self._say(200, warnings=[], errors=[])
        return self._say(400, warnings=[], errors=[{"message": f'"license" must be one of {_LICENCES}'}])

    def _create(self, organisation: str, wanted: dict[str, Any]) -> None:
        if wanted["organization"] != organisation:
            return self._answer(403)
        repository = f"{organisation}/{wanted['name']}"
        if repository in self.hub.models:
            return self._say(409, url=f"{self.hub.address}/{repository}")
        self.hub.put(repository, {".gitattributes": b""})
        if wanted.get("visibility") == "private":
            self.hub.private.add(repository)
        return self._say(200, url=f"{self.hub.address}/{repository}")

    def _upload_of(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Say where a large file goes; nowhere, where it is there."""
        if entry["oid"] in self.hub.large:
            return entry
        return {**entry, "actions": {"upload": {"href": f"{self.hub.address}/large/{entry['oid']}"}}}

    def _commit(self, repository: str, branch: str, lines: list[dict[str, Any]]) -> None:
        header, *changes = [(line["key"], line["value"]) for line in lines]
        if header[1].get("parentCommit") != self.hub.commit(repository, branch):
            return self._answer(412)
        files = dict(self.hub.models[repository][branch])
        for kind, value in changes:
            if kind == "deletedFile":
                del files[value["path"]]
            elif kind == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        commit = self.hub.put(repository, files, branch=branch)
        self.hub.messages.append(header[1]["summary"])
        return self._say(200, commitUrl=f"{self.hub.address}/{repository}/commit/{commit}", commitOid=commit)
