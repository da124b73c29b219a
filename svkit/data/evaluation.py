"""Whole utterances for validation and extraction: sorted by length, packed by padded audio, read ahead."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from svkit.data.audio_source import read_whole
from svkit.store.manifest import Manifest

BATCHES_AHEAD = 2
"""Batches read beyond the current one; bounds the memory."""
_NUM_THREADS = 2


def length_sorted_batches(
    manifest: Manifest,
    *,
    max_seconds: float = 60.0,
    batch_seconds: float = 160.0,
    done_rows: Sequence[int] | NDArray[np.int64] = (),
    rank: int = 0,
    num_processes: int = 1,
) -> list[NDArray[np.int64]]:
    """Plan batches of rows, longest first, each with at most `batch_seconds` of padded audio but at least one row.

    Rank r of n takes every n-th batch from r, so that each row is taken once and all ranks get similar lengths. Batches
    that hold only `done_rows` are left out. The others stay the same, because the rounding of an embedding depends on
    its batch, and a resumed extraction has to give the same bytes.
    """
    seconds = np.minimum(manifest.durations_seconds, max_seconds)
    order = np.argsort(-seconds, kind="stable")
    is_done = np.isin(order, np.asarray(done_rows, dtype=np.int64))
    batches = []
    first = 0
    while first < len(order):
        # 1e-9: a quotient such as 28.999999999999996 stands for 29 recordings.
        last = first + max(1, int(batch_seconds / max(seconds[order[first]], 1e-3) + 1e-9))
        if not is_done[first:last].all():
            batches.append(order[first:last])
        first = last
    return batches[rank::num_processes]


def read_batches(
    manifest: Manifest,
    batches: Iterable[NDArray[np.int64]],
    *,
    max_seconds: float = 60.0,
    change: Callable[[NDArray[np.float32], int], NDArray[np.float32]] | None = None,
) -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.float32]]]]:
    """Read batches of utterances in threads, ahead of the model (decoding releases the interpreter lock).

    `max_seconds` and errors are as in `read_whole`. `change` turns a waveform and its row into another waveform of
    equal length (`svkit.data.conditions`).

    Yields:
        Rows int64 `[B]` and their waveforms, B arrays float32 `[N]` at 16 kHz, in the order of `batches`.
    """
    remaining = iter(batches)
    pending: deque[tuple[NDArray[np.int64], list[Future[NDArray[np.float32]]]]] = deque()
    pool = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="svkit-read")

    def read(row: int) -> NDArray[np.float32]:
        signal = read_whole(manifest, row, max_seconds)
        return signal if change is None else change(signal, row)

    def submit(count: int) -> None:
        for rows in islice(remaining, count):
            pending.append((rows, [pool.submit(read, int(row)) for row in rows]))

    try:
        submit(1 + BATCHES_AHEAD)
        while pending:
            rows, futures = pending.popleft()
            waveforms = [future.result() for future in futures]
            submit(1)
            yield rows, waveforms
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
