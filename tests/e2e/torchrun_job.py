"""Jobs of two processes under torchrun's own agent, all of them forks of a server that has torch in memory.

`torchrun` itself imports torch once for the agent and once for each process, which takes longer than most of these
jobs; tests/cli/test_extract.py starts it as users do.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import distributed
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from svkit.cli.app import app, main
from tests.processes import fork_server
from tests.training_experiment import one_process

SECONDS = 400.0
"""Longest wait for a job."""


@dataclass(frozen=True)
class Job:
    """A job that runs, or has ended."""

    process: multiprocessing.process.BaseProcess
    folder: Path

    @property
    def stdout(self) -> str:
        """What its processes have printed."""
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        """What its processes have said."""
        return (self.folder / "stderr").read_text()

    def worker(self, rank: int) -> int:
        """Return the process id of a rank that runs."""
        return int((self.folder / f"rank-{rank}").read_text())

    def terminate(self) -> None:
        """Stop the agent as a scheduler does."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGTERM)

    def wait(self) -> int:
        """Wait for the end; return the exit code."""
        self.process.join(SECONDS)
        assert self.process.exitcode is not None, self.stderr[-3000:]
        return self.process.exitcode


@contextlib.contextmanager
def started(folder: Path, *commands: list[Any]) -> Iterator[Job]:
    """Run one svkit command, or several one after another, in a job that ends with the block whatever happens."""
    folder.mkdir()
    words = [[str(word) for word in command] for command in commands]
    process = fork_server().Process(target=_agent, args=(folder, words))
    process.start()
    try:
        yield Job(process, folder)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()


def _agent(folder: Path, commands: list[list[str]]) -> None:
    os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(handle, number)
        os.close(handle)
    multiprocessing.set_start_method("fork", force=True)  # the default, not the one that started this process
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="fork",
        logs_specs=DefaultLogsSpecs(),
    )  # as of `torchrun --standalone --nproc-per-node 2`
    elastic_launch(config, _worker)(folder, commands)


def _worker(folder: Path, commands: list[list[str]]) -> None:
    (folder / f"rank-{os.environ['RANK']}").write_text(str(os.getpid()))
    if len(commands) == 1:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["svkit", *commands[0]]
        main()
    for words in commands:
        with one_process():
            app(words, standalone_mode=False)
    distributed.destroy_process_group()
