"""The hub models that weights come from, as a checkpoint records them, and what svkit knows about published ones."""

import re
from dataclasses import dataclass

PUBLISHED_MODEL = "zl389/w2v-bert-2.0_SV"
_LICENCES = {
    "facebook/w2v-bert-2.0": "mit",
    PUBLISHED_MODEL: "CC BY-NC-SA 4.0, as the authors' code (github.com/ZXHY-82/w2v-BERT-2.0_SV)",
}
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


def known_source(repository: str) -> Source:
    """Return what svkit knows about a repository without asking the hub."""
    return Source(repository=repository, licence=_LICENCES.get(repository))
