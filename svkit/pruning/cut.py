"""The cut: from gate values to a physically smaller encoder that computes the same hidden states.

Every gate value is folded into a weight next to it, and rows and columns of closed gates are removed:

- heads: rows of `linear_q/k/v`, columns of `linear_out`; the value is folded into those columns.
- FFN: rows of `intermediate_dense`, columns of `output_dense`; the value is folded into those columns.
- convolution: value and gate rows of `pointwise_conv1` (row i and row i + C: both halves of the GLU), channels of the
  depthwise kernel and of its layer norm, columns of `pointwise_conv2`. The gate multiplies both GLU inputs and the
  depthwise output, so it is folded into both rows and into the kernel. The layer norm's statistics already ran over the
  live channels alone (`svkit.nn.encoder`), hence the plain layer norm of the smaller module gives the same numbers.
- a branch with all gates closed disappears with its layer norm and output bias, as in the masked forward pass.

The published code cuts the value half of the GLU twice, leaves gate values out of the convolution and averages its
layer norm over dead channels before the cut only; its hidden states change by half of their norm.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from svkit.config.architecture import EncoderArchitecture
from svkit.nn.encoder import Encoder, LayerGates


def cut_architecture(architecture: EncoderArchitecture, gates: Sequence[LayerGates]) -> EncoderArchitecture:
    """Return the architecture that remains: the number of gates > 0 per layer and kind (None: all stay)."""
    widths = architecture.widths()
    for index, layer in enumerate(gates):
        values = {
            "num_heads": layer.heads,
            "ffn1_dim": layer.ffn1,
            "ffn2_dim": layer.ffn2,
            "conv_dim": layer.conv,
        }
        for name, value in values.items():
            if value is not None:
                widths[name][index] = int((value > 0).sum())
    return architecture.with_widths(widths)


def _kept(gate: Tensor) -> Tensor:
    return torch.nonzero(gate > 0).flatten()


def _cut_ffn(state: dict[str, Tensor], branch: str, gate: Tensor) -> None:
    kept = _kept(gate)
    if not len(kept):
        _drop(state, (f"{branch}.", f"{branch}_layer_norm."))
        return
    state[f"{branch}.intermediate_dense.weight"] = state[f"{branch}.intermediate_dense.weight"][kept]
    state[f"{branch}.intermediate_dense.bias"] = state[f"{branch}.intermediate_dense.bias"][kept]
    state[f"{branch}.output_dense.weight"] = state[f"{branch}.output_dense.weight"][:, kept] * gate[kept]


def _cut_heads(state: dict[str, Tensor], gate: Tensor, head_size: int) -> None:
    kept = _kept(gate)
    if not len(kept):
        _drop(state, ("self_attn.", "self_attn_layer_norm."))
        return
    rows = (kept[:, None] * head_size + torch.arange(head_size)).flatten()
    for name in ("linear_q", "linear_k", "linear_v"):
        for part in ("weight", "bias"):
            state[f"self_attn.{name}.{part}"] = state[f"self_attn.{name}.{part}"][rows]
    scale = gate[kept].repeat_interleave(head_size)
    state["self_attn.linear_out.weight"] = state["self_attn.linear_out.weight"][:, rows] * scale


def _cut_conv(state: dict[str, Tensor], gate: Tensor) -> None:
    kept = _kept(gate)
    if not len(kept):
        _drop(state, ("conv_module.",))
        return
    both_halves = torch.cat([kept, kept + len(gate)])
    value = gate[kept]
    prefix = "conv_module"
    state[f"{prefix}.pointwise_conv1.weight"] = (
        state[f"{prefix}.pointwise_conv1.weight"][both_halves] * value.repeat(2)[:, None]
    )
    state[f"{prefix}.depthwise_conv.weight"] = (
        state[f"{prefix}.depthwise_conv.weight"][kept] * value[:, None, None]
    )
    for part in ("weight", "bias"):
        state[f"{prefix}.depthwise_layer_norm.{part}"] = state[f"{prefix}.depthwise_layer_norm.{part}"][kept]
    state[f"{prefix}.pointwise_conv2.weight"] = state[f"{prefix}.pointwise_conv2.weight"][:, kept]


def _drop(state: dict[str, Tensor], prefixes: tuple[str, ...]) -> None:
    for name in [name for name in state if name.startswith(prefixes)]:
        del state[name]


def cut_state(
    state: Mapping[str, Tensor], architecture: EncoderArchitecture, gates: Sequence[LayerGates]
) -> dict[str, Tensor]:
    """Cut the state of an encoder.

    Args:
        state: `Encoder.state_dict()` of the dense encoder, on the CPU.
        architecture: of the dense encoder.
        gates: final gate values of every layer, on the CPU.

    Returns:
        State of an encoder with `cut_architecture(architecture, gates)`.
    """
    result = {name: tensor for name, tensor in state.items() if not name.startswith("encoder.layers.")}
    for index, layer_gates in enumerate(gates):
        prefix = f"encoder.layers.{index}."
        layer = {
            name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)
        }
        if layer_gates.ffn1 is not None:
            _cut_ffn(layer, "ffn1", layer_gates.ffn1)
        if layer_gates.heads is not None:
            _cut_heads(layer, layer_gates.heads, architecture.head_size)
        if layer_gates.conv is not None:
            _cut_conv(layer, layer_gates.conv)
        if layer_gates.ffn2 is not None:
            _cut_ffn(layer, "ffn2", layer_gates.ffn2)
        result |= {prefix + name: tensor for name, tensor in layer.items()}
    return {name: tensor.detach().clone().contiguous() for name, tensor in result.items()}


def cut_encoder(encoder: Encoder, gates: Sequence[LayerGates]) -> Encoder:
    """Build the smaller encoder with the same hidden states as `encoder` under `gates`."""
    gates = [
        LayerGates(*(None if value is None else value.detach().cpu().float() for value in layer))
        for layer in gates
    ]
    state = {name: tensor.detach().cpu() for name, tensor in encoder.state_dict().items()}
    smaller = Encoder(cut_architecture(encoder.architecture, gates))
    smaller.load_state_dict(cut_state(state, encoder.architecture, gates), strict=True)
    return smaller
