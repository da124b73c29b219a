"""The hub models that weights come from, as a checkpoint records them, and what svkit knows about published ones."""

import os
import re
from dataclasses import dataclass

PUBLISHED_MODEL = "zl389/w2v-bert-2.0_SV"
_LICENCES = {
    "facebook/w2v-bert-2.0": "mit",
    PUBLISHED_MODEL: "CC BY-NC-SA 4.0, as the authors' code (github.com/ZXHY-82/w2v-BERT-2.0_SV)",
}
_CACHED = re.compile(
    r"(?:.*/)?hub/(?:models--)?([^/]+?)--([^/]+)/(?:snapshots/([0-9a-f]{40})|([0-9a-f]{40})/[^/]+)(/.*)?",
    re.ASCII,
)
"""A path in the cache of the hub's client, or in ours, which has a directory for each checkpoint of a commit."""
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The model that a checkpoint was converted from or trained on."""

    repository: str
    revision: str | None = None
    """Commit. None, here and below: not known."""
    file: str | None = None
    licence: str | None = None


def is_repository(text: str) -> bool:
    """Say whether a text has the form `org/name`."""
    return _REPOSITORY.fullmatch(text) is not None


def shown(path: str | os.PathLike[str]) -> str:
    """Write a path for people: one in a cache of models from the hub as `org/name@commit`, others as they are."""
    text = os.fspath(path)
    match = _CACHED.fullmatch(text)
    if match is None:
        return text
    owner, name, of_client, own, below = match.groups()
    return f"{owner}/{name}@{(of_client or own)[:12]}{below or ''}"


def known_source(repository: str) -> Source:
    """Return what svkit knows about a repository without asking the hub."""
    return Source(repository=repository, licence=_LICENCES.get(repository))
