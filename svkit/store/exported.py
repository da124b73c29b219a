"""Exported models: `model.onnx` and its variants, the script that decides by them, and `export.json` (checks, time)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svkit.store.atomic import write_json
from svkit.store.places import usable_paths
from svkit.store.strict_json import read_json

FORMAT, VERSION = "svkit-export", 1
FACTS_NAME, DECIDE_NAME = "export.json", "decide.py"
FILE_NAMES = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
"""Graph of each precision. Weights beyond 2 GB are beside it, in a file of the same name plus `.data`."""


def size_bytes(path: Path) -> int:
    """Return the size of a graph with the weights beside it."""
    data = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)


def write_facts(directory: Path, facts: Mapping[str, Any]) -> None:
    """Write `export.json`; the format and its version are added."""
    write_json(directory / FACTS_NAME, {"format": FORMAT, "format_version": VERSION, **facts})


def read_facts(directory: Path) -> dict[str, Any]:
    """Read `export.json` (ArtifactError: missing, of another format or version)."""
    path = directory / FACTS_NAME
    return usable_paths(path, read_json(path, FORMAT, VERSION, dict[str, Any]))


def remove_graph(path: Path) -> None:
    """Remove a graph and the weights beside it."""
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)
