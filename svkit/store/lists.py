"""The official evaluation lists (`data_lists/lists.toml`) and the demo protocol, shipped with the package."""

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from svkit.config.load import read_toml
from svkit.errors import ArtifactError, DataError
from svkit.store.files import read_file

DEMO_EVAL_SPEAKERS, DEMO_TRIALS = "demo_eval_speakers.txt", "demo_trials.txt"


@dataclass(frozen=True, kw_only=True, slots=True)
class OfficialList:
    """One published trial list."""

    name: str
    """Stem of its file in `exp/data/trials/`."""
    file: str
    """File name it is distributed under."""
    title: str
    """Its name in papers."""
    address: str
    lines: int
    """Number of trials."""
    targets: int
    """Number of target trials."""
    md5: str | None = None
    sha256: str | None = None
    """This and `md5` are hashes of the distributed file; None: not published."""


def read_shipped(name: str) -> bytes:
    """Return a file of `data_lists/`, from the package or the clone svkit runs from (ArtifactError: it is missing)."""
    try:
        return resources.files("svkit.data_lists").joinpath(name).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        path = Path(__file__).resolve().parents[2] / "data_lists" / name
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: missing from this installation of svkit; install it again") from error


def published_title(path: Path, lines: int, targets: int) -> str | None:
    """Return the title of the published list that a file equals byte for byte; None: it equals none.

    `lines` and `targets` are the numbers of trials and targets in the file. They select the list to compare with.
    """
    entry = next(
        (entry for entry in official_lists() if (entry.lines, entry.targets) == (lines, targets)), None
    )
    if entry is None:
        return None
    md5 = hashlib.md5(read_file(path, DataError), usedforsecurity=False).hexdigest()
    return entry.title if entry.md5 == md5 else None


def official_lists() -> tuple[OfficialList, ...]:
    """Return every official list in the order of `lists.toml`."""
    content = read_toml(read_shipped("lists.toml").decode())
    return tuple(OfficialList(**entry) for entry in content["list"])
