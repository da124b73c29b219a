"""`svkit prepare demo`: the embedded corpus of synthetic voices, with its fixed protocol."""

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from svkit.audio.resample import SAMPLE_RATE_HZ
from svkit.corpora import splits
from svkit.corpora.corpus import DataDirectory
from svkit.corpora.evaluation_lists import named_rows
from svkit.corpora.request import CorpusRequest, CorpusResult, EvaluationList
from svkit.corpora.scan import Candidate, scan_files
from svkit.demo.synthesis import UtterancePlan, plan_corpus, render
from svkit.progress import Progress
from svkit.store.atomic import write_bytes
from svkit.store.audio_file import write_flac
from svkit.store.lists import DEMO_EVAL_SPEAKERS, DEMO_TRIALS, read_shipped
from svkit.store.trials import read_trials

PROTOCOL_SEED = 24
"""The shipped trial list was made with this seed; `--seed` moves the validation speakers only."""
_CHUNK_UTTERANCES = 6


def run(
    request: CorpusRequest, progress: Progress, plans: Sequence[UtterancePlan] | None = None
) -> CorpusResult:
    """Render the demo corpus below `exp/data/demo` and write its lists.

    Args:
        request: of its fields, those about given material are not used.
        progress: counts utterances.
        plans: part of the corpus for tests (None: all of it, with the shipped protocol).
    """
    config = {"valid_speakers": request.valid_speakers}
    with DataDirectory(request, progress, "demo", config, "tiny") as data:
        if data.finished is not None:
            return data.finished
        data.clear()
        chosen = plan_corpus() if plans is None else plans
        root = data.path / "demo"
        _render_all(chosen, root, request.scan.num_workers, progress)
        candidates = [
            Candidate(
                utterance_id=plan.utterance_id,
                speaker_id=plan.speaker_id,
                session_id=plan.session_id,
                path=str(root / plan.utterance_id),
            )
            for plan in chosen
        ]
        table, bad = scan_files(candidates, request.scan, progress, "checking audio")
        data.accept(bad, len(candidates))
        eval_speakers = {plan.speaker_id for plan in chosen if plan.split == "eval"}
        is_eval = table["speaker_id"].isin(eval_speakers)
        if plans is None:
            path = data.path / "trials" / "demo.txt"
            write_bytes(path, read_shipped(DEMO_TRIALS))
            trials = read_trials(path)
            splits.check_trials(path, trials, table)
        else:
            trials = splits.make_trials(table[is_eval], PROTOCOL_SEED, "demo")
        lists = [EvaluationList(name="demo", trials=trials, source=None)]
        return data.write(table[~is_eval], named_rows(table, lists), lists, bad, progress)


def shipped_eval_speakers() -> list[str]:
    """Return the evaluation speakers of the shipped protocol."""
    return read_shipped(DEMO_EVAL_SPEAKERS).decode("utf-8").split()


def _render_all(
    plans: Sequence[UtterancePlan], root: Path, num_workers: int | None, progress: Progress
) -> None:
    workers = min(num_workers or os.cpu_count() or 1, len(plans))
    chunks = [plans[start : start + _CHUNK_UTTERANCES] for start in range(0, len(plans), _CHUNK_UTTERANCES)]
    with progress.task("rendering voices", len(plans)) as task:
        if workers == 1:
            for chunk in chunks:
                task.advance(_render_chunk(chunk, root))
            return
        # Spawned, not forked: the progress display may run a thread.
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as executor:
            try:
                for count in executor.map(_render_chunk, chunks, [root] * len(chunks)):
                    task.advance(count)
            except BaseException:
                executor.shutdown(cancel_futures=True)
                raise


def _render_chunk(plans: Sequence[UtterancePlan], root: Path) -> int:
    for plan in plans:
        write_flac(root / plan.utterance_id, render(plan), SAMPLE_RATE_HZ)
    return len(plans)
