"""A batch in parts: the losses and gradients of the whole, the same gates and classes, statistics that move as far."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from svkit.config.schema import MarginConfig, OptimConfig, PruneConfig
from svkit.nn.margin import SampledClassifier
from svkit.training.loop import LoopPlan, backward, pace_batch_norms
from svkit.training.tasks import ClassificationTask, DistillationTask, Task
from tests.random_models import random_encoder
from tests.training.test_tasks import ENCODER, LABELS, classification, pruning, waves

PLAN = LoopPlan(
    num_steps=9,
    steps_per_epoch=9,
    seed=5,
    optim=OptimConfig(),
    validate_after=(),
    save_every=9,
    micro_batch=None,
)


def classification_without_statistics() -> ClassificationTask:
    task = classification()
    for module in task.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
    return task


def sampled() -> ClassificationTask:
    task = classification_without_statistics()
    torch.manual_seed(2)
    classifier = SampledClassifier(7, 40, 6, seed=1)
    return ClassificationTask(task.network, classifier, MarginConfig())


def distillation() -> DistillationTask:
    task = pruning()
    # Not the teacher itself: the L1 loss would have no gradient but the signs of rounding errors.
    return DistillationTask(random_encoder(ENCODER, 4), task._teacher[0], task.config)


TASKS: dict[str, Any] = {
    "classification": classification_without_statistics,
    "sampled classes": sampled,
    "distillation": distillation,
    "gates, projection": lambda: pruning(PruneConfig(constraint="projection")),
    "gates, Lagrangian": pruning,
}


def losses_and_gradients(
    task: Task, accelerator: Any, micro_batch: int | None
) -> tuple[dict, dict[str, Tensor]]:
    losses = backward(task, (waves(), LABELS), 3, replace(PLAN, micro_batch=micro_batch), accelerator)
    found = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    return {name: float(value.detach()) for name, value in losses.items()}, found


@pytest.mark.parametrize("micro_batch", [1, 3])
@pytest.mark.parametrize("name", TASKS)
def test_parts_add_up_to_the_whole(accelerator: Any, name: str, micro_batch: int) -> None:
    task = TASKS[name]()
    whole, gradients = losses_and_gradients(copy.deepcopy(task), accelerator, None)
    parts, summed = losses_and_gradients(task, accelerator, micro_batch)
    assert parts == pytest.approx(whole, rel=1e-5, abs=1e-6)
    assert summed.keys() == gradients.keys() and len(summed) > 3
    size = float(torch.stack([gradient.norm() for gradient in gradients.values()]).norm())
    for key, gradient in gradients.items():
        # Some gradients are zero but for rounding, such as that of the keys' bias.
        assert float((summed[key] - gradient).norm()) <= 1e-5 * float(gradient.norm()) + 1e-6 * size, key


def test_a_part_as_large_as_the_batch_is_the_batch(accelerator: Any) -> None:
    task = classification()
    whole, gradients = losses_and_gradients(copy.deepcopy(task), accelerator, None)
    parts, summed = losses_and_gradients(task, accelerator, len(LABELS))
    assert parts == whole and all(torch.equal(summed[name], gradients[name]) for name in gradients)


def test_parts_draw_the_same_gates_and_what_follows_apart(accelerator: Any) -> None:
    task = pruning().train()
    drawn: list[tuple[Tensor, Tensor]] = []
    original = task.student.forward

    def watched(features: Tensor, gates: Any) -> Any:
        drawn.append((gates[0].ffn1.detach().clone(), torch.rand(5)))
        return original(features, gates=gates)

    task.student.forward = watched  # type: ignore[method-assign]
    losses_and_gradients(task, accelerator, 2)
    (gates, after), (same_gates, other) = drawn
    assert torch.equal(gates, same_gates) and not torch.equal(after, other)


def test_running_statistics_move_as_far_as_in_the_whole() -> None:
    whole, parts = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    pace_batch_norms(parts, 4)
    constant = torch.tensor([[1.0, 2.0, 3.0]]).expand(8, 3)
    whole(constant)
    for part in constant.split(2):
        parts(part)
    torch.testing.assert_close(parts.running_mean, whole.running_mean)
    pace_batch_norms(whole, 1)
    assert whole.momentum == 0.1
