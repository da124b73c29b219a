"""Fusion of systems: weights never learnt on the trials they are judged on."""

import numpy as np
import pytest

from svkit.errors import ArtifactError, ConfigError
from svkit.eval.logistic import fit_calibration
from svkit.progress import SilentProgress
from svkit.reports.report import ReportRequest
from svkit.reports.report import run as run_report
from svkit.scoring.request import ScoreRequest
from svkit.scoring.score import run
from svkit.store.calibration import read_calibration
from svkit.store.embeddings import read_embeddings, write_embeddings
from svkit.store.metrics import CalibratedBy, read_metrics
from svkit.store.provenance import sha256_file
from svkit.store.report import read_report
from svkit.store.scores import read_scores
from svkit.store.trials import Trials, read_trials, write_trials
from tests.fake_experiment import finish, make_lists

pytestmark = pytest.mark.usefixtures("plain_reports")

NUM_SPEAKERS = 24


@pytest.fixture
def exp(tmp_path):
    """Two systems that hear different halves of a voice, and trials of two groups of speakers."""
    ids = make_lists(tmp_path, NUM_SPEAKERS, 4)
    manifest = tmp_path / "data" / "eval.tsv"
    speakers = np.array([int(name[:5]) for name in ids])
    rng = np.random.default_rng(4)
    voices = rng.normal(size=(NUM_SPEAKERS, 12))[speakers]
    heard = voices + 1.1 * rng.normal(size=voices.shape)
    for name, part in (("left", slice(0, 5)), ("right", slice(5, 12))):
        facts = {
            "model": name,
            "checkpoint": {"path": f"models/{name}", "sha256": name},
            "manifest": {"path": manifest.as_posix(), "sha256": sha256_file(manifest)},
        }
        write_embeddings(tmp_path / "embeddings" / name, ids, heard[:, part].astype(np.float32), facts)
        finish(tmp_path / "embeddings" / name)
    every = read_trials(tmp_path / "data" / "trials" / "all.txt")
    number = np.array([[int(name[:5]) for name in side] for side in (every.enroll_ids, every.test_ids)])
    for name, rows in (("held", (number < 12).all(axis=0)), ("eval", (number >= 12).all(axis=0))):
        part = Trials.of(every.enroll_ids[rows], every.test_ids[rows], every.labels[rows])
        write_trials(tmp_path / "data" / "trials" / f"{name}.txt", part)
        score(tmp_path, name)
    return tmp_path


def score(exp, name, **changes):
    trials = exp / "data" / "trials" / f"{name}.txt"
    return run(ScoreRequest(exp=exp, trials=trials, **changes), SilentProgress()).systems


def both(exp, name):
    return tuple(exp / "scores" / system / name for system in ("left", "right"))


def test_weights_of_held_out_trials_beat_each_system(exp):
    held = score(exp, "held", fuse=both(exp, "held"), calibrate=True)[0]
    record = read_calibration(held.directory / "calibration.json")
    scores = np.stack([read_scores(path).scores for path in both(exp, "held")], axis=1)
    labels = read_scores(held.directory).trials.labels
    expected = fit_calibration(scores, labels)
    np.testing.assert_allclose(record.weights, expected.weights, rtol=1e-5)
    (done,) = score(exp, "eval", fuse=both(exp, "eval"), calibrations=(held.directory / "calibration.json",))
    assert (done.metrics.name, done.directory) == ("left+right", exp / "scores" / "left+right" / "eval")
    found = read_scores(done.directory)
    tested = np.stack([read_scores(path).scores for path in both(exp, "eval")], axis=1)
    np.testing.assert_allclose(found.scores, tested @ record.weights + record.offset, rtol=1e-5, atol=1e-6)
    assert record.bounds is not None and np.abs(found.scores).max() > max(np.abs(record.bounds))
    np.testing.assert_allclose(found.llrs, found.scores.clip(*record.bounds), rtol=1e-8)
    assert done.metrics.calibration == CalibratedBy(method="held-out trials", trials=record.trials)
    single = [read_metrics(path).eer for path in both(exp, "eval")]
    assert done.metrics.eer < min(single)
    assert done.metrics.eer_interval.num_speakers == 12


def test_without_held_out_trials_it_is_cross_validated_by_speaker(exp):
    (done,) = score(exp, "eval", fuse=both(exp, "eval"))
    assert done.metrics.calibration == CalibratedBy(method="cross-validation over speakers", num_folds=5)
    found = read_scores(done.directory)
    tested = np.stack([read_scores(path).scores for path in both(exp, "eval")], axis=1)
    on_itself = fit_calibration(tested, found.trials.labels).apply(tested)
    assert np.abs(found.scores - on_itself).max() > 1e-3
    assert np.corrcoef(found.scores, on_itself)[0, 1] > 0.9
    (other,) = score(exp, "eval", fuse=both(exp, "eval"), calibrate_folds=4, overwrite=True)
    assert other.metrics.calibration.num_folds == 4
    assert not (done.directory / "calibration.json").exists()


def test_learning_still_judges_by_cross_validation(exp):
    (learnt,) = score(exp, "held", fuse=both(exp, "held"), calibrate=True)
    assert learnt.metrics.calibration.method == "cross-validation over speakers"
    path = learnt.directory / "calibration.json"
    with pytest.raises(ConfigError, match="was learnt on"):
        score(exp, "held", fuse=both(exp, "held"), calibrations=(path,), overwrite=True)
    with pytest.raises(ArtifactError, match="other settings"):
        score(exp, "eval", fuse=both(exp, "eval")[::-1], calibrations=(path,))


def test_what_cannot_be_fused(exp):
    left, right = both(exp, "eval")
    with pytest.raises(ConfigError, match="two or more"):
        score(exp, "eval", fuse=(left,))
    with pytest.raises(ConfigError, match="two or more"):
        score(exp, "eval", fuse=(left, left))
    with pytest.raises(ArtifactError, match="expected the trials of"):
        score(exp, "held", fuse=(left, right))
    with pytest.raises(ArtifactError, match="same trials"):
        score(exp, "eval", fuse=(left, exp / "scores" / "right" / "held"))
    with pytest.raises(ArtifactError, match="no finished scores"):
        score(exp, "eval", fuse=(left, exp / "scores" / "nobody" / "eval"))
    with pytest.raises(ConfigError, match="leave out --embeddings"):
        score(exp, "eval", fuse=(left, right), embeddings=(exp / "embeddings" / "left",))
    assert not (exp / "scores" / "left+right").exists()


def replace_checkpoint(exp, sha256):
    directory = exp / "embeddings" / "left"
    found = read_embeddings(directory)
    facts = {key: value for key, value in found.meta.items() if key not in ("format", "format_version")}
    facts["checkpoint"] = {**facts["checkpoint"], "sha256": sha256}
    write_embeddings(directory, list(found.ids), found.matrix, facts)


def test_stale_scores_stop_fusion_and_report(exp):
    replace_checkpoint(exp, "new")
    with pytest.raises(ArtifactError, match=r"left.eval: was made with another checkpoint .*`--allow stale`"):
        score(exp, "eval", fuse=both(exp, "eval"))
    stale = frozenset({"stale"})
    (done,) = score(exp, "eval", fuse=both(exp, "eval"), allow=stale, by=("duration",))
    assert "was made with another checkpoint" in done.metrics.cautions[0]
    with pytest.raises(ArtifactError, match="score again"):
        run_report(ReportRequest(exp=exp), SilentProgress())
    report = run_report(ReportRequest(exp=exp, allow=stale), SilentProgress())
    assert any("was made with another checkpoint" in caution for caution in read_report(report).cautions)
    assert "Caution: " in (exp / "report" / "report.md").read_text()
    assert "Caution: " in (report / "report.html").read_text()
    assert "### EER by duration on eval" in (exp / "report" / "report.md").read_text()
    assert "EER by duration on eval" in (report / "report.html").read_text()
    assert any(system.name == "left+right" for system in read_report(report).systems)
