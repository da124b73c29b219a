"""`svkit prepare demo`: the built-in corpus of synthetic voices, with its fixed protocol."""

import contextlib
import signal
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from svkit.audio.resample import SAMPLE_RATE_HZ
from svkit.cores import available_cores
from svkit.corpora.request import CorpusRequest, CorpusResult, EvaluationList
from svkit.corpora.scan import Candidate
from svkit.corpora.skeleton import Found, prepare
from svkit.demo.synthesis import UtterancePlan, plan_corpus, render
from svkit.errors import ArtifactError
from svkit.progress import Progress, Task
from svkit.store.atomic import write_bytes
from svkit.store.audio_file import write_flac
from svkit.store.lists import DEMO_TRIALS, read_shipped
from svkit.store.trials import read_trials

_VALID_SPEAKERS = 8
"""With a twentieth, three, a single pair of similar voices would decide which checkpoint is kept."""


def run(
    request: CorpusRequest, progress: Progress, plans: Sequence[UtterancePlan] | None = None
) -> CorpusResult:
    """Render the demo corpus below `exp/data/demo` and write its lists.

    Tests pass `plans` to render only a part of it; None: all of it, with the shipped protocol.
    """
    if plans is None and request.valid_speakers is None:
        request = replace(request, valid_speakers=_VALID_SPEAKERS)

    def find(data: Path) -> Found:
        root = data / "demo"
        chosen = plan_corpus() if plans is None else plans
        _render_all(chosen, root, request.scan.num_workers, progress)
        files = [
            Candidate(plan.utterance_id, plan.speaker_id, plan.session_id, str(root / plan.utterance_id))
            for plan in chosen
        ]
        lists = []
        if plans is None:
            path = data / "trials" / "demo.txt"
            write_bytes(path, read_shipped(DEMO_TRIALS))
            lists = [EvaluationList(name="demo", trials=read_trials(path), source=path)]
        evaluation = [plan.utterance_id for plan in chosen if plan.split == "eval"]
        return Found(groups=[files], evaluation=evaluation, lists=lists)

    return prepare(request, progress, "demo", find, is_rendered=True)


def _render_all(
    plans: Sequence[UtterancePlan], root: Path, num_workers: int | None, progress: Progress
) -> None:
    workers = min(num_workers or available_cores(), len(plans))
    with progress.task("rendering voices", len(plans)) as task:
        if workers == 1:
            for plan in plans:
                _write(root, plan)
                task.advance()
        else:
            _render_in_processes(plans, root, workers, task)


_EXIT_SECONDS = 10


def _render_in_processes(plans: Sequence[UtterancePlan], root: Path, workers: int, task: Task) -> None:
    """Render with several processes, which end when this one does.

    A terminal sends a signal to all of them. An executor hangs if that stops a worker while it holds a lock of the
    queue, so these have no queue, and leave signals to this process: they end after the present voice, because nobody
    listens any more.
    """
    # Spawned, not forked: forking is unsafe while the progress display runs a thread.
    context, running = get_context("spawn"), dict[Connection, BaseProcess]()
    try:
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        try:
            for first in range(workers):
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(
                    target=_write_several, args=(theirs, root, plans[first::workers]), daemon=True
                )
                process.start()
                theirs.close()
                running[ours] = process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        left = list(running)
        while left:
            for connection in wait(left):
                assert isinstance(connection, Connection)
                try:
                    found = connection.recv()
                except EOFError as error:
                    raise ArtifactError(
                        f"{root}: a process that renders voices was killed; run the same command again"
                    ) from error
                if isinstance(found, Exception):
                    raise found
                if found is None:
                    left.remove(connection)
                else:
                    task.advance()
    finally:
        for connection in running:
            connection.close()
        for worker in running.values():
            worker.join(_EXIT_SECONDS)
            worker.kill()
            worker.join()


def _write_several(result: Connection, root: Path, plans: Sequence[UtterancePlan]) -> None:
    """Send the id of each utterance that is written, and in the end None, or what went wrong."""
    with contextlib.suppress(BrokenPipeError):  # the other process has been stopped
        for plan in plans:
            try:
                _write(root, plan)
            except Exception as error:
                result.send(error)
                return
            result.send(plan.utterance_id)
        result.send(None)


def _write(root: Path, plan: UtterancePlan) -> None:
    write_flac(root / plan.utterance_id, render(plan), SAMPLE_RATE_HZ)
