"""Examines audio files in parallel: their headers, or all of their samples."""

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from svkit.audio.quality import QualityMeter, louder_channel
from svkit.cores import available_cores
from svkit.errors import DataError, first_five, printable
from svkit.progress import Progress
from svkit.store.audio_file import CUT_ADVICE, AudioError, Channel, channel_levels_db, examine, probe
from svkit.store.manifest import COLUMNS
from svkit.store.scan_journal import Entry, Finding, ScanJournal, Track, stamp_of

_CHUNK_FILES = 64
_BLOCK_ROWS = 1 << 16
_UNUSABLE = re.compile("[\t\n\r\ud800-\udfff]")
"""Characters that no list can hold; in names that are not UTF-8, surrogates stand for the bytes."""
_Chunk = list[tuple[Track, Entry, bool]]
"""Files that one thread reads in turn: each with its entry, and whether the entry comes from the journal."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An audio file, with what its path says about it."""

    utterance_id: str
    speaker_id: str
    session_id: str
    path: str


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that cannot be used."""

    utterance_id: str
    reason: str
    """The kind of fault, for counting: unreadable, empty, too short, truncated, non-finite, duplicate, ..."""
    detail: str
    """The cause in words."""
    path: str


_TEXTS = pa.schema(
    [
        ("utterance_id", pa.binary()),
        ("speaker_id", pa.dictionary(pa.int32(), pa.binary())),
        ("session_id", pa.dictionary(pa.int32(), pa.binary())),
        ("path", pa.binary()),
    ]
)
"""A candidate's texts as bytes, as file names need not be UTF-8."""


class BadFilesError(DataError):
    """The corpus has bad files, and they may not be left out."""

    def __init__(self, message: str, bad_files: Sequence[BadFile]) -> None:
        """Keep the list beside the message, to show it as a table."""
        super().__init__(message)
        self.bad_files = tuple(bad_files)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanOptions:
    """Options of a scan."""

    min_seconds: float = 0.5
    """Shorter files are bad."""
    reads_samples: bool = True
    """Decode every file, which finds truncated, non-finite and duplicate ones; otherwise read only headers."""
    num_workers: int | None = None
    """Number of threads; None: by the number of cores. libsndfile works outside the interpreter's lock."""
    skip_bad: bool = False
    channel: Channel | Literal["loudest"] = 0
    """Channel to use of files with several; `loudest` is decided for each file."""
    allow_cut: bool = False
    """Use what is left of files whose header says that they were longer."""
    measures_quality: bool = False
    """Also measure level and clipping (with `reads_samples`)."""
    journal: Path | None = None
    """Directory of the journal, from which an interrupted scan continues; None: no journal."""


class CandidateTable(Sequence[Candidate]):
    """Candidates in columns: 200 bytes each instead of 600 as objects, which matters for ten million."""

    def __init__(self, candidates: Iterable[Candidate]) -> None:
        """Read all candidates into the table."""
        remaining = iter(candidates)
        batches = []
        while block := list(islice(remaining, _BLOCK_ROWS)):
            columns = [
                pa.array(
                    [getattr(file, item.name).encode("utf-8", "surrogateescape") for file in block], item.type
                )
                for item in _TEXTS
            ]
            batches.append(pa.RecordBatch.from_arrays(columns, schema=_TEXTS))
        self._table = pa.Table.from_batches(batches, _TEXTS)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[Candidate]:
        for batch in self._table.to_batches():
            yield from map(_candidate, zip(*(column.to_pylist() for column in batch.columns), strict=True))

    def __getitem__(self, row: Any) -> Any:
        """Return one candidate (no slices)."""
        row = range(len(self))[row]
        return _candidate(column[row].as_py() for column in self._table.columns)

    def sessions(self) -> dict[str, list[str]]:
        """Return the sessions of each speaker, sorted; "" is among them if a recording has none."""
        pairs = self._table.select(["speaker_id", "session_id"]).unify_dictionaries()
        sessions: dict[str, list[str]] = {}
        for row in pairs.group_by(pairs.column_names).aggregate([]).to_pylist():
            speaker, session = (row[name].decode("utf-8", "surrogateescape") for name in pairs.column_names)
            sessions.setdefault(speaker, []).append(session)
        return {speaker: sorted(names) for speaker, names in sorted(sessions.items())}

    def rows(self, is_wanted: npt.NDArray[np.bool_]) -> dict[str, "pd.Series[str]"]:
        """Return the columns of the candidates in `is_wanted` [N], whose texts must all be UTF-8."""
        table = self._table.filter(pa.array(is_wanted))
        return {
            name: table[name].cast(pa.binary()).cast(pa.large_string()).to_pandas().astype(str)
            for name in _TEXTS.names
        }


def _candidate(texts: Iterable[bytes]) -> Candidate:
    return Candidate(*(text.decode("utf-8", "surrogateescape") for text in texts))


def scan_files(
    candidates: Iterable[Candidate], options: ScanOptions, progress: Progress
) -> tuple[pd.DataFrame, list[BadFile]]:
    """Examine files in parallel.

    Of files with equal content, only the first is good. Millions of candidates are best given as a `CandidateTable`.

    Returns:
        The rows of a manifest in the order of `candidates`, with a column `channel` unless all files use the first; and
        the bad files.
    """
    # Arrays, and lists of the exceptions only: an object for each of millions of files would take gigabytes.
    listed = candidates if isinstance(candidates, CandidateTable) else CandidateTable(candidates)
    numbers = {name: np.zeros(len(listed), np.int64) for name in ("sample_rate_hz", "num_samples")}
    digests = np.zeros((len(listed) if options.reads_samples else 0, 2), np.uint64)
    bad: dict[int, BadFile] = {}
    channels: dict[int, str] = {}
    cut: list[str] = []
    louder: list[str] = []
    places = (Track(Path(candidate.path), options.channel) for candidate in listed)
    found = examine_all(places, len(listed), options, progress)
    for row, (candidate, finding) in enumerate(zip(listed, found, strict=True)):
        for name, values in numbers.items():
            values[row] = getattr(finding, name)
        if options.reads_samples:
            digests[row] = finding.digest_words()
        fault = _fault(candidate, finding, options)
        if fault is not None:
            bad[row] = BadFile(candidate.utterance_id, *fault, candidate.path)
            continue
        if finding.channel != "0":
            channels[row] = finding.channel
        if finding.missing:
            cut.append(f"{candidate.utterance_id} ({finding.missing})")
        if finding.louder:
            louder.append(f"{candidate.utterance_id} ({finding.louder})")
    if cut:
        progress.note(
            f"{len(cut)} recordings are truncated and used as far as they go: {printable(first_five(cut))}"
        )
    if louder:
        progress.note(
            f"another channel is clearly louder than the one used (--channel N|mix|loudest chooses) in {len(louder)}"
            f" of {len(listed)} recordings: {printable(first_five(louder))}"
        )
    # Bad files are left out first: a good file must not be refused as the copy of one that is refused itself.
    usable = np.ones(len(listed), dtype=bool)
    usable[list(bad)] = False
    for row, first in repeated_digests(digests, usable):
        name, path = listed[row].utterance_id, listed[row].path
        bad[row] = BadFile(name, "duplicate", f"the same samples as {listed[first].utterance_id}", path)
    usable[list(bad)] = False
    texts = listed.rows(usable)
    table = pd.DataFrame({name: texts[name] if name in texts else numbers[name][usable] for name in COLUMNS})
    if channels:
        table["channel"] = [channels.get(int(row), "0") for row in np.flatnonzero(usable)]
    return table, [bad[row] for row in sorted(bad)]


def _fault(candidate: Candidate, finding: Finding, options: ScanOptions) -> tuple[str, str] | None:
    """Return the kind and the cause of what is wrong with a file."""
    mark = _UNUSABLE.search(candidate.utterance_id) or _UNUSABLE.search(candidate.path)
    if mark is not None:
        problem = "holds a tab or a line end" if mark[0] in "\t\n\r" else "is not valid UTF-8"
        return "unusable name", f"the name {problem}; rename it"
    if finding.reason:
        return finding.reason, finding.detail
    if finding.num_samples < options.min_seconds * finding.sample_rate_hz:
        seconds = finding.num_samples / finding.sample_rate_hz
        return "too short", f"{seconds:.3g} s, shorter than {options.min_seconds:g} s"
    if finding.missing and not options.allow_cut:
        return "truncated", f"{finding.missing}; {CUT_ADVICE}"
    return None


def repeated_digests(
    digests: npt.NDArray[np.uint64], usable: npt.NDArray[np.bool_]
) -> Iterator[tuple[int, int]]:
    """Yield the rows with the content of an earlier row, each with the first such row; only `usable` rows [N] count.

    `digests` are the first 128 bits of the content's sha256, `[N, 2]`; `[0, 2]` if no content was read.
    """
    rows = np.flatnonzero(usable) if len(digests) else np.zeros(0, np.int64)
    order = rows[np.lexsort((digests[rows, 1], digests[rows, 0]))]  # stable: equal ones keep their order
    is_repeated = (digests[order[1:]] == digests[order[:-1]]).all(axis=1)
    first = -1
    for place in np.flatnonzero(is_repeated):
        first = int(order[place]) if not place or not is_repeated[place - 1] else first
        yield int(order[place + 1]), first


def examine_all(
    places: Iterable[Track], total: int, options: ScanOptions, progress: Progress
) -> Iterator[Finding]:
    """Yield the finding about each file, in order; threads read a few chunks ahead.

    With `options.journal`, findings are stored chunk by chunk, even if the scan is interrupted.
    """
    kind = "quality" if options.measures_quality else "samples" if options.reads_samples else "header"
    journal = None if options.journal is None else ScanJournal(options.journal, kind)
    workers = options.num_workers or min(16, max(4, available_cores()))
    sources = iter(places)
    pending: deque[Future[_Chunk]] = deque()

    def keep(chunk: _Chunk) -> None:
        new = {str(source): entry for source, entry, is_known in chunk if not is_known}
        if journal is not None and new:
            journal.write(new)

    with progress.task("reading audio", total) as task, ThreadPoolExecutor(workers) as executor:

        def read_on(count: int) -> None:
            for _ in range(count):
                if chunk := list(islice(sources, _CHUNK_FILES)):
                    known = {} if journal is None else journal.read(chunk)
                    pending.append(executor.submit(_examine_chunk, chunk, known, options))

        try:
            # More chunks at once would only take memory: a corpus may have millions of files.
            read_on(2 * workers)
            while pending:
                chunk = pending[0].result()
                # A chunk leaves `pending` only when it is in the journal, so that no interruption can lose it.
                keep(chunk)
                pending.popleft()
                task.advance(len(chunk))
                read_on(1)
                yield from (entry.finding for _, entry, _ in chunk)
        except BaseException:  # also Ctrl-C, after hours of reading
            executor.shutdown(cancel_futures=True)
            for future in pending:
                if future.done() and not future.cancelled() and future.exception() is None:
                    keep(future.result())
            raise


def _examine_chunk(chunk: list[Track], known: Mapping[str, Entry], options: ScanOptions) -> _Chunk:
    """Examine some files; a journal entry is valid as long as its file keeps its size and modification time."""
    entries = []
    for source in chunk:
        # The stamp is taken first, so that the next scan reads a file again that changes while it is read.
        stamp, entry = stamp_of(source.place), known.get(str(source))
        if entry is not None and entry.stamp == stamp:
            entries.append((source, entry, True))
        else:
            entries.append((source, Entry(stamp, _examine(source, options)), False))
    return entries


def _examine(source: Track, options: ScanOptions) -> Finding:
    place, chosen = source
    meter = QualityMeter() if options.measures_quality else None
    levels = None
    try:
        if chosen == "loudest":
            levels = channel_levels_db(place)
            chosen = int(np.argmax(levels))
        if options.reads_samples:
            # Always as far as it goes: the journal serves scans with and without --allow-cut, and `_fault` decides.
            info, digest = examine(place, meter.add if meter else None, chosen, allow_cut=True)
            if levels is None and info.num_channels > 1:
                levels = channel_levels_db(place)
        else:
            info, digest = probe(place, chosen, allow_cut=True), ""
    except AudioError as error:
        return Finding(reason=error.reason, detail=error.detail)
    return Finding(
        sample_rate_hz=info.sample_rate_hz,
        num_samples=info.num_samples,
        digest=digest,
        level_db=meter.level_db if meter else 0.0,
        clipped_share=meter.clipped_share if meter else 0.0,
        channel=str(chosen),
        louder="" if levels is None or chosen == "mix" else louder_channel(levels, chosen),
        missing=info.missing,
    )


def refuse_bad(bad: Sequence[BadFile], options: ScanOptions, num_files: int, where: str = "") -> None:
    """Raise BadFilesError if there are bad files that may not be left out; its message ends in `where`."""
    if bad and not options.skip_bad:
        advice = "fix them, or leave them out with --skip-bad"
        raise BadFilesError(f"{describe_bad(bad, num_files)}; {advice}{where}", bad)


def describe_bad(bad: Sequence[BadFile], num_files: int) -> str:
    """Return a line with the counts of reasons and the first five files."""
    reasons = Counter(file.reason for file in bad)
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    shown = first_five([f"{printable(file.utterance_id)} ({printable(file.detail)})" for file in bad])
    return f"{len(bad)} of {num_files} audio files cannot be used ({counts}): {shown}"
