"""PLDA, guards, breakdowns, comparisons and other forms through `svkit score`, on real directories."""

import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal

from svkit.errors import ArtifactError, ConfigError, DataError
from svkit.eval.metrics import equal_error_rate, error_curve
from svkit.eval.plda import train_plda
from svkit.progress import SilentProgress
from svkit.scoring.backend import Backend
from svkit.scoring.request import ScoreRequest
from svkit.scoring.score import run
from svkit.store.embeddings import read_embeddings, read_facts, write_embeddings
from svkit.store.manifest import COLUMNS, read_manifest, write_manifest
from svkit.store.provenance import sha256_file
from svkit.store.scores import read_scores
from svkit.store.trials import Trials, read_trials, write_trials
from tests.fake_experiment import finish, make_embeddings, make_lists

PLDA = Backend(method="plda")
SHARED = frozenset({"shared-speakers"})


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    exp = tmp_path_factory.mktemp("backends")
    checkpoint = exp / "finetune" / "lmft"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_text("one")
    finish(checkpoint)
    make_lists(exp, 8, 4)
    return exp


@pytest.fixture
def exp(template, tmp_path):
    """Trials over 8 speakers with genders and lengths, two systems, and 30 training speakers."""
    target = tmp_path / "exp"
    shutil.copytree(template, target)
    manifest = target / "data" / "eval.tsv"
    table = read_manifest(manifest).table
    speaker = table["speaker_id"].astype(int)
    table["gender"] = np.where(speaker % 2 == 0, "f", "m")
    table["num_samples"] = np.where(table["utterance_id"].str.endswith("/0.wav"), "16000", "64000")
    write_manifest(manifest, table)
    checkpoint = target / "finetune" / "lmft"
    for name, noise in (("dense", 0.6), ("pruned", 0.8)):
        make_embeddings(target, name, list(table["utterance_id"]), noise, checkpoint)
    make_training(target)
    return target


def make_training(exp, speakers=range(100, 130), checkpoint="finetune/lmft"):
    ids = [f"{speaker:05d}/{take}.wav" for speaker in speakers for take in range(4)]
    table = pd.DataFrame(
        {"utterance_id": ids, "speaker_id": [name[:5] for name in ids], "path": ids,
         "sample_rate_hz": "16000", "num_samples": "32000", "session_id": ""}
    )[list(COLUMNS)]  # fmt: skip
    manifest = exp / "data" / "train.tsv"
    write_manifest(manifest, table)
    rng = np.random.default_rng(11)
    voices = np.repeat(rng.normal(size=(len(speakers), 8)), 4, axis=0)
    matrix = (voices + 0.6 * rng.normal(size=voices.shape)).astype(np.float32)
    scored = read_facts(exp / "embeddings" / "dense")
    facts = {
        "model": "lmft",
        "checkpoint": scored["checkpoint"],
        "manifest": {"path": manifest.as_posix(), "sha256": sha256_file(manifest)},
    }
    write_embeddings(exp / "training", ids, matrix, facts)
    finish(exp / "training")
    return matrix


def log_density(model, rows):
    """Log-density of all utterances of one speaker, from the joint covariance."""
    size = len(rows)
    joint = np.kron(np.ones((size, size)), model.between) + np.kron(np.eye(size), model.within)
    return multivariate_normal.logpdf(rows.ravel(), np.tile(model.mean, size), joint)


def score(exp, trials="all", **changes):
    changes.setdefault("embeddings", (exp / "embeddings" / "dense",))
    path = exp / "data" / "trials" / f"{trials}.txt"
    return run(ScoreRequest(exp=exp, trials=path, **changes), SilentProgress())


def test_plda_scores_are_those_of_the_model(exp):
    done = score(exp, backend=PLDA, plda_training=(exp / "training",)).systems[0]
    assert done.directory == exp / "scores" / "dense" / "all-plda"
    assert done.metrics.backend.name == "plda" and done.metrics.cautions == ()
    matrix = make_training(exp)
    model = train_plda(matrix, np.repeat(np.arange(30), 4), 30)
    found = read_scores(done.directory)
    rows = {name: row for row, name in enumerate(read_manifest(exp / "data" / "eval.tsv").utterance_ids)}
    tests = read_embeddings(exp / "embeddings" / "dense").matrix
    left, right = model.enroll_factors(tests, np.arange(len(tests)), len(tests)), model.test_factors(tests)
    for trial in (0, 77, 495):
        a, b = rows[found.trials.enroll_ids[trial]], rows[found.trials.test_ids[trial]]
        assert found.scores[trial] == pytest.approx(float(left[a] @ right[b]), abs=1e-3)
    assert done.metrics.eer == pytest.approx(equal_error_rate(error_curve(found.scores, found.trials.labels)))


def enroll_three(exp):
    """Three utterances of each speaker enroll, the fourth is tested; returns the trial list's stem."""
    ids = list(read_manifest(exp / "data" / "eval.tsv").utterance_ids)
    lines = [f"m{name[:5]}\t{name}\n" for name in ids if "/3" not in name]
    (exp / "data" / "enroll.tsv").write_text("enroll_id\tutterance_id\n" + "".join(lines))
    tests = [name for name in ids if "/3" in name]
    (exp / "data" / "trials" / "multi.txt").write_text(
        "".join(f"{int(a[:5] == b[:5])} m{a[:5]} {b}\n" for a in tests for b in tests)
    )
    return "multi"


def test_plda_counts_the_utterances_of_an_enrollment(exp):
    options = {"backend": PLDA, "plda_training": (exp / "training",), "enroll": exp / "data" / "enroll.tsv"}
    done = score(exp, enroll_three(exp), **options).systems[0]
    matrix = make_training(exp)
    model = train_plda(matrix, np.repeat(np.arange(30), 4), 30)
    scored = read_embeddings(exp / "embeddings" / "dense")
    rows = dict(zip(scored.ids, model.prepare(scored.matrix), strict=True))
    mine = np.stack([rows[f"00000/{take}.wav"] for take in range(3)])
    for trial in (0, 5):
        test = rows[f"{trial:05d}/3.wav"]
        joint = [log_density(model.model, part) for part in (np.vstack((mine, test)), mine, test[None])]
        found = read_scores(done.directory).scores[trial]
        assert found == pytest.approx(joint[0] - joint[1] - joint[2], abs=2e-3)


def test_utterances_are_centred_before_they_are_averaged(exp):
    options = {"backend": Backend(center=True), "enroll": exp / "data" / "enroll.tsv"}
    done = score(exp, enroll_three(exp), **options).systems[0]
    scored = read_embeddings(exp / "embeddings" / "dense")
    rows = dict(zip(scored.ids, scored.matrix.astype(float), strict=True))
    mean = np.mean([rows[f"{speaker:05d}/3.wav"] for speaker in range(8)], axis=0)
    unit = {name: (row - mean) / np.linalg.norm(row - mean) for name, row in rows.items()}
    enrolled = np.mean([unit[f"00000/{take}.wav"] for take in range(3)], axis=0)
    expected = enrolled @ unit["00004/3.wav"] / np.linalg.norm(enrolled)
    assert read_scores(done.directory).scores[4] == pytest.approx(expected, abs=1e-5)


def test_plda_joins_snorm_and_calibration_knows_its_training_data(exp):
    backend = Backend(method="plda", norm="snorm")
    material = {"backend": backend, "plda_training": (exp / "training",), "cohorts": (exp / "training",)}
    done = score(exp, calibrate=True, **material).systems[0]
    assert done.directory.name == "all-plda-snorm" and done.metrics.eer < 0.3
    names = read_trials(exp / "data" / "trials" / "all.txt")
    few = Trials.of(names.enroll_ids[:200], names.test_ids[:200], names.labels[:200])
    write_trials(exp / "data" / "trials" / "few.txt", few)
    learnt = (done.directory / "calibration.json",)
    material["allow"] = frozenset({"calibrated-on-test"})
    assert score(exp, "few", calibrations=learnt, **material).systems[0].metrics.cllr is not None
    make_training(exp, range(100, 125))
    with pytest.raises(ArtifactError, match="other settings"):
        score(exp, "few", calibrations=learnt, overwrite=True, **material)


def test_plda_needs_its_training_data_and_nothing_else(exp):
    with pytest.raises(ConfigError, match="need each other"):
        score(exp, backend=PLDA)
    with pytest.raises(ConfigError, match="need each other"):
        score(exp, plda_training=(exp / "training",))
    with pytest.raises(ConfigError, match="leave it out"):
        Backend(method="plda", center=True)
    assert not (exp / "scores").exists()


@pytest.mark.parametrize("use", ["cohort", "plda"])
def test_speakers_of_the_trials_in_the_material_stop_it(exp, use):
    make_training(exp, range(7, 37))  # speaker 00007 is in the trials, with other utterances
    options = (
        {"backend": Backend(norm="snorm"), "cohorts": (exp / "training",)}
        if use == "cohort"
        else {"backend": PLDA, "plda_training": (exp / "training",)}
    )
    with pytest.raises(DataError, match=r"speakers of the trials.*00007; `--allow shared-speakers`"):
        score(exp, **options)
    assert not (exp / "scores").exists()
    (caution,) = score(exp, allow=SHARED, **options).systems[0].metrics.cautions
    assert "00007" in caution and "--allow" not in caution


def test_without_manifests_shared_utterances_are_seen(exp):
    make_training(exp, range(7, 37))
    (exp / "data" / "eval.tsv").unlink()
    with pytest.raises(DataError, match=r"utterances of the trials.*00007/0.wav"):
        score(exp, backend=Backend(norm="snorm"), cohorts=(exp / "training",))


def test_embeddings_of_an_earlier_checkpoint_stop_it(exp):
    (exp / "finetune" / "lmft" / "weights").write_text("two")
    with pytest.raises(ArtifactError, match=r"embeddings of .*lmft.*extract again; `--allow stale`"):
        score(exp)
    (caution,) = score(exp, allow=frozenset({"stale"})).systems[0].metrics.cautions
    assert "earlier" in caution
    with pytest.raises(ConfigError, match="expected trained-speakers, .* or stale, found everything"):
        score(exp, allow=frozenset({"everything"}))


def groups_of(metrics):
    (breakdown,) = metrics.breakdown
    return {group.value: group for group in breakdown.groups}


def test_breakdown_by_a_column_of_the_manifest(exp):
    done = score(exp, by=("gender",)).systems[0]
    groups = groups_of(done.metrics)
    assert list(groups) == ["f", "f / m", "m"]
    found = read_scores(done.directory)
    odd = [
        np.array([int(name[:5]) % 2 for name in ids])
        for ids in (found.trials.enroll_ids, found.trials.test_ids)
    ]
    for value, rows in (("f", odd[0] + odd[1] == 0), ("m", odd[0] + odd[1] == 2)):
        labels = found.trials.labels[rows]
        group = groups[value]
        assert (group.num_targets, group.num_nontargets) == (labels.sum(), (labels == 0).sum())
        assert group.eer == pytest.approx(equal_error_rate(error_curve(found.scores[rows], labels)))
        assert group.eer_interval is None or group.eer_interval.num_speakers == 4
    crossed = groups["f / m"]
    assert (crossed.num_targets, crossed.eer, crossed.min_dcf) == (0, None, None)
    assert sum(g.num_targets + g.num_nontargets for g in groups.values()) == len(found.scores)


def test_breakdown_by_duration_is_of_the_shorter_side(exp):
    groups = groups_of(score(exp, by=("duration",)).systems[0].metrics)
    assert list(groups) == ["under 2 s", "2 to 5 s"]
    long = 8 * 3  # utterances of 4 s; the others have 1 s
    assert groups["2 to 5 s"].num_targets + groups["2 to 5 s"].num_nontargets == long * (long - 1) // 2


def test_breakdown_by_a_sidecar(exp):
    trials = read_trials(exp / "data" / "trials" / "all.txt")
    rows = [f"{a}\t{b}\t{'near' if n < 300 else 'far'}" for n, (a, b) in enumerate(
        zip(trials.enroll_ids, trials.test_ids, strict=True))]  # fmt: skip
    sidecar = exp / "data" / "more.tsv"
    sidecar.write_text("\n".join(["enroll_id\ttest_id\tsource", *rows]) + "\n")
    groups = groups_of(score(exp, by=("source",), sidecar=sidecar).systems[0].metrics)
    assert groups["near"].num_targets + groups["near"].num_nontargets == 300
    sidecar.write_text("\n".join(["enroll_id\ttest_id\tsource", rows[1], rows[0], *rows[2:]]) + "\n")
    with pytest.raises(DataError, match=r"more\.tsv:2: test_id: expected"):
        score(exp, by=("source",), sidecar=sidecar, overwrite=True)
    sidecar.write_text("\n".join(["enroll_id\ttest_id\tsource", *rows[:9]]) + "\n")
    with pytest.raises(DataError, match="a row for each of 496 trials, found 9"):
        score(exp, by=("source",), sidecar=sidecar, overwrite=True)


def test_breakdowns_that_cannot_be_leave_nothing_behind(exp):
    with pytest.raises(ConfigError, match="no such column; found utterance_id"):
        score(exp, by=("accent",))
    with pytest.raises(DataError, match="has changed since"):
        manifest = exp / "data" / "eval.tsv"
        manifest.write_text(manifest.read_text().replace("\tf", "\tw"))
        score(exp, by=("gender",))
    assert not (exp / "scores").exists()


def test_several_systems_are_compared_in_pairs(exp):
    systems = (exp / "embeddings" / "pruned", exp / "embeddings" / "dense")
    done = score(exp, embeddings=systems)
    (comparison,) = done.comparisons
    assert (comparison.first, comparison.second) == ("pruned", "dense")
    eers = {system.metrics.name: system.metrics.eer for system in done.systems}
    assert comparison.eer_difference == pytest.approx(eers["pruned"] - eers["dense"])
    assert comparison.low <= comparison.eer_difference <= comparison.high
    again = score(exp, embeddings=systems, keep_finished=True)
    assert again.comparisons == done.comparisons
    assert score(exp, overwrite=True).comparisons == ()


def test_other_toolkits_forms(exp):
    done = score(exp, forms=("kaldi", "wespeaker")).systems[0]
    found = read_scores(done.directory)
    first = f"{found.trials.enroll_ids[0]} {found.trials.test_ids[0]}"
    word = "target" if found.trials.labels[0] else "nontarget"
    lines = {name: (done.directory / name).read_text().splitlines() for name in
             ("kaldi/scores", "kaldi/trials", "wespeaker/scores.score", "wespeaker/trials.kaldi")}  # fmt: skip
    assert {len(text) for text in lines.values()} == {496}
    assert lines["kaldi/scores"][0] == f"{first} {found.scores[0]:.9g}"
    assert lines["kaldi/trials"][0] == lines["wespeaker/trials.kaldi"][0] == f"{first} {word}"
    assert lines["wespeaker/scores.score"][0] == f"{first} {found.scores[0]:.9g} {word}"
    again = read_trials(done.directory / "kaldi" / "trials")
    np.testing.assert_array_equal(again.labels, found.trials.labels)
    with pytest.raises(ConfigError, match="expected kaldi or wespeaker"):
        score(exp, forms=("csv",), overwrite=True)
