import numpy as np
import pandas as pd

from svkit.corpora import splits
from svkit.corpora.request import CorpusRequest
from svkit.corpora.scan import ScanOptions
from svkit.demo import corpus as demo
from svkit.demo.synthesis import plan_corpus, render
from svkit.progress import SilentProgress
from svkit.store.audio_file import read_audio
from svkit.store.experiment import read_experiment
from svkit.store.lists import DEMO_EVAL_SPEAKERS, DEMO_TRIALS, read_shipped
from svkit.store.manifest import read_manifest
from svkit.store.trials import read_trials

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
