"""Variants of the back-end through `svkit score`: each has a directory and a name of its own."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.store.embeddings import read_embeddings, write_embeddings
from svkit.store.manifest import read_manifest, write_manifest
from svkit.store.provenance import sha256_file
from svkit.store.scores import read_scores
from tests.fake_experiment import finish, make_lists


def make_material(exp, name, num_speakers, offset=0.0, first=500):
    """Embeddings of other speakers, four recordings each, with a manifest; returns the directory."""
    rng = np.random.default_rng(num_speakers)
    ids = [f"{speaker:05d}/{take}.wav" for speaker in range(first, first + num_speakers) for take in range(4)]
    table = read_manifest(exp / "data" / "eval.tsv").table.iloc[: len(ids)].reset_index(drop=True)
    table = table.reindex(range(len(ids))).ffill()
    table = table.assign(utterance_id=ids, path=ids, speaker_id=[one[:5] for one in ids])
    manifest = exp / "data" / f"{name}.tsv"
    write_manifest(manifest, table)
    voices = np.repeat(rng.normal(size=(num_speakers, 8)), 4, axis=0)
    matrix = (voices + 0.7 * rng.normal(size=voices.shape) + offset).astype(np.float32)
    facts = {"manifest": {"path": manifest.as_posix(), "sha256": sha256_file(manifest)}}
    write_embeddings(exp / "material" / name, ids, matrix, facts)
    finish(exp / "material" / name)
    return exp / "material" / name


@pytest.fixture
def exp(tmp_path):
    ids = make_lists(tmp_path, 10, 3)
    manifest = tmp_path / "data" / "eval.tsv"
    rng = np.random.default_rng(0)
    voices = rng.normal(size=(10, 8))[[int(name[:5]) for name in ids]]
    facts = {"manifest": {"path": manifest.as_posix(), "sha256": sha256_file(manifest)}}
    matrix = (voices + 0.7 * rng.normal(size=voices.shape) + 0.8).astype(np.float32)
    write_embeddings(tmp_path / "embeddings" / "dense", ids, matrix, facts)
    finish(tmp_path / "embeddings" / "dense")
    return tmp_path


def run(exp, *arguments):
    trials = exp / "data" / "trials" / "all.txt"
    return CliRunner().invoke(app, ["score", str(trials), "--exp", str(exp), *map(str, arguments)])


def score(exp, *arguments):
    """Score, and return what the directory is called and its metrics."""
    done = run(exp, "--json", *arguments)
    assert done.exit_code == 0, done.stderr
    (system,) = json.loads(done.stdout)["systems"]
    return system["directory"].rpartition("/")[2], system


def test_no_variant_asks_to_overwrite_another(exp):
    cohort, other = make_material(exp, "cohort", 30), make_material(exp, "dense-vox2", 20)
    plda = ("--backend", "plda", "--plda-train", make_material(exp, "train", 40))
    asnorm = ("--norm", "asnorm", "--cohort")
    names = {
        "all": (),
        "all-center": ("--center",),
        "all-center-vox2": ("--center", "--cohort", other),
        "all-mean-vox2": ("--mean", other),
        "all-snorm": ("--norm", "snorm", "--cohort", cohort),
        "all-asnorm": (*asnorm, cohort),
        "all-asnorm-top20": (*asnorm, cohort, "--top-n", "20"),
        "all-asnorm-speakers": (*asnorm, cohort, "--cohort-speakers"),
        "all-mean-asnorm-top20-speakers-vox2": (
            *(*asnorm, other, "--top-n", "20", "--cohort-speakers", "--mean", cohort),
        ),
        "all-plda": plda,
        "all-plda-vox2": (*plda[:-1], other),
        "all-plda-snorm-vox2": (*plda, "--norm", "snorm", "--cohort", other),
    }
    found = [score(exp, *arguments) for arguments in names.values()]
    assert [name for name, _ in found] == list(names)
    own = [name.removeprefix("all").removeprefix("-") or "cosine" for name in names]
    assert [system["backend"]["name"] for _, system in found] == own
    assert len({np.float64(system["eer_interval"]["low"]).tobytes() for _, system in found}) > 6
    assert score(exp, *names["all-asnorm-top20"], "--keep-finished") == found[6]


def test_a_mean_of_a_third_set_is_subtracted_from_both_sides_and_the_cohort(exp):
    mean_of, cohort_of = make_material(exp, "third", 25, offset=0.8), make_material(exp, "cohort", 30, 0.8)
    name, system = score(exp, "--mean", mean_of, "--norm", "snorm", "--cohort", cohort_of)
    assert system["backend"]["material"].keys() == {"cohort", "mean"}
    mean = read_embeddings(mean_of).matrix.mean(axis=0, dtype=float)

    def unit(directory):
        rows = read_embeddings(directory).matrix - mean
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    scored, cohort = unit(exp / "embeddings" / "dense"), unit(cohort_of)
    found = read_scores(exp / "scores" / "dense" / name)
    places = {one: row for row, one in enumerate(read_embeddings(exp / "embeddings" / "dense").ids)}
    for trial in (0, 99, 434):
        ids = found.trials.enroll_ids[trial], found.trials.test_ids[trial]
        sides = [scored[places[one]] for one in ids]
        raw = sides[0] @ sides[1]
        expected = np.mean([(raw - (cohort @ side).mean()) / (cohort @ side).std() for side in sides])
        assert found.scores[trial] == pytest.approx(expected, abs=1e-4)


def test_a_cohort_of_speakers_is_centred_before_it_is_averaged(exp):
    """The mean of embeddings as extracted says nothing about means of unit vectors."""
    cohort_of = make_material(exp, "cohort", 30, offset=0.8)
    arguments = ("--center", "--norm", "snorm", "--cohort", cohort_of, "--cohort-speakers")
    directory = exp / "scores" / "dense" / score(exp, *arguments)[0]
    rows = read_embeddings(cohort_of).matrix.astype(float)
    mean = rows.mean(axis=0)
    members = (rows - mean) / np.linalg.norm(rows - mean, axis=1, keepdims=True)
    members = members.reshape(30, 4, -1).mean(axis=1)
    members /= np.linalg.norm(members, axis=1, keepdims=True)
    scored = read_embeddings(exp / "embeddings" / "dense").matrix[:2] - mean
    sides = scored / np.linalg.norm(scored, axis=1, keepdims=True)
    raw = sides[0] @ sides[1]
    expected = np.mean([(raw - (members @ side).mean()) / (members @ side).std() for side in sides])
    assert read_scores(directory).scores[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--mean", "material/third", "--center"), 2, "--center and --mean subtract one mean each"),
        (("--mean", "material/third", "--mean", "material/third"), 2, "--mean: expected 1"),
        (("--mean", "nowhere"), 4, "nowhere: does not exist"),
        (("--mean", "material/small"), 4, "of 8 values each, found 4"),
        (("--mean", "material/third", "--backend", "plda", "--plda-train", "material/third"), 2, "PLDA centres"),
        (("--center", "--cohort", "material/third", "--cohort-speakers"), 2, "--cohort-speakers needs --cohort"),
    ],
)  # fmt: skip
def test_means_that_cannot_be(exp, monkeypatch, arguments, code, words):
    matrix = read_embeddings(make_material(exp, "third", 3)).matrix
    write_embeddings(exp / "material" / "small", [str(row) for row in range(12)], matrix[:, :4], {})
    finish(exp / "material" / "small")
    monkeypatch.chdir(exp)
    done = run(exp, *arguments)
    assert done.exit_code == code and words in done.stderr.replace("\n", " "), done.stderr
    assert not (exp / "scores").exists()


def test_a_calibration_of_before_the_names_grew_is_used(exp):
    """Earlier versions called top 20 of a cohort `asnorm`, as any other."""
    cohort = make_material(exp, "cohort", 30)
    arguments = (
        "--embeddings",
        exp / "embeddings" / "dense",
        "--norm",
        "asnorm",
        "--cohort",
        cohort,
        "--top-n",
        "20",
    )
    name, _ = score(exp, "--calibrate", *arguments)
    path = exp / "scores" / "dense" / name / "calibration.json"
    record = json.loads(path.read_text())
    record["backend"]["name"] = "asnorm"
    learnt = exp / "old.json"
    learnt.write_text(json.dumps(record))
    options = ("--calibration", learnt, "--allow", "calibrated-on-test", "--overwrite")
    assert score(exp, *arguments, *options)[1]["cllr"] > 0
    assert run(exp, *arguments[:-1], "21", *options).exit_code == 4
