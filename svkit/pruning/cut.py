"""The cut: from gate values to a physically smaller encoder that computes the same hidden states.

Every gate value is folded into a weight next to it, and rows and columns of closed gates are removed:

- heads: rows of `linear_q/k/v`, columns of `linear_out`; the value is folded into those columns.
- FFN: rows of `intermediate_dense`, columns of `output_dense`; the value is folded into those columns.
- convolution: value and gate rows of `pointwise_conv1` (row i and row i + C: both halves of the GLU), channels of the
  depthwise kernel and of its layer norm, columns of `pointwise_conv2`. The gate multiplies both GLU inputs and the
  depthwise output, so it is folded into both rows and into the kernel. The layer norm's statistics already ran over the
  live channels alone (`svkit.nn.encoder`), so the plain layer norm of the smaller module gives the same numbers.
- a branch with all gates closed disappears with its layer norm and output bias, as in the masked forward pass.

The published code cuts the value half of the GLU twice, leaves the gate values out of the convolution, and averages its
layer norm over dead channels before the cut but not after it. Its hidden states change by half of their norm.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from svkit.config.architecture import EncoderArchitecture
from svkit.nn.encoder import KINDS, Encoder, LayerGates


def cut_architecture(architecture: EncoderArchitecture, gates: Sequence[LayerGates]) -> EncoderArchitecture:
    """Return the architecture that remains: the number of gates > 0 per layer and kind (no gates: all units stay)."""
    widths = architecture.widths()
    for index, layer in enumerate(gates):
        for kind, gate in layer._asdict().items():
            if gate is not None:
                widths[KINDS[kind]][index] = int((gate > 0).sum())
    return architecture.with_widths(widths)


def _kept(gate: Tensor) -> Tensor:
    return torch.nonzero(gate > 0).flatten()


def _cut_ffn(state: dict[str, Tensor], branch: str, gate: Tensor) -> None:
    kept = _kept(gate)
    for part in ("weight", "bias"):
        state[f"{branch}.intermediate_dense.{part}"] = state[f"{branch}.intermediate_dense.{part}"][kept]
    state[f"{branch}.output_dense.weight"] = state[f"{branch}.output_dense.weight"][:, kept] * gate[kept]


def _cut_heads(state: dict[str, Tensor], gate: Tensor, head_size: int) -> None:
    kept = _kept(gate)
    # The distance embedding stays whole, because all heads share it.
    rows = (kept[:, None] * head_size + torch.arange(head_size)).flatten()
    for name in ("linear_q", "linear_k", "linear_v"):
        for part in ("weight", "bias"):
            state[f"self_attn.{name}.{part}"] = state[f"self_attn.{name}.{part}"][rows]
    scale = gate[kept].repeat_interleave(head_size)
    state["self_attn.linear_out.weight"] = state["self_attn.linear_out.weight"][:, rows] * scale


def _cut_conv(state: dict[str, Tensor], gate: Tensor) -> None:
    kept = _kept(gate)
    value, both_halves = gate[kept], torch.cat([kept, kept + len(gate)])
    for name, rows, scale in (
        ("pointwise_conv1.weight", both_halves, value.repeat(2)[:, None]),
        ("depthwise_conv.weight", kept, value[:, None, None]),
        ("depthwise_layer_norm.weight", kept, 1),
        ("depthwise_layer_norm.bias", kept, 1),
    ):
        state[f"conv_module.{name}"] = state[f"conv_module.{name}"][rows] * scale
    state["conv_module.pointwise_conv2.weight"] = state["conv_module.pointwise_conv2.weight"][:, kept]


_BRANCHES = {
    "heads": ("self_attn.", "self_attn_layer_norm."),
    "ffn1": ("ffn1.", "ffn1_layer_norm."),
    "ffn2": ("ffn2.", "ffn2_layer_norm."),
    "conv": ("conv_module.",),
}
"""Prefixes of the parameters that disappear with a branch."""


def _cut_layer(state: dict[str, Tensor], gates: LayerGates, head_size: int) -> dict[str, Tensor]:
    for kind, gate in gates._asdict().items():
        if gate is None:
            continue
        if not (gate > 0).any():
            state = {name: tensor for name, tensor in state.items() if not name.startswith(_BRANCHES[kind])}
        elif kind == "heads":
            _cut_heads(state, gate, head_size)
        elif kind == "conv":
            _cut_conv(state, gate)
        else:
            _cut_ffn(state, kind, gate)
    return state


def cut_encoder(encoder: Encoder, gates: Sequence[LayerGates]) -> Encoder:
    """Build the smaller encoder with the same hidden states as `encoder` under `gates`."""
    gates = [
        LayerGates(*(None if value is None else value.detach().cpu().float() for value in layer))
        for layer in gates
    ]
    smaller = Encoder(cut_architecture(encoder.architecture, gates))
    smaller.feature_projection.load_state_dict(encoder.feature_projection.state_dict())
    for layer, dense, of_layer in zip(smaller.encoder.layers, encoder.encoder.layers, gates, strict=True):
        state = {name: tensor.detach().cpu() for name, tensor in dense.state_dict().items()}
        layer.load_state_dict(_cut_layer(state, of_layer, encoder.architecture.head_size))
    return smaller
