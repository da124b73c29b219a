"""`svkit prepare musan|rirs|noise|music`: material for augmentation.

`exp/data/noise.tsv` has the extra column `category` (noise, music or speech); each command replaces the rows
of its own categories and keeps the others. `exp/data/rirs.tsv` has the type of room there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from svkit.corpora.corpus import unusual
from svkit.corpora.recognise import wrong_tree
from svkit.corpora.scan import BadFile, Candidate, ScanOptions, refuse_bad, scan_files
from svkit.corpora.walk import find_audio, is_audio_name
from svkit.errors import ConfigError, DataError
from svkit.progress import Progress
from svkit.store.experiment import update_experiment
from svkit.store.files import read_file
from svkit.store.manifest import read_manifest, write_manifest
from svkit.store.output import Output
from svkit.store.provenance import FORMAT, VERSION
from svkit.store.strict_json import read_json, typed

MUSAN_CATEGORIES = ("noise", "music", "speech")
RIR_TYPES = ("smallroom", "mediumroom", "largeroom", "real")
"""Simulated rooms by size, and responses recorded in real ones."""
PUBLISHED_RIR_TYPES = ("smallroom", "mediumroom")
"""What the published recipe uses of them."""
_REAL_RIRS = "real_rirs_isotropic_noises"
_MUSAN_LAYOUT = "expected musan/{noise,music,speech}/SOURCE/*.wav (OpenSLR 17)"
_RIRS_LAYOUT = (
    "expected RIRS_NOISES/simulated_rirs/{smallroom,mediumroom,largeroom}/RoomNNN/*.wav and"
    " RIRS_NOISES/real_rirs_isotropic_noises/rir_list (OpenSLR 28)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseRequest:
    """What the user asked for."""

    exp: Path
    root: Path
    scan: ScanOptions = field(default_factory=lambda: ScanOptions(min_seconds=0.0))
    overwrite: bool = False
    keep_finished: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseResult:
    """What was prepared."""

    list: str
    """The list written."""
    files: dict[str, int]
    """Number of files in each category this command wrote."""
    hours: float
    bad_files: tuple[BadFile, ...]
    """Left out."""


def run_musan(request: NoiseRequest, progress: Progress) -> NoiseResult:
    """Prepare MUSAN: noise, instrumental music, speech.

    Music with vocals is left out where MUSAN's `ANNOTATIONS` say so (third field `Y`), as the published
    recipe uses instrumental music only.

    Raises:
        DataError: the tree is not MUSAN's.
    """
    root = _find(request.root, "musan", ("", "musan"), MUSAN_CATEGORIES, _MUSAN_LAYOUT)
    files: dict[str, list[str]] = {}
    for category in MUSAN_CATEGORIES:
        names = list(find_audio(root / category))
        vocal = _vocal_pieces(root / category) if category == "music" else set()
        files[category] = [name for name in names if _stem(name) not in vocal]
        left_out = len(names) - len(files[category])
        if left_out:
            progress.note(f"{left_out} of {len(names)} pieces of music have vocals and are left out")
    return _run(
        request, progress, "musan", "noise", {name: (root / name, found) for name, found in files.items()}
    )


def run_rirs(
    request: NoiseRequest, progress: Progress, types: Sequence[str] = PUBLISHED_RIR_TYPES
) -> NoiseResult:
    """Prepare the room impulse responses of RIRS_NOISES; the list says the type of each.

    Args:
        request: the request.
        progress: counts files.
        types: of `RIR_TYPES`; the others are left out.

    Raises:
        ConfigError: an unknown type.
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
        root = (
            _find(request.root, "rirs", ("", "..", "RIRS_NOISES"), (_REAL_RIRS,), _RIRS_LAYOUT) / _REAL_RIRS
        )
        sources["real"] = (root, _real_responses(root))
    left_out = [name for name in RIR_TYPES if name not in types]
    if left_out:
        why = ", as in the published recipe" if set(types) == set(PUBLISHED_RIR_TYPES) else ""
        progress.note(f"left out{why}: {', '.join(left_out)} (--type takes them in)")
    return _run(request, progress, "rirs", "rirs", sources)


def _real_responses(root: Path) -> list[str]:
    """Return the recorded responses that `rir_list` names (the directory holds noises too)."""
    path = root / "rir_list"
    if not path.is_file():
        raise DataError(f"{path}: does not exist; it says which of the files beside it are responses")
    names = []
    for number, line in enumerate(read_file(path, DataError).decode(errors="replace").splitlines(), start=1):
        fields = line.split()
        if fields and not is_audio_name(fields[-1]):
            raise DataError(
                f"{path}:{number}: expected `--rir-id ID --room-id ID ... FILE`, found {line[:80]!r}"
            )
        if fields:
            names.append(fields[-1].rpartition("/")[2])
    return sorted(set(names))


def run_tree(request: NoiseRequest, progress: Progress, category: str) -> NoiseResult:
    """Prepare any tree of noises or of music.

    Args:
        request: the request.
        progress: counts files.
        category: `noise` or `music`.

    Raises:
        DataError: the directory does not exist or holds no audio.
    """
    return _run(
        request, progress, category, "noise", {category: (request.root, list(find_audio(request.root)))}
    )


def _find(root: Path, command: str, places: Sequence[str], needed: Sequence[str], layout: str) -> Path:
    for place in places:
        if all((root / place / name).is_dir() for name in needed):
            return root / place
    raise wrong_tree(root, command, f"no directories {', '.join(needed)} there", layout)


def _stem(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0]


def _vocal_pieces(music: Path) -> set[str]:
    """Return the names of the pieces whose annotation says that they have vocals."""
    vocal = set()
    for path in sorted(music.glob("*/ANNOTATIONS")):
        for number, line in enumerate(
            read_file(path, DataError).decode(errors="replace").splitlines(), start=1
        ):
            fields = line.split()
            if not fields:
                continue
            if len(fields) < 3 or fields[2] not in ("Y", "N"):
                raise DataError(f"{path}:{number}: expected `piece genres Y|N artist`, found {line[:80]!r}")
            if fields[2] == "Y":
                vocal.add(fields[0])
    return vocal


@dataclass(frozen=True, slots=True)
class _Summary:
    list: str
    files: dict[str, Any]
    hours: float
    bad_files: int


@dataclass(frozen=True, slots=True)
class _Category:
    """What is recorded about a category."""

    command: str
    config: dict[str, Any]
    summary: _Summary


class _NoiseOutput(Output):
    """A list of several commands, each of which replaces the rows of its own categories (of `rirs`: all)."""

    def sources(self) -> dict[str, Any]:
        """Return what is recorded about each category of the list; nothing where the list is unfinished."""
        if not self.record.exists() or not self.path.exists():
            return {}
        categories = read_json(self.record, FORMAT, VERSION, dict[str, Any]).get("categories", {})
        typed(self.record, categories, dict[str, _Category], "categories")
        return dict(categories)

    def finished(self) -> dict[str, Any] | None:
        """Return a record of the categories that this command would replace."""
        wanted = self.config["categories"]
        found = {name: entry for name, entry in self.sources().items() if self.replaces_all or name in wanted}
        for entry in found.values():
            config = {**entry["config"], "categories": sorted(found)}
            if (entry["command"], config) != (self.command, self.config):
                break
        return {"command": entry["command"], "config": config, "inputs": []} if found else None

    @property
    def replaces_all(self) -> bool:
        """Whether categories that this command does not write go."""
        return self.path.stem == "rirs"


def _run(
    request: NoiseRequest,
    progress: Progress,
    command: str,
    kind: str,
    sources: Mapping[str, tuple[Path, Sequence[str]]],
) -> NoiseResult:
    """Scan the files of each category and put them into the list of this kind (`noise` or `rirs`)."""
    scan = {"min_seconds": request.scan.min_seconds, "skip_bad": request.scan.skip_bad}
    scan |= {"reads_samples": request.scan.reads_samples, **unusual(request.scan)}
    asked = {"root": request.root.resolve().as_posix(), "scan": scan}
    output = _NoiseOutput(
        request.exp / "data" / f"{kind}.tsv",
        command=f"prepare {command}",
        config={**asked, "categories": sorted(sources)},
        inputs={},
        overwrite=request.overwrite,
        keep_finished=request.keep_finished,
        experiment=request.exp,
        kind="part",
    )
    path = output.path
    if output.is_kept(progress):
        known = output.sources()[next(iter(sources))]["summary"]
        return NoiseResult(**{**known, "list": str(path), "bad_files": ()})
    with output.open():
        earlier = {} if output.replaces_all else output.sources()
        table, bad = _scan(request, progress, sources)
        result = _summarise(path, table, bad)
        if path.exists() and not output.replaces_all:
            kept = read_manifest(path).table
            table = pd.concat([kept[~kept["category"].isin(list(sources))], table], ignore_index=True)
        output.unmark()
        write_manifest(path, table)
        update_experiment(request.exp, **{kind: f"data/{kind}.tsv"})
        entry = {
            "command": output.command,
            "config": asked,
            "summary": {**asdict(result), "list": path.name, "bad_files": len(bad)},
            "finished": output.started,
        }
        output.finish({"categories": {**earlier, **dict.fromkeys(sources, entry)}}, [path])
    return result


def _scan(
    request: NoiseRequest, progress: Progress, sources: Mapping[str, tuple[Path, Sequence[str]]]
) -> tuple[pd.DataFrame, list[BadFile]]:
    candidates = [
        Candidate(
            utterance_id=f"{category}/{name}",
            speaker_id=category,
            session_id="",
            path=f"{root.resolve().as_posix()}/{name}",
        )
        for category, (root, names) in sources.items()
        for name in names
    ]
    empty = [str(root) for root, names in sources.values() if not names]
    if empty:
        raise DataError(f"{empty[0]}: no audio files below it")
    table, bad = scan_files(candidates, request.scan, progress)
    refuse_bad(bad, request.scan, len(candidates))
    table["category"] = table["speaker_id"]
    missing = sorted(set(sources) - set(table["category"]))
    if missing:
        raise DataError(f"{request.root}: no usable file of the category {', '.join(missing)}")
    return table, bad


def _summarise(path: Path, table: pd.DataFrame, bad: Sequence[BadFile]) -> NoiseResult:
    seconds = table["num_samples"] / table["sample_rate_hz"]
    counts = {str(name): int(count) for name, count in table["category"].value_counts(sort=False).items()}
    return NoiseResult(
        list=str(path), files=counts, hours=round(float(seconds.sum()) / 3600, 4), bad_files=tuple(bad)
    )
