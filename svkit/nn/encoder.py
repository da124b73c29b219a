"""The w2v-BERT 2.0 encoder, with separate widths in each layer and, while pruning, gates.

A Conformer with relative-key attention and a causal convolution (Chung et al. 2021; Barrault et al. 2023); parameter
names are those of transformers' `Wav2Vec2BertModel`, so its weights load as they are (the two pointwise convolutions
are linear layers here, with the trailing axis of the kernel dropped).

Differences from the stock module, which change how results are computed but not the results:

- Attention: only `left + right + 1` distances (73) have an embedding, so the positional scores are the product of the
  queries with 73 rows, skewed into place. The stock module builds a [T, T, head_size] tensor. Long inputs are attended
  block by block on a CPU, so the memory grows with T and not with T^2.
- Padding is on the right and the convolution is causal, so a padded frame can reach a real one through attention
  only, where its key is masked. Nothing else needs the mask; states of padded frames are undefined.
- There is no layer drop. The published training had none either, because it looped over the layers itself.

Gates (`svkit.pruning`) multiply a head's output, an inner unit of an FFN, a channel of the convolution. In the
convolution module one gate multiplies both GLU inputs and the output of the depthwise convolution. The layer norm
behind it would average over dead channels too, and no slice of the weights could undo that. So with gates it is
gate-aware: mean and variance run over the channels with gate > 0, and dead channels come out as 0. Then the masked
module equals its slice for any gate vector, soft values included. A branch whose gates are all 0 adds nothing, not even
its output bias: the cut removes it whole, with its layer norm.

Shapes: B batch, T frames (20 ms each), D hidden size, H heads, d head size, F inner units, C channels, P distances.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional

from svkit.audio.features import is_padding
from svkit.config.architecture import EncoderArchitecture
from svkit.nn.depthwise import depthwise_conv
from svkit.nn.norm import gate_aware_layer_norm
from svkit.nn.relative import relative_bias


class LayerGates(NamedTuple):
    """Gates of one layer, with values in [0, 1]; None: not gated."""

    heads: Tensor | None = None  # [H]
    ffn1: Tensor | None = None  # [F]
    ffn2: Tensor | None = None  # [F]
    conv: Tensor | None = None  # [C]


KINDS = {"heads": "num_heads", "ffn1": "ffn1_dim", "ffn2": "ffn2_dim", "conv": "conv_dim"}
"""Kind of gate -> name of the width it decides."""
NO_GATES = LayerGates()

_BLOCK_FRAMES = 256
"""Queries attended at once on a CPU; shorter inputs (5 s) are attended as one batched product."""
FUSED_ON = ("cuda",)
"""Devices with torch's attention kernel. On a CPU it has no fused form with a gradient for the bias, and is slower."""


def _is_open(gate: Tensor) -> Tensor:
    """1 if any unit of the branch is open, else 0 (a scalar without gradient)."""
    return (gate > 0).any().to(gate.dtype)


class FeatureProjection(nn.Module):
    """[B, T, feature_dim] -> [B, T, D]."""

    def __init__(self, architecture: EncoderArchitecture) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(architecture.feature_dim, eps=architecture.layer_norm_eps)
        self.projection = nn.Linear(architecture.feature_dim, architecture.hidden_size)

    def forward(self, features_BTF: Tensor) -> Tensor:
        """Normalise and project."""
        return self.projection(self.layer_norm(features_BTF))


class FeedForward(nn.Module):
    """Half-step feed-forward branch without its norm and residual."""

    def __init__(self, hidden_size: int, inner_size: int) -> None:
        super().__init__()
        self.intermediate_dense: nn.Module = nn.Linear(hidden_size, inner_size)
        self.activation: nn.Module = nn.SiLU()
        self.output_dense = nn.Linear(inner_size, hidden_size)

    def forward(self, hidden_BTD: Tensor, gate: Tensor | None = None) -> Tensor:
        """Apply the branch; `gate` [F] multiplies the inner units."""
        inner_BTF = self.activation(self.intermediate_dense(hidden_BTD))
        if gate is None:
            return self.output_dense(inner_BTF)
        return self.output_dense(inner_BTF * gate.to(inner_BTF.dtype)) * _is_open(gate)


def attend_in_blocks(
    query_BHTd: Tensor,
    key_BHTd: Tensor,
    value_BHTd: Tensor,
    scores_BHTP: Tensor,
    left: int,
    right: int,
    key_bias: Tensor | None,
) -> Tensor:
    """Attention without gradient whose scores stay in cache: one head and `_BLOCK_FRAMES` queries at a time.

    The positional scores of a query are constant for keys further than `left` back and for keys further than `right`
    ahead, and softmax ignores what is constant along a row. So the first column is subtracted, the scores are added to
    a band around the diagonal, and one number per query is added to all keys right of the band.

    The queries are already scaled; the other arguments are those of `relative_bias` and `SelfAttention.forward`.
    """
    batch, heads, frames, _ = query_BHTd.shape
    distances = left + right + 1
    relative = scores_BHTP - scores_BHTP[..., :1]
    context = torch.empty_like(query_BHTd, memory_format=torch.contiguous_format)
    for b in range(batch):
        real = frames if key_bias is None else int((key_bias[b] == 0).sum())
        for h, first in itertools.product(range(heads), range(0, frames, _BLOCK_FRAMES)):
            last = min(first + _BLOCK_FRAMES, frames)
            rows = last - first
            scores = query_BHTd[b, h, first:last] @ key_BHTd[b, h, :real].T
            positional = relative[b, h, first:last]
            # [rows, rows - 1 zeros | distances | rows - 1 copies of the last], read one column less to the right in
            # each row: entry (l, c) is the score of distance c - l - left, for the key first - left + c.
            ends = positional[:, -1:].expand(-1, rows - 1)
            wide = torch.cat([positional.new_zeros(rows, rows - 1), positional, ends], dim=1)
            columns = rows - 1 + distances
            band = wide.as_strided((rows, columns), (wide.shape[1] - 1, 1), rows - 1)
            start, stop = first - left, min(last + right, real)
            scores[:, max(start, 0) : stop] += band[:, max(start, 0) - start : max(stop - start, 0)]
            scores[:, stop:] += positional[:, -1:]
            torch.mm(torch.softmax(scores, dim=-1), value_BHTd[b, h, :real], out=context[b, h, first:last])
    return context


class SelfAttention(nn.Module):
    """Multi-head attention with relative-key positions (Shaw et al. 2018)."""

    def __init__(self, architecture: EncoderArchitecture, num_heads: int) -> None:
        super().__init__()
        inner = num_heads * architecture.head_size
        self.num_heads = num_heads
        self.head_size = architecture.head_size
        self.left = architecture.left_positions
        self.right = architecture.right_positions
        self.linear_q = nn.Linear(architecture.hidden_size, inner)
        self.linear_k = nn.Linear(architecture.hidden_size, inner)
        self.linear_v = nn.Linear(architecture.hidden_size, inner)
        self.linear_out = nn.Linear(inner, architecture.hidden_size)
        self.distance_embedding = nn.Embedding(self.left + self.right + 1, architecture.head_size)

    def forward(self, hidden_BTD: Tensor, key_bias: Tensor | None, gate: Tensor | None = None) -> Tensor:
        """Attend; `gate` [H] multiplies the outputs of the heads.

        `key_bias` [B, 1, 1, T] is 0 for real and -inf for padded frames, None without padding.
        """
        batch, frames, _ = hidden_BTD.shape

        def split(projected: Tensor) -> Tensor:
            # Contiguous, because batched products of strided heads take up to twice the time on a CPU.
            return projected.view(batch, frames, self.num_heads, self.head_size).transpose(1, 2).contiguous()

        # Scaled before both products, as the positional scores are divided by the same root.
        query = split(self.linear_q(hidden_BTD)) * (1 / math.sqrt(self.head_size))
        key, value = split(self.linear_k(hidden_BTD)), split(self.linear_v(hidden_BTD))
        scores = query @ self.distance_embedding.weight.to(query.dtype).T
        context = self._attend(query, key, value, scores, key_bias)
        if gate is not None:
            context = context * gate.to(context.dtype)[:, None, None]
        out = self.linear_out(context.transpose(1, 2).reshape(batch, frames, -1))
        return out if gate is None else out * _is_open(gate)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, scores: Tensor, key_bias: Tensor | None
    ) -> Tensor:
        needs_gradient = torch.is_grad_enabled() and (query.requires_grad or scores.requires_grad)
        is_plain = query.device.type == "cpu" and not needs_gradient and not torch.compiler.is_compiling()
        if is_plain and query.shape[2] > _BLOCK_FRAMES:
            return attend_in_blocks(query, key, value, scores, self.left, self.right, key_bias)
        bias = relative_bias(scores, self.left, self.right)
        if key_bias is not None:
            bias = bias + key_bias.to(bias.dtype)
        if query.device.type in FUSED_ON:
            return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        return torch.softmax(query @ key.transpose(2, 3) + bias, dim=-1) @ value


class CausalDepthwiseConv(nn.Module):
    """Depthwise convolution over time that sees the present and `kernel_size - 1` past frames."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel_size))
        # What torch does for its own convolutions.
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, hidden_BTC: Tensor) -> Tensor:
        """Convolve along T; the shape is kept."""
        padded_BCN = functional.pad(hidden_BTC.transpose(1, 2), (self.weight.shape[2] - 1, 0))
        return depthwise_conv(padded_BCN, self.weight.to(hidden_BTC.dtype)).transpose(1, 2)


class ConvolutionModule(nn.Module):
    """Pointwise, GLU, causal depthwise convolution, layer norm, swish, pointwise; with its own input norm."""

    def __init__(self, architecture: EncoderArchitecture, channels: int) -> None:
        super().__init__()
        hidden, eps = architecture.hidden_size, architecture.layer_norm_eps
        self.layer_norm = nn.LayerNorm(hidden, eps=eps)
        self.pointwise_conv1 = nn.Linear(hidden, 2 * channels, bias=False)
        self.depthwise_conv = CausalDepthwiseConv(channels, architecture.conv_kernel_size)
        self.depthwise_layer_norm = nn.LayerNorm(channels, eps=eps)
        self.pointwise_conv2 = nn.Linear(channels, hidden, bias=False)
        self.dropout = nn.Dropout(0.0)

    def forward(self, hidden_BTD: Tensor, gate: Tensor | None = None) -> Tensor:
        """Apply the branch; `gate` [C], see the module's docstring."""
        values_BTC = self.pointwise_conv1(self.layer_norm(hidden_BTD))
        if gate is None:
            inner_BTC = self.depthwise_layer_norm(self.depthwise_conv(functional.glu(values_BTC, dim=-1)))
        else:
            gate = gate.to(values_BTC.dtype)
            inner_BTC = functional.glu(values_BTC * gate.repeat(2), dim=-1)
            inner_BTC = gate_aware_layer_norm(
                self.depthwise_conv(inner_BTC) * gate, self.depthwise_layer_norm, gate
            )
        return self.dropout(self.pointwise_conv2(functional.silu(inner_BTC)))


class ConformerLayer(nn.Module):
    """Half FFN, attention, convolution, half FFN, norm; a branch of width 0 is absent with its norm."""

    def __init__(self, architecture: EncoderArchitecture, index: int) -> None:
        super().__init__()
        hidden, eps = architecture.hidden_size, architecture.layer_norm_eps
        num_heads, conv_dim = architecture.num_heads[index], architecture.conv_dim[index]
        ffn1_dim, ffn2_dim = architecture.ffn1_dim[index], architecture.ffn2_dim[index]

        def norm(width: int) -> nn.Module | None:
            return nn.LayerNorm(hidden, eps=eps) if width else None

        self.ffn1_layer_norm = norm(ffn1_dim)
        self.ffn1 = FeedForward(hidden, ffn1_dim) if ffn1_dim else None
        self.self_attn_layer_norm = norm(num_heads)
        self.self_attn = SelfAttention(architecture, num_heads) if num_heads else None
        self.conv_module = ConvolutionModule(architecture, conv_dim) if conv_dim else None
        self.ffn2_layer_norm = norm(ffn2_dim)
        self.ffn2 = FeedForward(hidden, ffn2_dim) if ffn2_dim else None
        self.final_layer_norm = nn.LayerNorm(hidden, eps=eps)

    def forward(self, hidden_BTD: Tensor, key_bias: Tensor | None, gates: LayerGates = NO_GATES) -> Tensor:
        """Apply the layer; see `SelfAttention.forward` for `key_bias`."""
        if self.ffn1 and self.ffn1_layer_norm:
            branch = self.ffn1(self.ffn1_layer_norm(hidden_BTD), gates.ffn1)
            hidden_BTD = torch.add(hidden_BTD, branch, alpha=0.5)
        if self.self_attn and self.self_attn_layer_norm:
            normed_BTD = self.self_attn_layer_norm(hidden_BTD)
            hidden_BTD = hidden_BTD + self.self_attn(normed_BTD, key_bias, gates.heads)
        if self.conv_module:
            hidden_BTD = hidden_BTD + self.conv_module(hidden_BTD, gates.conv)
        if self.ffn2 and self.ffn2_layer_norm:
            branch = self.ffn2(self.ffn2_layer_norm(hidden_BTD), gates.ffn2)
            hidden_BTD = torch.add(hidden_BTD, branch, alpha=0.5)
        return self.final_layer_norm(hidden_BTD)


class ConformerStack(nn.Module):
    """The layers (a module of its own only to keep the upstream parameter names `encoder.layers.N`)."""

    def __init__(self, architecture: EncoderArchitecture) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ConformerLayer(architecture, index) for index in range(architecture.num_layers)
        )


class Encoder(nn.Module):
    """w2v-BERT 2.0 encoder: features -> hidden states (projection output and each layer's output)."""

    def __init__(self, architecture: EncoderArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.feature_projection = FeatureProjection(architecture)
        self.encoder = ConformerStack(architecture)
        self.checkpoint_layers = False
        """Recompute each layer in the backward pass instead of keeping its activations (small GPUs)."""
        self._compiled: tuple[Callable[..., Tensor], ...] = ()

    def compile_layers(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Let torch compile each layer for crops of any length; the compiled layers run only with gradients enabled."""
        import torch._dynamo

        # After pruning, each layer has its own widths and is compiled anew; all layers share this limit.
        limit = max(torch._dynamo.config.recompile_limit, 4 * len(self.encoder.layers))
        torch._dynamo.config.recompile_limit = limit
        # In a tuple: no submodules, which would change the names of the parameters.
        self._compiled = tuple(
            torch.compile(layer, dynamic=True, backend=backend) for layer in self.encoder.layers
        )

    def states(
        self,
        features_BTF: Tensor,
        num_frames_B: Tensor | None = None,
        gates: Sequence[LayerGates] | None = None,
    ) -> Iterator[Tensor]:
        """Yield the num_layers + 1 hidden states [B, T, D] one after the other.

        Args:
            features_BTF: stacked log-mel features, zeros after the end of an utterance.
            num_frames_B: real frames of each utterance; None when there is no padding.
            gates: one `LayerGates` per layer, while pruning.
        """
        key_bias = None
        if num_frames_B is not None:
            padded = is_padding(num_frames_B, features_BTF.shape[1])[:, None, None, :]
            key_bias = torch.zeros_like(padded, dtype=features_BTF.dtype).masked_fill(padded, float("-inf"))
        hidden = self.feature_projection(features_BTF)
        yield hidden
        # Without gradients, torch would compile every layer once more, for validation alone.
        is_compiled = self._compiled and torch.is_grad_enabled()
        layers: Iterable[Any] = self._compiled if is_compiled else self.encoder.layers
        for index, layer in enumerate(layers):
            layer_gates = NO_GATES if gates is None else gates[index]
            if self.checkpoint_layers and torch.is_grad_enabled():
                hidden = torch.utils.checkpoint.checkpoint(
                    layer, hidden, key_bias, layer_gates, use_reentrant=False
                )
            else:
                hidden = layer(hidden, key_bias, layer_gates)
            yield hidden

    def forward(
        self,
        features_BTF: Tensor,
        num_frames_B: Tensor | None = None,
        gates: Sequence[LayerGates] | None = None,
    ) -> list[Tensor]:
        """Return all hidden states; see `states`."""
        return list(self.states(features_BTF, num_frames_B, gates))

    def set_conv_dropout(self, probability: float) -> None:
        """Set the dropout after each convolution module (published: 0.1 while the encoder is trained)."""
        for module in self.modules():
            if isinstance(module, ConvolutionModule):
                module.dropout.p = probability


def replace_children(root: nn.Module, kind: type[nn.Module], make: Callable[[Any], nn.Module]) -> None:
    """Replace every child of a kind, at any depth, by `make(child)` (in place)."""
    for parent in list(root.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, make(child))


def initialise(encoder: Encoder, generator: torch.Generator) -> None:
    """Draw random weights for an encoder that is trained from scratch (`--encoder tiny`).

    As transformers' `Wav2Vec2BertModel` does, but with the spread of a linear layer's weight scaled to its input
    (std 1 / sqrt(fan_in), half of that for the outputs of residual branches), which trains faster from scratch than
    the fixed std 0.02.
    """
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name.endswith("layer_norm.weight"):
                parameter.fill_(1.0)
            elif name.endswith("bias"):
                parameter.zero_()
            elif name.endswith("distance_embedding.weight"):
                parameter.normal_(0.0, 0.02, generator=generator)
            else:
                is_output = name.split(".")[-2] in ("output_dense", "linear_out", "pointwise_conv2")
                gain, fan_in = 0.5 if is_output else 1.0, parameter[0].numel()
                parameter.normal_(0.0, gain / math.sqrt(fan_in), generator=generator)
