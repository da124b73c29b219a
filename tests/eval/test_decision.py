"""What an operating point means, among people it was not chosen on."""

from math import comb

import numpy as np
import pytest

from svkit.eval.bootstrap import TrialSpeakers, highest_unseen
from svkit.eval.decision import judge, people_to_show
from svkit.eval.logistic import cross_validate, fit_calibration


def population(num_people, per_person=3, spread=1.0, seed=0):
    """All pairs of some recordings: scores, labels and speakers."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(num_people), per_person)
    voices = np.concatenate([np.eye(num_people)[person] * 4, np.zeros((len(person), 2))], axis=1)
    made = voices + spread * rng.normal(size=voices.shape)
    left, right = np.triu_indices(len(person), k=1)
    scores = (
        (made[left] * made[right]).sum(1)
        / np.linalg.norm(made[left], axis=1)
        / np.linalg.norm(made[right], axis=1)
    )
    speakers = TrialSpeakers(enroll=person[left], test=person[right], num_speakers=num_people)
    return scores, (person[left] == person[right]).astype(np.int8), speakers


@pytest.mark.parametrize("rate", [0.05, 0.01, 0.001, 0.0001])
def test_so_many_people_show_a_rate_and_one_fewer_does_not(rate):
    needed = people_to_show(rate)
    assert highest_unseen(comb(needed, 2)) <= rate < highest_unseen(comb(needed - 1, 2))


def test_the_rule_of_three():
    assert [people_to_show(rate) for rate in (0.01, 0.001)] == [25, 78]
    assert highest_unseen(1000) == pytest.approx(3 / 1000, rel=0.01)
    assert (1 - highest_unseen(45)) ** 45 == pytest.approx(0.05)


def test_without_an_error_the_interval_is_what_so_many_people_leave_possible():
    scores, labels, speakers = population(10)
    point = judge(np.where(labels == 1, 1.0, -1.0), labels, speakers, 200, 1)
    assert (point.miss_rate, point.false_accept_rate) == (0, 0)
    assert point.miss_rate_interval.high == pytest.approx(1 - 0.05 ** (1 / 10))
    assert point.false_accept_rate_interval.high == pytest.approx(1 - 0.05 ** (1 / 45))
    # One pair of people with an error is still not told from none; a few pairs are told by resampling.
    margins = np.where(labels == 1, 1.0, -1.0)
    wrong = np.flatnonzero(labels == 0)
    margins[wrong[0]] = 0.0
    one = judge(margins, labels, speakers, 200, 1)
    assert one.false_accept_rate == 1 / len(wrong)
    assert one.false_accept_rate_interval.high >= 1 - 0.05 ** (1 / 45)
    margins[wrong[::7]] = 0.0
    many = judge(margins, labels, speakers, 200, 1)
    assert (
        many.false_accept_rate_interval.low
        < many.false_accept_rate
        < many.false_accept_rate_interval.high
        < 0.3
    )


def test_a_few_false_accepts_promise_no_less_than_none():
    _, labels, speakers = population(10, per_person=20)
    wrong = np.flatnonzero(labels == 0)
    names, one_of_each = np.unique(speakers.enroll[wrong] * 10 + speakers.test[wrong], return_index=True)
    margins = np.where(labels == 1, 1.0, -1.0)
    margins[wrong[one_of_each[::4]]] = 0.0
    point = judge(margins, labels, speakers, 200, 1)
    assert len(names) == 45 and 0 < point.false_accept_rate < 0.001
    assert point.false_accept_rate_interval.high == pytest.approx(1 - 0.05 ** (1 / 45))


def test_thresholds_come_from_trials_of_other_people():
    """Each is the lowest score of the other folds' trials that keeps the rate; own trials could be anything."""
    scores, labels, speakers = population(9, spread=2.0)
    rate, folds = 0.05, 9
    found = cross_validate(scores[:, None], labels, speakers, folds, 3, false_accept_rates=(0.2, rate))
    for trial in (0, 40, len(scores) - 1, *np.flatnonzero(labels)[:3]):
        own = [speakers.enroll[trial], speakers.test[trial]]
        others = ~np.isin(speakers.enroll, own) & ~np.isin(speakers.test, own)
        ratios = fit_calibration(scores[others, None], labels[others]).apply(scores[others, None])
        nontargets = ratios[labels[others] == 0]
        limit = found.thresholds[1, trial]
        assert (
            np.mean(nontargets >= limit)
            <= rate
            < np.mean(nontargets >= np.nextafter(ratios[ratios < limit].max(), -9))
        )
        assert found.unbounded[trial] == pytest.approx(
            fit_calibration(scores[others, None], labels[others]).apply(scores[[trial], None])[0]
        )
    plain = cross_validate(scores[:, None], labels, speakers, folds, 3)
    assert plain.thresholds.size == 0 and np.array_equal(plain.llrs, found.llrs)


def test_people_with_one_recording_are_dealt_after_the_others():
    """Or two folds could have everyone who has target trials."""
    scores, labels, speakers = population(40, per_person=2)
    kept = (labels == 0) | (speakers.enroll < 5)
    few = TrialSpeakers(enroll=speakers.enroll[kept], test=speakers.test[kept], num_speakers=40)
    for seed in range(2):
        found = cross_validate(scores[kept, None], labels[kept], few, 5, seed)
        assert np.isfinite(found.llrs).all()
