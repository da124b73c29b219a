"""Named NumPy arrays in a safetensors file."""

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
    """Write named arrays of any shape (ArtifactError: the file cannot be written)."""
    with replacing(path) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)


def read_arrays(path: Path, expected: Mapping[str, tuple[str, int]]) -> dict[str, Array]:
    """Read all arrays and check those in `expected`: name -> dtype, such as `float32`, and number of dimensions.

    Raises:
        ArtifactError: the file is missing or not a safetensors file, or an expected array is missing or has another
            dtype or number of dimensions.
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
                f"{path}: expected {name!r} as {kind} with {num_dimensions} dimensions, found {found}"
            )
    return arrays
