"""The architecture of a model: what `config.json` of a checkpoint records, and all that is needed to build it.

Widths are kept per layer, because a cut encoder may have different widths in every layer. 0 means that the branch is
absent (with its layer norm), as in the last layer of the published pruned model, which has no attention.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import index
from typing import Annotated, Any

from svkit.config.ranges import Range
from svkit.config.schema import MAX_LAYERS, TINY_SIZES, HeadConfig, Size, TinySize
from svkit.config.typed import Misfit, configuration
from svkit.errors import ArtifactError

WIDTHS = ("num_heads", "ffn1_dim", "ffn2_dim", "conv_dim")
Width = Annotated[int, Range(ge=0, le=2**24)]
"""Width of a branch in one layer; 0: the branch is absent."""


@configuration
class EncoderArchitecture:
    """A w2v-BERT 2.0 encoder: Conformer layers with relative-key attention, as in transformers' `Wav2Vec2BertModel`."""

    hidden_size: Size
    head_size: Size
    """Channels of one attention head (hidden_size / heads of the dense model)."""
    num_heads: tuple[Width, ...]
    """Attention heads per layer."""
    ffn1_dim: tuple[Width, ...]
    ffn2_dim: tuple[Width, ...]
    conv_dim: tuple[Width, ...]
    """Channels of the convolution module per layer."""
    feature_dim: Size = 160
    conv_kernel_size: Size = 31
    left_positions: Width = 64
    """Distances further left than this share one embedding."""
    right_positions: Width = 8
    layer_norm_eps: Annotated[float, Range(gt=0, lt=1)] = 1e-5

    def __post_init__(self) -> None:
        _check_widths(self.widths(), WIDTHS)

    @property
    def num_layers(self) -> int:
        """Number of Conformer layers; there is one more hidden state than layers."""
        return len(self.num_heads)

    def widths(self) -> dict[str, list[int]]:
        """Widths per layer by kind."""
        return {name: list(getattr(self, name)) for name in WIDTHS}

    def with_widths(self, widths: Mapping[str, Any]) -> "EncoderArchitecture":
        """Return the same architecture with other widths per layer."""
        heads, ffn1, ffn2, conv = (tuple(index(width) for width in widths[name]) for name in WIDTHS)
        return replace(self, num_heads=heads, ffn1_dim=ffn1, ffn2_dim=ffn2, conv_dim=conv)

    @classmethod
    def uniform(
        cls, *, num_layers: int, hidden_size: int, num_heads: int, ffn_dim: int, **others: Any
    ) -> "EncoderArchitecture":
        """Build a dense architecture with equal layers; ArtifactError unless the heads divide the hidden size."""
        if hidden_size % num_heads:
            raise ArtifactError(f"encoder: hidden size {hidden_size} is not a multiple of {num_heads} heads")
        return cls(
            hidden_size=hidden_size,
            head_size=hidden_size // num_heads,
            num_heads=(num_heads,) * num_layers,
            ffn1_dim=(ffn_dim,) * num_layers,
            ffn2_dim=(ffn_dim,) * num_layers,
            conv_dim=(hidden_size,) * num_layers,
            **others,
        )


def _check_widths(widths: Mapping[str, Any], names: Sequence[str]) -> None:
    lengths = {len(layers) for layers in widths.values()}
    if set(widths) != set(WIDTHS) or len(lengths) != 1 or not 1 <= max(lengths) <= MAX_LAYERS:
        found = ", ".join(f"{len(layers)} of {name}" for name, layers in widths.items())
        raise Misfit(
            names, f"expected one width per layer and kind, for at most {MAX_LAYERS} layers, found {found}"
        )


W2V_BERT_2 = EncoderArchitecture.uniform(num_layers=24, hidden_size=1024, num_heads=16, ffn_dim=4096)
"""facebook/w2v-bert-2.0: 580,492,096 parameters."""


def tiny_architecture(overrides: Mapping[TinySize, int]) -> EncoderArchitecture:
    """Architecture of `--encoder tiny`, with a recipe's `encoder_overrides`."""
    layers, hidden, heads, ffn = (TINY_SIZES | dict(overrides)).values()
    return EncoderArchitecture.uniform(num_layers=layers, hidden_size=hidden, num_heads=heads, ffn_dim=ffn)


@configuration
class ModelArchitecture:
    """Encoder and speaker head; `dense_widths` are the widths before the cut (None: never cut)."""

    encoder: EncoderArchitecture
    head: HeadConfig
    dense_widths: dict[str, tuple[Width, ...]] | None = None

    def __post_init__(self) -> None:
        if self.dense_widths is not None:
            _check_widths(self.dense_widths, ["dense_widths"])
        count, head = self.encoder.num_layers + 1, self.head
        if len({state % count for state in head.states if -count <= state < count}) != len(head.states):
            raise Misfit(
                ["head.states"],
                f"expected distinct hidden states from {-count} to {count - 1}, found {list(head.states)}",
            )
        if head.pooling == "multi-head" and self.channels % head.pooling_heads:
            raise Misfit(
                ["head.pooling_heads"],
                f"expected a divisor of the {self.channels} channels that are pooled, found {head.pooling_heads}",
            )

    @property
    def states(self) -> tuple[int, ...]:
        """Hidden states that the head uses, ascending: 0 is the encoder's input, n the output of layer n."""
        count = self.encoder.num_layers + 1
        return tuple(sorted(state % count for state in self.head.states or range(count)))

    @property
    def channels(self) -> int:
        """Channels that are pooled over time."""
        width = self.head.adapter_dim if self.head.layer_adapters else self.encoder.hidden_size
        return width * (len(self.states) if self.head.aggregation == "mfa" else 1)

    @property
    def attention_weights(self) -> int:
        """Number of attention weights per frame in the pooling; 0: the pooling has no attention."""
        weights = {"asp": self.channels, "multi-head": self.head.pooling_heads, "mean-std": 0}
        return weights[self.head.pooling]

    @property
    def is_pruned(self) -> bool:
        """Whether the encoder was cut."""
        return self.dense_widths is not None

    def dense_encoder(self) -> EncoderArchitecture:
        """Return the encoder before the cut (itself when it never was)."""
        return self.encoder if self.dense_widths is None else self.encoder.with_widths(self.dense_widths)
