"""What a pruning did not achieve is said, and only that."""

import dataclasses

import pytest

from svkit.config.architecture import EncoderArchitecture
from svkit.pruning.outcome import Outcome, vanished_kinds

DENSE = EncoderArchitecture.uniform(num_layers=2, hidden_size=12, num_heads=3, ffn_dim=20, feature_dim=8)
GOOD = Outcome(
    constraint="projection", target=0.8, expected=0.8, counted=0.801, vanished=[],
    before_cut={"l1": 0.2, "cosine": 0.95}, after_cut={"l1": 0.2039, "cosine": 0.94},
)  # fmt: skip


def test_a_good_pruning_has_no_cautions():
    assert GOOD.cautions == [] and GOOD.moved == pytest.approx(0.0195)
    assert GOOD.record()["moved"] == GOOD.moved and GOOD.record()["cautions"] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"expected": 0.789}, "ended at an expected sparsity of 78.9 %, but the target is 80.0 %"),
        ({"expected": 0.811}, "ended at an expected sparsity of 81.1 %, but the target is 80.0 %"),
        ({"after_cut": {"l1": 0.309, "cosine": 0.9}}, "from 0.200 to 0.309, by 54 % (expected: at most 2 %)"),
        ({"after_cut": {"l1": 0.19, "cosine": 0.9}}, "from 0.200 to 0.190, by 5 %"),
        ({"vanished": ["ffn1", "ffn2"]}, "no unit of the first FFN and no unit of the second FFN is left"),
    ],
)
def test_each_fault_is_one_sentence_with_figures(change, said):
    cautions = dataclasses.replace(GOOD, **change).cautions
    assert len(cautions) == 1 and said in cautions[0]


def test_advice_is_of_the_constraint_that_there_was():
    moved = dataclasses.replace(GOOD, after_cut={"l1": 0.3, "cosine": 0.9})
    assert "round_to" in moved.cautions[0] and "constraint=projection" not in moved.cautions[0]
    (caution,) = dataclasses.replace(moved, constraint="lagrangian").cautions
    assert caution.endswith("or with --set prune.constraint=projection")


def test_a_kind_has_vanished_when_no_layer_has_any_left():
    widths = DENSE.widths() | {"num_heads": [0, 0], "conv_dim": [0, 12]}
    assert vanished_kinds(DENSE.with_widths(widths), DENSE) == ["heads"]
    gone = DENSE.with_widths(widths)
    assert vanished_kinds(gone, gone) == [], "what was not there before has not vanished"
