import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svkit.corpora import splits
from svkit.errors import ConfigError, DataError
from svkit.store.trials import Trials


def corpus(num_speakers=6, num_sessions=2, per_session=2, genders=None):
    rows = [
        (f"s{speaker}/v{session}/{number}.wav", f"s{speaker}", f"s{speaker}/v{session}", speaker)
        for speaker, session, number in itertools.product(
            range(num_speakers), range(num_sessions), range(per_session)
        )
    ]
    table = pd.DataFrame(rows, columns=["utterance_id", "speaker_id", "session_id", "number"])
    if genders:
        table["gender"] = [genders[speaker] for speaker in table["number"]]
    return table


def as_sets(trials):
    pairs = [frozenset(pair) for pair in zip(trials.enroll_ids, trials.test_ids, strict=True)]
    targets = {pair for pair, label in zip(pairs, trials.labels, strict=True) if label}
    return pairs, targets, set(pairs) - targets


@settings(max_examples=25, deadline=None)
@given(
    num_speakers=st.integers(2, 5), num_sessions=st.integers(2, 3), per_session=st.integers(1, 3),
    seed=st.integers(0, 5), has_gender=st.booleans(),
)  # fmt: skip
def test_small_lists_are_all_pairs_across_sessions_and_speakers(
    num_speakers, num_sessions, per_session, seed, has_gender
):
    genders = "ffffff" if has_gender else None
    table = corpus(num_speakers, num_sessions, per_session, genders)
    pairs, targets, nontargets = as_sets(splits.make_trials(table, seed, "x"))
    assert len(pairs) == len(set(pairs)) and all(len(pair) == 2 for pair in pairs)
    rows = table.to_dict("records")
    wanted = {True: set(), False: set()}
    for a, b in itertools.combinations(rows, 2):
        if a["speaker_id"] != b["speaker_id"] or a["session_id"] != b["session_id"]:
            wanted[a["speaker_id"] == b["speaker_id"]].add(frozenset((a["utterance_id"], b["utterance_id"])))
    assert targets == wanted[True]
    limit = splits.TRIALS_PER_UTTERANCE * len(table)
    assert nontargets == wanted[False] if len(wanted[False]) <= limit else len(nontargets) == limit


def test_unknown_sessions_exclude_no_pair():
    table = corpus(2, 1, 3).assign(session_id="")
    assert len(as_sets(splits.make_trials(table, 0, "x"))[1]) == 6


def test_nontarget_trials_are_of_one_gender_where_known():
    table = corpus(4, 2, 2, "fmfm")
    gender = dict(zip(table["utterance_id"], table["gender"], strict=True))
    nontargets = as_sets(splits.make_trials(table, 0, "x"))[2]
    assert len(nontargets) == 32
    assert all(len({gender[name] for name in pair}) == 1 for pair in nontargets)


def test_caps_and_the_seed():
    table = corpus(5, 3, 3)
    first, again, other = (splits.make_trials(table, seed, "x", per_utterance=2) for seed in (1, 1, 2))
    assert np.array_equal(first.enroll_ids, again.enroll_ids) and np.array_equal(
        first.test_ids, again.test_ids
    )
    assert as_sets(first)[0] != as_sets(other)[0]
    assert as_sets(splits.make_trials(table, 1, "y", per_utterance=2))[0] != as_sets(first)[0]
    assert (first.labels == 1).sum() == (first.labels == 0).sum() == 2 * len(table)
    shuffled = splits.make_trials(table.sample(frac=1, random_state=0), 1, "x", per_utterance=2)
    assert np.array_equal(first.enroll_ids, shuffled.enroll_ids)


def test_drawing_pairs_of_many_utterances_keeps_the_rules(monkeypatch):
    monkeypatch.setattr(splits, "_MAX_ENUMERATED", 10)
    monkeypatch.setattr(splits, "_MAX_PAIRED_UTTERANCES", 5)
    table = corpus(8, 5, 4, "fmfmfmfm")
    pairs, targets, nontargets = as_sets(splits.make_trials(table, 0, "x"))
    speaker = dict(zip(table["utterance_id"], table["speaker_id"], strict=True))
    gender = dict(zip(table["utterance_id"], table["gender"], strict=True))
    assert len(pairs) == len(set(pairs)) and len(nontargets) == 20 * len(table)
    assert 8 <= len(targets) <= 8 * 10
    for pair in nontargets:
        assert len({speaker[name] for name in pair}) == 2 and len({gender[name] for name in pair}) == 1
    assert all(len({speaker[name] for name in pair}) == 1 for pair in targets)


def test_lists_without_targets_or_nontargets_are_refused():
    with pytest.raises(DataError, match="no target trials"):
        splits.make_trials(corpus(3, 1, 3), 0, "x")
    with pytest.raises(DataError, match="no nontarget trials"):
        splits.make_trials(corpus(1, 2, 3), 0, "x")
    with pytest.raises(DataError, match="no nontarget trials"):
        splits.make_trials(corpus(2, 2, 3, "fm"), 0, "x")


def test_eval_speakers_by_number_default_and_file(tmp_path):
    table = corpus(30)
    five = splits.choose_eval_speakers("5", table, 1)
    assert len(set(five)) == 5 and five == splits.choose_eval_speakers("5", table, 1)
    assert five != splits.choose_eval_speakers("5", table, 2)
    # A tenth, at least five, or a third of fewer than 15, at least two.
    for speakers, expected in ((80, 8), (30, 5), (15, 5), (14, 4), (6, 2), (5, 2)):
        assert len(splits.choose_eval_speakers(None, corpus(speakers), 1)) == expected
    (tmp_path / "e.txt").write_text("s7\n\n s3 \r\ns7\n")
    assert splits.choose_eval_speakers(str(tmp_path / "e.txt"), table, 1) == ["s3", "s7"]


@pytest.mark.parametrize("spec", ["0", "1", "5", "99"])
def test_a_number_that_cannot_be_spared(spec):
    with pytest.raises(ConfigError, match=f"--eval-speakers {spec}: expected 2 to 4"):
        splits.choose_eval_speakers(spec, corpus(6), 0)


def test_speakers_with_one_utterance_do_not_evaluate():
    table = pd.concat(
        [corpus(4), pd.DataFrame({"utterance_id": ["z/1"], "speaker_id": ["z"], "session_id": [""]})]
    )
    drawn = {name for seed in range(30) for name in splits.choose_eval_speakers("2", table, seed)}
    assert drawn == {"s0", "s1", "s2", "s3"}


def test_speaker_files_with_unknown_names(tmp_path):
    (tmp_path / "e.txt").write_text("s1\nnobody\n")
    with pytest.raises(DataError, match=r"speakers that the corpus lacks: nobody \(line 2\)"):
        splits.choose_eval_speakers(str(tmp_path / "e.txt"), corpus(), 0)
    (tmp_path / "e.txt").write_text("\n")
    with pytest.raises(DataError, match="no speakers"):
        splits.choose_eval_speakers(str(tmp_path / "e.txt"), corpus(), 0)
    with pytest.raises(DataError, match="does not exist"):
        splits.choose_eval_speakers(str(tmp_path / "none.txt"), corpus(), 0)


@pytest.mark.parametrize(("speakers", "expected"), [(3, 0), (4, 2), (5, 3), (20, 3), (100, 5), (2000, 40)])
def test_the_default_number_of_validation_speakers(speakers, expected):
    assert len(set(splits.choose_valid_speakers(None, corpus(speakers, 1, 2), 0))) == expected


def test_a_wanted_number_of_validation_speakers():
    assert splits.choose_valid_speakers(0, corpus(), 0) == []
    assert len(splits.choose_valid_speakers(4, corpus(6), 0)) == 4
    for wanted in (1, 5):
        with pytest.raises(ConfigError, match=f"--valid-speakers {wanted}: expected 0, or 2 to 4"):
            splits.choose_valid_speakers(wanted, corpus(6), 0)


def trials(*rows):
    labels, enroll, test = zip(*rows, strict=True)
    return Trials.of(np.array(enroll, object), np.array(test, object), np.array(labels, np.int8))


def test_given_lists_are_checked_against_the_corpus(tmp_path):
    path = tmp_path / "t.txt"
    good, bad = "s0/v0/0.wav", [f"x{number}" for number in range(6)]
    path.write_text(f"1 {good} s0/v1/0.wav\n" + "".join(f"0 {good} {name}\n" for name in bad))
    rows = [(1, good, "s0/v1/0.wav"), *((0, good, name) for name in bad)]
    with pytest.raises(
        DataError, match=r"lacks: x0 \(line 2\), x1 \(line 3\), .* x4 \(line 6\), \.\.\. \(6 in all\)"
    ):
        splits.check_given_trials(path, trials(*rows), corpus())
    splits.check_given_trials(path, trials(rows[0]), corpus())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            (1, "s0/v0/0.wav", "s1/v0/0.wav"),
            "trial 2: .* is labelled target, but its speakers are s0 and s1",
        ),
        (
            (0, "s0/v0/0.wav", "s0/v1/0.wav"),
            "trial 2: .* is labelled nontarget, but its speakers are s0 and s0",
        ),
    ],
)
def test_labels_that_contradict_the_corpus_are_refused(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        splits.check_given_trials(tmp_path / "t", trials((1, "s0/v0/0.wav", "s0/v1/0.wav"), row), corpus())
