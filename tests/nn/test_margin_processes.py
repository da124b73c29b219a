"""The sampled classifier of two processes with half of a batch each against one process with the whole."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from svkit.nn.margin import SampledClassifier, arcface_logits
from tests.processes import leave, run_in_two

CLASSES, DRAWN, DIM, BATCH, STEPS = 60, 14, 5, 8, 6


class _Task(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Linear(3, DIM).double()
        self.classifier = SampledClassifier(DIM, CLASSES, DRAWN, seed=7).double()

    def forward(self, inputs: Tensor, labels: Tensor, step: int) -> Tensor:
        targets = self.classifier.choose(labels, step)
        logits = arcface_logits(self.classifier(self.network(inputs)), targets, 32.0, 0.2)
        return nn.functional.cross_entropy(logits, targets)


def _batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn((BATCH, 3), generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, CLASSES, (BATCH,), generator=generator)


def _train(share: slice, wrap: bool) -> dict[str, Tensor]:
    task = _Task()
    trained = [parameter for parameter in task.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    task.classifier.attach(optimizer)
    model = DistributedDataParallel(task) if wrap else task
    losses, drawn = [], []
    for step in range(STEPS):
        inputs, labels = _batch(step)
        loss = model(inputs[share], labels[share], step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        drawn.append(task.classifier._chosen.clone())
    moments = optimizer.state[task.classifier.active]
    found = {f"moment.{name}": value for name, value in moments.items() if name.startswith("all_classes")}
    return {**task.state_dict(), **found, "losses": torch.stack(losses), "drawn": torch.stack(drawn)}


def _process(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    half = BATCH // 2
    found = _train(slice(rank * half, (rank + 1) * half), wrap=True)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, f"{folder}/{rank}.safetensors")
    leave()


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    run_in_two(_process, str(tmp_path))
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    whole = _train(slice(None), wrap=False)
    losses = (first.pop("losses") + second.pop("losses")) / 2
    torch.testing.assert_close(losses, whole.pop("losses"), rtol=1e-6, atol=0)
    for name, tensor in whole.items():
        assert torch.equal(first[name], second[name]), name
        # Cosines are float32 in both.
        torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-7)
    assert torch.equal(first["drawn"], whole["drawn"])
