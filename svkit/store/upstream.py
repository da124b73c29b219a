"""Weights of other programs under svkit's names: transformers directories and the published `.pth` checkpoints.

Reading is strict: every key of the source is used or named in an error, and the model built from the result is loaded
with `strict=True`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from operator import mul
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor

from svkit.config.architecture import EncoderArchitecture, ModelArchitecture, Width
from svkit.config.ranges import Range
from svkit.config.schema import MAX_LAYERS, HeadConfig, Size
from svkit.config.typed import Misfit, fit
from svkit.errors import ArtifactError, ConfigError, first_five, first_line
from svkit.store.files import open_file
from svkit.store.strict_json import read_object
from svkit.store.upstream_shapes import architecture_of_shapes


class PublishedCheckpoint(NamedTuple):
    """A published checkpoint in svkit's terms."""

    architecture: ModelArchitecture
    tensors: dict[str, Tensor]
    classifier: Tensor | None
    """[classes, embedding_dim]"""
    said: list[str]
    """What the user should know about how it was read."""


SPEEDS = (1.0, 0.9, 1.1)
"""Speeds in the published classifiers, in the order of rows: a speaker at another speed is a class of its own."""
_SPEAKERS = (5_994, 5_994 + 111_284)
"""Numbers of speakers in the published classifiers: VoxCeleb2 dev, alone and with VoxBlink2."""


def published_classes(num_classes: int) -> tuple[int, tuple[float, ...]] | None:
    """Return the number of speakers and the speeds behind a published classifier's rows; None: it is not published."""
    for speeds in (SPEEDS, SPEEDS[:1]):
        speakers, rest = divmod(num_classes, len(speeds))
        if not rest and speakers in _SPEAKERS:
            return speakers, speeds
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class _EncoderConfig:
    """What svkit uses of a transformers configuration, or of a published one with widths per layer."""

    num_hidden_layers: Annotated[int, Range(ge=1, le=MAX_LAYERS)]
    hidden_size: Size
    num_attention_heads: Size
    intermediate_size: Size
    feature_projection_input_dim: Size = 160
    conv_depthwise_kernel_size: Size = 31
    left_max_position_embeddings: Width = 64
    right_max_position_embeddings: Width = 8
    layer_norm_eps: Annotated[float, Range(gt=0, lt=1)] = 1e-5
    position_embeddings_type: Literal["relative_key"] = "relative_key"
    hidden_act: Literal["swish", "silu"] = "swish"
    add_adapter: Literal[False] = False
    num_attention_heads_group: tuple[Width, ...] | None = None
    """Heads per layer; None: this is a transformers configuration."""
    intermediate_size_group: tuple[tuple[Width, Width], ...] = ()
    """Widths of FFN1 and FFN2 per layer."""
    conv_group: tuple[tuple[Any, Width], ...] = ()
    use_attention: tuple[bool, ...] | None = None
    use_feed_forward: tuple[tuple[bool, bool], ...] | None = None

    def dense(self) -> EncoderArchitecture:
        return EncoderArchitecture.uniform(
            num_layers=self.num_hidden_layers,
            hidden_size=self.hidden_size,
            num_heads=self.num_attention_heads,
            ffn_dim=self.intermediate_size,
            feature_dim=self.feature_projection_input_dim,
            conv_kernel_size=self.conv_depthwise_kernel_size,
            left_positions=self.left_max_position_embeddings,
            right_positions=self.right_max_position_embeddings,
            layer_norm_eps=self.layer_norm_eps,
        )

    def widths(self) -> dict[str, list[int]] | None:
        """Widths per layer of a published configuration."""
        if self.num_attention_heads_group is None:
            return None
        layers = self.num_hidden_layers
        attention = self.use_attention or (True,) * layers
        feed_forward = self.use_feed_forward or ((True, True),) * layers
        for field in fields(self):
            found = getattr(self, field.name)
            if isinstance(found, tuple) and len(found) != layers:
                raise Misfit([field.name], f"expected {layers} layers, found {len(found)}")
        ffn = list(zip(self.intermediate_size_group, feed_forward, strict=True))
        return {
            "num_heads": list(map(mul, self.num_attention_heads_group, attention)),
            "ffn1_dim": [width * used for (width, _), (used, _) in ffn],
            "ffn2_dim": [width * used for (_, width), (_, used) in ffn],
            "conv_dim": [width for _, width in self.conv_group],
        }


def model_architecture(config: Mapping[str, Any], where: str) -> ModelArchitecture:
    """Read the architecture of a model, with a default head, from a transformers or published encoder configuration.

    The published pruned configuration adds `num_attention_heads_group`, `intermediate_size_group` (FFN1, FFN2),
    `conv_group` (second number of each pair) and `use_attention`, `use_feed_forward`. A model whose widths per layer
    are not the dense ones was cut.

    Raises:
        ArtifactError: a key is missing or asks for something that w2v-BERT 2.0 does not have.
    """
    known = {item.name for item in fields(_EncoderConfig)}
    try:
        read = fit(_EncoderConfig, {key: value for key, value in config.items() if key in known})
        dense, widths = read.dense(), read.widths()
    except (Misfit, ArtifactError) as error:
        raise ArtifactError(f"{where}: {error}") from None
    encoder = dense if widths is None else dense.with_widths(widths)
    before = None if encoder == dense else {name: tuple(each) for name, each in dense.widths().items()}
    return ModelArchitecture(encoder=encoder, head=HeadConfig(), dense_widths=before)


def encoder_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the state of a `Wav2Vec2BertModel` to that of `svkit.nn.encoder.Encoder`."""
    pointwise = ("pointwise_conv1.weight", "pointwise_conv2.weight")
    return {
        name: tensor.squeeze(-1) if name.endswith(pointwise) else tensor
        for name, tensor in state.items()
        # Only SpecAugment in transformers' pre-training uses it; it is not part of the 580,492,096 parameters.
        if name != "masked_spec_embed"
    }


def merge_lora(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Fold unmerged LoRA in peft's key names into the base weights: W + 2 B A; alpha is twice the rank, as published.

    Names begin with `base_model.model.`, and each target has `base_layer`, `lora_A` and `lora_B`. A state without LoRA
    is returned unchanged.

    Raises:
        ArtifactError: a target is incomplete, or its shapes do not fit; `where` is for messages.
    """
    plain: dict[str, Tensor] = {}
    low_rank: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        short = name.removeprefix("base_model.model.")
        match = re.fullmatch(r"(.+)\.lora_([AB])\.default\.weight", short)
        if match:
            low_rank.setdefault(match[1], {})[match[2]] = tensor
        else:
            plain[short.replace(".base_layer.", ".")] = tensor
    for target, parts in low_rank.items():
        if set(parts) != {"A", "B"} or f"{target}.weight" not in plain:
            raise ArtifactError(
                f"{where}: {target}: expected lora_A, lora_B and base weight, found {sorted(parts)}"
            )
        try:
            plain[f"{target}.weight"] = plain[f"{target}.weight"] + 2.0 * (parts["B"] @ parts["A"])
        except RuntimeError as error:
            shapes = [list(tensor.shape) for tensor in (plain[f"{target}.weight"], parts["B"], parts["A"])]
            raise ArtifactError(
                f"{where}: {target}: weight, lora_B and lora_A do not fit: {shapes}"
            ) from error
    return plain


_HEAD_NAMES = (
    (r"adapter_layers\.(\d+)\.0\.(weight|bias)", r"head.layer_adapters.\1.down.\2"),
    (r"adapter_layers\.(\d+)\.1\.(weight|bias)", r"head.layer_adapters.\1.norm.\2"),
    (r"adapter_layers\.(\d+)\.3\.(weight|bias)", r"head.layer_adapters.\1.out.\2"),
    (r"pooling\.attention\.0\.(weight|bias)", r"head.pooling.attention_in.\1"),
    (r"pooling\.attention\.2\.(\w+)", r"head.pooling.batch_norm.\1"),
    (r"pooling\.attention\.3\.(weight|bias)", r"head.pooling.attention_out.\1"),
    (r"bottleneck\.(weight|bias)", r"head.embedding.\1"),
)


def _head_tensors(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    renamed, unknown = {}, []
    for name, tensor in state.items():
        for pattern, replacement in _HEAD_NAMES:
            if match := re.fullmatch(pattern, name):
                new = match.expand(replacement)
                renamed[new] = tensor.squeeze(-1) if ".attention_" in new and tensor.ndim == 3 else tensor
                break
        else:
            unknown.append(name)
    if unknown:
        raise ArtifactError(f"{where}: unknown keys {first_five(unknown)}")
    return renamed


def read_published(path: Path, config_path: Path | None = None) -> PublishedCheckpoint:
    """Read a published checkpoint: plain, with unmerged LoRA, or pruned.

    The `.pth` file holds `{"modules": {"spk_model": ..., "classifier": ...}}` and is read with `weights_only=True`. The
    same states in other common wrappers are found too. Without a configuration, the encoder's architecture is inferred
    from the shapes of its weights.

    Raises:
        ArtifactError: the file is missing, its pickle contains code, a key is unknown or missing, or a shape is wrong.
    """
    # A bad configuration is reported before gigabytes are read.
    architecture = None
    if config_path is not None:
        architecture = model_architecture(read_object(config_path), str(config_path))
    modules, said = _load_pth(path)
    state, classifier_state = modules["spk_model"], modules.get("classifier", {})
    prefix = "front.encoder."
    upstream = {name.removeprefix(prefix): state.pop(name) for name in list(state) if name.startswith(prefix)}
    encoder = encoder_tensors(merge_lora(upstream, str(path)))
    if architecture is None:
        architecture, assumed = architecture_of_shapes(encoder, str(path))
        said += [assumed] if assumed else []
    tensors = {f"encoder.{name}": tensor for name, tensor in encoder.items()} | _head_tensors(
        state, str(path)
    )
    try:
        head = HeadConfig(
            adapter_dim=tensors["head.layer_adapters.0.down.weight"].shape[0],
            attention_dim=tensors["head.pooling.attention_in.weight"].shape[0],
            embedding_dim=tensors["head.embedding.weight"].shape[0],
        )
    except KeyError as error:
        raise ArtifactError(f"{path}: missing key for {error}") from error
    except (IndexError, ConfigError) as error:
        raise ArtifactError(f"{path}: a tensor of the head has no size: {error}") from error
    classifier = classifier_state.pop("weight", None)
    if classifier is not None and (classifier.ndim != 2 or classifier.shape[1] != head.embedding_dim):
        raise ArtifactError(
            f"{path}: classifier.weight: expected [classes, {head.embedding_dim}], found {list(classifier.shape)}"
        )
    if classifier_state:
        raise ArtifactError(f"{path}: unknown classifier keys {first_five(sorted(classifier_state))}")
    return PublishedCheckpoint(replace(architecture, head=head), tensors, classifier, said)


_WRAPPERS = ("modules", "state_dict", "model_state_dict", "model")
"""Keys under which training programs keep their states."""
_PREFIXES = {"module.": "DistributedDataParallel", "_orig_mod.": "torch.compile"}
"""What wrappers around a module leave in the names of its state, and the wrappers."""


def _load_pth(path: Path) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Read the states by module, the speaker model's and perhaps the classifier's; add notes on removed wrappers."""
    try:
        with open_file(path, ArtifactError) as file:
            record = torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251 - their format
    except ArtifactError:
        raise
    except Exception as error:  # torch.load raises many types for a bad file
        reason = "no file of torch, or one with more than tensors, which may be code"
        # Errors of other types advise a load that runs code, or say nothing.
        if isinstance(error, RuntimeError):
            reason = first_line(error)
        raise ArtifactError(f"{path}: not a checkpoint that can be read safely ({reason})") from error
    said: list[str] = []
    modules = _find_modules(record, said)
    if modules is None:
        found = first_five(sorted(map(str, record))) if isinstance(record, dict) else type(record).__name__
        raise ArtifactError(f"{path}: expected modules.spk_model, found {found}")
    unknown = sorted(str(name) for name in modules if name not in ("spk_model", "classifier"))
    if unknown:
        raise ArtifactError(f"{path}: unknown modules {first_five(unknown)}")
    for name, state in modules.items():
        if not isinstance(state, dict) or not all(map(_is_plain, state, state.values())):
            raise ArtifactError(
                f"{path}: modules.{name}: expected named tensors, found {type(state).__name__}"
            )
    states = {name: _unprefixed(state, said) for name, state in modules.items()}
    return states, [f"{path.name}: {text}" for text in dict.fromkeys(said)]


def _find_modules(record: Any, said: list[str]) -> dict[str, Any] | None:
    """Return the states by module, wherever they are in the record; add a note to `said` for each wrapper."""
    for _ in _WRAPPERS:  # each at most once: a record may hold itself
        wrapper = next((name for name in _WRAPPERS if _has_dict(record, name)), None)
        if wrapper is None or _has_dict(record, "spk_model"):
            break
        said += [] if wrapper == "modules" else [f"the weights were taken from inside {wrapper!r}"]
        record = record[wrapper]
    if not isinstance(record, dict) or "spk_model" in record:
        return record if isinstance(record, dict) else None
    if not record or not all(map(_is_plain, record, record.values())):
        return None
    state = _unprefixed(record, said)
    if not any(name.startswith("spk_model.") for name in state):
        is_model = any(name.startswith("front.encoder.") for name in state)
        return {"spk_model": state} if is_model else None
    modules: dict[str, Any] = {}
    for name, tensor in state.items():
        module, _, rest = name.partition(".")
        modules.setdefault(module, {})[rest] = tensor
    return modules


def _has_dict(record: Any, name: str) -> bool:
    return isinstance(record, dict) and isinstance(record.get(name), dict)


def _unprefixed(state: Mapping[str, Tensor], said: list[str]) -> dict[str, Tensor]:
    """Return a state without the prefixes that wrappers have left on all its names."""
    found = dict(state)
    while prefix := next((one for one in _PREFIXES if found and all(n.startswith(one) for n in found)), None):
        said.append(f"all names begin with {prefix!r} ({_PREFIXES[prefix]}), which was left out")
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def _is_plain(name: Any, tensor: Any) -> bool:
    """Say whether this is a name with a dense tensor of floats or whole numbers."""
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        return False
    return tensor.layout == torch.strided and not (tensor.is_complex() or tensor.is_quantized)
