"""Learning rates are the published factors; moments of validation are even and include the end."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svkit.config.load import load_recipe
from svkit.config.schema import OptimConfig
from svkit.training.schedule import learning_rate, validation_steps

PUBLISHED = load_recipe("w2v-bert-2.0").dense
PER_EPOCH = 7


def factors(optim: OptimConfig, epochs: int) -> list[set[float]]:
    """Every learning rate of each epoch, relative to the base rate."""
    steps = epochs * PER_EPOCH
    rates = [learning_rate(optim, step, PER_EPOCH, steps) / optim.lr for step in range(steps)]
    return [{round(rate, 12) for rate in rates[e * PER_EPOCH : (e + 1) * PER_EPOCH]} for e in range(epochs)]


def test_stage_1_warms_up_and_decays_by_epochs():
    expected = [(epoch + 1) / 6 for epoch in range(5)] + [1.0] * 5 + [0.1] * 5
    assert factors(PUBLISHED.lora.optim, 15) == [{round(factor, 12)} for factor in expected]


def test_stage_1_without_lora_has_no_warm_up():
    assert factors(PUBLISHED.head.optim, 10) == [{1.0}] * 5 + [{0.1}] * 5


@pytest.mark.parametrize(("stage", "cosine_epochs", "epochs"), [("joint", 2, 4), ("lmft", 1, 2)])
def test_stages_2_and_3_follow_a_cosine_per_step_and_stay_at_its_end(stage, cosine_epochs, epochs):
    optim = getattr(PUBLISHED, stage).optim
    span, steps = cosine_epochs * PER_EPOCH, epochs * PER_EPOCH
    rates = [learning_rate(optim, step, PER_EPOCH, steps) for step in range(steps)]
    expected = [5e-6 + 5e-6 * (1 + math.cos(math.pi * min(step / span, 1))) / 2 for step in range(steps)]
    assert rates == pytest.approx(expected, rel=1e-12)
    assert rates[0] == 1e-5 and set(rates[span:]) == {5e-6}


def test_distillation_has_a_constant_rate():
    assert factors(load_recipe("w2v-bert-2.0").distill.optim, 20) == [{1.0}] * 20


def test_warm_up_per_step_of_the_cosine_and_constant_schedules():
    cosine = OptimConfig(lr=1.0, final_lr=0.1, schedule="cosine", warmup_epochs=0.5)
    rates = [learning_rate(cosine, step, 8, 24) for step in range(24)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(a > b for a, b in zip(rates[4:], rates[5:], strict=False)) and rates[-1] > 0.1
    constant = OptimConfig(lr=1.0, schedule="constant", warmup_epochs=0.5)
    assert [learning_rate(constant, step, 8, 24) for step in (0, 3, 4, 23)] == pytest.approx([0.2, 0.8, 1, 1])


@given(num_steps=st.integers(1, 500), count=st.integers(1, 12))
def test_validations_are_even_and_end_with_the_run(num_steps, count):
    steps = validation_steps(num_steps, 7, count, None)
    assert steps[-1] == num_steps and steps[0] >= 1 and list(steps) == sorted(set(steps))
    assert len(steps) == min(count, num_steps) or num_steps < 2 * count
    gaps = [b - a for a, b in zip((0, *steps), steps, strict=False)]
    assert max(gaps) - min(gaps) <= 1


@given(
    num_steps=st.integers(1, 200), steps_per_epoch=st.integers(1, 60), every=st.none() | st.integers(1, 70)
)
def test_published_validations_follow_epochs_and_steps_of_an_epoch(num_steps, steps_per_epoch, every):
    """The published loop counts the steps of every epoch from one again."""
    expected = {num_steps}
    for done in range(1, num_steps + 1):
        of_epoch = (done - 1) % steps_per_epoch + 1
        if of_epoch == steps_per_epoch or (every and of_epoch % every == 0):
            expected.add(done)
    assert validation_steps(num_steps, steps_per_epoch, None, every) == tuple(sorted(expected))


def test_published_validations_of_the_full_size():
    """Epochs of 3 x 1,092,009 crops in batches of 8 x 64 (LMFT: 1,092,009 in 8 x 32)."""
    joint, lmft = PUBLISHED.joint, PUBLISHED.lmft
    of_joint = validation_steps(4 * 6398, 6398, joint.validations, joint.validate_every_steps)
    assert of_joint[:8] == (1000, 2000, 3000, 4000, 5000, 6000, 6398, 7398) and len(of_joint) == 28
    of_lmft = validation_steps(2 * 4265, 4265, lmft.validations, lmft.validate_every_steps)
    assert of_lmft[:10] == (*range(500, 4001, 500), 4265, 4765) and len(of_lmft) == 18
    for stage in (PUBLISHED.lora, PUBLISHED.head):
        assert validation_steps(3 * 6398, 6398, stage.validations, stage.validate_every_steps) == (
            6398,
            2 * 6398,
            3 * 6398,
        )
