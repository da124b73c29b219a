"""The state from which an interrupted training continues: shared between processes, loaded, and gathered."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor, distributed

from svkit.models.load import load_into
from svkit.models.session import on_main
from svkit.store.checkpoint import ResumeState
from svkit.training.tasks import Task


def read_shared(read: Callable[[], ResumeState | None], accelerator: Accelerator) -> ResumeState | None:
    """Read a state in the main process only and give it to the others, tensor by tensor, each on its own device.

    So a disk that many processes share delivers the several GB only once. An error of `read` is raised in all of them.
    """
    if accelerator.num_processes == 1:
        return read()
    own: list[ResumeState] = []

    def heading() -> ResumeState | None:
        state = read()
        if state is None:
            return None
        own.append(state)
        # Only names, shapes and dtypes are pickled for the other processes; the values follow tensor by tensor.
        return replace(state, task=_without_values(state.task), optimizer=_without_values(state.optimizer))

    state = on_main(accelerator, heading)
    if state is None:
        return None

    def given(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        shared = {}
        for name, tensor in tensors.items():
            shared[name] = values[name].to(device) if own else torch.empty_like(tensor, device=device)
            distributed.broadcast(shared[name], src=0)
        return shared

    device, values = accelerator.device, own[0] if own else state
    return replace(
        state,
        task=given(state.task, values.task),
        optimizer=given(state.optimizer, values.optimizer),
    )


def _without_values(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to("meta") for name, tensor in tensors.items()}


def load_trained(task: Task, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load the result of `Task.trained_state`; a state of an earlier version also holds the frozen parameters."""
    load_into(task, tensors, where, optional=task.state_dict().keys() - task.trained_state().keys())


def on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the host, independent of later changes on their device."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state under the flat names that safetensors needs: `parameter.name`."""
    return {
        f"{index}.{name}": value
        for index, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the result of `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    # Learning rates and decay follow from the recipe and the step; only the moments are state.
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
