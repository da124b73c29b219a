"""The official evaluation lists (`data_lists/lists.toml`) and the demo protocol, shipped with the package."""

import hashlib
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from svkit.errors import ArtifactError, DataError
from svkit.store.files import read_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEMO_EVAL_SPEAKERS, DEMO_TRIALS = "demo_eval_speakers.txt", "demo_trials.txt"


@dataclass(frozen=True, kw_only=True, slots=True)
class OfficialList:
    """One published trial list."""

    name: str
    """The stem of the file below `exp/data/trials/`."""
    file: str
    """The name it is distributed under."""
    title: str
    """The name in papers."""
    address: str
    lines: int
    """All trials."""
    targets: int
    """Target trials."""
    md5: str | None = None
    """Of the file as distributed, where published."""
    sha256: str | None = None
    """Likewise."""


def read_shipped(name: str) -> bytes:
    """Return a file of `data_lists/`: from the installed package, or from the clone svkit runs from.

    Raises:
        ArtifactError: the installation lacks it.
    """
    try:
        return resources.files("svkit.data_lists").joinpath(name).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        pass
    path = Path(__file__).resolve().parents[2] / "data_lists" / name
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: not in this installation of svkit; install it again") from error


def published_title(path: Path, lines: int, targets: int) -> str | None:
    """Return the title of the published list that a file is, byte for byte; None for any other.

    Args:
        path: of the file.
        lines: trials in it.
        targets: target trials among them.
    """
    for entry in official_lists():
        if (entry.lines, entry.targets) == (lines, targets):
            md5 = hashlib.md5(read_file(path, DataError), usedforsecurity=False).hexdigest()
            return entry.title if entry.md5 == md5 else None
    return None


def official_lists() -> tuple[OfficialList, ...]:
    """Return every official list in the order of `lists.toml`."""
    content = tomllib.loads(read_shipped("lists.toml").decode("utf-8"))
    return tuple(OfficialList(**entry) for entry in content["list"])
