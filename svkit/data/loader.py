"""The loader that keeps training fed: worker processes that each fill whole batches ahead of time."""

import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

import torch
from torch.utils.data import DataLoader, Dataset

from svkit.data.dataset import CropDataset, CropKey
from svkit.errors import SvkitError, TrainingError, first_line

Batch = tuple[torch.Tensor, torch.Tensor]
"""Waveforms float32 `[B, N]` at 16 kHz, classes int64 `[B]`."""

_PREFETCH = 4
"""Batches that each loader process keeps ready."""


class LoaderLost(TrainingError):
    """A loader process has died."""


@dataclass(frozen=True)
class _Failure:
    """An error on its way out of a worker; torch would wrap it into a traceback of many lines."""

    kind: type[SvkitError]
    message: str


class _Batches(Dataset[Batch | _Failure]):
    """Makes one batch from its list of keys."""

    def __init__(self, dataset: CropDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, keys: Sequence[CropKey]) -> Batch | _Failure:
        try:
            items = [self._dataset[key] for key in keys]
        except SvkitError as error:
            # Sends only the family of the error, because its own class may not survive pickling.
            family = next(kind for kind in type(error).__mro__ if kind.__module__ == SvkitError.__module__)
            return _Failure(family, str(error))
        waveforms, classes = zip(*items, strict=True)
        return torch.stack(waveforms), torch.tensor(classes, dtype=torch.int64)


class CropLoader(DataLoader[Batch]):
    """A DataLoader that raises the readers' own errors in one line (LoaderLost: a loader process has died)."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        handler = signal.getsignal(signal.SIGCHLD)
        batches = super().__iter__()
        if handler is not None and threading.current_thread() is threading.main_thread():
            # torch's handler raises from whatever code is running, which may be the writing of a state. Without it,
            # a lost process is noticed within seconds, and only here.
            signal.signal(signal.SIGCHLD, handler)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                if self.num_workers and _is_loss(error):
                    raise LoaderLost(
                        f"a loader process has died: {first_line(error).rstrip('. ')}"
                    ) from error
                raise
            if isinstance(batch, _Failure):
                raise batch.kind(batch.message)
            yield batch


def _is_loss(error: Exception) -> bool:
    """Tell a lost process from an error that it has sent, to which torch prefixes "Caught"."""
    if isinstance(error, RuntimeError):
        return str(error).startswith(("DataLoader worker (pid", "Pin memory thread exited"))
    return not str(error).startswith("Caught ")


def build_loader(
    dataset: CropDataset,
    batches: Iterable[Sequence[CropKey]],
    *,
    num_workers: int,
    pin_memory: bool = False,
) -> CropLoader:
    """Build the training loader.

    Keys determine the crops, so workers need no seeds. There are `num_workers` processes of one thread each (0: this
    process loads), each with `_PREFETCH` batches ready. `pin_memory` makes batches page-locked, for a GPU.

    Returns:
        An iterable of `(waveforms float32 [B, N], classes int64 [B])`, in the order of `batches`.
    """
    return CropLoader(
        _Batches(dataset),  # type: ignore[arg-type]
        sampler=batches,
        batch_size=None,
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        prefetch_factor=_PREFETCH if num_workers else None,
        worker_init_fn=_start_worker,
        # torch draws a seed for the workers; from its global generator that would shift the model's dropout.
        generator=torch.Generator(),
    )


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    # Ctrl-C and a lost terminal reach the whole process group; the training process saves, then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.excepthook = _ignore_lost_parent


def _ignore_lost_parent(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Ignore that the training process closed its end of a connection: it ended, and has said why.

    multiprocessing's thread that hands batches over by file descriptor reports every lost connection as an exception.
    """
    if not isinstance(error, OSError | EOFError):
        sys.__excepthook__(kind, error, traceback)
