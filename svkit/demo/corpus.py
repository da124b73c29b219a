"""`svkit prepare demo`: the built-in corpus of synthetic voices, with its fixed protocol."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from svkit.audio.resample import SAMPLE_RATE_HZ
from svkit.cores import available_cores
from svkit.corpora.request import CorpusRequest, CorpusResult, EvaluationList
from svkit.corpora.scan import Candidate
from svkit.corpora.skeleton import Found, prepare
from svkit.demo.synthesis import UtterancePlan, plan_corpus, render
from svkit.progress import Progress
from svkit.store.atomic import write_bytes
from svkit.store.audio_file import write_flac
from svkit.store.lists import DEMO_TRIALS, read_shipped
from svkit.store.trials import read_trials

_CHUNK_UTTERANCES = 6
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
    write = partial(_write, root)
    with progress.task("rendering voices", len(plans)) as task:
        if workers == 1:
            for plan in plans:
                write(plan)
                task.advance()
            return
        # Spawned, not forked: forking is unsafe while the progress display runs a thread.
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as executor:
            for _ in executor.map(write, plans, chunksize=_CHUNK_UTTERANCES):
                task.advance()


def _write(root: Path, plan: UtterancePlan) -> None:
    write_flac(root / plan.utterance_id, render(plan), SAMPLE_RATE_HZ)
