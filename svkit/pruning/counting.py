"""Exact counts of parameters and multiply-accumulates (MACs) of an encoder of any widths, and of the speaker head.

Sparsity is defined here, once: 1 - parameters of the student's encoder / parameters of the teacher's encoder, all of
them counted. The same linear formula gives the expected count of a gated encoder, so that with all gates open the
expectation is the dense count. MACs count linear layers, convolutions, Q K^T and A V; the product of the queries with
the distance embeddings is reported separately, because the published figures leave it out.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from svkit.config.architecture import EncoderArchitecture, ModelArchitecture
from svkit.nn.encoder import KINDS

FRAMES_PER_SECOND = 49
"""Frames of 1 s of audio: 98 windows of 25 ms every 10 ms, stacked in pairs."""


class UnitCost(NamedTuple):
    """Parameters of one kind of branch: `fixed` if it is present at all, plus `unit` for each head, unit or channel."""

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


def _layer_widths(architecture: EncoderArchitecture) -> list[dict[str, int]]:
    """Widths by kind, one dictionary per layer."""
    columns = [getattr(architecture, name) for name in KINDS.values()]
    return [dict(zip(KINDS, widths, strict=True)) for widths in zip(*columns, strict=True)]


def encoder_parameters(architecture: EncoderArchitecture) -> int:
    """Parameters of the encoder; equals the sum of `numel` of the built module."""
    # A branch of width 0 is not built, so its norms and biases do not count either.
    present = [
        {kind: width for kind, width in layer.items() if width} for layer in _layer_widths(architecture)
    ]
    return int(expected_parameters(architecture, present))


def expected_parameters(architecture: EncoderArchitecture, widths: Sequence[Mapping[str, Any]]) -> Any:
    """Parameters of the branches that `widths` names per layer and kind, plus those that no gate can remove.

    Exact for whole numbers; differentiable for the expected number of open gates (`EncoderGates.expected_widths`).
    """
    costs = unit_costs(architecture)
    branches = [(costs[kind], width) for layer in widths for kind, width in layer.items()]
    features, hidden = architecture.feature_dim, architecture.hidden_size
    # What no gate can remove: the feature projection, the final norm of every layer, and the branches' own fixed parts.
    # It is added as one number, because a float32 sum depends on its order.
    constant = 2 * features + features * hidden + hidden + architecture.num_layers * 2 * hidden
    constant += sum(cost.fixed for cost, _ in branches)
    return sum(cost.unit * width for cost, width in branches) + constant


def sparsity(student: EncoderArchitecture, teacher: EncoderArchitecture) -> float:
    """1 - student parameters / teacher parameters."""
    return 1 - encoder_parameters(student) / encoder_parameters(teacher)


def head_parameters(architecture: ModelArchitecture) -> int:
    """Parameters of layer adapters, pooling and embedding layer (batch-norm statistics are buffers, not counted)."""
    head, hidden, channels = architecture.head, architecture.encoder.hidden_size, architecture.channels
    adapter, attention = head.adapter_dim, head.attention_dim
    adapters = hidden * adapter + adapter + 2 * adapter + adapter * adapter + adapter
    total = len(architecture.states) * adapters if head.layer_adapters else 0
    if head.aggregation == "sum":
        total += len(architecture.states)
    if weights := architecture.attention_weights:
        total += channels * attention + attention + 2 * attention + attention * weights + weights
    return total + 2 * channels * head.embedding_dim + head.embedding_dim


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
    # Layers above the last state that the head uses are never computed.
    for widths in islice(_layer_widths(encoder), architecture.states[-1]):
        total += num_frames * 2 * hidden * (widths["ffn1"] + widths["ffn2"])
        total += num_frames * 4 * hidden * widths["heads"] * size
        total += 2 * num_frames * num_frames * widths["heads"] * size
        total += num_frames * widths["conv"] * (3 * hidden + encoder.conv_kernel_size)
        positional += num_frames * positions * widths["heads"] * size
    channels, head_total = architecture.channels, 0
    if head.layer_adapters:
        head_total += num_frames * len(architecture.states) * head.adapter_dim * (hidden + head.adapter_dim)
    if weights := architecture.attention_weights:
        head_total += num_frames * (channels + weights) * head.attention_dim
    head_total += 2 * channels * head.embedding_dim
    return Macs(total, head_total, positional)
