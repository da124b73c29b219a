"""Variants of the back-end through `svkit score`: each has a directory and a name of its own."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.eval.llr import cllr
from svkit.eval.plda import train_plda
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
        "all-plda-no-length-norm": (*plda, "--no-length-norm"),
        "all-plda-adapt-vox2": (*plda, "--plda-adapt", other),
        "all-plda-adapt-vox2-w0.3": (*plda, "--plda-adapt", other, "--adapt-weight", "0.3"),
        "all-plda-snorm-vox2": (*plda, "--norm", "snorm", "--cohort", other),
    }
    trials = exp / "data" / "trials" / "all.txt"  # of too few speakers for intervals, which take time
    trials.write_text("".join(line for line in trials.open() if max(line.split()[1:]) < "00004"))
    found = [score(exp, *arguments) for arguments in names.values()]
    assert [name for name, _ in found] == list(names)
    own = [name.removeprefix("all").removeprefix("-") or "cosine" for name in names]
    assert [system["backend"]["name"] for _, system in found] == own
    scores = [read_scores(exp / "scores" / "dense" / name).scores.tobytes() for name in names]
    assert (
        len(set(scores)) == len(names) - 2
    )  # mean-vox2 is center-vox2; the whole cohort counts in asnorm as in snorm
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
        (("--mean", "material/third", "--center"), 2, "--center and --mean each subtract a mean"),
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


def test_plda_scores_are_judged_as_the_likelihood_ratios_they_are(exp):
    plda = ("--backend", "plda", "--plda-train", make_material(exp, "train", 60, offset=0.8))
    done = run(exp, *plda)
    assert "Log-likelihood ratios: PLDA itself, not calibrated." in done.stdout, done.stderr
    assert "Bayes 0.01" in done.stdout and f"LLR {np.log(99):.3f}" in done.stdout
    found = read_scores(exp / "scores" / "dense" / "all-plda")
    np.testing.assert_array_equal(found.llrs, found.scores)
    _, system = score(exp, *plda, "--keep-finished")
    assert system["calibration"] == {"method": "PLDA"}
    assert system["cllr"] == pytest.approx(cllr(found.scores, found.trials.labels))
    accepted = found.scores >= np.log(0.99 / 0.01)
    is_target = found.trials.labels == 1
    rates = (~accepted)[is_target].mean(), accepted[~is_target].mean()
    assert system["act_dcf"][0]["value"] == pytest.approx((0.01 * rates[0] + 0.99 * rates[1]) / 0.01)
    normed = score(exp, *plda, "--norm", "snorm", "--cohort", exp / "material" / "train")[1]
    assert "cllr" not in normed and normed["calibration"] is None
    folds = score(exp, *plda, "--calibrate-folds", "3", "--overwrite")[1]
    assert folds["calibration"]["num_folds"] == 3


def test_length_normalisation_can_be_left_out(exp):
    plda = ("--backend", "plda", "--plda-train", make_material(exp, "train", 60, offset=0.8))
    name, system = score(exp, *plda, "--no-length-norm")
    assert system["backend"]["length_norm"] is False
    training = read_embeddings(exp / "material" / "train").matrix
    own = train_plda(training, np.repeat(np.arange(60), 4), 60, length_norm=False)
    rows = read_embeddings(exp / "embeddings" / "dense").matrix[:2]
    expected = own.enroll_factors(rows[:1], np.zeros(1, int), 1) @ own.test_factors(rows[1:]).T
    assert read_scores(exp / "scores" / "dense" / name).scores[0] == pytest.approx(expected[0, 0], abs=1e-3)
    assert run(exp, "--no-length-norm").exit_code == 2


@pytest.fixture
def shifted(exp):
    """The trials are of another domain than the training: moved, and noisy where voices hardly differ."""
    rng, is_telling = np.random.default_rng(3), np.arange(16) < 12
    noise = np.where(is_telling, 0.6, 3.0)

    def fill(directory, speakers, domain_noise, offset):
        ids, meta = read_embeddings(directory).ids, read_embeddings(directory).meta
        voices = (np.where(is_telling, 1, 0.3) * rng.normal(size=(speakers.max() + 1, 16)))[speakers]
        matrix = voices + domain_noise * rng.normal(size=voices.shape) + offset
        facts = {"manifest": meta["manifest"]} if "manifest" in meta else {}
        write_embeddings(directory, list(ids), matrix.astype(np.float32), facts)

    for name, count in (("train", 60), ("few", 8), ("many", 60)):
        place = make_material(exp, name, count, first=500 if name == "train" else 700)
        shift = (0.7, 2.0) if name == "train" else (noise, -1.0)
        fill(place, np.repeat(np.arange(count), 4), *shift)
    fill(exp / "embeddings" / "dense", np.repeat(np.arange(10), 3), noise, -1.0)
    return exp


def without_labels(exp, directory, kind):
    """Take the labels away: a manifest in which nobody speaks twice, or none."""
    found = read_embeddings(directory)
    facts = {}
    if kind == "nobody twice":
        manifest = exp / "data" / "alone.tsv"
        table = read_manifest(exp / "data" / "many.tsv").table
        write_manifest(manifest, table.assign(speaker_id=table["utterance_id"]))
        facts["manifest"] = {"path": manifest.as_posix(), "sha256": sha256_file(manifest)}
    write_embeddings(directory, list(found.ids), found.matrix, facts)


@pytest.mark.parametrize("kind", ["no manifest", "nobody twice", "few of known speakers"])
def test_adaptation_to_another_domain_lowers_the_error(shifted, kind):
    plda = ("--backend", "plda", "--plda-train", shifted / "material" / "train")
    place = shifted / "material" / ("few" if kind.startswith("few") else "many")
    if not kind.startswith("few"):
        without_labels(shifted, place, kind)
    done = run(shifted, *plda, "--plda-adapt", place)
    assert done.exit_code == 0, done.stderr
    said = (
        "32 recordings of 8 speakers, weight 0.333"
        if kind.startswith("few")
        else "240 recordings without labels"
    )
    assert said in " ".join(done.stderr.split()), done.stderr
    adapted = score(shifted, *plda, "--plda-adapt", place, "--keep-finished")[1]
    before = score(shifted, *plda)[1]
    centred = score(shifted, *plda, "--plda-adapt", place, "--adapt-weight", "0")[1]
    assert adapted["eer"] < 0.9 * centred["eer"] and adapted["eer"] < 0.9 * before["eer"]
    assert adapted["cllr"] < 0.8 * min(before["cllr"], centred["cllr"])
    assert adapted["backend"]["material"].keys() == {"plda_adaptation", "plda_training"}


def test_adaptation_that_cannot_be(shifted):
    plda = ("--backend", "plda", "--plda-train", shifted / "material" / "train")
    few, own = ("--plda-adapt", shifted / "material" / "few"), shifted / "embeddings" / "dense"
    own = ("--plda-adapt", own, "--embeddings", own)
    for arguments, code, words in (
        (few, 2, "--plda-adapt is only for --backend plda"),
        ((*plda, "--adapt-weight", "0.5"), 2, "--adapt-weight needs --plda-adapt"),
        ((*plda, *few, "--adapt-weight", "1.5"), 2, "1.5"),
        ((*plda, *own), 3, "--allow shared-speakers"),
    ):
        done = run(shifted, *arguments)
        assert done.exit_code == code and words in " ".join(done.stderr.split()), done.stderr
    manifest = shifted / "data" / "few.tsv"
    table = read_manifest(manifest).table
    write_manifest(manifest, table.assign(speaker_id="unknown"))
    found = read_embeddings(shifted / "material" / "few")
    facts = {"manifest": {"path": manifest.as_posix(), "sha256": sha256_file(manifest)}}
    write_embeddings(shifted / "material" / "few", list(found.ids), found.matrix, facts)
    done = run(shifted, *plda, *few)
    assert done.exit_code == 3 and "a speaker_id of its own" in " ".join(done.stderr.split()), done.stderr
    assert not (shifted / "scores").exists()
