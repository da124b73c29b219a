"""What the commands that compute in several processes share: set-up, outputs, and the request to stop.

Only the main process reads records, writes and prints. It tells the others what it has decided, and they wait for it
where an output is opened and where it is finished.
"""

import contextlib
import ctypes
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from types import FrameType
from typing import Any, NoReturn, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    broadcast_object_list,
)

from svkit.errors import ConfigError, SvkitError
from svkit.nn.precision import resolve_precision, set_gpu_arithmetic
from svkit.progress import Progress
from svkit.store import checkpoint
from svkit.store.output import Output, continue_parts

_KINDS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
"""One process, or several that each hold a whole copy of the model."""
DOUBLE_SIGNAL_SECONDS = 1.0
"""Launchers and terminals may deliver one request to stop twice (process group and process) within this time."""
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""Options of glibc's `mallopt`."""

Answer = TypeVar("Answer")


def make_accelerator(precision: str) -> Accelerator:
    """Set up processes, device and autocast by Hugging Face Accelerate: one process, torchrun, or several machines.

    Raises:
        ConfigError: `accelerate launch` asks for FSDP, DeepSpeed or the like.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    resolved = resolve_precision(precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    set_gpu_arithmetic(precision, device)
    if not torch.distributed.is_initialized():
        # Accelerate keeps the first precision of a Python process for good; another stage may want another one.
        AcceleratorState._reset_state(reset_partial_state=True)
    # Gradients are views of the buckets they are exchanged in, which saves a copy of them. Buffers are equal in all
    # processes without an exchange: batch norms are synchronised, and drawn classes depend on the labels of all.
    exchange = DistributedDataParallelKwargs(
        find_unused_parameters=False, gradient_as_bucket_view=True, broadcast_buffers=False
    )
    # Longer than the others may have to wait for one process, such as for its write to a slow disk.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=2))
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if resolved == "bf16" else "no",
        kwargs_handlers=[exchange, patience],
    )
    if accelerator.distributed_type not in _KINDS:
        raise ConfigError(
            f"{accelerator.distributed_type.value}: not supported, because svkit saves and clips whole "
            "parameters; start the processes with torchrun, and use gradient_checkpointing for small "
            "GPUs"
        )
    return accelerator


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory; elsewhere nothing happens. Returns whether the allocator took the settings.

    Training on a CPU allocates the same large tensors in every step. glibc gives each of them back to the system and
    gets it again, zeroed page by page, which is a quarter of the computing time of a step of the `tiny` model.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    # Take large blocks from the heap too; never shrink the heap, and grow it by 64 MiB.
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 * 2**20))
    return all(libc.mallopt(ctypes.c_int(option), ctypes.c_int(value)) == 1 for option, value in settings)


def give_back_freed_memory() -> None:
    """Tell glibc to give freed memory back to the system, which it does not do by itself between used blocks."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def on_main(accelerator: Accelerator, action: Callable[[], Answer]) -> Answer:
    """Run `action` on the main process and return its result everywhere; its error ends every process."""
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = action()
        except (SvkitError, OSError) as error:
            outcome[1] = error
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome, from_process=0)
    if outcome[1] is not None:
        raise outcome[1]
    answer: Answer = outcome[0]
    return answer


def unfinished(outputs: Sequence[Output], accelerator: Accelerator, progress: Progress) -> Iterator[int]:
    """Yield the index of each output that has to be made, after those before it are made; see `Output.is_kept`."""
    on_main(accelerator, partial(continue_parts, outputs))
    for number, output in enumerate(outputs):
        if not on_main(accelerator, partial(output.is_kept, progress)):
            yield number


@contextlib.contextmanager
def opened(output: Output, accelerator: Accelerator) -> Iterator[None]:
    """Hold an output on the main process, and let every process know whether it is resumed; see `Output.open`."""
    output.is_resumed = on_main(accelerator, lambda: output.open().is_resumed)
    try:
        yield
    finally:
        output.close()


def finish(output: Output, accelerator: Accelerator, facts: Mapping[str, Any]) -> None:
    """Finish an output (main process) with more facts for its provenance."""
    # In this order, a process killed in between leaves a finished output, not one with neither result nor state.
    output.finish({"num_processes": accelerator.num_processes, "device": str(accelerator.device), **facts})
    checkpoint.remove_resume(output.path)


def exit_code(number: int) -> int:
    """Return the exit code of a command stopped by a signal; SIGHUP (a lost terminal) counts as a termination."""
    return 130 if number == signal.SIGINT else 143


@dataclass
class StopSignal:
    """Turns SIGINT, SIGTERM and SIGHUP into a request to save and stop; a second one stops at once."""

    received: int | None = None
    _since: float = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.received is None:
            self.received, self._since = number, time.monotonic()
            if os.environ.get("RANK", "0") == "0":
                with contextlib.suppress(OSError):  # not by sys.stderr, which may be in the middle of a line
                    os.write(
                        2,
                        b"stopping as soon as the state is saved; interrupt again to stop at once without saving\n",
                    )
        elif time.monotonic() - self._since > DOUBLE_SIGNAL_SECONDS:
            sys.exit(exit_code(number))

    @contextlib.contextmanager
    def installed(self) -> Iterator["StopSignal"]:
        """Handle the signals inside the block (main thread only); what is ignored, as under nohup, stays ignored.

        A signal that the block did not answer, because it came after the last step, is sent again at its end.
        """
        previous = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    previous[number] = signal.signal(number, self)
        except ValueError:  # not the main thread: leave the signals alone
            pass
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        if self.received is not None:
            signal.raise_signal(self.received)

    def leave(self, output: Output, progress: Progress) -> NoReturn:
        """Say that the state is saved, and exit."""
        progress.note(
            f"interrupted: the state is saved in {output.path}; run the same command again to resume"
        )
        # Another process of the job may have received the signal, and not this one.
        sys.exit(exit_code(self.received or signal.SIGINT))
