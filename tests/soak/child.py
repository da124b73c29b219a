"""What a child process runs: the real command line, and, where asked, its own death at a chosen file operation.

Imported by the fork server before it forks, so that a child has torch and every stage in memory: starting one takes
milliseconds instead of seconds, and it is a process like any other to signals, locks and limits.
"""

import contextlib
import ctypes
import json
import multiprocessing
import os
import resource
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft  # noqa: F401
import pytest  # noqa: F401  (the script that started the tests is read again in every child)
import scipy.signal  # noqa: F401  (imported late, by what resamples)
import torch.utils.tensorboard  # noqa: F401

import svkit.corpora.layouts.folder
import svkit.models.extract
import svkit.reports.report
import svkit.scoring.score
import svkit.training.distill
import svkit.training.finetune
import svkit.training.prune  # noqa: F401
from svkit.cli import signals
from svkit.cli.app import main
from svkit.store.provenance import PROVENANCE_NAME, sha256_file

_CHANGES = {"os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0}
"""Audit events that change the file system, and which argument is the path that appears or goes."""


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What happens to a command while it runs."""

    kill_at: int = 0
    """SIGKILL to itself right before its n-th change of the file system below `out`; 0: never."""
    kill_loader_at: int = 0
    """SIGKILL to a loader process after the n-th change, as soon as there is such a process; 0: never."""
    largest_file: int = 0
    """Bytes that a file may have (the system refuses to write more); 0: no limit."""
    is_plain_user: bool = False
    """Root gives up its right to read and write what the mode of a file forbids."""


def run_command(arguments: list[str], log: str, out: str, faults: Faults) -> None:
    """Run `svkit ARGUMENTS` with its output in `log`; what is seen of `out` goes to `log`.json when it ends."""
    multiprocessing.set_start_method("fork", force=True)  # the default, not the one that started this child
    # Ignored in what a shell runs in the background, and under nohup.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signals.install()  # from here on, and the log says so, this process may be stopped
    try:
        _run(arguments, log, out, faults)
    except signals.STOPS as stop:  # before or after the command itself
        sys.exit(signals.exit_code(stop))


def _run(arguments: list[str], log: str, out: str, faults: Faults) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    watcher = _Watcher(out, faults)
    sys.addaudithook(watcher)
    if faults.largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (faults.largest_file, faults.largest_file))
    if faults.is_plain_user:
        _drop_capabilities()
    sys.argv = ["svkit", *arguments]
    try:
        main()
    finally:
        watcher.out = ""
        with contextlib.suppress(OSError):
            seen = {"num_changes": watcher.num_changes, "states": watcher.states}
            Path(f"{log}.json").write_text(json.dumps(seen))


def _drop_capabilities() -> None:
    """Empty the sets of capabilities of this process (capset(2), version 3): owner root is then an owner like any."""
    header, empty = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None).capset(header, empty) != 0:
        raise OSError("capset failed")


class _Watcher:
    """Counts the changes of the file system, and hashes the resume state right before it has done its duty."""

    def __init__(self, out: str, faults: Faults) -> None:
        self.out, self.faults, self.num_changes = out, faults, 0
        self.is_loader_killed = not faults.kill_loader_at
        self.states: dict[str, str] = {}

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_loader_killed and self.num_changes >= self.faults.kill_loader_at:
            self._kill_a_loader()
        if not self.out or event not in ("open", *_CHANGES):
            return
        path = arguments[_CHANGES.get(event, 0)]
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        if not isinstance(path, str | os.PathLike) or not os.fspath(path).startswith(self.out):
            return
        self.num_changes += 1
        if self.num_changes == self.faults.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if event == "os.rename" and Path(path).name == PROVENANCE_NAME:
            self.states = state_hashes(Path(self.out))

    def _kill_a_loader(self) -> None:
        for worker in multiprocessing.active_children()[:1]:
            assert worker.pid is not None
            self.is_loader_killed = True
            os.kill(worker.pid, signal.SIGKILL)
            os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)  # until it is dead; torch buries it


def state_hashes(out: Path) -> dict[str, str]:
    """Hashes of the tensors of the newest resume state: weights, gates, multipliers, optimiser; empty without one."""
    files = sorted(out.glob("resume/step-*/*.safetensors"))
    newest = files[-1].parent if files else None
    return {path.relative_to(out).as_posix(): sha256_file(path) for path in files if path.parent == newest}
