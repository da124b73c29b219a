"""What every command that computes over processes shares: them and their precision, its output, its interruption.

Only the main process writes; the others wait for it where the output is opened and where it is finished.
"""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, broadcast_object_list

from svkit.errors import ConfigError, SvkitError
from svkit.models.allocator import keep_freed_memory
from svkit.nn.precision import resolve_precision
from svkit.store import checkpoint as store
from svkit.store.output import Output

_KINDS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
"""One process, or whole copies of the model in each of several."""
DOUBLE_SIGNAL_SECONDS = 1.0
"""Launchers and terminals may deliver one request to stop twice (process group and process) within this time."""


def make_accelerator(precision: str) -> Accelerator:
    """Processes, device and autocast (Hugging Face Accelerate: one process, torchrun, several machines).

    Raises:
        ConfigError: `accelerate launch` asks for FSDP, DeepSpeed or the like.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    resolved = resolve_precision(precision, device)
    if device.type == "cpu":
        keep_freed_memory()
    if not torch.distributed.is_initialized():
        # Accelerate keeps the first precision of a Python process for good; another stage may want another one.
        AcceleratorState._reset_state(reset_partial_state=True)
    # Gradients as views of the buckets they are exchanged in: one copy of them instead of two.
    exchange = DistributedDataParallelKwargs(find_unused_parameters=False, gradient_as_bucket_view=True)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if resolved == "bf16" else "no",
        kwargs_handlers=[exchange],
    )
    if accelerator.distributed_type not in _KINDS:
        raise ConfigError(
            f"{accelerator.distributed_type.value}: not supported, it would shard what svkit saves and clips as a "
            "whole; start the processes with torchrun, and see gradient_checkpointing for small GPUs"
        )
    return accelerator


def on_main(accelerator: Accelerator, action: Callable[[], Any]) -> Any:
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
    return outcome[0]


def exit_code(number: int) -> int:
    """Return the exit code of a command that a signal has stopped: a dropped terminal (SIGHUP) terminates too."""
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
        elif time.monotonic() - self._since > DOUBLE_SIGNAL_SECONDS:
            sys.exit(exit_code(number))

    @contextlib.contextmanager
    def installed(self) -> Iterator["StopSignal"]:
        """Handle the signals inside the block (main thread only); what is ignored, as under nohup, stays ignored."""
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


class StageOutput:
    """The output directory of a stage as every process sees it; the main one holds the lock."""

    def __init__(self, accelerator: Accelerator, output: Output) -> None:
        """Take the output on the main process; see `svkit.store.output`."""
        self.accelerator = accelerator
        self.path = output.path
        self._output = output
        self.is_resumed = bool(on_main(accelerator, lambda: output.open().is_resumed))

    def input_hash(self, name: str) -> str:
        """Return the sha256 that an input had when the stage began (main process)."""
        return self._output.hashes[name]

    def recorded(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record as it is written here (main process); see `svkit.store.places`."""
        return self._output.recorded(record)

    def finish(self, extra: Mapping[str, Any]) -> None:
        """Write the provenance (main process), then wait for each other."""

        def action() -> None:
            # In this order: killed in between, the output is finished, not without result and state.
            self._output.finish({"num_processes": self.accelerator.num_processes, **extra})
            store.remove_resume(self.path)

        on_main(self.accelerator, action)

    def __enter__(self) -> "StageOutput":
        """Return the output."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        self._output.close()
