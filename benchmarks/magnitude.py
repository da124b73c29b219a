"""The oldest way to prune, as a baseline: cut the heads, units and channels whose weights have the smallest L2 norm.

One of two rules decides how many units each group (a kind of unit in one layer) keeps. With `uniform`, every group
keeps the same share. With `global`, the groups of a kind compete by norm, so layers may differ.
`svkit.pruning.selection` meets the counted sparsity as exactly as in our own pruning.
"""

from pathlib import Path

import torch
from torch import Tensor

from svkit.config.schema import PruneConfig
from svkit.models.load import load_model
from svkit.nn.encoder import Encoder, LayerGates
from svkit.pruning.counting import encoder_parameters, sparsity
from svkit.pruning.cut import cut_encoder
from svkit.pruning.gates import EncoderGates
from svkit.pruning.selection import select
from svkit.store.output import Output
from svkit.training.teacher import write_pruned

RULES = ("uniform", "global")
SHARPNESS = 1000.0
"""Makes gates so steep that the soft counts of the selection are counts of units above a threshold."""


def norms(encoder: Encoder, index: int) -> dict[str, Tensor]:
    """Return the L2 norm of the weights of each head, unit and channel of a layer."""
    state, size = encoder.state_dict(), encoder.architecture.head_size
    prefix = f"encoder.layers.{index}."

    def rows(name: str) -> Tensor:
        return state[prefix + name + ".weight"].flatten(1).square().sum(1)

    def columns(name: str) -> Tensor:
        return state[prefix + name + ".weight"].square().sum(0)

    found = {}
    architecture = encoder.architecture
    if architecture.num_heads[index]:
        projections = sum(rows(f"self_attn.linear_{name}") for name in "qkv") + columns(
            "self_attn.linear_out"
        )
        found["heads"] = projections.view(-1, size).sum(1)
    for branch, dims in (("ffn1", architecture.ffn1_dim), ("ffn2", architecture.ffn2_dim)):
        if dims[index]:
            found[branch] = rows(f"{branch}.intermediate_dense") + columns(f"{branch}.output_dense")
    if architecture.conv_dim[index]:
        halves = rows("conv_module.pointwise_conv1").view(2, -1).sum(0)
        found["conv"] = halves + rows("conv_module.depthwise_conv") + columns("conv_module.pointwise_conv2")
    return {kind: value.sqrt() for kind, value in found.items()}


def magnitude_gates(encoder: Encoder, target: float, rule: str) -> list[LayerGates]:
    """Choose gates of 0 and 1 by weight norms, so that the counted sparsity is just above `target`."""
    layers = [norms(encoder, index) for index in range(encoder.architecture.num_layers)]
    gates = EncoderGates(encoder.architecture, PruneConfig(), 0)
    with torch.no_grad():
        for groups, found in zip(gates.groups(), layers, strict=True):
            for kind, values in found.items():
                if rule == "uniform":
                    score = (values.argsort().argsort() + 0.5) / len(values)
                else:
                    score = (
                        values / torch.cat([layer[kind] for layer in layers if kind in layer]).mean()
                    ).log()
                groups[kind].log_alpha.copy_(SHARPNESS * score)
    limit = (1 - target) * encoder_parameters(encoder.architecture)
    chosen = select(gates, encoder.architecture, encoder_parameters, limit)
    return [LayerGates(*(None if v is None else (v > 0).float() for v in layer)) for layer in chosen]


def cut_by_magnitude(out: Path, teacher_path: Path, target: float, rule: str) -> Path:
    """Cut the teacher at once and write it with its own head, in the form of a result of `svkit prune`."""
    output = Output(
        out,
        command="magnitude",
        config={"sparsity": target, "rule": rule},
        inputs={"teacher": teacher_path},
        overwrite=True,
    )
    if output.is_current:
        return out
    teacher = load_model(teacher_path)
    dense = teacher.architecture.dense_encoder()
    with output.open():
        cut = cut_encoder(teacher.encoder, magnitude_gates(teacher.encoder, target, rule))
        write_pruned(out, teacher_path, teacher, cut, dense)
        output.finish({"sparsity": sparsity(cut.architecture, teacher.architecture.encoder)})
    return out
