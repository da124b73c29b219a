import numpy as np
import pytest

from svkit.errors import ArtifactError, DataError
from svkit.store import coded, tables
from svkit.store.scores import Resamples, read_resamples, read_scores, write_resamples, write_scores
from svkit.store.trials import Trials

TRIALS = Trials.of(
    np.array(["007", "a b", "NA"], object), np.array(["x", "x", "y"], object), np.array([1, 0, 0], np.int8)
)


@pytest.mark.parametrize("with_llrs", [False, True])
def test_float32_scores_come_back_exactly(tmp_path, with_llrs):
    scores = np.array([1 / 3, -1e-8, 0.123456789], np.float32)
    llrs = np.array([5.5, -np.pi, 1e4], np.float32) if with_llrs else None
    write_scores(tmp_path / "s", TRIALS, scores, llrs)
    back = read_scores(tmp_path / "s")
    assert back.trials.enroll_ids.tolist() == ["007", "a b", "NA"]
    assert back.trials.test_ids.tolist() == ["x", "x", "y"]
    assert back.trials.labels.tolist() == [1, 0, 0]
    assert np.array_equal(back.scores.astype(np.float32), scores)
    assert (back.llrs is None) == (not with_llrs)
    if with_llrs:
        assert np.array_equal(back.llrs.astype(np.float32), llrs)


def test_the_file_is_a_table_with_a_header(tmp_path):
    write_scores(tmp_path, TRIALS, np.array([0.5, -0.25, 1.0]))
    assert (tmp_path / "scores.tsv").read_text().splitlines()[:2] == [
        "enroll_id\ttest_id\tlabel\tscore",
        "007\tx\t1\t0.5",
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a\tb\t1\tx\n", "scores.tsv:2: score: expected a finite number, found 'x'"),
        ("a\tb\t1\t1\na\tb\t0\tnan\n", "scores.tsv:3: score: .* found 'nan'"),
        ("a\tb\t1\tinf\n", "scores.tsv:2: score: .* found 'inf'"),
        ("a\tb\ttarget\t1\n", "scores.tsv:2: label: expected 1 or 0, found 'target'"),
        ("a\tb\t1\n", "scores.tsv:2: expected 4"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, message):
    (tmp_path / "scores.tsv").write_text("enroll_id\ttest_id\tlabel\tscore\n" + rows)
    with pytest.raises(ArtifactError, match=message):
        read_scores(tmp_path)


def test_missing_scores_and_broken_ids(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        read_scores(tmp_path)
    bad = Trials.of(np.array(["a\tb"], object), np.array(["c"], object), np.ones(1, np.int8))
    with pytest.raises(DataError, match="tab or a line end"):
        write_scores(tmp_path, bad, np.zeros(1))


@pytest.mark.parametrize("size", [1, 50, 64, 10_000])
def test_blocks_of_any_size_give_the_same_scores_and_lines(tmp_path, monkeypatch, size):
    monkeypatch.setattr(tables, "_BLOCK_BYTES", size)
    monkeypatch.setattr(coded, "ROWS_PER_BLOCK", size)
    rng = np.random.default_rng(0)
    ids = np.array([f"u{number}" for number in rng.integers(0, 7, 120)], object)
    trials = Trials.of(ids[:60], ids[60:], rng.integers(0, 2, 60).astype(np.int8))
    scores = rng.normal(size=60).astype(np.float32)
    write_scores(tmp_path, trials, scores, scores + 1)
    back = read_scores(tmp_path)
    assert back.trials.equals(trials)
    assert np.array_equal(back.scores.astype(np.float32), scores) and len(back.llrs) == 60
    path = tmp_path / "scores.tsv"
    lines = path.read_text().splitlines()
    for row, message in (
        ("a\tb\t1\t1\tx", "llr: expected a finite"),
        ("a\tb\t2\t1\t1", "label: expected 1 or 0"),
    ):
        path.write_text("\n".join([*lines[:40], row, *lines[41:]]) + "\n")
        with pytest.raises(ArtifactError, match=f"scores.tsv:41: {message}"):
            read_scores(tmp_path)


def test_resamples_come_back_and_damaged_ones_are_artifact_errors(tmp_path):
    assert read_resamples(tmp_path) is None  # scores of an earlier version
    kept = Resamples(
        eer=np.array([0.1, np.nan, 0.3]), band=np.ones((2, 4)), draws="0a" * 32, seed=24, num_speakers=7
    )
    write_resamples(tmp_path, kept)
    back = read_resamples(tmp_path)
    assert np.array_equal(back.eer, kept.eer, equal_nan=True) and np.array_equal(back.band, kept.band)
    assert (back.draws, back.seed, back.num_speakers) == (kept.draws, 24, 7)
    path = tmp_path / "resamples.safetensors"
    for damaged in (b"", path.read_bytes()[:-5], path.read_bytes().replace(b"eer", b"err")):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="resamples.safetensors"):
            read_resamples(tmp_path)
