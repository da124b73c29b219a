"""ArcFace: what the margin does to angles, and that no gradient is lost at the ends."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svkit.nn.margin import ArcFaceClassifier, arcface_logits

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
