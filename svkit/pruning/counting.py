"""Exact counts of parameters and multiply-accumulates (MACs) of an encoder of any widths, and of the speaker head.

Sparsity is defined here, once: 1 - parameters of the student's encoder / parameters of the teacher's encoder, all of
them counted. The same linear formula gives the expected count of a gated encoder, so that with all gates open the
expectation is the dense count. MACs count linear layers, convolutions, Q K^T and A V; the product of the queries with
the distance embeddings is reported apart, as the published figures leave it out.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from svkit.config.architecture import EncoderArchitecture, ModelArchitecture

FRAMES_PER_SECOND = 49
"""Frames of 1 s of audio: 98 windows of 25 ms every 10 ms, stacked in pairs."""


class UnitCost(NamedTuple):
    """Parameters of one kind of branch: `fixed` if it is present at all, and `unit` for each head or channel."""

    fixed: int
    unit: int


def unit_costs(architecture: EncoderArchitecture) -> dict[str, UnitCost]:
    """Parameters of each kind of prunable branch, its layer norm included."""
    hidden, head = architecture.hidden_size, architecture.head_size
    positions = architecture.left_positions + architecture.right_positions + 1
    ffn = UnitCost(fixed=3 * hidden, unit=2 * hidden + 1)
    return {
        "heads": UnitCost(fixed=3 * hidden + positions * head, unit=3 * (hidden + 1) * head + head * hidden),
        "ffn1": ffn,
        "ffn2": ffn,
        "conv": UnitCost(fixed=2 * hidden, unit=3 * hidden + architecture.conv_kernel_size + 2),
    }


def fixed_parameters(architecture: EncoderArchitecture) -> int:
    """Parameters no gate can remove: feature projection and the final norm of every layer."""
    features, hidden = architecture.feature_dim, architecture.hidden_size
    return 2 * features + features * hidden + hidden + architecture.num_layers * 2 * hidden


def _layer_widths(architecture: EncoderArchitecture, index: int) -> dict[str, int]:
    return {
        "heads": architecture.num_heads[index],
        "ffn1": architecture.ffn1_dim[index],
        "ffn2": architecture.ffn2_dim[index],
        "conv": architecture.conv_dim[index],
    }


def encoder_parameters(architecture: EncoderArchitecture) -> int:
    """Parameters of the encoder; equals the sum of `numel` of the built module."""
    costs = unit_costs(architecture)
    total = fixed_parameters(architecture)
    for index in range(architecture.num_layers):
        for kind, width in _layer_widths(architecture, index).items():
            if width:
                total += costs[kind].fixed + costs[kind].unit * width
    return total


def expected_parameters(
    architecture: EncoderArchitecture, expected_widths: Sequence[Mapping[str, Tensor]]
) -> Tensor:
    """Expected parameters under the gates (differentiable).

    Args:
        architecture: the gated, dense encoder.
        expected_widths: expected number of open gates per layer and kind, from `EncoderGates.expected_widths`.
    """
    costs = unit_costs(architecture)
    constant = fixed_parameters(architecture)
    variable: list[Tensor] = []
    for layer in expected_widths:
        for kind, width in layer.items():
            constant += costs[kind].fixed
            variable.append(costs[kind].unit * width)
    return sum(variable[1:], start=variable[0]) + constant


def sparsity(student: EncoderArchitecture, teacher: EncoderArchitecture) -> float:
    """1 - student parameters / teacher parameters."""
    return 1 - encoder_parameters(student) / encoder_parameters(teacher)


def head_parameters(architecture: ModelArchitecture) -> int:
    """Parameters of layer adapters, ASP and embedding layer (batch-norm statistics are buffers, not counted)."""
    hidden, adapter = architecture.encoder.hidden_size, architecture.head.adapter_dim
    attention, embedding = architecture.head.attention_dim, architecture.head.embedding_dim
    states = architecture.encoder.num_layers + 1
    channels = states * adapter
    adapters = states * (hidden * adapter + adapter + 2 * adapter + adapter * adapter + adapter)
    pooling = channels * attention + attention + 2 * attention + attention * channels + channels
    return adapters + pooling + 2 * channels * embedding + embedding


class Macs(NamedTuple):
    """Multiply-accumulates of one pass."""

    encoder: int
    head: int
    positional: int
    """Queries times distance embeddings; not in `total`."""

    @property
    def total(self) -> int:
        """Encoder and head."""
        return self.encoder + self.head


def macs(architecture: ModelArchitecture, num_frames: int = FRAMES_PER_SECOND) -> Macs:
    """MACs for one utterance of `num_frames` frames of 20 ms (default: 1 s of audio)."""
    encoder, head = architecture.encoder, architecture.head
    hidden, size = encoder.hidden_size, encoder.head_size
    positions = encoder.left_positions + encoder.right_positions + 1
    total = num_frames * encoder.feature_dim * hidden
    positional = 0
    for index in range(encoder.num_layers):
        widths = _layer_widths(encoder, index)
        total += num_frames * 2 * hidden * (widths["ffn1"] + widths["ffn2"])
        total += num_frames * 4 * hidden * widths["heads"] * size
        total += 2 * num_frames * num_frames * widths["heads"] * size
        total += num_frames * widths["conv"] * (3 * hidden + encoder.conv_kernel_size)
        positional += num_frames * positions * widths["heads"] * size
    states = encoder.num_layers + 1
    channels = states * head.adapter_dim
    head_total = num_frames * states * head.adapter_dim * (hidden + head.adapter_dim)
    head_total += num_frames * 2 * channels * head.attention_dim + 2 * channels * head.embedding_dim
    return Macs(total, head_total, positional)
