"""The architecture of a model: what `config.json` of a checkpoint records, and all that is needed to build it.

Widths are kept per layer, because a cut encoder has another width in every layer; 0 means that the branch is absent
(with its layer norm), as in the last layer of the published pruned model, which has no attention.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from operator import index
from typing import Any

from svkit.config.schema import HeadConfig
from svkit.errors import ArtifactError, ConfigError

FORMAT = "svkit-checkpoint"
FORMAT_VERSION = 1
MAX_LAYERS, MAX_SIZE = 1000, 2**24
"""Bounds of what a configuration may ask for, far above any encoder: a broken one takes no time or memory."""


def _check_size(name: str, value: object, *, lowest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= MAX_SIZE:
        raise ArtifactError(f"{name}: expected whole numbers >= {lowest}, found {repr(value)[:80]}")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderArchitecture:
    """A w2v-BERT 2.0 encoder: Conformer layers with relative-key attention (method: section 1)."""

    hidden_size: int
    head_size: int
    """Channels of one attention head (hidden_size / heads of the dense model)."""
    num_heads: tuple[int, ...]
    """Attention heads per layer."""
    ffn1_dim: tuple[int, ...]
    ffn2_dim: tuple[int, ...]
    conv_dim: tuple[int, ...]
    """Channels of the convolution module per layer."""
    feature_dim: int = 160
    conv_kernel_size: int = 31
    left_positions: int = 64
    """Distances further left than this share one embedding."""
    right_positions: int = 8
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("hidden_size", "head_size", "feature_dim", "conv_kernel_size"):
            _check_size(f"encoder.{name}", getattr(self, name), lowest=1)
        for name in ("left_positions", "right_positions"):
            _check_size(f"encoder.{name}", getattr(self, name), lowest=0)
        if not isinstance(self.layer_norm_eps, float) or not 0 < self.layer_norm_eps < 1:
            raise ArtifactError(
                f"encoder.layer_norm_eps: expected a number between 0 and 1, found {self.layer_norm_eps!r}"
            )
        lengths = {name: len(getattr(self, name)) for name in WIDTHS}
        if len(set(lengths.values())) != 1 or not 1 <= len(self.num_heads) <= MAX_LAYERS:
            raise ArtifactError(
                f"encoder: expected one width per layer and kind, at most {MAX_LAYERS}, found {lengths} layers"
            )
        for name in WIDTHS:
            for width in getattr(self, name):
                _check_size(f"encoder.{name}", width, lowest=0)

    @property
    def num_layers(self) -> int:
        """Number of Conformer layers; there is one hidden state more."""
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
        """Build a dense architecture, the same in every layer."""
        for name, size in (("layers", num_layers), ("hidden size", hidden_size), ("heads", num_heads)):
            _check_size(f"encoder: {name}", size, lowest=1)
        if num_layers > MAX_LAYERS:
            raise ArtifactError(f"encoder: expected at most {MAX_LAYERS} layers, found {num_layers}")
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


WIDTHS = ("num_heads", "ffn1_dim", "ffn2_dim", "conv_dim")

W2V_BERT_2 = EncoderArchitecture.uniform(num_layers=24, hidden_size=1024, num_heads=16, ffn_dim=4096)
"""facebook/w2v-bert-2.0: 580,492,096 parameters."""

TINY = EncoderArchitecture.uniform(num_layers=4, hidden_size=128, num_heads=4, ffn_dim=512)
"""`--encoder tiny`: random-initialised, sized for two CPU cores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelArchitecture:
    """Encoder and speaker head; `dense_widths` are the widths before the cut (None: never cut)."""

    encoder: EncoderArchitecture
    head: HeadConfig
    dense_widths: dict[str, tuple[int, ...]] | None = None

    @property
    def is_pruned(self) -> bool:
        """Whether the encoder was cut."""
        return self.dense_widths is not None

    def dense_encoder(self) -> EncoderArchitecture:
        """Return the encoder before the cut (itself when it never was)."""
        return self.encoder if self.dense_widths is None else self.encoder.with_widths(self.dense_widths)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, with format and version."""
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], where: str) -> "ModelArchitecture":
        """Read the JSON form strictly; `where` names the file in errors (ArtifactError)."""
        if record.get("format") != FORMAT or record.get("format_version") != FORMAT_VERSION:
            raise ArtifactError(
                f"{where}: expected format {FORMAT} version {FORMAT_VERSION}, found "
                f"{record.get('format')!r} version {record.get('format_version')!r}"
            )
        expected = {"format", "format_version", "encoder", "head", "dense_widths"}
        if set(record) != expected:
            raise ArtifactError(f"{where}: expected the keys {sorted(expected)}, found {sorted(record)}")
        try:
            encoder: dict[str, Any] = {
                name: tuple(value) if name in WIDTHS else value for name, value in record["encoder"].items()
            }
            dense = record["dense_widths"]
            architecture = cls(
                encoder=EncoderArchitecture(**encoder),
                head=HeadConfig(**record["head"]),
                dense_widths=None if dense is None else {name: tuple(dense[name]) for name in WIDTHS},
            )
            architecture.dense_encoder()  # checks the dense widths
            return architecture
        except (AttributeError, KeyError, TypeError, ValueError, ConfigError) as error:
            reason = " ".join(str(error).split())
            raise ArtifactError(f"{where}: the architecture cannot be read ({reason})") from error
        except ArtifactError as error:
            raise ArtifactError(f"{where}: {error}") from error
