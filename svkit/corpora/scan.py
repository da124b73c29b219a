"""Finds the audio files of a tree and reads their headers (or all of their samples) in parallel."""

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from svkit.audio.quality import QualityMeter, louder_channel
from svkit.errors import DataError, first_five
from svkit.progress import Progress, Task
from svkit.store.audio_file import (
    CUT_ADVICE,
    AudioError,
    Channel,
    channel_levels_db,
    examine,
    probe,
)
from svkit.store.manifest import COLUMNS
from svkit.store.scan_journal import Entry, Finding, ScanJournal, Source, Stamp, blocks

_CHUNK_FILES = 64
_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An audio file and what its place says about it."""

    utterance_id: str
    speaker_id: str
    session_id: str
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BadFile:
    """A file that cannot be used."""

    utterance_id: str
    reason: str
    """The kind of fault, for counting: unreadable, empty, too short, truncated, non-finite, duplicate, ..."""
    detail: str
    """The cause in words."""
    path: str


_TEXTS = tuple(item.name for item in fields(Candidate))


class BadFilesError(DataError):
    """The corpus has bad files and nobody said to leave them out."""

    def __init__(self, message: str, bad_files: Sequence[BadFile]) -> None:
        """Keep the list beside the message, for a table."""
        super().__init__(message)
        self.bad_files = tuple(bad_files)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanOptions:
    """How files are examined."""

    min_seconds: float = 0.5
    """Shorter files are bad."""
    reads_samples: bool = True
    """Decode every file (finds truncated, non-finite and duplicate ones) instead of its header only."""
    num_workers: int | None = None
    """Threads; None: by the number of cores. libsndfile works outside the interpreter's lock."""
    skip_bad: bool = False
    channel: Channel | Literal["loudest"] = 0
    """Which channel is used of files with several; `loudest`: decided file by file."""
    allow_cut: bool = False
    """Use what is there of files whose header says that they were longer."""
    measures_quality: bool = False
    """Also measure level and clipping (with `reads_samples`)."""
    journal: Path | None = None
    """Directory in which the scan is remembered, so that an interrupted one goes on; None: it is not."""


class CandidateTable(Sequence[Candidate]):
    """Candidates in columns: 200 bytes each where objects need 600, which counts where there are ten millions."""

    def __init__(self, candidates: Iterable[Candidate]) -> None:
        """Take them all; those with names that no list can hold are in `unusable` by their place."""
        self.unusable: dict[int, BadFile] = {}
        self._blocks: list[pa.RecordBatch] = []
        self._length = 0
        remaining = iter(candidates)
        while block := list(islice(remaining, _BLOCK_ROWS)):
            for row, candidate in enumerate(block):
                fault = _name_fault(candidate.utterance_id) or _name_fault(candidate.path)
                if fault:
                    self.unusable[self._length + row] = make_bad(candidate, "unusable name", fault)
            columns = {
                name: pa.array([_encodable(getattr(candidate, name)) for candidate in block], pa.string())
                for name in _TEXTS
            }
            for name in ("speaker_id", "session_id"):
                columns[name] = columns[name].dictionary_encode()
            self._blocks.append(pa.RecordBatch.from_pydict(columns))
            self._length += len(block)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Candidate]:
        for block in self._blocks:
            for texts in zip(*(block.column(name).to_pylist() for name in _TEXTS), strict=True):
                yield Candidate(**dict(zip(_TEXTS, texts, strict=True)))

    def __getitem__(self, row: Any) -> Any:
        """Return one candidate (no slices)."""
        number, place = divmod(range(self._length)[row], _BLOCK_ROWS)
        block = self._blocks[number]
        return Candidate(**{name: block.column(name)[place].as_py() for name in _TEXTS})

    def table(
        self,
        rows: npt.NDArray[np.bool_],
        rates: npt.NDArray[np.int32],
        lengths: npt.NDArray[np.int64],
        channels: Mapping[int, str],
    ) -> pd.DataFrame:
        """Return rows of a manifest.

        Args:
            rows: which candidates, `[N]`.
            rates: sample rate of every candidate, `[N]`.
            lengths: number of samples of every candidate, `[N]`.
            channels: candidate -> the channel used, where it is not 0; if there is any, the table has a column for it.
        """
        columns: dict[str, Any] = {}
        for name in COLUMNS:
            if name in _TEXTS:
                parts = [block.column(name).cast(pa.string()) for block in self._blocks]
                column = pa.chunked_array(parts, pa.string()).cast(pa.large_string()).filter(pa.array(rows))
                columns[name] = column.to_pandas().astype(str)
            else:
                columns[name] = (rates if name == "sample_rate_hz" else lengths)[rows].astype(np.int64)
        if channels:
            columns["channel"] = [channels.get(int(row), "0") for row in np.flatnonzero(rows)]
        return pd.DataFrame(columns)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def scan_files(
    candidates: Iterable[Candidate],
    options: ScanOptions,
    progress: Progress,
    description: str = "reading audio",
) -> tuple[pd.DataFrame, list[BadFile]]:
    """Examine files in parallel.

    Args:
        candidates: the files; of files with equal content, the first is kept. Millions of them are best given as a
            `CandidateTable`.
        options: what makes a file bad, how many threads, and where the scan is remembered.
        progress: counts files.
        description: of the task.

    Returns:
        The rows of a manifest in the order of `candidates`, and the bad files.
    """
    listed = candidates if isinstance(candidates, CandidateTable) else CandidateTable(candidates)
    rates, lengths = np.zeros(len(listed), np.int32), np.zeros(len(listed), np.int64)
    digests = np.zeros((len(listed) if options.reads_samples else 0, 2), np.uint64)
    bad: dict[int, BadFile] = {}
    channels: dict[int, str] = {}
    cut: list[str] = []
    louder: list[str] = []
    places = (Source(Path(candidate.path), options.channel) for candidate in listed)
    found = examine_all(places, len(listed), options, progress, description)
    for row, (candidate, finding) in enumerate(zip(listed, found, strict=True)):
        rates[row], lengths[row] = finding.sample_rate_hz, finding.num_samples
        if options.reads_samples:
            digests[row] = finding.digest_words()
        if row in listed.unusable:
            bad[row] = listed.unusable[row]
        elif finding.reason:
            bad[row] = make_bad(candidate, finding.reason, finding.detail)
        elif finding.num_samples < options.min_seconds * finding.sample_rate_hz:
            seconds = finding.num_samples / finding.sample_rate_hz
            detail = f"{seconds:.3g} s, shorter than {options.min_seconds:g} s"
            bad[row] = make_bad(candidate, "too short", detail)
        elif finding.missing and not options.allow_cut:
            detail = f"{finding.missing}; {CUT_ADVICE}"
            bad[row] = make_bad(candidate, "truncated", detail)
        else:
            if finding.channel != "0":
                channels[row] = finding.channel
            cut += [f"{candidate.utterance_id} ({finding.missing})"] * bool(finding.missing)
            louder += [f"{candidate.utterance_id} ({finding.louder})"] * bool(finding.louder)
    if cut:
        progress.note(
            f"what is there is used of {len(cut)} recordings that are cut: {printable(first_five(cut))}"
        )
    if louder:
        progress.note(
            f"another channel is clearly louder than the one used (--channel N|mix|loudest chooses) in {len(louder)}"
            f" of {len(listed)} recordings: {printable(first_five(louder))}"
        )
    usable = np.ones(len(listed), dtype=bool)
    usable[list(bad)] = False
    for row, first in repeated_digests(digests, usable):
        usable[row] = False
        bad[row] = make_bad(listed[row], "duplicate", f"the same samples as {listed[first].utterance_id}")
    return listed.table(usable, rates, lengths, channels), [bad[row] for row in sorted(bad)]


def repeated_digests(
    digests: npt.NDArray[np.uint64], usable: npt.NDArray[np.bool_]
) -> Iterator[tuple[int, int]]:
    """Yield the rows whose content an earlier usable row has, each with the first such row.

    Args:
        digests: the first 128 bits of the content's sha256, `[N, 2]`; `[0, 2]` where no content was read.
        usable: which rows count, `[N]`.
    """
    rows = np.flatnonzero(usable) if len(digests) else np.zeros(0, np.int64)
    order = rows[np.lexsort((digests[rows, 1], digests[rows, 0]))]  # stable: equal ones stay in their order
    is_repeated = (digests[order[1:]] == digests[order[:-1]]).all(axis=1)
    first = -1
    for place in np.flatnonzero(is_repeated):
        first = int(order[place]) if not place or not is_repeated[place - 1] else first
        yield int(order[place + 1]), first


def examine_all(
    places: Iterable[Source], total: int, options: ScanOptions, progress: Progress, description: str
) -> Iterator[Finding]:
    """Yield what each file is, in order; files are read in threads, two blocks ahead at most.

    With `options.journal`, what is found out is kept block by block, also where the scan is interrupted.
    """
    kind = "quality" if options.measures_quality else "samples" if options.reads_samples else "header"
    journal = None if options.journal is None else ScanJournal(options.journal, kind)
    workers = options.num_workers or min(16, max(4, os.cpu_count() or 1))
    pending: deque[_PendingBlock] = deque()
    with progress.task(description, total) as task, ThreadPoolExecutor(workers) as executor:
        try:
            for block in blocks(places):
                pending.append(_PendingBlock(block, journal, executor, options))
                if len(pending) > 1:
                    yield from pending.popleft().results(task)
            while pending:
                yield from pending.popleft().results(task)
        except BaseException:
            executor.shutdown(cancel_futures=True)
            for interrupted in pending:
                interrupted.keep()
            raise


class _PendingBlock:
    """A block of files that threads are reading."""

    def __init__(
        self,
        block: list[Source],
        journal: ScanJournal | None,
        executor: ThreadPoolExecutor,
        options: ScanOptions,
    ) -> None:
        self._block, self._journal = block, journal
        self._known = {} if journal is None else journal.read(block)
        chunks = [block[start : start + _CHUNK_FILES] for start in range(0, len(block), _CHUNK_FILES)]
        self._futures = [executor.submit(self._examine, chunk, options) for chunk in chunks]

    def _examine(self, chunk: list[Source], options: ScanOptions) -> list[Entry]:
        entries = []
        for place in chunk:
            stamp = None if self._journal is None else Stamp.of(place.place)
            known = self._known.get(str(place))
            if known is not None and known.stamp == stamp:
                entries.append(known)
            else:
                entries.append(Entry(stamp, _examine(place, options)))
        return entries

    def results(self, task: Task) -> Iterator[Finding]:
        """Wait for all files of the block, keep what they are, and yield it."""
        try:
            for future in self._futures:
                task.advance(len(future.result()))
        finally:
            self.keep()
        for future in self._futures:
            yield from (entry.finding for entry in future.result())

    def keep(self) -> None:
        """Write what is known so far to the journal."""
        if self._journal is None:
            return
        found: dict[str, Entry] = {}
        for number, future in enumerate(self._futures):
            if future.done() and not future.cancelled() and future.exception() is None:
                chunk = self._block[number * _CHUNK_FILES : (number + 1) * _CHUNK_FILES]
                found.update(zip(map(str, chunk), future.result(), strict=True))
        if any(self._known.get(path) != entry for path, entry in found.items()):
            self._journal.write(self._block, {**self._known, **found})


def make_bad(candidate: Candidate, reason: str, detail: str) -> BadFile:
    """Return a candidate as a bad file."""
    return BadFile(utterance_id=candidate.utterance_id, reason=reason, detail=detail, path=candidate.path)


def _examine(source: Source, options: ScanOptions) -> Finding:
    place, chosen = source
    meter = QualityMeter() if options.measures_quality else None
    levels = None
    try:
        if chosen == "loudest":
            levels = channel_levels_db(place)
            chosen = int(np.argmax(levels))
        if options.reads_samples:
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


def _name_fault(name: str) -> str:
    if any(mark in name for mark in "\t\n\r"):
        return "the name holds a tab or a line end; rename it"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "the name is not valid UTF-8; rename it"
    return ""


def refuse_bad(bad: Sequence[BadFile], options: ScanOptions, num_files: int) -> None:
    """Raise unless bad files are to be left out.

    Raises:
        BadFilesError: names the first five, counts the reasons, and says what to do.
    """
    if not bad or options.skip_bad:
        return
    raise BadFilesError(f"{describe_bad(bad, num_files)}; mend them, or leave them out with --skip-bad", bad)


def describe_bad(bad: Sequence[BadFile], num_files: int) -> str:
    """Return a line that counts the reasons and names the first five files."""
    counts = ", ".join(
        f"{count} {reason}" for reason, count in Counter(file.reason for file in bad).most_common()
    )
    shown = first_five([f"{printable(file.utterance_id)} ({printable(file.detail)})" for file in bad])
    return f"{len(bad)} of {num_files} audio files cannot be used ({counts}): {shown}"


def printable(text: str) -> str:
    """Return text that any terminal and any file can take: what cannot be shown becomes an escape."""
    escaped = text.encode("utf-8", "backslashreplace").decode()
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in escaped)
