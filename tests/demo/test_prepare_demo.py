import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from svkit.corpora import splits
from svkit.corpora.request import CorpusRequest
from svkit.corpora.scan import ScanOptions
from svkit.demo import corpus as demo
from svkit.demo.synthesis import plan_corpus, render
from svkit.errors import ArtifactError
from svkit.progress import SilentProgress
from svkit.store.audio_file import read_audio
from svkit.store.experiment import read_experiment
from svkit.store.lists import DEMO_EVAL_SPEAKERS, DEMO_TRIALS, read_shipped
from svkit.store.manifest import read_manifest
from svkit.store.trials import read_trials
from tests.processes import fork_server

PROTOCOL_SEED = 24  # which the shipped trials were drawn with


def test_the_shipped_protocol_is_what_the_generator_makes(tmp_path):
    plans = [plan for plan in plan_corpus() if plan.split == "eval"]
    assert sorted({plan.speaker_id for plan in plans}) == read_shipped(DEMO_EVAL_SPEAKERS).decode().split()
    columns = ("utterance_id", "speaker_id", "session_id")
    table = pd.DataFrame({name: [getattr(plan, name) for plan in plans] for name in columns})
    made = splits.make_trials(table, PROTOCOL_SEED, "demo")
    (tmp_path / "t.txt").write_bytes(read_shipped(DEMO_TRIALS))
    shipped = read_trials(tmp_path / "t.txt")
    for name in ("enroll_ids", "test_ids", "labels"):
        assert np.array_equal(getattr(made, name), getattr(shipped, name))


def test_a_part_of_the_corpus_is_rendered_and_listed(tmp_path):
    wanted = {"spk01", "spk02", "spk03", "spk05", "spk04", "spk08"}
    plans = [
        plan for plan in plan_corpus() if plan.speaker_id in wanted and plan.utterance_id.endswith("/01.flac")
    ]
    request = CorpusRequest(exp=tmp_path / "exp", scan=ScanOptions(num_workers=1))
    result = demo.run(request, SilentProgress(), plans)
    assert (result.train_speakers, result.valid_speakers, result.eval_speakers) == (2, 2, 2)
    assert result.trials == {"demo": {"targets": 6, "nontargets": 9}}
    assert read_experiment(tmp_path / "exp").preset == "tiny"
    (tmp_path / "exp").rename(tmp_path / "moved")
    evaluation = read_manifest(tmp_path / "moved" / "data" / "eval.tsv")
    plan = next(plan for plan in plans if plan.utterance_id == evaluation.utterance_ids[0])
    assert evaluation.column("session_id")[0] == plan.session_id
    assert np.array_equal(read_audio(evaluation.audio_path(0)), render(plan))


@pytest.mark.slow
def test_processes_render_what_one_does_and_report_what_goes_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "get_context", lambda _: fork_server())
    plans = plan_corpus()[:5]
    with SilentProgress().task("", 5) as task:
        demo._render_in_processes(plans, tmp_path / "two", 2, task)
        for plan in plans:
            assert np.array_equal(read_audio(tmp_path / "two" / plan.utterance_id), render(plan))
        (tmp_path / "file").write_text("no directory")
        with pytest.raises(ArtifactError, match="cannot be written"):
            demo._render_in_processes(plans, tmp_path / "file", 2, task)


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_ends_the_rendering_and_the_command_goes_on(tmp_path, number, handlers):
    """As a terminal sends it; a worker that it stopped in the middle once left the others waiting for ever."""
    # In the background of a shell SIGINT is ignored, and a process inherits that; the fixture restores the handler.
    signal.signal(number, signal.default_int_handler)
    command = [sys.executable, "-m", "svkit", "prepare", "demo", "--preset", "tiny", "--workers", "2"]
    for _ in range(2):
        process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE)
        before = len(list(tmp_path.rglob("*.flac")))
        while process.poll() is None and len(list(tmp_path.rglob("*.flac"))) < before + 5:
            time.sleep(0.01)
        os.killpg(process.pid, number)
        process.communicate(timeout=60)
        assert process.returncode == (130 if number == signal.SIGINT else 143)
        with pytest.raises(ProcessLookupError):
            for _ in range(500):  # the last to end is the one that multiprocessing keeps for semaphores
                os.killpg(process.pid, 0)
                time.sleep(0.01)
