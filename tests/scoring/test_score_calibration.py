"""Calibration through `svkit score`: learnt on held-out trials, applied to others."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.errors import ArtifactError, ConfigError, DataError
from svkit.eval.llr import cllr, count_bounds
from svkit.eval.results import OperatingPoint
from svkit.progress import SilentProgress
from svkit.reports.report import ReportRequest
from svkit.reports.report import run as run_report
from svkit.scoring.backend import Backend
from svkit.scoring.score import ScoreRequest, run
from svkit.store.calibration import Decision, read_calibration, write_calibration
from svkit.store.embeddings import read_embeddings
from svkit.store.metrics import CalibratedBy, read_metrics
from svkit.store.provenance import sha256_artifact
from svkit.store.scores import read_scores
from svkit.store.trials import Trials, read_trials, write_trials
from tests.fake_experiment import make_embeddings, make_experiment

pytestmark = pytest.mark.usefixtures("plain_reports")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    exp = tmp_path_factory.mktemp("calibration")
    make_experiment(exp, num_speakers=12)
    every = read_trials(exp / "data" / "trials" / "all.txt")
    number = np.array([[int(name[:5]) for name in ids] for ids in (every.enroll_ids, every.test_ids)])
    for name, rows in (("held", (number < 6).all(axis=0)), ("eval", (number >= 6).all(axis=0))):
        part = Trials.of(every.enroll_ids[rows], every.test_ids[rows], every.labels[rows])
        write_trials(exp / "data" / "trials" / f"{name}.txt", part)
    return exp


@pytest.fixture
def exp(template, tmp_path):
    """A copy of the template whose embeddings name the copy's manifest and checkpoints."""
    target = tmp_path / "exp"
    shutil.copytree(template, target)
    for name, path in (("dense", "finetune/lmft"), ("pruned", "finetune-pruned/lmft")):
        ids = [str(name) for name in np.unique(read_trials(target / "data" / "trials" / "all.txt").test_ids)]
        first = read_trials(target / "data" / "trials" / "all.txt").enroll_ids
        shutil.rmtree(target / "embeddings" / name)
        make_embeddings(target, name, sorted({*ids, *first}), 0.6 if name == "dense" else 0.8, target / path)
    return target


def score(exp, name, **changes):
    changes.setdefault("embeddings", (exp / "embeddings" / "dense",))
    return run(
        ScoreRequest(exp=exp, trials=exp / "data" / "trials" / f"{name}.txt", **changes), SilentProgress()
    )


def test_learnt_on_held_out_trials_and_applied_to_others(exp):
    learnt = score(exp, "held", calibrate=True).systems[0].directory / "calibration.json"
    record = read_calibration(learnt)
    assert record.features == ("score",) and record.weights[0] > 0
    assert record.checkpoint_sha256 == sha256_artifact(exp / "finetune" / "lmft")
    done = score(exp, "eval", calibrations=(learnt,)).systems[0]
    found = read_scores(done.directory)
    expected = (record.weights[0] * found.scores + record.offset).clip(*record.bounds)
    np.testing.assert_allclose(found.llrs, expected, rtol=1e-6)
    assert done.metrics.cautions == done.metrics.unchecked == ()
    assert done.metrics.cllr == pytest.approx(cllr(found.llrs, found.trials.labels), abs=1e-6)
    assert done.metrics.min_cllr <= done.metrics.cllr < 1
    assert done.metrics.calibration.trials.name == "held"
    assert [entry.p_target for entry in done.metrics.act_dcf] == [0.01, 0.05, 0.005, 0.001]


def test_it_is_installed_beside_the_checkpoint_without_changing_its_hash(exp):
    before = sha256_artifact(exp / "finetune" / "lmft")
    learnt = score(exp, "held", calibrate=True).systems[0].directory / "calibration.json"
    assert (exp / "finetune" / "lmft" / "calibration.json").read_text() == learnt.read_text()
    assert sha256_artifact(exp / "finetune" / "lmft") == before


def test_what_svkit_calibrate_left_beside_the_model_is_not_replaced(exp):
    learnt = score(exp, "held", calibrate=True).systems[0].directory / "calibration.json"
    installed, record = exp / "finetune" / "lmft" / "calibration.json", read_calibration(learnt)
    point = OperatingPoint(threshold=1.0, miss_rate=0.1, false_accept_rate=0.01)
    decides = replace(record, decision=Decision(point=point, false_accepts=0.01))
    again = ["score", exp / "data/trials/held.txt", "--exp", exp, "--calibrate", "--overwrite"]
    for there, stays in (
        (decides, True),
        (replace(decides, checkpoint_sha256="0" * 64), False),
        (record, False),
    ):
        write_calibration(installed, there)
        before = installed.read_bytes()
        done = CliRunner().invoke(app, [*map(str, again)])
        assert done.exit_code == 0, done.stderr
        assert (installed.read_bytes() == before) == (stays or there is record)
        assert ("which `svkit calibrate` made; remove that first" in done.stderr) == stays
    installed.unlink()
    installed.symlink_to("nowhere.json")  # a calibration that got lost decides nothing
    assert CliRunner().invoke(app, [*map(str, again)]).exit_code == 0
    assert read_calibration(installed) == record and not installed.is_symlink()


def test_a_calibration_of_quality_measures_is_installed_unless_it_needs_a_cohort(exp):
    directory = score(exp, "held", calibrate=True, quality=True).systems[0].directory
    record = read_calibration(directory / "calibration.json")
    measures = ("log_norm_low", "log_norm_high", "log_duration_low", "log_duration_high")
    assert record.features == ("score", *measures)
    installed = exp / "finetune" / "lmft" / "calibration.json"
    assert installed.read_text() == (directory / "calibration.json").read_text()
    installed.unlink()
    cohort = {"cohorts": (exp / "embeddings" / "dense",), "allow": frozenset({"shared-speakers"})}
    score(exp, "eval", calibrate=True, quality=True, **cohort)
    assert not installed.exists()
    shutil.rmtree(exp / "scores" / "dense" / "eval")
    done = score(exp, "eval", calibrations=(directory / "calibration.json",), quality=True)
    assert np.isfinite(read_scores(done.systems[0].directory).llrs).all()
    with pytest.raises(ConfigError, match="--qmf"):
        score(exp, "eval", calibrations=(directory / "calibration.json",), overwrite=True)


def test_quality_features_need_the_manifest(exp):
    (exp / "data" / "eval.tsv").unlink()
    with pytest.raises(DataError, match=r"eval\.tsv"):
        score(exp, "held", calibrate=True, quality=True)


def test_cohort_means_join_the_quality_measures(exp):
    backend = Backend(norm="asnorm", top_n=5)
    done = score(
        exp,
        "held",
        calibrate=True,
        quality=True,
        backend=backend,
        cohorts=(exp / "embeddings" / "dense",),
        allow=frozenset({"shared-speakers"}),
    )
    record = read_calibration(done.systems[0].directory / "calibration.json")
    assert record.features[-2:] == ("cohort_mean_low", "cohort_mean_high")


def test_judging_on_what_was_learnt_from_is_refused(exp):
    learnt = score(exp, "held", calibrate=True).systems[0].directory / "calibration.json"
    with pytest.raises(ConfigError, match="--calibrate-folds"):
        score(exp, "held", calibrations=(learnt,), overwrite=True)
    with pytest.raises(ConfigError, match="give one of them"):
        score(exp, "eval", calibrations=(learnt,), calibrate=True)
    assert not (exp / "scores" / "dense" / "eval").exists()


def test_calibrations_of_other_scores_are_refused(exp):
    learnt = score(exp, "held", calibrate=True).systems[0].directory / "calibration.json"
    with pytest.raises(ArtifactError, match="another model"):
        score(exp, "eval", calibrations=(learnt,), embeddings=(exp / "embeddings" / "pruned",))
    with pytest.raises(ArtifactError, match="calibration of center scores, found one of cosine"):
        score(exp, "eval", calibrations=(learnt,), backend=Backend(center=True))
    with pytest.raises(ArtifactError, match="does not exist"):
        score(exp, "eval", calibrations=(exp / "nothing.json",))


def test_each_system_gets_its_own(exp):
    systems = (exp / "embeddings" / "dense", exp / "embeddings" / "pruned")
    learnt = [
        done.directory / "calibration.json"
        for done in score(exp, "held", calibrate=True, embeddings=systems).systems
    ]
    done = score(exp, "eval", calibrations=tuple(learnt), embeddings=systems)
    assert all(system.metrics.cllr is not None for system in done.systems)
    with pytest.raises(ConfigError, match="expected 1 or 2"):
        score(exp, "eval", calibrations=tuple(learnt) * 2, embeddings=systems)


def test_folds_give_ratios_of_the_same_trials(exp):
    done = score(exp, "all", calibrate_folds=4).systems[0]
    assert done.metrics.calibration == CalibratedBy(method="cross-validation over speakers", num_folds=4)
    found = read_scores(done.directory)
    slopes = np.unique(np.round(np.diff(found.llrs) / np.diff(found.scores), 3))
    assert len(slopes) > 4  # several maps
    assert done.metrics.cllr < 1
    assert not (done.directory / "calibration.json").exists()
    with pytest.raises(ConfigError, match="expected 3 to 12"):
        score(exp, "all", calibrate_folds=13, overwrite=True)


def separate(exp):
    """Make embeddings without an error."""
    ids = list(read_embeddings(exp / "embeddings" / "dense").ids)
    shutil.rmtree(exp / "embeddings" / "dense")
    make_embeddings(exp, "dense", ids, 0.05, exp / "finetune" / "lmft")


def test_a_list_without_an_error_gives_a_guess_and_says_so_wherever_it_is_used(exp):
    separate(exp)
    directory = score(exp, "held", calibrate=True).systems[0].directory
    record = read_calibration(directory / "calibration.json")
    low, high = count_bounds(36, 240)
    assert record.is_separable and low <= record.bounds[0] < -3 and 5 < record.bounds[1] <= high
    words = "36 target and 240 nontarget trials, which a threshold separates without error"
    (caution,) = read_metrics(directory).cautions
    assert words in caution and f"from -3.6 to {high:+.1f}" in caution
    done = score(exp, "eval", calibrations=(directory / "calibration.json",)).systems[0]
    found = read_scores(done.directory)
    assert done.metrics.cautions == (caution,)
    assert found.llrs.min() == pytest.approx(record.bounds[0]) and found.llrs.max() == pytest.approx(
        record.bounds[1]
    )
    report = run_report(ReportRequest(exp=exp), SilentProgress())
    card = exp / "finetune" / "lmft" / "README.md"
    for path in (*(report / f"report.{form}" for form in ("json", "md", "html")), card):
        assert words in path.read_text(), path
    assert card.read_text().count(words) == 2  # two evaluations share the sentence; the limits have it again


def test_folds_without_an_error_are_said(exp):
    separate(exp)
    (caution,) = score(exp, "eval", calibrate_folds=4).systems[0].metrics.cautions
    assert caution.startswith("10 of the 10 maps of the cross-validation were learnt on trials")
    make_embeddings(
        exp, "twin", list(read_embeddings(exp / "embeddings" / "dense").ids), 0.06, exp / "finetune" / "lmft"
    )
    score(exp, "eval", embeddings=(exp / "embeddings" / "twin",))
    systems = tuple(exp / "scores" / name / "eval" for name in ("dense", "twin"))
    fused = score(exp, "eval", embeddings=(), fuse=systems).systems[0]
    assert "maps of the cross-validation" in fused.metrics.cautions[0] and fused.metrics.eer == 0


def test_a_calibration_of_an_earlier_version_is_bounded_by_its_counts_and_that_is_said(exp):
    learnt = score(exp, "held", calibrate=True).systems[0].directory / "calibration.json"
    content = json.loads(learnt.read_text())
    assert content.pop("is_separable") is False and len(content.pop("bounds")) == 2
    content["weights"], old = [1000.0], exp / "old.json"
    old.write_text(json.dumps(content))
    done = score(exp, "eval", calibrations=(old,)).systems[0]
    low, high = count_bounds(36, 240)
    llrs = read_scores(done.directory).llrs
    assert (llrs.min(), llrs.max()) == (pytest.approx(low), pytest.approx(high))
    assert "an earlier svkit did not record it" in done.metrics.unchecked[0]
    for change in ({"bounds": [1, 2]}, {"bounds": [0]}, {"is_separable": 1}, {"num_targets": 0}):
        old.write_text(json.dumps(content | change))
        with pytest.raises(ArtifactError, match=r"old\.json"):
            read_calibration(old)


@pytest.mark.parametrize(
    "change",
    [{"weights": [1.0, 2.0]}, {"weights": "x"}, {"surprise": 1}, {"features": ["norm"]}, {"offset": None}],
)
def test_broken_calibrations_are_artifact_errors(exp, change):
    learnt = score(exp, "held", calibrate=True).systems[0].directory / "calibration.json"
    learnt.write_text(json.dumps(json.loads(learnt.read_text()) | change))
    with pytest.raises(ArtifactError, match=r"calibration\.json"):
        read_calibration(learnt)


def test_more_cohort_members_than_there_are_is_said_and_the_number_used_is_recorded(exp):
    asked = {
        "backend": Backend(norm="asnorm", top_n=300),
        "cohorts": (exp / "embeddings" / "dense",),
        "allow": frozenset({"shared-speakers"}),
    }
    done = score(exp, "held", calibrate=True, **asked).systems[0]
    assert done.metrics.backend.top_n == 48
    assert any(
        "--top-n 300: the cohort has 48 members, and all of them count" in c for c in done.metrics.cautions
    )
    fitting = score(exp, "held", **(asked | {"backend": Backend(norm="asnorm", top_n=48)}), overwrite=True)
    assert not any("--top-n" in caution for caution in fitting.systems[0].metrics.cautions)
    # A calibration of an earlier svkit says what was asked for; it is one of the same scores.
    learnt = done.directory / "calibration.json"
    score(exp, "held", calibrate=True, **asked, overwrite=True)
    content = json.loads(learnt.read_text())
    content["backend"]["top_n"] = 300
    (exp / "old.json").write_text(json.dumps(content))
    score(exp, "eval", calibrations=(exp / "old.json",), **asked)
    with pytest.raises(ArtifactError, match="or of other settings"):
        fewer = asked | {"backend": Backend(norm="asnorm", top_n=5)}
        score(exp, "eval", calibrations=(exp / "old.json",), **fewer, overwrite=True)
