"""`svkit score` through real directories: numbers, files, and every mistake with its exit code."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from svkit.errors import ArtifactError, ConfigError, DataError
from svkit.eval.metrics import equal_error_rate, error_curve
from svkit.progress import SilentProgress
from svkit.scoring.backend import Backend
from svkit.scoring.score import ScoreRequest, run
from svkit.store.embeddings import write_embeddings
from svkit.store.manifest import COLUMNS, write_manifest
from svkit.store.metrics import read_metrics
from svkit.store.provenance import sha256_file
from svkit.store.scores import read_scores
from svkit.store.trials import Trials, write_trials
from tests.corpus_trees import Notes

NUM_SPEAKERS, PER_SPEAKER = 8, 4
IDS = [f"{speaker:05d}/{take}.wav" for speaker in range(NUM_SPEAKERS) for take in range(PER_SPEAKER)]


def embeddings_of(seed, noise):
    rng = np.random.default_rng(seed)
    voices = np.repeat(np.random.default_rng(0).normal(size=(NUM_SPEAKERS, 6)), PER_SPEAKER, axis=0)
    return (voices + noise * rng.normal(size=voices.shape) + 0.5).astype(np.float32)


def finish(directory):
    """Mark an output as complete; what is inside is the business of the store's tests."""
    (directory / "provenance.json").write_text(
        json.dumps({"format": "svkit-provenance", "format_version": 1, "command": "extract", "inputs": []})
    )


def make_embeddings(directory, matrix, manifest=None, ids=IDS, sha256="c0ffee"):
    facts = {"model": directory.name, "checkpoint": {"path": f"{directory}-checkpoint", "sha256": sha256}}
    if manifest is not None:
        facts["manifest"] = {"path": manifest.as_posix(), "sha256": sha256_file(manifest)}
    write_embeddings(directory, ids, matrix, facts)
    finish(directory)


@pytest.fixture
def exp(tmp_path):
    """An experiment with a manifest, trials over all pairs, and a good and a worse system."""
    table = pd.DataFrame(
        {"utterance_id": IDS, "speaker_id": [name.split("/")[0] for name in IDS], "path": IDS,
         "sample_rate_hz": "16000", "num_samples": "32000", "session_id": ""}
    )[list(COLUMNS)]  # fmt: skip
    manifest = tmp_path / "data" / "eval.tsv"
    write_manifest(manifest, table)
    pairs = [(a, b) for i, a in enumerate(IDS) for b in IDS[i + 1 :]]
    labels = np.array([a.split("/")[0] == b.split("/")[0] for a, b in pairs], dtype=np.int8)
    left, right = (np.array([pair[side] for pair in pairs], dtype=object) for side in (0, 1))
    write_trials(tmp_path / "data" / "trials" / "all.txt", Trials.of(left, right, labels))
    make_embeddings(tmp_path / "embeddings" / "dense", embeddings_of(1, 0.6), manifest)
    make_embeddings(tmp_path / "embeddings" / "pruned", embeddings_of(2, 1.2), manifest)
    return tmp_path


def request(exp, **changes):
    return ScoreRequest(exp=exp, trials=exp / "data" / "trials" / "all.txt", **changes)


def score(exp, **changes):
    return run(request(exp, **changes), SilentProgress())


def test_default_scores_every_system_into_its_directory(exp):
    done = score(exp)
    assert [system.metrics.name for system in done.systems] == ["dense", "pruned"]
    for system in done.systems:
        assert system.directory == exp / "scores" / system.metrics.name / "all"
        found = {path.name for path in system.directory.iterdir() if not path.name.startswith(".")}
        assert found == {"scores.tsv", "resamples.safetensors", "metrics.json", "provenance.json", "run.json"}
        assert system.metrics == read_metrics(system.directory)
    assert done.systems[0].metrics.eer < done.systems[1].metrics.eer


def test_scores_are_cosines_and_metrics_are_theirs(exp):
    directory = score(exp).systems[0].directory
    found = read_scores(directory)
    matrix = embeddings_of(1, 0.6).astype(float)
    unit = dict(zip(IDS, matrix / np.linalg.norm(matrix, axis=1, keepdims=True), strict=True))
    expected = [
        unit[a] @ unit[b] for a, b in zip(found.trials.enroll_ids, found.trials.test_ids, strict=True)
    ]
    np.testing.assert_allclose(found.scores, expected, atol=1e-6)
    metrics = read_metrics(directory)
    assert metrics.eer == pytest.approx(equal_error_rate(error_curve(found.scores, found.trials.labels)))
    assert (metrics.num_targets, metrics.num_nontargets) == (48, 448)
    assert metrics.checkpoint["sha256"] == "c0ffee"
    assert metrics.trials.sha256 == sha256_file(exp / "data" / "trials" / "all.txt")


def test_interval_is_over_the_speakers_of_the_manifest(exp):
    facts = score(exp).systems[1].metrics
    interval = facts.eer_interval
    assert (interval.num_speakers, interval.speakers_from) == (NUM_SPEAKERS, "manifest")
    assert interval.low < facts.eer < interval.high


def test_without_the_manifest_speakers_come_from_the_trials(exp):
    before = score(exp).systems[1].metrics.eer_interval
    (exp / "data" / "eval.tsv").unlink()
    after = score(exp, overwrite=True).systems[1].metrics.eer_interval
    assert (after.num_speakers, after.speakers_from) == (NUM_SPEAKERS, "trials")
    assert (after.low, after.high) == (before.low, before.high)


def test_systems_are_compared_by_kept_resamples_as_by_new_ones(exp):
    (kept,) = score(exp).comparisons
    for name in ("dense", "pruned"):  # as in scores of earlier versions
        (exp / "scores" / name / "all" / "resamples.safetensors").unlink()
    assert score(exp, keep_finished=True).comparisons == (kept,)
    score(exp, overwrite=True)
    changed = exp / "scores" / "pruned" / "all" / "resamples.safetensors"
    changed.write_bytes((exp / "scores" / "dense" / "all" / "resamples.safetensors").read_bytes())
    with pytest.raises(ArtifactError, match="has changed since"):
        score(exp, keep_finished=True)


class Listener(SilentProgress):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


def write_pairs(exp, pairs):
    """Trials of pairs of utterances, labels by their speakers."""
    left, right = (np.array([pair[side] for pair in pairs], dtype=object) for side in (0, 1))
    labels = np.array([a[:5] == b[:5] for a, b in pairs], dtype=np.int8)
    write_trials(exp / "data" / "trials" / "all.txt", Trials.of(left, right, labels))


def test_two_systems_with_too_few_speakers_are_scored_and_not_compared(exp):
    few = [name for name in IDS if name < "00004"]  # fewer than an interval needs
    write_pairs(exp, [(a, b) for i, a in enumerate(few) for b in few[i + 1 :]])
    listener = Listener()
    done = run(request(exp), listener)
    assert [system.metrics.eer_interval for system in done.systems] == [None, None]
    assert done.comparisons == ()
    assert "no comparison of the systems" in listener.notes[-1]


@pytest.mark.parametrize("again", [False, True])
def test_two_systems_without_enough_nontarget_speakers_are_scored_and_not_compared(exp, again):
    """Nontarget trials of two speakers only: most resamples have none, which once ended the command."""
    of = {number: [name for name in IDS if int(name[:5]) == number] for number in range(NUM_SPEAKERS)}
    targets = [(a, b) for names in of.values() for i, a in enumerate(names) for b in names[i + 1 :]]
    write_pairs(exp, targets + [(a, b) for a in of[0] for b in of[1]])
    if again:
        score(exp, embeddings=(exp / "embeddings" / "dense",))
    listener = Listener()
    done = run(request(exp), listener)
    assert [system.metrics.eer_interval for system in done.systems] == [None, None]
    assert [system.metrics.eer > 0 for system in done.systems] == [True, True]
    assert done.comparisons == ()
    assert listener.notes[-1].startswith("no comparison of pruned with dense: bootstrap: expected target")


def test_labels_that_contradict_the_manifest_cost_the_interval_where_they_are_allowed(exp):
    write_trials(
        exp / "data" / "trials" / "all.txt",
        Trials.of(np.array(IDS[:3], object), np.array(IDS[1:4], object), np.array([1, 0, 1], np.int8)),
    )
    listener = Listener()
    with pytest.raises(
        DataError, match=r"1 of 3 trials have a label .*all\.txt:2; `--allow contradicting-labels`"
    ):
        run(request(exp), listener)
    done = run(request(exp, allow=frozenset({"contradicting-labels"})), listener)
    assert done.systems[0].metrics.eer_interval is None
    assert "trial labels contradict the speakers" in done.systems[0].metrics.no_interval
    assert "at trials 2" in "".join(listener.notes)


def test_finished_scores_are_refused_kept_or_replaced(exp):
    score(exp)
    with pytest.raises(ConfigError, match="--overwrite"):
        score(exp)
    stamp = exp / "scores" / "dense" / "all" / "metrics.json"
    before = stamp.stat().st_mtime_ns
    assert score(exp, keep_finished=True).systems[0].metrics == read_metrics(stamp.parent)
    assert stamp.stat().st_mtime_ns == before
    bars = Notes()  # of what is scored, not of what is kept
    run(request(exp, keep_finished=True), bars)
    assert "score all" not in bars.tasks
    shutil.rmtree(exp / "scores" / "pruned")
    run(request(exp, keep_finished=True), bars)
    assert (bars.tasks["score all"].total, bars.tasks["score all"].done) == (1, 1)
    score(exp, overwrite=True)
    assert stamp.stat().st_mtime_ns != before


def test_kept_only_while_the_inputs_are_the_same(exp):
    score(exp)
    make_embeddings(exp / "embeddings" / "dense", embeddings_of(3, 0.9), exp / "data" / "eval.tsv")
    with pytest.raises(ConfigError, match="finished"):
        score(exp, keep_finished=True)


@pytest.mark.parametrize(
    ("label", "counts"), [(1, "3 targets and 0 nontargets"), (0, "0 targets and 3 nontargets")]
)
def test_a_list_of_one_class_is_an_error_before_anything_is_written(exp, label, counts):
    trials = exp / "data" / "trials" / "one.txt"
    trials.write_text("".join(f"{label} {IDS[0]} {name}\n" for name in IDS[1:4]))
    with pytest.raises(DataError, match=rf"one\.txt: .* found {counts}"):
        run(ScoreRequest(exp=exp, trials=trials), SilentProgress())
    assert not (exp / "scores").exists()


def test_no_error_leaves_possible_what_so_many_people_do_and_few_speakers_have_no_interval(exp):
    """Voices without noise: all rates are zero in every resample, which says nothing about how rare errors are."""
    manifest = exp / "data" / "eval.tsv"
    make_embeddings(exp / "embeddings" / "dense", embeddings_of(1, 0.0), manifest)
    facts = score(exp, embeddings=(exp / "embeddings" / "dense",)).systems[0].metrics
    point, pairs = facts.thresholds["eer"], NUM_SPEAKERS * (NUM_SPEAKERS - 1) // 2
    for interval, count in (
        (facts.eer_interval, NUM_SPEAKERS),
        (point.miss_rate_interval, NUM_SPEAKERS),
        (point.false_accept_rate_interval, pairs),
    ):
        assert (interval.low, interval.high) == (0, pytest.approx(1 - 0.05 ** (1 / count)))
    assert facts.eer == 0 and {cost.value for cost in facts.min_dcf} == {0}
    assert {cost.interval.high for cost in facts.min_dcf} == {1}  # that of rejecting everybody
    few = exp / "data" / "trials" / "few.txt"  # four speakers, with errors
    make_embeddings(exp / "embeddings" / "dense", embeddings_of(2, 1.2), manifest)
    names = IDS[: 4 * PER_SPEAKER]
    few.write_text("".join(f"{int(a[:5] == b[:5])} {a} {b}\n" for a in names for b in names if a < b))
    request = ScoreRequest(exp=exp, trials=few, embeddings=(exp / "embeddings" / "dense",))
    facts = run(request, SilentProgress()).systems[0].metrics
    assert facts.eer > 0 and facts.eer_interval is None


def test_every_metric_has_an_interval_around_it(exp):
    facts = score(exp, calibrate_folds=4, embeddings=(exp / "embeddings" / "pruned",)).systems[0].metrics
    entries = [(facts.eer, facts.eer_interval), (facts.cllr, facts.cllr_interval)]
    entries += [(cost.value, cost.interval) for cost in (*facts.min_dcf, *facts.act_dcf)]
    points = [
        facts.thresholds["eer"],
        facts.thresholds["far_0.01"],
        facts.bayes_thresholds["p_target_0.5"],
    ]
    for point in points:
        entries += [
            (getattr(point, name), getattr(point, f"{name}_interval"))
            for name in ("miss_rate", "false_accept_rate")
        ]
    for value, interval in entries:
        if interval is not None:
            assert interval.low <= value <= interval.high
    assert sum(interval is not None for _, interval in entries) >= 10


def test_utterances_without_an_embedding_are_named(exp):
    make_embeddings(exp / "embeddings" / "dense", embeddings_of(1, 0.6)[:25], ids=IDS[:25])
    with pytest.raises(DataError) as caught:
        score(exp, embeddings=(exp / "embeddings" / "dense",))
    assert (
        "nothing for 6 of 31 enrollment utterances (00006/1.wav, 00006/2.wav, 00006/3.wav, 00007/0.wav, 00007/1.wav,"
        " ...) and 7 of 31 test utterances (00006/1.wav," in str(caught.value)
    )
    assert not (exp / "scores").exists()


def test_embeddings_of_other_utterances_are_left_out_by_default(exp):
    make_embeddings(
        exp / "embeddings" / "train", embeddings_of(1, 0.6), ids=[f"train/{name}" for name in IDS]
    )
    assert [system.metrics.name for system in score(exp).systems] == ["dense", "pruned"]


def test_what_a_model_made_again_of_another_list_is_no_system_more_unless_it_is_named(exp):
    again = exp / "embeddings" / "dense-folder"
    listed = again / "manifest.tsv"
    again.mkdir()
    listed.write_bytes((exp / "data" / "eval.tsv").read_bytes())
    make_embeddings(again, embeddings_of(1, 0.6), listed)
    other_model = exp / "embeddings" / "others"
    make_embeddings(other_model, embeddings_of(3, 0.6), listed, sha256="beef")
    listener = Listener()
    names = [system.metrics.name for system in run(request(exp), listener).systems]
    assert names == ["dense", "others", "pruned"]
    (note,) = (note for note in listener.notes if "left out" in note)
    assert note == (
        f"{again}: left out, because the same model made {exp}/embeddings/dense of the evaluation list; to score it"
        " all the same, name it with --embeddings"
    )
    both = (exp / "embeddings" / "dense", again)
    assert len(score(exp, embeddings=both, overwrite=True).systems) == 2
    # Other settings are another system.
    facts = json.loads((again / "embeddings.json").read_text())
    (again / "embeddings.json").write_text(json.dumps({**facts, "dtype": "int8"}))
    assert len(score(exp, overwrite=True).systems) == 4


def test_the_list_that_trials_were_prepared_with_comes_before_the_experiments_own(exp):
    """Ids such as alice/1.wav may name other recordings in another preparation."""
    prepared = exp / "other" / "data"
    (prepared / "trials").mkdir(parents=True)
    for name in ("eval.tsv", "trials/all.txt"):
        (prepared / name).write_bytes((exp / "data" / name).read_bytes())
    make_embeddings(exp / "embeddings" / "dense-eval", embeddings_of(3, 0.6), prepared / "eval.tsv")
    theirs = ScoreRequest(exp=exp, trials=prepared / "trials" / "all.txt")
    assert [one.metrics.name for one in run(theirs, SilentProgress()).systems] == ["dense-eval"]
    assert [one.metrics.name for one in score(exp, overwrite=True).systems] == ["dense", "pruned"]


def test_unfinished_embeddings_are_left_out_and_named(exp):
    (exp / "embeddings" / "pruned" / "provenance.json").rename(exp / "embeddings" / "pruned" / "run.json")
    (exp / "embeddings" / "mine").mkdir()
    listener = Listener()
    assert [system.metrics.name for system in run(request(exp), listener).systems] == ["dense"]
    (note,) = (note for note in listener.notes if "left out" in note)
    assert note.startswith(f"{exp}/embeddings/pruned: not finished, left out; run the same `svkit extract`")


def test_missing_things_have_their_errors(exp, tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.txt: does not exist"):
        run(ScoreRequest(exp=exp, trials=tmp_path / "nowhere.txt"), SilentProgress())
    with pytest.raises(ArtifactError, match="nothing: does not exist"):
        score(exp, embeddings=(exp / "nothing",))
    with pytest.raises(ArtifactError, match="svkit extract"):
        other = ScoreRequest(exp=tmp_path / "other", trials=exp / "data" / "trials" / "all.txt")
        run(other, SilentProgress())
    with pytest.raises(ConfigError, match="needs a cohort"):
        score(exp, backend=Backend(norm="asnorm"))
    with pytest.raises(ConfigError, match="different names"):
        score(exp, embeddings=(exp / "embeddings" / "dense",) * 2)


def cohort_matrix(size=40):
    return np.random.default_rng(5).normal(size=(size, 6)).astype(np.float32)


def test_asnorm_equals_a_loop_and_has_its_own_directory(exp):
    make_embeddings(exp / "embeddings" / "cohort", cohort_matrix(), ids=[f"c{row}" for row in range(40)])
    done = score(
        exp,
        embeddings=(exp / "embeddings" / "dense",),
        backend=Backend(norm="asnorm", top_n=10, center=True),
        cohorts=(exp / "embeddings" / "cohort",),
    )
    directory = done.systems[0].directory
    assert directory == exp / "scores" / "dense" / "all-center-asnorm-top10"
    mean = cohort_matrix().astype(float).mean(axis=0)
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    system, cohort = unit(embeddings_of(1, 0.6) - mean), unit(cohort_matrix() - mean)
    found = read_scores(directory)
    for row in (0, 100, 495):
        sides = [IDS.index(ids[row]) for ids in (found.trials.enroll_ids, found.trials.test_ids)]
        raw = system[sides[0]] @ system[sides[1]]
        normed = []
        for side in sides:
            top = np.sort(cohort @ system[side])[-10:]
            normed.append((raw - top.mean()) / top.std())
        assert found.scores[row] == pytest.approx(sum(normed) / 2, abs=1e-4)


def test_cohorts_are_not_scored_and_must_come_from_the_same_checkpoint(exp):
    make_embeddings(exp / "embeddings" / "cohort", cohort_matrix(), ids=[IDS[0], *map(str, range(39))])
    cohorts = (exp / "embeddings" / "cohort",)
    shared = frozenset({"shared-speakers"})
    done = score(exp, backend=Backend(norm="snorm"), cohorts=cohorts, allow=shared)
    assert [system.metrics.name for system in done.systems] == ["dense", "pruned"]
    make_embeddings(
        exp / "embeddings" / "cohort", cohort_matrix(), ids=list(map(str, range(40))), sha256="beef"
    )
    with pytest.raises(ArtifactError, match="found one made with another"):
        score(exp, backend=Backend(norm="snorm"), cohorts=cohorts, overwrite=True)
    with pytest.raises(ConfigError, match="expected 1 or 2"):
        score(exp, backend=Backend(norm="snorm"), cohorts=cohorts * 3, overwrite=True)


def test_cohort_speakers_are_means_over_the_manifest(exp):
    make_embeddings(exp / "embeddings" / "cohort", embeddings_of(9, 1.0), exp / "data" / "eval.tsv")
    backend = Backend(norm="snorm", cohort_speakers=True)
    done = score(
        exp,
        embeddings=(exp / "embeddings" / "dense",),
        backend=backend,
        cohorts=(exp / "embeddings" / "cohort",),
        allow=frozenset({"shared-speakers"}),
    )
    rows = embeddings_of(9, 1.0).astype(float)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    means = unit.reshape(NUM_SPEAKERS, PER_SPEAKER, -1).mean(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    system = embeddings_of(1, 0.6).astype(float)
    system /= np.linalg.norm(system, axis=1, keepdims=True)
    a, b = system[0], system[1]
    expected = np.mean([(a @ b - (means @ side).mean()) / (means @ side).std() for side in (a, b)])
    assert read_scores(done.systems[0].directory).scores[0] == pytest.approx(expected, abs=1e-4)


def test_several_enrollment_utterances_are_averaged(exp):
    models = exp / "data" / "enroll.tsv"
    models.write_text(
        "enroll_id\tutterance_id\n" + "".join(f"m{name[:5]}\t{name}\n" for name in IDS if "/3" not in name)
    )
    tests = [name for name in IDS if "/3" in name]
    trials = exp / "data" / "trials" / "multi.txt"
    trials.write_text("".join(f"{int(a[:5] == b[:5])} m{a[:5]} {b}\n" for a in tests for b in tests))
    done = run(
        ScoreRequest(exp=exp, trials=trials, enroll=models, embeddings=(exp / "embeddings" / "dense",)),
        SilentProgress(),
    )
    found = read_scores(done.systems[0].directory)
    matrix = embeddings_of(1, 0.6).astype(float)
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    model = unit[:3].mean(axis=0)
    assert found.scores[1] == pytest.approx(model @ unit[7] / np.linalg.norm(model), abs=1e-6)
    assert done.systems[0].metrics.eer_interval.speakers_from == "manifest"
    assert done.systems[0].metrics.eer_interval.num_speakers == NUM_SPEAKERS
    models.write_text("enroll_id\tutterance_id\nm00001\t00001/0.wav\n")
    with pytest.raises(DataError, match="the enrollment map: nothing for 7 of 8 enrollments"):
        run(
            ScoreRequest(
                exp=exp,
                trials=trials,
                enroll=models,
                embeddings=(exp / "embeddings" / "dense",),
                overwrite=True,
            ),
            SilentProgress(),
        )
