"""A cohort given as a manifest: extracted with the scored system's own checkpoint, once."""

import json

import numpy as np
import pandas as pd
import pytest
import soundfile

from svkit.config.load import load_recipe
from svkit.errors import ArtifactError, DataError
from svkit.models.extract import ExtractRequest
from svkit.models.extract import run as extract
from svkit.progress import SilentProgress
from svkit.scoring.backend import Backend
from svkit.scoring.material import material_directory
from svkit.scoring.request import ScoreRequest
from svkit.scoring.score import run
from svkit.store.embeddings import read_embeddings
from svkit.store.manifest import COLUMNS, write_manifest
from svkit.store.scores import read_scores
from tests.fake_experiment import DENSE, make_checkpoint

RATE = 16000


def make_audio(home, speakers):
    """Noise of a colour of its own for each speaker, two files each; return the manifest."""
    ids = [f"{speaker}/{take}.wav" for speaker in speakers for take in range(2)]
    for number, name in enumerate(ids):
        signal = np.random.default_rng(number).normal(size=RATE // 2)
        coloured = np.convolve(signal, np.ones(1 + ord(name[0]) % 7), "same")
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(home / name, 0.1 * coloured, RATE)
    table = pd.DataFrame(
        {"utterance_id": ids, "speaker_id": [name[0] for name in ids], "path": ids,
         "sample_rate_hz": str(RATE), "num_samples": str(RATE // 2), "session_id": ""}
    )[list(COLUMNS)]  # fmt: skip
    write_manifest(home / "list.tsv", table)
    return home / "list.tsv"


@pytest.fixture
def exp(tmp_path):
    """A random model, embeddings of four speakers, and a manifest of five others."""
    exp = tmp_path / "exp"
    make_checkpoint(exp / "finetune" / "lmft", DENSE, [])
    evaluated = make_audio(tmp_path / "eval", "abcd")
    make_audio(tmp_path / "cohort", "vwxyz").rename(tmp_path / "cohort" / "other.tsv")
    place = exp / "embeddings" / "dense"
    request = ExtractRequest(exp=exp, recipe=load_recipe("smoke"), manifest=evaluated, out=place)
    extract(request, SilentProgress())
    trials = tmp_path / "trials.txt"
    trials.write_text("1 a/0.wav a/1.wav\n0 a/0.wav b/1.wav\n1 c/0.wav c/1.wav\n0 c/0.wav d/1.wav\n")
    return exp


def test_a_manifest_is_embedded_with_the_checkpoint_of_the_system_and_used(exp):
    manifest = exp.parent / "cohort" / "other.tsv"
    request = ScoreRequest(
        exp=exp,
        trials=exp.parent / "trials.txt",
        backend=Backend(norm="asnorm", top_n=4),
        cohorts=(manifest,),
    )
    done = run(request, SilentProgress()).systems[0]
    cohort = read_embeddings(exp / "cohorts" / "dense-other")
    scored = read_embeddings(exp / "embeddings" / "dense")
    assert cohort.meta["checkpoint"]["sha256"] == scored.meta["checkpoint"]["sha256"]
    assert len(cohort.ids) == 10
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (scored.matrix, cohort.matrix)]
    sides = [list(scored.ids).index(name) for name in ("a/0.wav", "a/1.wav")]
    raw, normed = unit[0][sides[0]] @ unit[0][sides[1]], []
    for side in sides:
        top = np.sort(unit[1] @ unit[0][side])[-4:]
        normed.append((raw - top.mean()) / top.std())
    assert read_scores(done.directory).scores[0] == pytest.approx(np.mean(normed), rel=1e-2, abs=1e-2)


def test_it_is_embedded_once_and_never_with_another_checkpoint(exp):
    manifest, scored = exp.parent / "cohort" / "other.tsv", exp / "embeddings" / "dense"
    first = material_directory(manifest, scored, exp, SilentProgress())
    stamp = (first / "provenance.json").stat().st_mtime_ns
    assert material_directory(manifest, scored, exp, SilentProgress()) == first
    assert (first / "provenance.json").stat().st_mtime_ns == stamp
    assert material_directory(first, scored, exp, SilentProgress()) == first  # embeddings stay as they are
    (exp.parent / "cohort" / "bad.tsv").write_text("nothing\n")
    with pytest.raises(DataError, match=r"bad\.tsv"):
        material_directory(exp.parent / "cohort" / "bad.tsv", scored, exp, SilentProgress())
    config = exp / "finetune" / "lmft" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()), indent=3))
    with pytest.raises(ArtifactError, match="has changed since"):
        material_directory(manifest, scored, exp, SilentProgress())
    (exp / "finetune").rename(exp / "elsewhere")
    with pytest.raises(ArtifactError, match="needs the checkpoint"):
        material_directory(manifest, scored, exp, SilentProgress())
