"""`svkit prepare csv`: any table of recordings with a header and commas, semicolons or tabs between columns."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from svkit.corpora.recognise import looks_like
from svkit.corpora.request import CorpusRequest, CorpusResult
from svkit.corpora.scan import Candidate
from svkit.corpora.skeleton import Found, prepare
from svkit.errors import ConfigError, DataError, first_five
from svkit.progress import Progress
from svkit.store.manifest import CLIMBS
from svkit.store.tables import read_bytes

LAYOUT = "expected a file with a header line that names a column of paths and one of speakers"


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Names of columns; None: found by their usual names."""

    path: str | None = None
    speaker: str | None = None
    utterance: str | None = None
    """If None and no column has a usual name, the path is the id."""
    session: str | None = None
    gender: str | None = None


USUAL_NAMES: Mapping[str, Sequence[str]] = {
    "path": [
        "path",
        "wav",
        "audio",
        "file",
        "filename",
        "file_name",
        "audio_path",
        "audio_filepath",
        "wav_path",
    ],
    "speaker": ["speaker_id", "speaker", "spk_id", "spk", "client_id", "label"],
    "utterance": ["utterance_id", "utterance", "utt_id", "utt", "id"],
    "session": ["session_id", "session", "video", "recording", "chapter_id"],
    "gender": ["gender", "sex"],
}
"""Names that are looked for in this order, whatever their case."""
_PART_COLUMNS = ("start", "stop", "end", "offset", "begin")
_SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas"}


def run(
    request: CorpusRequest, progress: Progress, *, columns: Columns, audio_root: Path | None = None
) -> CorpusResult:
    """Prepare the table `request.root`; relative paths in it are below `audio_root`, else below the table's directory.

    Raises:
        ConfigError: a column is not there.
        DataError: there is no such file, or it has rows that cannot be used; see also `prepare`.
    """
    path = request.root.resolve()
    if not path.is_file():
        found = "a directory" if path.is_dir() else "a pipe, socket or device" if path.exists() else "nothing"
        raise DataError(f"{path}: {LAYOUT}; found {found}{looks_like(path, 'csv')}")
    audio_root = audio_root and audio_root.resolve()

    def find(data: Path) -> Found:
        rows = _read(path)
        _, header = next(rows)
        places = _find_columns(path, header, columns)
        unused = [name for name in header if name.lower() in _PART_COLUMNS]
        if unused:
            progress.note(f"{path}: whole files are read, so these columns are not used: {', '.join(unused)}")
        files, genders = _candidates(path, rows, places, audio_root or path.parent)
        return Found(groups=[files], genders=genders if "gender" in places else {})

    options = {"columns": columns, "audio_root": audio_root}
    return prepare(request, progress, "csv", find, options, inputs={"table": path})


def _read(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the header and the rows, each with the line it ends on."""
    text = read_bytes(path).decode()
    first = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=first.count)
    if not first.count(separator):
        raise DataError(f"{path}:1: {LAYOUT}, found {first[:80]!r}")
    lines = text.replace("\r\n", "\n").split("\n")
    if separator == "\t" and len({line.count("\t") for line in lines if line.strip()}) == 1:
        # Here quotes are text, as in the sentences of Common Voice, unless they enclose a whole cell.
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, [_unquoted(cell.strip()) for cell in line.split("\t")]
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    num_columns = 0
    try:
        for row in filter(None, reader):
            num_columns = num_columns or len(row)
            if len(row) != num_columns:
                raise DataError(
                    f"{path}:{reader.line_num}: expected {num_columns} columns separated by"
                    f" {_SEPARATORS[separator]} as in the header, found {len(row)}"
                )
            yield reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}") from error


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if re.fullmatch('".*"', cell) else cell


def _find_columns(path: Path, header: Sequence[str], columns: Columns) -> dict[str, int]:
    """Return the position of each column that the table has."""
    lower = [name.lower() for name in header]
    places: dict[str, int] = {}
    for what, wanted in asdict(columns).items():
        usual = next((name for name in USUAL_NAMES[what] if name in lower), None)
        if wanted is not None and wanted not in header:
            raise ConfigError(f"--{what}-column {wanted}: {path} has {first_five(header)}")
        if wanted is not None:
            places[what] = header.index(wanted)
        elif usual is not None:
            places[what] = lower.index(usual)
        elif what in ("path", "speaker"):
            raise ConfigError(
                f"{path}: no column called {', '.join(USUAL_NAMES[what])}; it has {first_five(header)}; name the"
                f" column of the {what} with --{what}-column"
            )
    return {"utterance": places["path"], **places}


def _candidates(
    path: Path, rows: Iterator[tuple[int, list[str]]], places: Mapping[str, int], root: Path
) -> tuple[list[Candidate], dict[str, str]]:
    """Return the files, and the gender of each utterance."""
    files: list[Candidate] = []
    genders: dict[str, str] = {}
    lines: dict[str, int] = {}
    empty: list[str] = []
    for line, row in rows:
        cells = {name: row[place] for name, place in places.items()}
        name = cells["utterance"]
        empty += [f"{what} (line {line})" for what in ("path", "speaker", "utterance") if not cells[what]]
        if re.search(CLIMBS, name):
            raise DataError(
                f"{path}:{line}: expected an id without the part `..`, found {name!r}; name a column"
                " of ids with --utterance-column"
            )
        first = lines.setdefault(name, line)
        if name and first != line:
            raise DataError(f"{path}:{line}: utterance {name!r} already exists, in line {first}")
        genders[name] = cells.get("gender", "")
        path_of = (root / cells["path"]).as_posix()
        files.append(Candidate(name, cells["speaker"], cells.get("session", ""), path_of))
    if not files:
        raise DataError(f"{path}: expected rows below the header, found none")
    if empty:
        raise DataError(f"{path}: expected text, found nothing: {first_five(empty)}")
    return files, genders
