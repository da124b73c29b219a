"""Processes of a test of several processes: how they start, quickly, and how they end."""

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, NoReturn

import torch.multiprocessing
from torch import distributed

REPOSITORY = Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:  # pytest finds `tests` without it, the fork server does not
    sys.path.append(str(REPOSITORY))


def fork_server() -> ForkServerContext:
    """Return the context of a server that has torch and every stage in memory: it forks in milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.soak.child"])
    with contextlib.ExitStack() as stack:
        stack.callback(os.chdir, Path.cwd())
        os.chdir(REPOSITORY)  # where the server finds `tests`
        forkserver.ensure_running()
    return context


def run_in_two(function: Callable[..., None], *arguments: Any) -> None:
    """Run `function(rank, *arguments)` in two processes and wait for both."""
    fork_server()
    torch.multiprocessing.start_processes(function, arguments, nprocs=2, start_method="forkserver")


def leave() -> NoReturn:
    """Leave the group, and the interpreter without its teardown, as a process of a torchrun job does.

    Gloo's threads may still hold Python objects then, which aborts a process whose work is done and written. An error
    before this point ends the process with its traceback.
    """
    distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
