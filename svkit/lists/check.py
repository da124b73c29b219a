"""`svkit prepare check`: decodes every recording of a list and names those that cannot be trained on."""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svkit.audio.quality import CLIPPED_SHARE, SILENCE_DB
from svkit.corpora import scan
from svkit.corpora.derived import derived_lists, hours, rebased_table, write_derived
from svkit.corpora.scan import BadFile
from svkit.errors import DataError
from svkit.progress import Progress
from svkit.store.manifest import Manifest, read_manifest
from svkit.store.scan_journal import Finding, Track, remove_journal


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckRequest:
    """Request to check a list."""

    list: Path
    out: Path | None = None
    """Where to write the list without its bad rows; None: a bad row is an error."""
    audio_root: Path | str | None = None
    min_seconds: float = 0.5
    max_clipped: float = CLIPPED_SHARE
    """Largest allowed share of samples on plateaus at full scale or at the recording's own extremes."""
    num_workers: int | None = None
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """Counts of a checked list, and its bad files."""

    list: str
    """The list that was checked."""
    utterances: int
    bad: int
    reasons: dict[str, int]
    """Kind of fault -> number of utterances."""
    hours: float
    """Hours of good recordings."""
    out: str | None
    """The new list without bad rows; None: none was written."""
    bad_files: tuple[BadFile, ...]


def run(request: CheckRequest, progress: Progress) -> CheckResult:
    """Check a list.

    Findings about files are kept until a check succeeds. An interrupted check continues from them, and so does one with
    `out` after one without.

    Raises:
        BadFilesError: there are bad rows and no `out`.
        ConfigError: `out` already exists.
        DataError: the list is missing or malformed, or no good row is left for `out`.
    """
    config = {"min_seconds": request.min_seconds, "max_clipped": request.max_clipped}
    outputs = derived_lists(
        {} if request.out is None else {request.out: config},
        command="prepare check",
        inputs={"manifest": request.list},
        overwrite=request.overwrite,
    )
    manifest = read_manifest(request.list, request.audio_root)
    journal = _journal(request)
    if journal is None:
        progress.note(
            f"{request.list.parent} cannot be written: if this check is interrupted, the next one starts "
            "from the beginning"
        )
    bad = _examine(manifest, request, journal, progress)
    is_good = np.ones(len(manifest), dtype=bool)
    is_good[list(bad)] = False
    bad_files = tuple(bad[row] for row in sorted(bad))
    if bad_files and request.out is None:
        message = scan.describe_bad(bad_files, len(manifest))
        advice = "fix them, or write a list without them with --out"
        raise scan.BadFilesError(f"{request.list}: {message}; {advice}", bad_files)
    for output in outputs:
        if not is_good.any():
            raise DataError(f"{request.list}: no good utterance is left; {output.path} is not written")
        write_derived(output, rebased_table(manifest, output.path.parent)[is_good])
    if journal is not None:
        remove_journal(journal)
    return CheckResult(
        list=str(request.list),
        utterances=len(manifest),
        bad=len(bad_files),
        reasons=dict(Counter(file.reason for file in bad_files).most_common()),
        hours=hours(manifest.table[is_good]),
        out=None if request.out is None else str(request.out),
        bad_files=bad_files,
    )


def _journal(request: CheckRequest) -> Path | None:
    """Return the journal's directory, beside the list or else beside the new one; None: neither can be written."""
    for path in filter(None, (request.list, request.out)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                return path.parent / f".{request.list.name}.check"
        except OSError:
            continue
    return None


def _examine(
    manifest: Manifest, request: CheckRequest, journal: Path | None, progress: Progress
) -> dict[int, BadFile]:
    """Return the bad rows in any order."""
    options = scan.ScanOptions(
        min_seconds=request.min_seconds,
        num_workers=request.num_workers,
        measures_quality=True,
        journal=journal,
    )
    manifest.index()
    digests = np.zeros((len(manifest), 2), np.uint64)
    bad: dict[int, BadFile] = {}

    def refuse(row: int, reason: str, detail: str) -> None:
        name, path = manifest.text("utterance_id", row), str(manifest.audio(row))
        bad[row] = BadFile(utterance_id=name, reason=reason, detail=detail, path=path)

    sources = (Track(manifest.audio(row), manifest.channel(row)) for row in range(len(manifest)))
    found = scan.examine_all(sources, len(manifest), options, progress)
    for row, finding in enumerate(found):
        fault = _fault(manifest, row, finding, request)
        if fault is None:
            digests[row] = finding.digest_words()
        else:
            refuse(row, *fault)
    is_usable = np.ones(len(manifest), dtype=bool)
    is_usable[list(bad)] = False
    for row, first in scan.repeated_digests(digests, is_usable):
        detail = f"the same samples as {manifest.text('utterance_id', first)}"
        speaker = manifest.text("speaker_id", first)
        if speaker != manifest.text("speaker_id", row):
            detail += f", which is listed under speaker {speaker}"
        refuse(row, "duplicate", detail)
    return bad


def _fault(manifest: Manifest, row: int, finding: Finding, request: CheckRequest) -> tuple[str, str] | None:
    """Return the kind and the cause of what is wrong with a recording."""
    if finding.reason:
        return finding.reason, finding.detail
    listed = (int(manifest.sample_rates_hz[row]), int(manifest.num_samples[row]))
    found = (finding.sample_rate_hz, finding.num_samples)
    if listed != found and finding.missing:
        return "truncated", finding.missing
    if listed != found:
        expected = f"the list says {listed[1]} samples at {listed[0]} Hz"
        return "changed", f"{expected}, the file has {found[1]} at {found[0]} Hz"
    seconds = finding.num_samples / finding.sample_rate_hz
    if seconds < request.min_seconds:
        return "too short", f"{seconds:.3g} s, shorter than {request.min_seconds:g} s"
    if finding.level_db < SILENCE_DB:
        hint = f"; {finding.louder}: prepare takes --channel N|mix|loudest" if finding.louder else ""
        return "silent", f"nothing above {SILENCE_DB:g} dB of full scale{hint}"
    if finding.clipped_share > request.max_clipped:
        found_, allowed = 100 * finding.clipped_share, 100 * request.max_clipped
        return "clipped", f"{found_:.2g} % of the samples are cut off, more than {allowed:g} %"
    return None
