"""ArcFace: what the margin does to angles, and that no gradient is lost at the ends."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svkit.config.schema import MarginConfig
from svkit.nn.margin import ArcFaceClassifier, SampledClassifier, arcface_logits, make_classifier

SCALE = 32.0


@given(angle=st.floats(0.0, math.pi), margin=st.sampled_from([0.0, 0.2, 0.5, 1.0]))
@settings(deadline=None)
def test_the_margin_is_added_to_the_angle_of_the_true_class_alone(angle, margin):
    cosine = torch.tensor([[math.cos(angle), 0.3, -0.8]], dtype=torch.float64)
    found = arcface_logits(cosine, torch.tensor([0]), SCALE, margin)
    assert torch.equal(found[0, 1:], SCALE * cosine[0, 1:])
    if angle < math.pi - margin - 1e-6:
        assert float(found[0, 0]) == pytest.approx(SCALE * math.cos(angle + margin), abs=1e-4)
    elif angle > math.pi - margin + 1e-6:
        # Past pi - m the cosine would rise again; the published continuation is linear in cos(theta).
        assert float(found[0, 0]) == pytest.approx(
            SCALE * (math.cos(angle) - margin * math.sin(margin)), abs=1e-9
        )


def test_margin_0_is_the_scaled_cosine_softmax():
    cosine = torch.linspace(-1, 1, 12).view(3, 4)
    assert torch.equal(arcface_logits(cosine, torch.tensor([0, 1, 3]), SCALE, 0.0), SCALE * cosine)


@given(margin=st.sampled_from([0.2, 0.5]))
def test_the_logit_of_the_true_class_falls_with_its_angle(margin):
    angles = torch.linspace(0, math.pi, 500, dtype=torch.float64)
    cosine = torch.stack([angles.cos(), torch.zeros(500)], dim=1)
    logits = arcface_logits(cosine, torch.zeros(500, dtype=torch.int64), 1.0, margin)[:, 0]
    edge = int((angles <= math.pi - margin).sum())  # the published continuation jumps here
    assert bool((logits[: edge - 1].diff() < 0).all()) and bool((logits[edge + 1 :].diff() < 0).all())


@pytest.mark.parametrize("value", [1.0, -1.0, 1.0 - 1e-7, 1.0 + 1e-6])
def test_gradients_are_finite_where_the_sine_is_0(value):
    cosine = torch.full((1, 3), value, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(
        arcface_logits(cosine, torch.tensor([1]), SCALE, 0.2), torch.tensor([1])
    )
    loss.backward()
    assert bool(torch.isfinite(loss)) and bool(torch.isfinite(cosine.grad).all())


def test_gradients_are_finite_for_an_embedding_that_is_a_class_weight():
    classifier = ArcFaceClassifier(4, 3)
    embeddings = classifier.weight.detach().clone().requires_grad_(True)
    labels = torch.arange(3)
    torch.nn.functional.cross_entropy(
        arcface_logits(classifier(embeddings), labels, SCALE, 0.2), labels
    ).backward()
    assert bool(torch.isfinite(embeddings.grad).all()) and bool(torch.isfinite(classifier.weight.grad).all())


def test_cosines_do_not_depend_on_lengths_and_stay_float32():
    classifier = ArcFaceClassifier(4, 3)
    embeddings = torch.randn(5, 4)
    cosine = classifier(embeddings)
    assert torch.allclose(classifier(7 * embeddings), cosine, atol=1e-6)
    assert float(cosine.detach().abs().max()) <= 1 + 1e-6
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(classifier(embeddings), cosine)


NUM_CLASSES, DIM = 40, 4
LABELS = torch.tensor([3, 39, 3, 0])


def sampled(num_sampled: int, seed: int = 0) -> SampledClassifier:
    torch.manual_seed(1)
    return SampledClassifier(DIM, NUM_CLASSES, num_sampled, seed)


def train_classifier(
    classifier: ArcFaceClassifier, steps: range, optimizer: torch.optim.AdamW
) -> list[float]:
    """Train the class weights alone, towards embeddings that are drawn anew in each step."""
    losses = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        embeddings = torch.randn((len(LABELS), DIM), generator=generator)
        targets = classifier.choose((LABELS + step) % NUM_CLASSES, step)
        loss = torch.nn.functional.cross_entropy(
            arcface_logits(classifier(embeddings), targets, SCALE, 0.2), targets
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def adamw(classifier: ArcFaceClassifier) -> torch.optim.AdamW:
    parameters = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)
    if isinstance(classifier, SampledClassifier):
        classifier.attach(optimizer)
    return optimizer


def test_a_draw_of_all_classes_is_the_exact_softmax_bit_for_bit():
    torch.manual_seed(1)
    exact, draw = ArcFaceClassifier(DIM, NUM_CLASSES), sampled(NUM_CLASSES)
    losses = [train_classifier(each, range(6), adamw(each)) for each in (exact, draw)]
    assert losses[0] == losses[1] and torch.equal(exact.weight, draw.weight)


@given(num_sampled=st.integers(3, NUM_CLASSES - 1), step=st.integers(0, 10**6))
def test_a_draw_holds_the_labels_and_different_others(num_sampled, step):
    classifier = sampled(num_sampled)
    targets = classifier.choose(LABELS, step)
    chosen = classifier._chosen
    assert len(chosen) == num_sampled == len(set(chosen.tolist()))
    assert torch.equal(chosen[targets], LABELS) and torch.equal(classifier.rows(), classifier.weight[chosen])
    again = sampled(num_sampled)
    again.choose(LABELS, step)
    assert torch.equal(again._chosen, chosen)


def test_draws_are_uniform_and_differ_between_steps_and_seeds():
    classifier, counts = sampled(13), torch.zeros(NUM_CLASSES)
    for step in range(2000):
        classifier.choose(LABELS, step)
        counts[classifier._chosen] += 1
    assert (counts[[0, 3, 39]] == 2000).all()
    others = counts[[row for row in range(NUM_CLASSES) if row not in (0, 3, 39)]]
    expected = 2000 * 10 / 37
    # Five standard deviations of a binomial count.
    assert float((others - expected).abs().max()) < 5 * math.sqrt(expected * (1 - 10 / 37))
    first, other = sampled(13), sampled(13, seed=1)
    first.choose(LABELS, 0)
    other.choose(LABELS, 0)
    assert not torch.equal(first._chosen, other._chosen)


def test_a_class_that_is_not_drawn_keeps_weight_and_moments():
    """Neither momentum nor weight decay moves it; one that is drawn is updated from its own moments."""
    classifier = sampled(10)
    optimizer = adamw(classifier)
    train_classifier(classifier, range(20), optimizer)
    state = optimizer.state[classifier.active]
    before = {name: state[f"all_classes_{name}"].clone() for name in ("exp_avg", "exp_avg_sq")}
    weight = classifier.weight.clone()
    train_classifier(classifier, range(20, 21), optimizer)
    drawn = torch.zeros(NUM_CLASSES, dtype=torch.bool)
    drawn[classifier._chosen] = True
    assert int(drawn.sum()) == 10
    assert torch.equal(classifier.weight[~drawn], weight[~drawn])
    assert bool((classifier.weight[drawn] != weight[drawn]).any(1).all())
    for name, moments in before.items():
        assert torch.equal(state[f"all_classes_{name}"][~drawn], moments[~drawn])
        assert bool((state[f"all_classes_{name}"][drawn] != moments[drawn]).any(1).all())
    # AdamW by hand, with the moments that the drawn rows had.
    gradient, rows = classifier.active.grad, classifier._chosen
    mean = 0.9 * before["exp_avg"][rows] + 0.1 * gradient
    square = 0.999 * before["exp_avg_sq"][rows] + 0.001 * gradient.square()
    direction = mean / (1 - 0.9**21) / ((square / (1 - 0.999**21)).sqrt() + 1e-8)
    assert torch.allclose(classifier.weight[rows], weight[rows] * (1 - 1e-3) - 1e-2 * direction, atol=1e-6)


def test_a_resumed_draw_goes_on_bit_for_bit():
    whole = sampled(10)
    losses = train_classifier(whole, range(9), adamw(whole))
    first, second = sampled(10), sampled(10)
    optimizer = adamw(first)
    start = train_classifier(first, range(5), optimizer)
    second.load_state_dict(first.state_dict())
    resumed = adamw(second)
    resumed.load_state_dict(optimizer.state_dict())
    assert start + train_classifier(second, range(5, 9), resumed) == losses
    assert torch.equal(second.weight, whole.weight)


def test_a_step_that_is_skipped_changes_no_class():
    classifier = sampled(10)
    before = classifier.weight.clone()
    targets = classifier.choose(LABELS, 0)
    torch.nn.functional.cross_entropy(classifier(torch.randn(4, DIM)), targets).backward()
    classifier.choose(LABELS, 1)
    assert torch.equal(classifier.weight, before)
    # Outside training every class is compared.
    classifier.eval()
    assert torch.equal(classifier.choose(LABELS, 2), LABELS)
    assert classifier(torch.randn(4, DIM)).shape == (4, NUM_CLASSES)


@pytest.mark.parametrize("fraction", [1.0, 0.1])
def test_class_weights_start_as_published_or_as_xavier(fraction):
    """Every dimension has norm 1 over the classes, so a class has a norm near sqrt(E / S): 0.119 as published."""
    norms = {}
    for uniform_start in (True, False):
        torch.manual_seed(0)
        config = MarginConfig(class_fraction=fraction, uniform_start=uniform_start)
        weight = make_classifier(256, 17_982, config, batch_size=8, seed=0).weight.detach()
        norms[uniform_start] = float(weight.norm(dim=1).mean())
        largest = float(weight.abs().max() / weight.std())
        assert largest < 1.8 if uniform_start else largest > 4  # uniform ends at sqrt(3) deviations
        if uniform_start:
            torch.testing.assert_close(weight.norm(dim=0), torch.ones(256))
    assert norms[True] == pytest.approx(0.1193, abs=2e-4) and norms[False] == pytest.approx(0.1675, abs=4e-4)


@pytest.mark.parametrize(
    ("fraction", "batch_size", "expected"), [(1.0, 8, None), (0.1, 8, 8), (0.3, 8, 12), (0.1, 64, None)]
)
def test_a_recipe_draws_a_fraction_and_at_least_a_batch(fraction, batch_size, expected):
    config = MarginConfig(class_fraction=fraction)
    classifier = make_classifier(DIM, NUM_CLASSES, config, batch_size=batch_size, seed=0)
    if expected is None:
        assert type(classifier) is ArcFaceClassifier
    else:
        assert isinstance(classifier, SampledClassifier) and len(classifier.active) == expected
