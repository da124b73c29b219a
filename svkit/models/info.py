"""`svkit info`: exact counts and widths of a checkpoint, or of an encoder configuration without weights."""

from pathlib import Path
from typing import Any

from svkit.config.architecture import ModelArchitecture
from svkit.config.schema import HeadConfig
from svkit.errors import ArtifactError
from svkit.pruning.counting import encoder_parameters, head_parameters, macs, sparsity
from svkit.store import checkpoint as store
from svkit.store.provenance import check_outputs
from svkit.store.upstream import model_architecture, read_json_object


def run(path: Path) -> dict[str, Any]:
    """Describe a checkpoint directory, a transformers directory, or an encoder configuration json.

    Raises:
        ArtifactError: none of these.
    """
    if path.is_file() and path.suffix == ".json":
        return _describe_configuration(path)
    config = path / store.CONFIG_NAME
    if config.exists() and "model_type" in read_json_object(config):
        return _describe_configuration(config)
    return describe_checkpoint(path)


def describe_checkpoint(directory: Path) -> dict[str, Any]:
    """Counts, MACs for 1 s, size of the weights and widths per layer of a checkpoint."""
    architecture = store.read_architecture(directory)
    weights = directory / store.MODEL_NAME
    if not weights.exists():
        raise ArtifactError(f"{weights}: does not exist; the checkpoint is not finished")
    store.read_shapes(weights)
    check_outputs(directory, store.CONFIG_NAME, store.MODEL_NAME)
    return describe(architecture, directory.name) | {"size_bytes": weights.stat().st_size}


def _describe_configuration(path: Path) -> dict[str, Any]:
    architecture = model_architecture(read_json_object(path), HeadConfig(), str(path))
    return describe(architecture, path.stem) | {"size_bytes": None}


def describe(architecture: ModelArchitecture, name: str) -> dict[str, Any]:
    """Counts of an architecture (method.md, section 4, counts as they are defined in `svkit.pruning.counting`)."""
    dense = architecture.dense_encoder()
    counts = macs(architecture)
    return {
        "name": name,
        "encoder_parameters": encoder_parameters(architecture.encoder),
        "teacher_parameters": encoder_parameters(dense) if architecture.is_pruned else None,
        "head_parameters": head_parameters(architecture),
        "sparsity": sparsity(architecture.encoder, dense),
        "macs_per_second": {
            "total": counts.total,
            "encoder": counts.encoder,
            "head": counts.head,
            "positional": counts.positional,
        },
        "widths": architecture.encoder.widths(),
        "dense_widths": dense.widths(),
    }
