"""`svkit prepare csv`: any table of recordings with a header, separated by commas, semicolons or tabs."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from svkit.corpora.corpus import DataDirectory, identity, split_and_write
from svkit.corpora.recognise import guess_corpus
from svkit.corpora.request import CorpusRequest, CorpusResult
from svkit.corpora.scan import Candidate, scan_files
from svkit.errors import ConfigError, DataError, first_five
from svkit.progress import Progress
from svkit.store.manifest import CLIMBS
from svkit.store.tables import read_bytes

LAYOUT = "expected a file with a header line that names a column of paths and one of speakers"


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Names of columns; None: by their usual names."""

    path: str | None = None
    speaker: str | None = None
    utterance: str | None = None
    """None and no column with a usual name: the path is the id."""
    session: str | None = None
    gender: str | None = None


USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "path": (
        "path",
        "wav",
        "audio",
        "file",
        "filename",
        "file_name",
        "audio_path",
        "audio_filepath",
        "wav_path",
    ),
    "speaker": ("speaker_id", "speaker", "spk_id", "spk", "client_id", "label"),
    "utterance": ("utterance_id", "utterance", "utt_id", "utt", "id"),
    "session": ("session_id", "session", "video", "recording", "chapter_id"),
    "gender": ("gender", "sex"),
}
"""Names looked for, whatever their case, in this order."""
_PART_COLUMNS = ("start", "stop", "end", "offset", "begin")
_SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas"}


def run(
    request: CorpusRequest, progress: Progress, *, columns: Columns, audio_root: Path | None = None
) -> CorpusResult:
    """Prepare a table.

    Args:
        request: with `root`: the file.
        progress: counts files, notes what is not used.
        columns: which column is what.
        audio_root: directory that relative paths are below; None: the file's own.

    Raises:
        ConfigError: a column that is not there.
        DataError: no such file, or rows that cannot be used; see also the files of this package.
    """
    path = (request.root or Path("corpus.csv")).resolve()
    if not path.is_file():
        guess = guess_corpus(path) if path.is_dir() else None
        found = "a directory" if path.is_dir() else "a pipe, socket or device" if path.exists() else "nothing"
        hint = f"; this looks like {guess}: svkit prepare {guess} {path}" if guess else ""
        raise DataError(f"{path}: {LAYOUT}; found {found}{hint}")
    config = {**identity(request), "columns": columns, "audio_root": audio_root and audio_root.resolve()}
    with DataDirectory(request, progress, "csv", config, inputs={"table": path}) as data:
        if data.finished is not None:
            return data.finished
        header, rows = _read(path)
        places = _find_columns(path, header, columns)
        unused = [name for name in header if name.lower() in _PART_COLUMNS]
        if unused:
            progress.note(f"{path}: {', '.join(unused)} are not used: whole files are taken")
        candidates = _candidates(path, rows, places, (audio_root or path.parent).resolve())
        table, bad = scan_files(candidates, request.scan, progress)
        data.accept(bad, len(candidates))
        if "gender" in places:
            genders = {
                number_row[1][places["utterance"]]: number_row[1][places["gender"]] for number_row in rows
            }
            table["gender"] = table["utterance_id"].map(genders)
        return split_and_write(data, table, bad, request, "csv", progress)


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and each row with the line it ends on."""
    text = read_bytes(path).decode()
    first = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=first.count)
    if not first.count(separator):
        raise DataError(f"{path}:1: {LAYOUT}, found {first[:80]!r}")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        header = [name.strip() for name in next(reader)]
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{path}:{reader.line_num}: expected {len(header)} columns separated by"
                    f" {_SEPARATORS[separator]} as in the header, found {len(row)}"
                )
            rows.append((reader.line_num, [cell.strip() for cell in row]))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}") from error
    if not rows:
        raise DataError(f"{path}: no rows below the header")
    return header, rows


def _find_columns(path: Path, header: Sequence[str], columns: Columns) -> dict[str, int]:
    """Return the position of each column that is there."""
    lower = [name.lower() for name in header]
    places: dict[str, int] = {}
    for item in fields(columns):
        wanted = getattr(columns, item.name)
        if wanted is not None:
            if wanted not in header:
                raise ConfigError(f"--{item.name}-column {wanted}: {path} has {first_five(header)}")
            places[item.name] = header.index(wanted)
            continue
        usual = next((name for name in USUAL_NAMES[item.name] if name in lower), None)
        if usual is not None:
            places[item.name] = lower.index(usual)
    for name in ("path", "speaker"):
        if name not in places:
            raise ConfigError(
                f"{path}: no column called {', '.join(USUAL_NAMES[name])}; it has {first_five(header)}; name the"
                f" one of the {name} with --{name}-column"
            )
    places.setdefault("utterance", places["path"])
    return places


def _candidates(
    path: Path, rows: Sequence[tuple[int, list[str]]], places: Mapping[str, int], root: Path
) -> list[Candidate]:
    found: list[Candidate] = []
    lines: dict[str, int] = {}
    empty: list[str] = []
    for line, row in rows:
        cells = {name: row[place] for name, place in places.items()}
        empty += [f"{name} (line {line})" for name in ("path", "speaker", "utterance") if not cells[name]]
        first = lines.setdefault(cells["utterance"], line)
        if re.search(CLIMBS, cells["utterance"]):
            raise DataError(
                f"{path}:{line}: expected an id without the part `..`, found {cells['utterance']!r}; name a column"
                " of ids with --utterance-column"
            )
        if first != line and cells["utterance"]:
            raise DataError(
                f"{path}:{line}: utterance {cells['utterance']!r} is there already, in line {first}"
            )
        found.append(
            Candidate(
                utterance_id=cells["utterance"],
                speaker_id=cells["speaker"],
                session_id=cells.get("session", ""),
                path=(root / cells["path"]).as_posix(),
            )
        )
    if empty:
        raise DataError(f"{path}: expected text, found nothing: {first_five(empty)}")
    return found
