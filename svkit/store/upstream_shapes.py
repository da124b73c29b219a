"""The architecture of an encoder, inferred from the shapes of its weights when there is no configuration file."""

import re
from collections.abc import Mapping

from torch import Tensor

from svkit.config.architecture import W2V_BERT_2, WIDTHS, EncoderArchitecture, ModelArchitecture
from svkit.config.schema import MAX_LAYERS, HeadConfig
from svkit.errors import ArtifactError, ConfigError

_LAYER = re.compile(r"encoder\.layers\.([0-9]{1,4})\.(.+)")
_WIDTH_OF = {
    "num_heads": "self_attn.linear_q.weight",
    "ffn1_dim": "ffn1.intermediate_dense.weight",
    "ffn2_dim": "ffn2.intermediate_dense.weight",
    "conv_dim": "conv_module.depthwise_conv.weight",
}
"""The weight whose number of rows is the width of a branch in a layer; for heads, times the size of a head."""
_DISTANCES = "self_attn.distance_embedding.weight"


def architecture_of_shapes(tensors: Mapping[str, Tensor], where: str) -> tuple[ModelArchitecture, str | None]:
    """Return the architecture of an encoder from its weights (named as by `encoder_tensors`), with a default head.

    What shapes cannot tell is assumed to be as in w2v-BERT 2.0: how many of the distances lie to the left and to the
    right, the epsilon of the norms, and the width of the FFNs before a cut. If an encoder of another size was cut, its
    widest remaining FFN is taken as that width, and the second value says so.

    Raises:
        ArtifactError: these are not the weights of such an encoder, or it has another number of distances.
    """
    layers: dict[int, dict[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        if match := _LAYER.fullmatch(name):
            layers.setdefault(int(match[1]), {})[match[2]] = tuple(tensor.shape)
    found = [layers.get(index, {}) for index in range(min(len(layers), MAX_LAYERS))]
    distances = {shape for layer in found if (shape := layer.get(_DISTANCES))}
    kernels = {shape[2:] for layer in found if (shape := layer.get(_WIDTH_OF["conv_dim"]))}
    rows = {kind: [(layer.get(name) or (0,))[0] for layer in found] for kind, name in _WIDTH_OF.items()}
    try:
        hidden_size, feature_dim = tensors["feature_projection.projection.weight"].shape
        [(num_distances, head_size)], [(kernel_size,)] = distances, kernels
        encoder = EncoderArchitecture(
            hidden_size=hidden_size,
            head_size=head_size,
            feature_dim=feature_dim,
            conv_kernel_size=kernel_size,
            num_heads=tuple(width // head_size for width in rows["num_heads"]),
            ffn1_dim=tuple(rows["ffn1_dim"]),
            ffn2_dim=tuple(rows["ffn2_dim"]),
            conv_dim=tuple(rows["conv_dim"]),
        )
    except (LookupError, ValueError, ZeroDivisionError, ConfigError) as error:
        raise ArtifactError(
            f"{where}: the shapes of its weights are not those of a w2v-BERT encoder; give its "
            "configuration with --config"
        ) from error
    expected = encoder.left_positions + 1 + encoder.right_positions
    if num_distances != expected:
        raise ArtifactError(
            f"{where}: expected {expected} relative distances in attention, as in w2v-BERT 2.0, found "
            f"{num_distances}; the weights do not tell how many of them lie to the left, so give the "
            "encoder's configuration with --config"
        )
    return _with_dense_widths(encoder)


def _with_dense_widths(encoder: EncoderArchitecture) -> tuple[ModelArchitecture, str | None]:
    """Add the widths before the cut, where the encoder was cut."""
    published = (W2V_BERT_2.num_layers, W2V_BERT_2.hidden_size, W2V_BERT_2.head_size)
    is_published = (encoder.num_layers, encoder.hidden_size, encoder.head_size) == published
    widest = max(*encoder.ffn1_dim, *encoder.ffn2_dim)
    ffn = W2V_BERT_2.ffn1_dim[0] if is_published else widest
    widths = (encoder.hidden_size // encoder.head_size, ffn, ffn, encoder.hidden_size)
    dense = encoder.with_widths(
        {kind: [width] * encoder.num_layers for kind, width in zip(WIDTHS, widths, strict=True)}
    )
    before = None if encoder == dense else {name: tuple(each) for name, each in dense.widths().items()}
    assumed = None
    if before is not None and not is_published:
        assumed = (
            "the weights do not tell the FFNs' width before the cut; that of the widest remaining FFN, "
            f"{widest}, is assumed"
        )
    return ModelArchitecture(encoder=encoder, head=HeadConfig(), dense_widths=before), assumed
