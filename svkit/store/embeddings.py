"""Embedding directories: one float32 matrix, its utterance ids and how it was made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from typing_extensions import Required, TypedDict

from svkit.errors import ArtifactError
from svkit.store.arrays import read_arrays, write_arrays
from svkit.store.atomic import write_json
from svkit.store.places import Artifact, read_placed
from svkit.store.provenance import check_outputs
from svkit.store.tables import read_artifact_table, write_table

FORMAT, VERSION = "svkit-embeddings", 1
MANIFEST_NAME = "manifest.tsv"
"""The list of embedded recordings, where `svkit extract` had to make one."""
_MATRIX_NAME, _IDS_NAME, META_NAME = "embeddings.safetensors", "ids.tsv", "embeddings.json"
_KEY = "embeddings"


class Facts(TypedDict, total=False):
    """The keys of `embeddings.json` that svkit reads again."""

    dim: Required[int]
    num_utterances: Required[int]
    model: str | None
    checkpoint: Artifact | None
    manifest: Artifact | None
    condition: str
    """What recordings were embedded under; missing: they are as recorded."""
    max_seconds: float
    dtype: str


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of N utterances, not length-normalised."""

    ids: npt.NDArray[np.object_]
    """Unique utterance ids, [N] str."""
    matrix: npt.NDArray[np.float32]
    """[N, D]."""
    meta: Facts


def write_embeddings(
    directory: Path, ids: Sequence[str], matrix: npt.NDArray[np.float32], meta: Mapping[str, Any]
) -> None:
    """Write embeddings [N, D] of N unique ids, and `meta` into `embeddings.json`; the caller writes the provenance."""
    assert matrix.ndim == 2 and len(ids) == len(matrix), "one row for each utterance"
    write_table(directory / _IDS_NAME, pd.DataFrame({"row": np.arange(len(ids)), "utterance_id": list(ids)}))
    write_arrays(directory / _MATRIX_NAME, {_KEY: matrix.astype(np.float32, copy=False)})
    facts = {"format": FORMAT, "format_version": VERSION, "dim": matrix.shape[1], "num_utterances": len(ids)}
    write_json(directory / META_NAME, {**facts, **meta})


def read_embeddings(directory: Path) -> Embeddings:
    """Read and check embeddings (ArtifactError: missing, corrupt, of another version or other sizes, or not finite)."""
    meta = read_facts(directory)
    matrix = read_arrays(directory / _MATRIX_NAME, {_KEY: ("float32", 2)})[_KEY]
    table = read_artifact_table(directory / _IDS_NAME, ("row", "utterance_id"))
    ids = np.asarray(table["utterance_id"], dtype=object)
    expected = (meta["num_utterances"], meta["dim"])
    if matrix.shape != expected or len(ids) != len(matrix):
        raise ArtifactError(
            f"{directory}: {META_NAME} says {expected[0]} x {expected[1]}, {_MATRIX_NAME} has"
            f" {matrix.shape[0]} x {matrix.shape[1]}, {_IDS_NAME} {len(ids)} ids; extract again"
        )
    if list(table["row"]) != [str(row) for row in range(len(ids))] or len(set(ids)) != len(ids):
        raise ArtifactError(
            f"{directory / _IDS_NAME}: expected rows 0, 1, ... with unique utterances; extract again"
        )
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        raise ArtifactError(
            f"{directory}: the embedding of {ids[np.argmin(finite)]} is not finite; extract again"
        )
    check_outputs(directory, _MATRIX_NAME, _IDS_NAME, META_NAME)
    return Embeddings(ids, matrix, meta)


def read_facts(directory: Path) -> Facts:
    """Read `embeddings.json` alone, with usable paths (ArtifactError: missing, or of another format or version)."""
    if not directory.is_dir():
        raise ArtifactError(f"{directory}: does not exist; run `svkit extract` first")
    return read_placed(directory / META_NAME, FORMAT, VERSION, Facts)
