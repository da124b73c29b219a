"""Numpy arrays by name in a safetensors file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from svkit.errors import ArtifactError, first_line
from svkit.store.atomic import replacing
from svkit.store.files import check_file

Array = npt.NDArray[Any]


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays of any shape."""
    with replacing(path) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)


def read_arrays(path: Path, expected: Mapping[str, tuple[str, int]]) -> dict[str, Array]:
    """Read arrays; each expected one has a type, such as `float32`, and a number of dimensions.

    Raises:
        ArtifactError: missing, not a safetensors file, or an array is missing or of another type or shape.
    """
    check_file(path, ArtifactError)
    try:
        arrays: dict[str, Array] = load_file(path)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        raise ArtifactError(f"{path}: not a safetensors file: {first_line(error)}") from error
    for name, (kind, num_dimensions) in expected.items():
        array = arrays.get(name)
        if array is None or array.dtype != kind or array.ndim != num_dimensions:
            found = {name: f"{array.dtype}{list(array.shape)}" for name, array in arrays.items()}
            raise ArtifactError(
                f"{path}: expected {name!r} as {kind} of {num_dimensions} dimensions, found {found}"
            )
    return arrays
