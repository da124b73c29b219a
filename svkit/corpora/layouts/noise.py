"""`svkit prepare musan|rirs|noise|music`: recordings that augmentation mixes in.

`exp/data/noise.tsv` has the extra column `category` (noise, music or speech). Each command replaces the rows of its own
categories and keeps the others. In `exp/data/rirs.tsv`, `category` is the type of room.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pandas as pd
from typing_extensions import NotRequired, TypedDict

from svkit.corpora.corpus import scan_settings
from svkit.corpora.derived import hours
from svkit.corpora.recognise import wrong_tree
from svkit.corpora.scan import BadFile, Candidate, ScanOptions, refuse_bad, scan_files
from svkit.corpora.walk import find_audio, is_audio_name
from svkit.errors import ConfigError, DataError
from svkit.progress import Progress
from svkit.store.experiment import update_experiment
from svkit.store.files import read_file
from svkit.store.manifest import read_manifest, write_manifest
from svkit.store.output import Output
from svkit.store.provenance import Provenance, read_record
from svkit.store.request import Request
from svkit.store.strict_json import typed

MUSAN_CATEGORIES = ("noise", "music", "speech")
RIR_TYPES = ("smallroom", "mediumroom", "largeroom", "real")
"""Simulated rooms by size, and responses recorded in real ones."""
PUBLISHED_RIR_TYPES = ("smallroom", "mediumroom")
"""The types that the published recipe uses."""
_REAL_RIRS = "real_rirs_isotropic_noises"
_MUSAN_LAYOUT = "expected musan/{noise,music,speech}/SOURCE/*.wav (OpenSLR 17)"
_RIRS_LAYOUT = (
    "expected RIRS_NOISES/simulated_rirs/{smallroom,mediumroom,largeroom}/RoomNNN/*.wav and"
    " RIRS_NOISES/real_rirs_isotropic_noises/rir_list (OpenSLR 28)"
)
_Sources = Mapping[str, tuple[Path, Sequence[str]]]
"""Category -> directory, and the files below it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseRequest(Request):
    """Request to prepare a tree of noises, music or room impulse responses."""

    root: Path
    scan: ScanOptions = field(default_factory=lambda: ScanOptions(min_seconds=0.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseResult:
    """What was prepared."""

    list: str
    """The list written."""
    files: dict[str, int]
    """Number of files in each category that this command wrote."""
    hours: float
    bad_files: tuple[BadFile, ...]
    """Files that were left out."""


def run_musan(request: NoiseRequest, progress: Progress) -> NoiseResult:
    """Prepare MUSAN: noise, instrumental music, speech (DataError: the tree is not MUSAN's).

    Music that has vocals according to MUSAN's `ANNOTATIONS` (third field `Y`) is left out, because the published recipe
    uses only instrumental music.
    """
    root = _find(request.root, "musan", ("", "musan"), MUSAN_CATEGORIES, _MUSAN_LAYOUT)
    sources = {name: (root / name, list(find_audio(root / name))) for name in MUSAN_CATEGORIES}
    music, pieces = sources["music"]
    vocal = set()
    for path in sorted(music.glob("*/ANNOTATIONS")):
        for number, fields in _read_fields(path):
            if len(fields) < 3 or fields[2] not in ("Y", "N"):
                line = " ".join(fields)
                raise DataError(f"{path}:{number}: expected `piece genres Y|N artist`, found {line[:80]!r}")
            if fields[2] == "Y":
                vocal.add(fields[0])
    kept = [name for name in pieces if name.rpartition("/")[2].rpartition(".")[0] not in vocal]
    if len(kept) < len(pieces):
        progress.note(
            f"{len(pieces) - len(kept)} of {len(pieces)} pieces of music have vocals and are left out"
        )
    return _run(request, progress, "musan", "noise", {**sources, "music": (music, kept)})


def run_rirs(
    request: NoiseRequest, progress: Progress, types: Sequence[str] = PUBLISHED_RIR_TYPES
) -> NoiseResult:
    """Prepare the room impulse responses of RIRS_NOISES of some `RIR_TYPES`; the list has the type of each.

    Raises:
        ConfigError: a type is unknown.
        DataError: the tree is not that of RIRS_NOISES.
    """
    unknown = [name for name in types if name not in RIR_TYPES]
    if unknown:
        raise ConfigError(f"--type {unknown[0]}: expected {', '.join(RIR_TYPES)}")
    simulated = [name for name in types if name != "real"]
    sources: dict[str, tuple[Path, Sequence[str]]] = {}
    if simulated:
        places = ("", "simulated_rirs", "RIRS_NOISES/simulated_rirs")
        root = _find(request.root, "rirs", places, simulated, _RIRS_LAYOUT)
        sources = {name: (root / name, list(find_audio(root / name))) for name in simulated}
    if "real" in types:
        home = _find(request.root, "rirs", ("", "..", "RIRS_NOISES"), (_REAL_RIRS,), _RIRS_LAYOUT)
        sources["real"] = (home / _REAL_RIRS, _real_responses(home / _REAL_RIRS / "rir_list"))
    left_out = [name for name in RIR_TYPES if name not in types]
    if left_out:
        why = ", as in the published recipe" if set(types) == set(PUBLISHED_RIR_TYPES) else ""
        progress.note(f"left out{why}: {', '.join(left_out)} (--type includes them)")
    return _run(request, progress, "rirs", "rirs", sources)


def run_tree(request: NoiseRequest, progress: Progress, category: str) -> NoiseResult:
    """Prepare any tree of one category, `noise` or `music` (DataError: no such directory, or no audio below it)."""
    sources = {category: (request.root, list(find_audio(request.root)))}
    return _run(request, progress, category, "noise", sources)


def _find(root: Path, command: str, places: Sequence[str], needed: Sequence[str], layout: str) -> Path:
    for place in places:
        if all((root / place / name).is_dir() for name in needed):
            return root / place
    raise wrong_tree(root, command, f"no directories {', '.join(needed)} there", layout)


def _real_responses(path: Path) -> list[str]:
    """Return the recorded responses that `rir_list` names; the directory holds noises as well."""
    if not path.is_file():
        raise DataError(f"{path}: does not exist; it names those files beside it that are responses")
    names = set()
    for number, fields in _read_fields(path):
        if not is_audio_name(fields[-1]):
            line = " ".join(fields)
            raise DataError(
                f"{path}:{number}: expected `--rir-id ID --room-id ID ... FILE`, found {line[:80]!r}"
            )
        names.add(fields[-1].rpartition("/")[2])
    return sorted(names)


def _read_fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each line; only file names matter, so the rest need not be UTF-8."""
    for number, line in enumerate(read_file(path, DataError).decode(errors="replace").splitlines(), start=1):
        if line.strip():
            yield number, line.split()


class _Summary(TypedDict):
    list: str
    files: dict[str, int]
    hours: float
    bad_files: NotRequired[int]


class _Entry(TypedDict):
    """An entry of `categories` in the record."""

    command: str
    config: dict[str, Any]
    summary: _Summary
    finished: NotRequired[str]


class _NoiseList(Output):
    """A list that several commands write: each replaces the rows of its own categories; `rirs` replaces all."""

    @property
    def title(self) -> str:
        """The list, and the categories of this command."""
        return f"{self.path} ({', '.join(self.config['categories'])})"

    def entries(self) -> dict[str, _Entry]:
        """Return what is recorded about each category; nothing if the list is unfinished."""
        if not self.record.exists() or not self.path.exists():
            return {}
        categories = read_record(self.record).get("categories", {})
        typed(self.record, categories, dict[str, _Entry], "categories")
        return cast(dict[str, _Entry], categories)

    def finished(self) -> Provenance | None:
        """Return the record of a category that this command replaces, one that differs if there is one; None: none."""
        wanted, entries = self.config["categories"], self.entries()
        replaced = sorted(entries if self.path.stem == "rirs" else entries.keys() & set(wanted))
        records: list[Provenance] = [
            {"command": entry["command"], "config": {**entry["config"], "categories": replaced}, "inputs": []}
            for entry in (entries[name] for name in replaced)
        ]
        ours = {"command": self.command, "config": self.config, "inputs": []}
        return next((record for record in records if record != ours), records[0] if records else None)


def _run(
    request: NoiseRequest, progress: Progress, command: str, kind: str, sources: _Sources
) -> NoiseResult:
    """Scan the files of each category and put them into the list of this kind (`noise` or `rirs`)."""
    config = {"root": request.root.resolve().as_posix(), "scan": scan_settings(request.scan)}
    output = _NoiseList(
        request.exp / "data" / f"{kind}.tsv",
        command=f"prepare {command}",
        config={**config, "categories": sorted(sources)},
        inputs={},
        overwrite=request.overwrite,
        keep_finished=request.keep_finished,
        experiment=request.exp,
        kind="part",
    )
    path = output.path
    if output.is_kept(progress):
        known = output.entries()[next(iter(sources))]["summary"]
        return NoiseResult(list=str(path), files=known["files"], hours=known["hours"], bad_files=())
    with output.open():
        table, bad = _scan(request, progress, sources)
        counts = {str(name): int(count) for name, count in table["category"].value_counts(sort=False).items()}
        num_hours = hours(table)
        entries: dict[str, _Entry] = {}
        if path.exists() and kind == "noise":  # rows of other commands stay, even those just written
            entries, before = output.entries(), read_manifest(path).table
            kept = before[~before["category"].isin(list(sources))]
            table = pd.concat([kept, table], ignore_index=True)
        output.unmark()
        write_manifest(path, table)
        update_experiment(request.exp, **{kind: f"data/{kind}.tsv"})
        entry: _Entry = {
            "command": output.command,
            "config": config,
            "summary": {"list": path.name, "files": counts, "hours": num_hours, "bad_files": len(bad)},
            "finished": output.started,
        }
        output.finish({"categories": {**entries, **dict.fromkeys(sources, entry)}}, [path])
    return NoiseResult(list=str(path), files=counts, hours=num_hours, bad_files=tuple(bad))


def _scan(request: NoiseRequest, progress: Progress, sources: _Sources) -> tuple[pd.DataFrame, list[BadFile]]:
    for root, names in sources.values():
        if not names:
            raise DataError(f"{root}: no audio files below it")
    candidates = [
        Candidate(f"{category}/{name}", category, "", f"{root.resolve().as_posix()}/{name}")
        for category, (root, names) in sources.items()
        for name in names
    ]
    table, bad = scan_files(candidates, request.scan, progress)
    refuse_bad(bad, request.scan, len(candidates))
    table["category"] = table["speaker_id"]
    missing = sorted(set(sources) - set(table["category"]))
    if missing:
        raise DataError(f"{request.root}: no usable file of the category {', '.join(missing)}")
    return table, bad
