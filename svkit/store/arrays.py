"""Named NumPy arrays in a safetensors file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Check a file, and turn what the safetensors library says about its content into an ArtifactError."""
    check_file(path, ArtifactError)
    try:
        yield
    # AttributeError: a header may name a dtype that the file format has and this torch lacks.
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ArtifactError(f"{path}: not a readable safetensors file ({first_line(error)})") from error


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
    with reading(path):
        arrays: dict[str, Array] = load_file(path)
    for name, (kind, num_dimensions) in expected.items():
        array = arrays.get(name)
        if array is None or array.dtype != kind or array.ndim != num_dimensions:
            found = {name: f"{array.dtype}{list(array.shape)}" for name, array in arrays.items()}
            raise ArtifactError(
                f"{path}: expected {name!r} as {kind} with {num_dimensions} dimensions, found {found}"
            )
    return arrays
