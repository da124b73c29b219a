"""`svkit info`: exact counts and widths of a checkpoint, or of an encoder configuration without weights."""

from dataclasses import replace
from pathlib import Path

from svkit.config.architecture import ModelArchitecture
from svkit.errors import ArtifactError
from svkit.pruning.counting import encoder_parameters, head_parameters, macs, sparsity
from svkit.pruning.outcome import vanished_kinds
from svkit.store import checkpoint
from svkit.store.provenance import check_outputs
from svkit.store.report import Macs, ModelSize
from svkit.store.strict_json import read_object
from svkit.store.upstream import model_architecture


def run(path: Path) -> ModelSize:
    """Describe a checkpoint directory, a transformers directory, or an encoder configuration json.

    Raises:
        ArtifactError: the path is none of these.
    """
    config = path if path.is_file() and path.suffix == ".json" else path / checkpoint.CONFIG_NAME
    if config == path or (config.exists() and "model_type" in read_object(config)):
        architecture = model_architecture(read_object(config), str(config))
        return _describe(architecture, config.stem, None)
    return replace(describe_checkpoint(path), state_weights=state_weights(path))


def describe_checkpoint(directory: Path) -> ModelSize:
    """Return the counts, MACs for 1 s, size of the weights and widths per layer of a checkpoint."""
    architecture = checkpoint.read_architecture(directory)
    weights = directory / checkpoint.MODEL_NAME
    if not weights.exists():
        raise ArtifactError(f"{weights}: does not exist; the checkpoint is not finished")
    checkpoint.read_shapes(weights)
    check_outputs(directory, checkpoint.CONFIG_NAME, checkpoint.MODEL_NAME)
    return _describe(architecture, directory.name, weights.stat().st_size)


def state_weights(directory: Path) -> dict[int, float]:
    """Return the weight of each hidden state that the head of a checkpoint uses; the weights sum to 1.

    In a learned sum it is the state's share. Otherwise it is proportional to the norm of the embedding layer's weights
    on the statistics pooled from the state.

    Raises:
        ArtifactError: the tensor with the weights is missing, or does not fit `config.json`.
    """
    architecture, weights = checkpoint.read_architecture(directory), directory / checkpoint.MODEL_NAME
    count, is_sum = len(architecture.states), architecture.head.aggregation == "sum"
    name = "head.state_weights" if is_sum else "head.embedding.weight"
    shape = (count,) if is_sum else (architecture.head.embedding_dim, 2 * architecture.channels)
    tensor = checkpoint.read_tensors(weights).get(name)
    if tensor is None or tensor.shape != shape:
        raise ArtifactError(f"{weights}: {name}: expected the shape {list(shape)} of config.json")
    if is_sum:
        shares = tensor.float().softmax(dim=0)
    else:  # [D, mean and standard deviation, states, channels of one]
        norms = tensor.float().unflatten(1, (2, count, -1)).square().sum(dim=(0, 1, 3)).sqrt()
        shares = norms / norms.sum()
    return dict(zip(architecture.states, shares.tolist(), strict=True))


def _describe(architecture: ModelArchitecture, name: str, size_bytes: int | None) -> ModelSize:
    """Count an architecture; the counts are defined in `svkit.pruning.counting`."""
    dense, work = architecture.dense_encoder(), macs(architecture)
    widths, dense_widths = (
        {kind: tuple(layers) for kind, layers in encoder.widths().items()}
        for encoder in (architecture.encoder, dense)
    )
    return ModelSize(
        name=name,
        encoder_parameters=encoder_parameters(architecture.encoder),
        teacher_parameters=encoder_parameters(dense) if architecture.is_pruned else None,
        head_parameters=head_parameters(architecture),
        sparsity=sparsity(architecture.encoder, dense),
        macs_per_second=Macs(total=work.total, **work._asdict()),
        widths=widths,
        dense_widths=dense_widths,
        vanished=tuple(vanished_kinds(architecture.encoder, dense)),
        size_bytes=size_bytes,
    )
