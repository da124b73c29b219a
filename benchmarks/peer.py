"""Prune our encoder in one shot by a public library, Torch-Pruning, to a counted sparsity.

    python benchmarks/peer.py EXP [--sparsity 0.8]

Cuts the dense model of an experiment by every rule, and prints the effect on the held-out training speakers, by which
the rule was chosen. Needs `pip install -e '.[bench]'`.

Torch-Pruning (Fang et al., DepGraph, CVPR 2023) ranks the units and removes them. This file adds three things: a
stand-in forward pass with the same couplings between widths, because Torch-Pruning's tracer knows neither our depthwise
convolution nor a GLU; the gradients of the speaker loss, for the importances that need them; and the search for the
ratio that meets the budget.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn import functional

from svkit.config.load import load_recipe
from svkit.config.schema import StageConfig
from svkit.data.dataset import CropDataset
from svkit.data.sampler import EpochBatches
from svkit.errors import ArtifactError
from svkit.models.load import SpeakerModel, load_model
from svkit.models.session import make_accelerator
from svkit.nn.encoder import KINDS, CausalDepthwiseConv, Encoder, replace_children
from svkit.nn.margin import ArcFaceClassifier
from svkit.pruning.counting import sparsity
from svkit.reports.tables import Table, to_markdown
from svkit.store.checkpoint import read_classifier
from svkit.store.manifest import read_manifest
from svkit.store.output import Output
from svkit.training.tasks import ClassificationTask, DistillationTask
from svkit.training.teacher import write_pruned
from svkit.training.validation import DistanceMeter, Validator

IMPORTANCES: dict[str, Callable[[], Any]] = {
    "taylor": torch_pruning.importance.GroupTaylorImportance,
    "norm": torch_pruning.importance.GroupMagnitudeImportance,
    "lamp": torch_pruning.importance.LAMPImportance,
}
SCOPES: dict[str, dict[str, Any]] = {
    "isomorphic": {"global_pruning": True, "isomorphic": True},
    "global": {"global_pruning": True},
    "uniform": {"global_pruning": False},
}
"""Which units compete by importance: those of one kind in all layers, all but heads, or those of one branch."""
RULES = tuple(f"{importance}-{scope}" for importance in IMPORTANCES for scope in SCOPES)
NUM_BATCHES = 16
"""Number of batches from which gradients are summed: 512 crops."""
ITERATIONS = 8
"""Number of cuts towards the ratio: Torch-Pruning removes nothing from a branch that would vanish in one cut."""
SEARCH_STEPS = 16
TOLERANCE = 0.005


class _Depthwise(nn.Conv1d):
    """The causal depthwise convolution as a layer that Torch-Pruning knows; weight and name are the same."""

    def __init__(self, conv: CausalDepthwiseConv) -> None:
        channels, _, kernel_size = conv.weight.shape
        super().__init__(channels, channels, kernel_size, groups=channels, bias=False)
        self.weight = conv.weight


def _couple(encoder: Encoder, features_NF: Tensor) -> Tensor:
    """Pass N frames through the layers, with the same couplings of widths as in the true forward pass."""
    hidden = encoder.feature_projection(features_NF)
    for layer in encoder.encoder.layers:
        hidden = hidden + layer.ffn1(layer.ffn1_layer_norm(hidden))
        attention, normed = layer.self_attn, layer.self_attn_layer_norm(hidden)
        heads = attention.linear_q(normed) + attention.linear_k(normed) + attention.linear_v(normed)
        hidden = hidden + attention.linear_out(heads)
        conv = layer.conv_module
        values, gates = conv.pointwise_conv1(conv.layer_norm(hidden)).chunk(2, dim=1)
        kernel_size = conv.depthwise_conv.kernel_size[0]
        padded = functional.pad((values * gates)[:, :, None], (kernel_size - 1, 0))
        inner = conv.depthwise_layer_norm(conv.depthwise_conv(padded).flatten(1))
        hidden = hidden + conv.pointwise_conv2(functional.silu(inner))
        hidden = layer.final_layer_norm(hidden + layer.ffn2(layer.ffn2_layer_norm(hidden)))
    return hidden


def speaker_gradients(
    teacher: SpeakerModel, directory: Path, train: Path, stage: StageConfig, seed: int
) -> dict[str, Tensor]:
    """Return the gradients of the speaker loss for the encoder, summed over `NUM_BATCHES` batches of training crops.

    Args:
        teacher: the network; its weights stay as they are.
        directory: checkpoint of the network, which has the class weights.
        train: training list.
        stage: the stage that made the network (`joint`), for crops and margin; augmentation is not used.
        seed: seed of the crops.
    """
    known = read_classifier(directory)
    assert known is not None, f"{directory}: no class weights"
    dataset = CropDataset(read_manifest(train), stage.data, None, seed=seed)
    assert dataset.speakers == known.speakers[: len(dataset.speakers)], "other training speakers"
    classifier = ArcFaceClassifier(known.weight.shape[1], len(known.weight))
    classifier.load_state_dict({"weight": known.weight})
    task = ClassificationTask(teacher.requires_grad_(True), classifier, stage.margin).eval()
    batches = EpochBatches(len(dataset), stage.data, seed)
    for step in range(NUM_BATCHES):
        crops, labels = zip(*(dataset[key] for key in batches.batch(step)), strict=True)
        task(torch.stack(crops), torch.tensor(labels), step)["loss"].backward()
    return {name: p.grad for name, p in teacher.encoder.named_parameters() if p.grad is not None}


def _prune(traced: Encoder, rule: str, ratio: float, head_ratio: float) -> None:
    """Remove a share of the remaining widths and of the remaining heads, in place."""
    layers = traced.encoder.layers
    importance, scope = rule.split("-")
    torch_pruning.pruner.BasePruner(
        traced,
        torch.zeros(4, traced.architecture.feature_dim),
        importance=IMPORTANCES[importance](),
        **SCOPES[scope],
        pruning_ratio=ratio,
        head_pruning_ratio=head_ratio,
        num_heads={
            getattr(layer.self_attn, f"linear_{name}"): _num_heads(layer)
            for layer in layers
            for name in "qkv"
        },
        prune_num_heads=True,
        prune_head_dims=False,
        # Their width is that of the residual stream, which must stay.
        ignored_layers=[layer.final_layer_norm for layer in layers],
        forward_fn=_couple,
    ).step()


def _num_heads(layer: Any) -> int:
    return int(layer.self_attn.linear_q.out_features // layer.self_attn.head_size)


def cut_at(encoder: Encoder, rule: str, gradients: dict[str, Tensor], ratio: float) -> Encoder:
    """Prune whole heads and widths of branches of a copy by a ratio, and return it as an encoder of svkit."""
    traced = copy.deepcopy(encoder).requires_grad_(True)
    replace_children(traced, CausalDepthwiseConv, _Depthwise)
    for name, parameter in traced.named_parameters():
        parameter.grad = gradients[name].clone() if name in gradients else None
    layers = traced.encoder.layers
    num_heads = sum(encoder.architecture.num_heads)
    for iteration in range(ITERATIONS):
        before, after = (1 - ratio * i / ITERATIONS for i in (iteration, iteration + 1))
        left, wanted = sum(map(_num_heads, layers)), max(len(layers), round(num_heads * after))
        # Torch-Pruning keeps int(left * (1 - ratio)) heads.
        head_ratio = 1 - (wanted + 0.5) / left if wanted < left else 0.0
        _prune(traced, rule, 1 - after / before, head_ratio)
    widths: dict[str, list[int]] = {name: [] for name in KINDS.values()}
    for layer in layers:
        widths["num_heads"].append(_num_heads(layer))
        widths["ffn1_dim"].append(layer.ffn1.intermediate_dense.out_features)
        widths["ffn2_dim"].append(layer.ffn2.intermediate_dense.out_features)
        widths["conv_dim"].append(layer.conv_module.pointwise_conv2.in_features)
    smaller = Encoder(encoder.architecture.with_widths(widths))
    smaller.load_state_dict({name: tensor.detach() for name, tensor in traced.state_dict().items()})
    return smaller


def cut_to(encoder: Encoder, rule: str, gradients: dict[str, Tensor], target: float) -> Encoder:
    """Return the largest encoder that bisection finds and that meets a counted sparsity."""
    low, high, best = 0.0, 1.0, encoder
    for _ in range(SEARCH_STEPS):
        ratio = (low + high) / 2
        cut = cut_at(encoder, rule, gradients, ratio)
        if sparsity(cut.architecture, encoder.architecture) >= target:
            high, best = ratio, cut
        else:
            low = ratio
    found = sparsity(best.architecture, encoder.architecture)
    if not target <= found <= target + TOLERANCE:
        raise ArtifactError(
            f"peer {rule}: expected a sparsity of {target:g}, but Torch-Pruning reaches {found:.4f}"
        )
    return best


def cut_by_peer(
    out: Path, teacher_path: Path, train: Path, stage: StageConfig, target: float, rule: str, seed: int
) -> Path:
    """Cut the teacher at once by Torch-Pruning and write it with its own head, in the form of `svkit prune`."""
    output = Output(
        out,
        command="peer",
        config={"sparsity": target, "rule": rule, "seed": seed, "stage": stage},
        inputs={"teacher": teacher_path, "train": train},
        overwrite=True,
    )
    if output.is_current:
        return out
    teacher = load_model(teacher_path)
    with output.open():
        gradients = {}
        if rule.startswith("taylor"):
            gradients = speaker_gradients(teacher, teacher_path, train, stage, seed)
        cut = cut_to(teacher.encoder, rule, gradients, target)
        write_pruned(out, teacher_path, teacher, cut, teacher.architecture.dense_encoder())
        output.finish({"sparsity": sparsity(cut.architecture, teacher.architecture.encoder)})
    return out


def main() -> None:
    """Cut by every rule, and measure the results on the held-out training speakers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("exp", type=Path)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--sparsity", type=float, default=0.8)
    options = parser.parse_args()
    recipe, data = load_recipe(options.preset), options.exp / "data"
    path = options.exp / "finetune" / "joint"
    teacher = load_model(path)
    gradients = speaker_gradients(load_model(path), path, data / "train.tsv", recipe.dense.joint, recipe.seed)
    accelerator = make_accelerator(recipe.precision)
    meter = DistanceMeter(data / "valid.tsv", recipe.prune.data, recipe.seed)
    validator = Validator(data / "valid.tsv", data / "valid_trials.txt")
    rows = []
    for rule in RULES:
        cut = cut_to(teacher.encoder, rule, gradients if rule.startswith("taylor") else {}, options.sparsity)
        whole = load_model(path).encoder
        distance = meter.measure(DistillationTask(cut, whole, recipe.distill), accelerator)
        network = SpeakerModel(replace(teacher.architecture, encoder=cut.architecture))
        network.load_state_dict(cut.state_dict(prefix="encoder.") | teacher.head.state_dict(prefix="head."))
        eer = validator.measure(network.eval(), recipe.extract, accelerator)["eer"]
        widths = "; ".join(" ".join(map(str, found)) for found in cut.architecture.widths().values())
        rows.append([rule, f"{distance['l1']:.4f}", f"{distance['cosine']:.4f}", f"{100 * eer:.2f}", widths])
        print(*rows[-1], sep="  ", flush=True)
    print(to_markdown(Table(headings=["rule", "L1", "cosine", "EER, validation, %", "widths"], rows=rows)))


if __name__ == "__main__":
    main()
