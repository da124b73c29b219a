"""Audio made during preparation (converted, joined, cut): in parallel, resumable, and only if there is room for it."""

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from svkit.audio.resample import SAMPLE_RATE_HZ
from svkit.cores import available_cores
from svkit.corpora.scan import BadFile, Candidate
from svkit.errors import ArtifactError
from svkit.progress import Progress, Task
from svkit.store.audio_file import CONVERTIBLE_SUFFIXES, AudioError
from svkit.store.transcode import find_ffmpeg, transcode

FLAC_BYTES_PER_SAMPLE = 1.3
"""For estimates, on the safe side: flac takes some 60 % of the bytes of 16-bit speech."""
_SAMPLE_FILES = 32
"""Files converted first, spread over the corpus, to estimate the room that the others need."""
_CHUNK_FILES = 64

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """How audio that libsndfile cannot read is treated."""

    is_wanted: bool = True
    """False: such files count as bad."""
    suffix: str = ".flac"
    """Suffix of the new files: `.flac` or `.wav`."""
    all_channels: bool = False
    """Keep all channels, not only the first one."""
    directory: Path | None = None
    """Directory of the new files; None: a directory `flac` or `wav` beside the one called `aac`."""


def convert_files(
    candidates: Sequence[Candidate],
    options: Conversion,
    target_of: Callable[[Candidate], Path],
    num_workers: int | None,
    progress: Progress,
) -> tuple[list[Candidate], list[BadFile]]:
    """Convert the files that libsndfile cannot read to 16 kHz; files from an earlier run are kept.

    Returns:
        All usable files in their old order, the converted ones with the path that `target_of` gives; and the files that
        cannot be converted.

    Raises:
        ConfigError: there are files to convert, but no ffmpeg.
        ArtifactError: there is not enough room, or the target cannot be written.
    """
    targets = {
        index: target_of(file)
        for index, file in enumerate(candidates)
        if options.is_wanted and os.path.splitext(file.path)[1].lower() in CONVERTIBLE_SUFFIXES  # noqa: PTH122
    }
    missing = [index for index, target in targets.items() if not target.exists()]
    if 0 < len(missing) < len(targets):
        progress.note(f"{len(targets) - len(missing):,} files are already converted and kept")
    bad: dict[int, BadFile] = {}
    if missing:
        ffmpeg = find_ffmpeg()

        def convert(index: int) -> None:
            try:
                source = Path(candidates[index].path)
                transcode(ffmpeg, source, targets[index], SAMPLE_RATE_HZ, all_channels=options.all_channels)
            except AudioError as error:
                file = candidates[index]
                bad[index] = BadFile(file.utterance_id, error.reason, error.detail, file.path)

        # A few files from all over the corpus tell how much room all of them need, before a disk is filled in vain.
        step = max(1, -(-len(missing) // _SAMPLE_FILES))
        first, others = missing[::step], [index for n, index in enumerate(missing) if n % step]
        try:
            with progress.task(f"converting to {options.suffix[1:]}", len(missing)) as task:
                in_parallel(convert, first, num_workers, task)
                sizes = [targets[index].stat().st_size for index in first if index not in bad]
                if sizes and others:
                    needed = sum(sizes) / len(sizes) * len(others)
                    what = f"converting {len(others):,} more files"
                    check_room(targets[first[0]].parent, needed, what, progress)
                in_parallel(convert, others, num_workers, task)
        except ArtifactError as error:
            raise ArtifactError(f"{error} (--convert-to DIR)") from error
    kept = [
        replace(file, path=targets[index].as_posix()) if index in targets else file
        for index, file in enumerate(candidates)
        if index not in bad
    ]
    return kept, [bad[index] for index in sorted(bad)]


def check_room(directory: Path, needed_bytes: float, what: str, progress: Progress) -> None:
    """Note how much room something needs (ArtifactError: `directory` has less)."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    room = f"{what} needs about {_size(needed_bytes)} in {directory}, where {_size(free)} are free"
    if needed_bytes > free:
        raise ArtifactError(f"{room}; free some space or choose another directory")
    progress.note(room)


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:,.1f} MB"


def in_parallel(
    work: Callable[[Item], None], items: Sequence[Item], num_workers: int | None, task: Task
) -> None:
    """Call `work` with every item, in threads, as the work happens outside the interpreter's lock."""
    workers = num_workers or available_cores()
    # Few items go in small chunks, so that every thread gets some. Chunks of one would need gigabytes for a million.
    size = max(1, min(_CHUNK_FILES, len(items) // (4 * workers)))
    chunks = [items[start : start + size] for start in range(0, len(items), size)]

    def work_through(chunk: Sequence[Item]) -> int:
        for item in chunk:
            work(item)
        return len(chunk)

    with ThreadPoolExecutor(workers) as executor:
        for done in executor.map(work_through, chunks):  # if one fails, the rest is cancelled
            task.advance(done)
