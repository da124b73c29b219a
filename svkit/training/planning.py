"""Plans how each stage fits on a GPU, from the memory that a step takes, measured on tensors without values.

Parameters, gradients and AdamW's moments are counted. What the forward pass keeps for the backward pass is recorded on
fake CUDA tensors, in bf16 autocast, at two batch sizes; it grows linearly with the batch. The CUDA context and the
allocator's losses are not counted, `RESERVE` leaves room for them; nor are short-lived buffers of single kernels.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from svkit.config.architecture import W2V_BERT_2, EncoderArchitecture, ModelArchitecture, tiny_architecture
from svkit.config.schema import TINY_ENCODER, DataConfig, Recipe
from svkit.errors import ConfigError
from svkit.models.load import WithoutDraws
from svkit.nn.encoder import Encoder
from svkit.nn.speaker import SpeakerNetwork
from svkit.progress import Progress
from svkit.pruning.gates import EncoderGates
from svkit.training.finetune import make_task
from svkit.training.tasks import DistillationTask, PruningTask, Task
from svkit.training.teacher import train_student

NUM_SPEAKERS = 5_994
"""Speakers of VoxCeleb2 dev."""
RESERVE = 0.1
"""Share of a GPU's memory that a plan leaves free."""
SMALLEST_PART = 4
"""If fewer examples than this fit at once, the plan recomputes layers in the backward pass to make room for more."""
_PROBES = (2, 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """How a stage fits on a GPU; memory in GiB."""

    stage: str
    """Table of the recipe, such as `dense.joint`."""
    batch_size: int
    crop_seconds: float
    """Longest crop."""
    fixed: float
    """Independent of the batch: weights, gradients, moments, teacher, and weights cast to bf16."""
    per_example: float
    """What the backward pass needs for each example."""
    micro_batch: int | None
    """Examples at once; None: the whole batch."""
    is_checkpointed: bool
    """Whether the plan needs `gradient_checkpointing`."""
    peak: float


def plan(recipe: Recipe, memory: float, progress: Progress) -> list[StagePlan]:
    """Plan every stage of a recipe for GPUs of `memory` GiB (ConfigError: not even one example of a stage fits)."""
    stages = ["dense.head", "dense.joint", "dense.lmft", "prune", "distill"]
    if recipe.dense.first == "lora":
        stages.insert(0, "dense.lora")
    plans = []
    with progress.task("plan", len(stages)) as bar:
        for stage in stages:
            plans.append(plan_stage(recipe, stage, memory))
            bar.advance(stage=stage)
    return plans


def plan_stage(recipe: Recipe, stage: str, memory: float) -> StagePlan:
    """Plan one stage, such as `dense.joint`; see `plan`."""
    data: DataConfig = attrgetter(stage)(recipe).data
    room = (1 - RESERVE) * memory
    for is_checkpointed in (False, True):
        probed = replace(recipe, gradient_checkpointing=is_checkpointed)
        fixed, per_example = _measure(probed, stage, data.crop_seconds[1])
        size = min(data.batch_size, int((room - fixed) / per_example)) if room > fixed else 0
        if size >= min(SMALLEST_PART, data.batch_size):
            break
    if size < 1:
        raise ConfigError(
            f"{stage}: one example takes {fixed + per_example:.1f} GiB, but only {room:.1f} of {memory:g} GiB "
            "can be used; take a larger GPU or a smaller encoder"
        )
    size = max(part for part in range(1, size + 1) if data.batch_size % part == 0)  # equal parts
    return StagePlan(
        stage=stage,
        batch_size=data.batch_size,
        crop_seconds=data.crop_seconds[1],
        fixed=fixed,
        per_example=per_example,
        micro_batch=None if size == data.batch_size else size,
        is_checkpointed=is_checkpointed,
        peak=fixed + size * per_example,
    )


def _measure(recipe: Recipe, stage: str, seconds: float) -> tuple[float, float]:
    """Return the fixed memory of a stage and the memory per example, in GiB."""
    with WithoutDraws():
        task = _make_task(recipe, stage)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    # Parameters are replaced: a fake tensor cannot become the data of a real one.
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with mode:
            task.train()._apply(lambda tensor: mode.from_tensor(tensor).to("cuda"))
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
    with mode:
        few, more = (_kept_bytes(task, num_examples, seconds) for num_examples in _PROBES)
    per_example = (more - few) / (_PROBES[1] - _PROBES[0])
    parameters = list(task.parameters())
    # What is kept whatever the batch, such as weights cast to bf16, and the weights themselves.
    fixed = few - _PROBES[0] * per_example + 4 * sum(parameter.numel() for parameter in parameters)
    # A gradient and two moments.
    fixed += 12 * sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    if isinstance(task, DistillationTask):  # the teacher: nearly all of it is linear layers in bf16
        fixed += 2 * sum(parameter.numel() for parameter in task._teacher[0].parameters())
    return fixed / 2**30, per_example / 2**30


def _kept_bytes(task: Task, num_examples: int, seconds: float) -> int:
    """Count what the forward pass keeps for the backward pass: each storage once, without parameters."""
    own = {parameter.untyped_storage()._cdata for parameter in task.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    waveforms = torch.zeros(num_examples, int(16_000 * seconds), device="cuda")
    labels = torch.zeros(num_examples, dtype=torch.int64, device="cuda")
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, _cuda_autocast(), _EfficientAttention():
        losses = task(waveforms, labels, 0)
    assert losses["loss"].requires_grad
    return sum(kept.values())


class _EfficientAttention(TorchFunctionMode):
    """Makes attention use torch's kernel for a bias with a gradient on a GPU; other forms keep other tensors."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        bias = kwargs["attn_mask"]
        frames = bias.shape[-1]
        # torch copies a bias to this alignment for the kernel.
        aligned = functional.pad(bias, (0, 8 - frames % 8))[..., :frames]
        kernel = torch.ops.aten._scaled_dot_product_efficient_attention
        return kernel(*args, aligned, compute_log_sumexp=True, scale=kwargs["scale"])[0]


@contextlib.contextmanager
def _cuda_autocast() -> Iterator[None]:
    """Do what `torch.autocast("cuda", torch.bfloat16)` does on a GPU; without one, that has no effect."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


def _make_task(recipe: Recipe, stage: str) -> Task:
    """Make the task of a stage as it is trained, on VoxCeleb2."""
    is_tiny = recipe.encoder == TINY_ENCODER
    architecture: EncoderArchitecture = tiny_architecture(recipe.encoder_overrides) if is_tiny else W2V_BERT_2
    config = attrgetter(stage)(recipe)
    if stage in ("prune", "distill"):
        student, teacher = Encoder(architecture), Encoder(architecture)
        train_student(student, config, recipe)
        if stage == "distill":  # an upper limit: the real student has been cut
            return DistillationTask(student, teacher, recipe.distill)
        gates = EncoderGates(architecture, recipe.prune, recipe.seed)
        return PruningTask(student, teacher, gates, recipe.prune, recipe.prune.sparsity_warmup_steps)
    name = stage.removeprefix("dense.")
    network = SpeakerNetwork(ModelArchitecture(encoder=architecture, head=recipe.head))
    num_classes = NUM_SPEAKERS * len(config.data.speeds)
    return make_task(network, name, recipe, config, num_classes, config.data.batch_size)
