"""The official trial lists: finding, downloading and checking them by their counts, so that none is mistaken."""

import hashlib
import http.client
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from svkit.corpora.request import EvaluationList
from svkit.errors import DataError
from svkit.progress import Progress
from svkit.store.atomic import write_bytes
from svkit.store.files import read_file
from svkit.store.lists import OfficialList, official_lists
from svkit.store.trials import Trials, read_trials

_TIMEOUT_SECONDS = 20


def voxceleb_lists() -> dict[str, OfficialList]:
    """Return the lists of VoxCeleb1 by their file names."""
    return {entry.file: entry for entry in official_lists() if entry.name.startswith("vox1")}


def find_lists(root: Path, official: Mapping[str, OfficialList], progress: Progress) -> list[Path]:
    """Return the official lists in `root` and up to two levels below; the cleaned form is preferred to the original."""
    found: dict[str, Path] = {}
    for entry in official.values():
        for pattern in (entry.file, f"*/{entry.file}", f"*/*/{entry.file}"):
            for path in sorted(root.glob(pattern)):
                found.setdefault(entry.name, path)
    for original in [name for name in found if name.removesuffix("-original") in found.keys() - {name}]:
        progress.note(
            f"{found.pop(original)} is left out, because its cleaned version is there too (to use it, give it "
            "with --trials)"
        )
    return list(found.values())


def download_lists(entries: Sequence[OfficialList], directory: Path, progress: Progress) -> list[Path]:
    """Download the lists that `directory` lacks from their official addresses (DataError: a file is not its list).

    If a download fails, note it and return the lists so far.
    """
    paths: list[Path] = []
    with progress.task("downloading trial lists", len(entries)) as task:
        for entry in entries:
            path = directory / entry.file
            if not path.exists():
                try:
                    with urllib.request.urlopen(entry.address, timeout=_TIMEOUT_SECONDS) as answer:
                        content = answer.read()
                except (OSError, http.client.HTTPException) as error:  # a lost line is the latter
                    progress.note(
                        f"{entry.title} could not be downloaded from {entry.address}"
                        f" ({getattr(error, 'reason', None) or error}); put {entry.file} into ROOT or give it with"
                        " --trials"
                    )
                    break
                write_bytes(path, content)
                try:
                    _check_counts(path, entry, read_trials(path), entries)
                except DataError:
                    path.unlink()
                    raise
            paths.append(path)
            task.advance()
    return paths


def take_lists(
    paths: Sequence[Path], official: Mapping[str, OfficialList], allow_other: bool, progress: Progress
) -> list[EvaluationList]:
    """Read lists; a file with the name of an official list must be that list, unless `allow_other`.

    A list that differs from the published one of its name is noted.

    Raises:
        DataError: a list is not the one its name says, or two lists have one name; see also `read_trials`.
    """
    lists: dict[str, EvaluationList] = {}
    for path in paths:
        trials = read_trials(path)
        entry = official.get(path.name)
        if entry is None:
            for title in _titles_by_counts(trials, official.values()):
                progress.note(f"{path}: its counts are those of {title}")
        else:
            if not allow_other:
                _check_counts(path, entry, trials, official.values())
            content = read_file(path, DataError)
            md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
            sha256 = hashlib.sha256(content).hexdigest()
            if entry.md5 not in (None, md5) or entry.sha256 not in (None, sha256):
                progress.note(f"{path}: differs from the published {entry.title}")
        name = path.stem if entry is None else entry.name
        if name in lists:
            raise DataError(f"{path}: a second list for {name}; give only one")
        lists[name] = EvaluationList(name=name, trials=trials, source=path)
    return list(lists.values())


def _check_counts(path: Path, entry: OfficialList, trials: Trials, official: Iterable[OfficialList]) -> None:
    """Refuse a list with wrong numbers of lines and targets; name the list that they belong to, if there is one."""
    titles = _titles_by_counts(trials, official)
    if entry.title in titles:
        return
    lines, targets = _counts(trials)
    mix_up = f"its counts are those of {titles[0]}, not of {entry.title}: " if titles else ""
    raise DataError(
        f"{path}: {mix_up}expected {entry.lines:,} lines and {entry.targets:,} targets ({entry.title}), found"
        f" {lines:,} and {targets:,}; get it from {entry.address}, or use --allow-other-lists"
    )


def _titles_by_counts(trials: Trials, official: Iterable[OfficialList]) -> list[str]:
    return [entry.title for entry in official if (entry.lines, entry.targets) == _counts(trials)]


def _counts(trials: Trials) -> tuple[int, int]:
    return len(trials), int((trials.labels == 1).sum())
