"""What torch.compile makes of a step: whole graphs, and few of them, counted without a compiler or a GPU.

What this cannot show: whether the compiled kernels are right or faster.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from svkit.config.architecture import EncoderArchitecture
from svkit.config.schema import LoraConfig, MarginConfig, PruneConfig
from svkit.nn import encoder as encoder_module
from svkit.nn import lora
from svkit.nn.encoder import Encoder, LayerGates
from svkit.nn.margin import SampledClassifier
from svkit.training.tasks import ClassificationTask, Task
from tests.random_models import random_encoder, random_gates, relative_error
from tests.training.test_tasks import LABELS, classification, pruning, waves

pytestmark = pytest.mark.slow

CROPS = (99, 120, 149)
"""Frames of crops of 2 to 3 s."""


@pytest.fixture(autouse=True)
def _forget_graphs() -> Any:
    yield
    torch.compiler.reset()


def sampled() -> ClassificationTask:
    return ClassificationTask(classification().network, SampledClassifier(7, 40, 6, seed=1), MarginConfig())


STAGES: dict[str, Callable[[], Task]] = {
    "finetune": sampled,
    "prune": lambda: pruning(PruneConfig(constraint="projection")),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_is_one_graph(stage: str) -> None:
    task = STAGES[stage]().train()
    labels = task.choose(LABELS, 0)
    found = torch._dynamo.explain(task)(waves(), labels, 0)
    assert found.graph_break_count == 0, found.break_reasons


def test_a_validation_with_gates_is_one_graph() -> None:
    found = torch._dynamo.explain(pruning().eval().distance)(waves())
    assert found.graph_break_count == 0, found.break_reasons


class Counter:
    """A compiler that changes nothing, and counts."""

    count = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.count += 1
        return graph.forward


def alike(num_layers: int = 3) -> EncoderArchitecture:
    return EncoderArchitecture.uniform(
        num_layers=num_layers, hidden_size=12, num_heads=3, ffn_dim=20, feature_dim=8
    )


def unlike() -> EncoderArchitecture:
    """As pruning leaves them: every width its own, and a branch that is gone."""
    widths = {"num_heads": [3, 1, 0], "ffn1_dim": [9, 4, 2], "ffn2_dim": [3, 0, 7], "conv_dim": [5, 8, 3]}
    return alike().with_widths(widths)


def states_and_gradients(
    encoder: Encoder, frames: int, gates: list[LayerGates] | None
) -> tuple[Tensor, Tensor]:
    features = torch.randn((2, frames, 8), generator=torch.Generator().manual_seed(frames))
    encoder.zero_grad()
    states = torch.stack(encoder(features, gates=gates))
    (states * torch.arange(8 * frames, frames * 8 + 12)).sin().sum().backward()
    found = [p.grad.flatten() for p in encoder.parameters() if p.grad is not None]
    return states.detach(), torch.cat(found)


@pytest.mark.parametrize(
    ("architecture", "is_gated", "limit", "fused_on"),
    [(alike(), False, 2, ("cpu",)), (alike(1), True, 2, ()), (unlike(), False, 2 * 3, ())],
    ids=["torch's kernel", "gated", "pruned"],
)
def test_layers_of_one_kind_have_two_graphs_at_most(
    monkeypatch: pytest.MonkeyPatch, architecture: Any, is_gated: bool, limit: int, fused_on: tuple[str, ...]
) -> None:
    monkeypatch.setattr(encoder_module, "FUSED_ON", fused_on)
    encoder, counter = random_encoder(architecture, 1).train(), Counter()
    gates = random_gates(architecture, {"heads", "ffn1", "ffn2", "conv"}, 0.3, 2) if is_gated else None
    expected = {frames: states_and_gradients(encoder, frames, gates) for frames in CROPS}
    names = list(encoder.state_dict())
    encoder.compile_layers(counter)
    assert list(encoder.state_dict()) == names
    for frames in CROPS:
        for one, other in zip(states_and_gradients(encoder, frames, gates), expected[frames], strict=True):
            assert relative_error(one, other) < 1e-5
    assert 1 <= counter.count <= limit
    with torch.inference_mode():
        encoder(torch.zeros(1, 7, 8))
    assert counter.count <= limit  # what needs no gradient is not compiled


def test_layers_with_lora_are_compiled_whole() -> None:
    encoder, counter = random_encoder(alike(), 1).train(), Counter()
    lora.attach(encoder, LoraConfig(rank=2))
    encoder.compile_layers(counter)
    for frames in CROPS:
        states_and_gradients(encoder, frames, None)
    assert 1 <= counter.count <= 2
