"""Fetch models from the Hugging Face hub, pinned to a commit, and push them, with the hub's own client.

A name is `org/name`, `org/name@revision`, or either after `hub:`. Without `hub:`, what is on disk wins: a name that
exists, or begins with a directory that does, is a path. The first fetch pins a name to the commit it then refers to, so
that a model never changes unnoticed. To get another commit, name it: `org/name@COMMIT`.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from http import HTTPStatus
from pathlib import Path
from typing import Any

from svkit.errors import ArtifactError, ConfigError, first_five, first_line
from svkit.progress import Progress, SilentProgress
from svkit.store.atomic import write_json
from svkit.store.calibration import FILE_NAME
from svkit.store.checkpoint import (
    ADAPTER_NAME,
    BEST_NAME,
    CLASSIFIER_NAME,
    CONFIG_NAME,
    LAST_NAME,
    MODEL_NAME,
    SPEAKERS_NAME,
)
from svkit.store.provenance import PROVENANCE_NAME, recorded_files, refuse_changed, sha256_file
from svkit.store.source import PUBLISHED_MODEL, Source, known_source
from svkit.store.strict_json import read_json

FORMAT, VERSION = "svkit-hub-pins", 1
OTHER_LICENCE = "other"
"""The hub's word for a licence that is not on its list; a card then gives the name in another field."""
_NAME = re.compile(r"(hub:)?([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w-][\w./-]*))?", re.ASCII)
_REPOSITORY = re.compile(r"(?!.*(--|\.\.|\.git$))\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b", re.ASCII)
"""What the hub takes as the name of a repository."""
_FILES = {".pth", ".pt", ".ckpt", ".json", ".safetensors", ".tsv"}
_WEIGHTS = (".pth", ".pt", ".ckpt")
_OURS = {CONFIG_NAME, MODEL_NAME, PROVENANCE_NAME}
"""Files that every checkpoint of svkit has."""
_CHECKPOINT = (
    *(CONFIG_NAME, MODEL_NAME, CLASSIFIER_NAME, SPEAKERS_NAME, PROVENANCE_NAME, FILE_NAME, "README.md"),
    *(f"{name}/*" for name in (ADAPTER_NAME, BEST_NAME, LAST_NAME)),
)
"""Patterns of a checkpoint's files; other files of a repository are not part of it."""


_KNOWN_FILES = {PUBLISHED_MODEL: "model_lmft_0.14.pth"}
"""File to use if none is named: the published model after LMFT."""


@dataclass(frozen=True, slots=True)
class HubName:
    """Name of a model on the hub, as the user gave it."""

    repository: str
    revision: str = ""
    """Branch, tag or commit; empty: the default branch."""

    def __str__(self) -> str:
        """Return the name as a user would write it."""
        return f"{self.repository}@{self.revision}" if self.revision else self.repository

    @property
    def cache(self) -> Path:
        """Directory of everything fetched from this repository."""
        return cache_directory() / "hub" / self.repository.replace("/", "--")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """What a name referred to when it was first fetched."""

    commit: str
    licence: str | None
    """As the repository's card states it; None: it states none."""
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pins:
    pins: dict[str, Pin]
    """By revision, as the user gave it."""


def cache_directory() -> Path:
    """Where converted models are kept: `SVKIT_CACHE`, else `svkit` in the user's cache directory."""
    if own := os.environ.get("SVKIT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "svkit"


def parse(name: str | os.PathLike[str]) -> HubName | None:
    """Parse the name of a model on the hub; None: it is a path.

    Raises:
        ConfigError: what follows `hub:` is not the name of a repository, or is one that the hub never takes.
    """
    text = os.fspath(name)
    match = _NAME.fullmatch(text)
    if match is None:
        if text.startswith("hub:"):
            raise ConfigError(f"{text}: expected hub:ORG/NAME or hub:ORG/NAME@REVISION")
        return None
    forced, repository, revision = match.groups()
    path = Path(text)
    if not forced and (path.exists() or Path(path.parts[0]).is_dir() or path.suffix in _FILES):
        return None
    if not _REPOSITORY.fullmatch(repository):
        raise ConfigError(
            f"{text}: no name for the hub: expected at most 96 letters, digits, '-', '_' and '.' on each side of the"
            " '/', without '-' or '.' at an end, '--', '..' or a final '.git'"
        )
    return HubName(repository, revision or "")


def known_pin(name: HubName) -> Pin | None:
    """Return what a name was pinned to; None: it has not been fetched. A commit may be shortened (`source.shown`)."""
    path = name.cache / "pins.json"
    pins = read_json(path, FORMAT, VERSION, _Pins).pins if path.exists() else {}
    is_short = re.fullmatch(r"[0-9a-f]{7,39}", name.revision)
    commits = {pin.commit: pin for pin in pins.values() if is_short and pin.commit.startswith(name.revision)}
    return pins.get(name.revision) or (next(iter(commits.values())) if len(commits) == 1 else None)


def write_pin(name: HubName, pin: Pin) -> None:
    """Pin a name, and its commit as a name of its own."""
    path = name.cache / "pins.json"
    pins = read_json(path, FORMAT, VERSION, _Pins).pins if path.exists() else {}
    pins |= {name.revision: pin, pin.commit: pin}
    content = {key: asdict(value) for key, value in pins.items()}
    write_json(path, {"format": FORMAT, "format_version": VERSION, "pins": content})


def ask(name: HubName, file: str | None) -> Pin:
    """Ask the hub what a name refers to now; if the hub cannot be reached, look in its client's cache.

    Raises:
        ArtifactError: no such model, or no answer; the message then says what to fetch elsewhere, and where to put it.
    """
    from huggingface_hub import HfApi, hf_hub_download

    try:
        with _told(name, file):
            info = HfApi().model_info(name.repository, revision=name.revision or None)
    except _UnreachableError:
        wanted = file or _KNOWN_FILES.get(name.repository)
        with contextlib.suppress(Exception):  # if the client's cache lacks it too, the first error is raised
            found = hf_hub_download(
                name.repository, str(wanted), revision=name.revision or None, local_files_only=True
            )
            # The client's cache has a directory for each commit: .../snapshots/COMMIT/FILE.
            commit = Path(found).parts[::-1][str(wanted).count("/") + 1]
            return Pin(commit=commit, licence=None, files=(str(wanted),))
        raise
    licence = licence_of(info.card_data or {})
    files = tuple(sorted(entry.rfilename for entry in info.siblings or ()))
    return Pin(commit=str(info.sha), licence=None if licence is None else str(licence), files=files)


def licence_of(card: Any) -> str | None:
    """Return the licence in the front matter of a card, as records have it: `other` is followed by its name."""
    licence, name = card.get("license"), card.get("license_name")
    return f"{OTHER_LICENCE} ({name})" if licence == OTHER_LICENCE and name else licence


def choose(name: HubName, pin: Pin, file: str | None) -> str | None:
    """Choose the file of a repository to convert; None: the repository is a checkpoint of svkit.

    Raises:
        ConfigError: there is no such file, or there are several and none was named.
        ArtifactError: there is no speaker model in the repository.
    """
    weights = [other for other in pin.files if other.endswith(_WEIGHTS)]
    known = _KNOWN_FILES.get(name.repository)
    if file is not None:
        if file not in pin.files:
            raise ConfigError(
                f"--file {file}: not in {name} at {pin.commit[:12]}, which has"
                f" {first_five(weights) or 'no such weights'}"
            )
        return file
    if set(pin.files) >= _OURS:
        return None
    if known in weights:
        return known
    if len(weights) > 1:
        raise ConfigError(f"{name}: choose one of its checkpoints with --file: {first_five(weights)}")
    if not weights:
        what = "an encoder without a speaker head? (--encoder)" if CONFIG_NAME in pin.files else ""
        raise ArtifactError(
            f"{name}: expected a checkpoint of svkit or a published .pth, found {first_five(pin.files) or 'no file'}"
            f" {what}".rstrip()
        )
    return weights[0]


def origin(name: HubName, pin: Pin, file: str | None) -> Source:
    """Return the source that the record of a converted checkpoint names."""
    licence = pin.licence or known_source(name.repository).licence
    return Source(repository=name.repository, revision=pin.commit, file=file, licence=licence)


def download_file(name: HubName, pin: Pin, file: str, progress: Progress) -> Path:
    """Fetch one file into the cache of the hub's client, or find it there."""
    from huggingface_hub import hf_hub_download

    with _told(name, file):
        found = hf_hub_download(name.repository, file, revision=pin.commit, tqdm_class=_bars(progress))
    return Path(found)


def is_part(file: str) -> bool:
    """Say whether a file of a repository or directory belongs to a checkpoint of svkit."""
    return any(fnmatchcase(file, pattern) for pattern in _CHECKPOINT)


def download_checkpoint(name: HubName, pin: Pin, place: Path, progress: Progress) -> None:
    """Fetch a checkpoint of svkit into a directory; an interrupted fetch continues where it stopped.

    Raises:
        ArtifactError: a file is not the one that the checkpoint's record names.
    """
    from huggingface_hub import hf_hub_download

    wanted = list(filter(is_part, pin.files))
    # The provenance comes last, because it marks the checkpoint as complete.
    for file in sorted(wanted, key=lambda file: (file == PROVENANCE_NAME, file)):
        with _told(name, None):
            hf_hub_download(
                name.repository, file, revision=pin.commit, local_dir=place, tqdm_class=_bars(progress)
            )
    for path, entry in recorded_files(place).items():
        if path.exists():
            refuse_changed(path, entry["sha256"], sha256_file(path), f"it was finished: {name} is damaged")
            os.utime(path, ns=(entry["mtime_ns"], entry["mtime_ns"]))  # spares later hashing


def upload(name: HubName, contents: Mapping[str, Path | bytes], message: str, *, is_private: bool) -> HubName:
    """Push a checkpoint to a repository in one commit; a repository that does not exist is created.

    The same commit removes the files of an earlier checkpoint; files that belong to no checkpoint stay.

    Args:
        name: repository and branch (empty: the default one).
        contents: by name in the repository, a file's path or its content.
        message: commit message.
        is_private: only the repository's owners may see it.

    Returns:
        The name with the commit as its revision.

    Raises:
        ConfigError: no token, or one without write access; `is_private` and the repository is public; or the hub
            refuses the card.
        ArtifactError: the hub cannot be reached, or cannot take the commit now; nothing was pushed.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    if get_token() is None:
        raise ConfigError(
            f"{name}: pushing needs a token of the hub with write access; run `hf auth login`, or set HF_TOKEN"
        )
    api, branch = HfApi(), name.revision or None
    with _refusals_told(name):
        api.create_repo(name.repository, private=is_private or None, exist_ok=True)
        if branch is not None:
            api.create_branch(name.repository, branch=branch, exist_ok=True)
        there = api.model_info(name.repository, revision=branch)
        if is_private and not there.private:
            raise ConfigError(
                f"{name}: already exists and is public; make it private on its page, or leave --private out"
            )
        earlier = {entry.rfilename for entry in there.siblings or ()}
        left = sorted(filter(is_part, earlier - set(contents)))
        done = api.create_commit(
            name.repository,
            [
                *(CommitOperationAdd(file, content) for file, content in contents.items()),
                *(CommitOperationDelete(file) for file in left),
            ],
            commit_message=message,
            revision=branch,
            parent_commit=there.sha,  # not onto what another process has pushed since
        )
    return HubName(name.repository, done.oid)


@contextlib.contextmanager
def _refusals_told(name: HubName) -> Iterator[None]:
    """Turn the client's errors into one line that says why the hub did not take a commit."""
    from huggingface_hub import errors

    try:
        yield
    except ConfigError:
        raise
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status == HTTPStatus.UNAUTHORIZED:
            raise ConfigError(
                f"{name}: the hub does not accept this token; run `hf auth login`, or set HF_TOKEN to another one"
            ) from error
        if status in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
            owner = name.repository.partition("/")[0]
            raise ConfigError(
                f"{name}: this token has no write access; use one of {owner}, or of a member, that has it"
                " (`hf auth login`, or HF_TOKEN)"
            ) from error
        raise ArtifactError(
            f"{name}: nothing was pushed: the hub says: {_in_a_line(error)}; try again later"
        ) from error
    except json.JSONDecodeError as error:  # of a proxy, or of a server in trouble
        raise ArtifactError(
            f"{name}: nothing was pushed: the hub's answer is no JSON; try again later"
        ) from error
    except ValueError as error:  # a card that the hub refuses
        raise ConfigError(f"{name}: nothing was pushed: {_in_a_line(error)}") from error
    except Exception as error:  # as in `_told`
        if isinstance(error.__cause__, errors.HfHubHTTPError):  # of the store of large files
            said = f"{first_line(error)} {_in_a_line(error.__cause__)}"
            raise ArtifactError(f"{name}: nothing was pushed: {said}; try again later") from error
        raise ArtifactError(
            f"{name}: nothing was pushed: {_hub()} cannot be reached ({first_line(error)}); try again, or write the"
            f" folder with --dry-run and run `hf upload {name.repository} FOLDER` where the hub can be reached"
        ) from error


def _in_a_line(error: Exception) -> str:
    """Return what the client says, which may hold a whole page, without its advice to read about HTTP."""
    return " ".join(str(error).partition("For more information")[0].split())[:300].rstrip(".")


def _hub() -> str:
    """Name the hub by the address that was tried, and by the setting that it comes from."""
    from huggingface_hub import constants

    setting = ", set by HF_ENDPOINT," if "HF_ENDPOINT" in os.environ else ""
    return f"the hub at {constants.ENDPOINT}{setting}"


class _UnreachableError(ArtifactError):
    pass


@contextlib.contextmanager
def _told(name: HubName, file: str | None) -> Iterator[None]:
    """Turn the many errors of the hub's client into one line each."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise ArtifactError(
            f"{name}: its owners ask for your agreement; give it on the model's page, then run `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ArtifactError(
            f"{name}: neither a local directory nor a model on the hub (a private one needs `hf auth login`)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ArtifactError(f"{name}: the model has no such revision") from error
    except Exception as error:  # the client and what it builds on raise many types
        if isinstance(error, ArtifactError):
            raise
        wanted = file or _KNOWN_FILES.get(name.repository)
        if wanted is None:
            command, then = f"{name.repository} --local-dir DIR", "copy DIR here, and name DIR instead"
        else:
            command = f"{name.repository} {wanted} --local-dir DIR"
            then = (
                f"copy DIR/{wanted} here, run `svkit convert {Path(wanted).name} CKPT`, and name CKPT instead"
            )
        revision = f" --revision {name.revision}" if name.revision else ""
        raise _UnreachableError(
            f"{name}: {_hub()} cannot be reached ({first_line(error)}); where it can, run"
            f" `hf download {command}{revision}`, {then}"
        ) from error


def _bars(progress: Progress) -> Any:
    """Return a tqdm class for the hub's client that reports to `progress`; None: the client's own bars."""
    if isinstance(progress, SilentProgress):
        return None
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **{**settings, "disable": True})
            self._open = contextlib.ExitStack()
            # The client cuts long paths at their start, in the middle of the revision.
            file = str(settings.get("desc")).rpartition("/")[2]
            begun = settings.get("initial") or 0
            self._task = self._open.enter_context(
                progress.task(f"fetch {file}", settings.get("total"), begun)
            )

        def update(self, n: float | None = 1) -> None:
            self._task.advance(n or 0)

        def close(self) -> None:
            self._open.close()
            super().close()

    return Bar
