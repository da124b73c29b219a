"""Groups of trials against a loop over them."""

import numpy as np
import pandas as pd
import pytest

from svkit.errors import ConfigError, DataError
from svkit.scoring.breakdown import DURATION, group_trials, read_sidecar
from svkit.store import coded, tables
from svkit.store.coded import Coded
from svkit.store.manifest import COLUMNS, write_manifest
from svkit.store.provenance import sha256_file
from svkit.store.trials import Trials

NUM_UTTERANCES, NUM_TRIALS = 120, 400
IDS = np.array([f"u{number:03d}" for number in range(NUM_UTTERANCES)], dtype=object)
ACCENT = dict(
    zip(IDS, np.random.default_rng(1).choice(["nl", "de", "fr", "it"], NUM_UTTERANCES), strict=True)
)
SECONDS = dict(zip(IDS, np.random.default_rng(2).choice([1, 2, 4, 9, 30], NUM_UTTERANCES), strict=True))


@pytest.fixture
def manifest(tmp_path):
    table = pd.DataFrame(
        {"utterance_id": IDS, "speaker_id": IDS, "path": IDS, "sample_rate_hz": "100",
         "num_samples": [str(100 * SECONDS[name]) for name in IDS], "session_id": "",
         "accent": [ACCENT[name] for name in IDS]}
    )[[*COLUMNS, "accent"]]  # fmt: skip
    write_manifest(tmp_path / "eval.tsv", table)
    return {"path": str(tmp_path / "eval.tsv"), "sha256": sha256_file(tmp_path / "eval.tsv")}


@pytest.fixture
def trials(monkeypatch):
    monkeypatch.setattr(coded, "ROWS_PER_BLOCK", 7)
    rng = np.random.default_rng(3)
    left, right = rng.integers(0, NUM_UTTERANCES, (2, NUM_TRIALS))
    return Trials.of(IDS[left], IDS[right], (left == right).astype(np.int8))


def names_of(grouping):
    return [grouping.values[code] for code in grouping.codes]


def test_values_of_both_sides(trials, manifest):
    found = group_trials("accent", trials, None, manifest, None)
    expected = [
        " / ".join(sorted({ACCENT[a], ACCENT[b]}))
        for a, b in zip(trials.enroll_ids, trials.test_ids, strict=True)
    ]
    assert names_of(found) == expected
    assert list(found.values) == sorted(set(expected))


def test_durations_of_the_shorter_side(trials, manifest):
    found = group_trials(DURATION, trials, None, manifest, None)
    names = {1: "under 2 s", 2: "2 to 5 s", 4: "2 to 5 s", 9: "5 to 10 s", 30: "20 s or more"}
    sides = zip(trials.enroll_ids, trials.test_ids, strict=True)
    assert names_of(found) == [names[min(SECONDS[a], SECONDS[b])] for a, b in sides]


@pytest.mark.parametrize("size", [1, 300, 2**20])
def test_a_sidecar_in_blocks_of_any_size(tmp_path, monkeypatch, trials, size):
    monkeypatch.setattr(tables, "_BLOCK_BYTES", size)
    kinds = [f"kind {number % 3}" for number in range(NUM_TRIALS)]
    rows = ["\t".join(row) + "\n" for row in zip(trials.enroll_ids, trials.test_ids, kinds, strict=True)]
    path = tmp_path / "side.tsv"
    path.write_text("enroll_id\ttest_id\tkind\n" + "".join(rows))
    found = group_trials("kind", trials, read_sidecar(path, trials), None, None)
    assert names_of(found) == kinds
    path.write_text("enroll_id\ttest_id\tkind\n" + "".join([*rows[:300], "u\tv\tx\n", *rows[301:]]))
    with pytest.raises(
        DataError, match=rf"side.tsv:302: enroll_id: expected {trials.enroll_ids[300]}, as in trial 301"
    ):
        read_sidecar(path, trials)
    path.write_text("enroll_id\ttest_id\tkind\n" + "".join([*rows, rows[0]]))
    with pytest.raises(DataError, match="expected a row for each of 400 trials, found 401"):
        read_sidecar(path, trials)


def test_too_many_values_are_refused_before_they_are_paired(trials, manifest):
    with pytest.raises(ConfigError, match="--by utterance_id: expected at most 50 values, found at least 60"):
        group_trials("utterance_id", trials, None, manifest, None)
    sidecar = {
        "trial": Coded(np.array([f"t{row}" for row in range(NUM_TRIALS)], object), np.arange(NUM_TRIALS))
    }
    with pytest.raises(ConfigError, match="--by trial: expected at most 50 values, found 400"):
        group_trials("trial", trials, sidecar, manifest, None)
