"""Exported models: `model.onnx` and its variants, the script that decides by them, and `export.json` (checks, time)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svkit.store.atomic import write_json
from svkit.store.metrics import plain_record
from svkit.store.output import Output
from svkit.store.places import Artifact, read_placed
from svkit.store.report import Machine, Timing
from svkit.store.strict_json import typed

FORMAT, VERSION = "svkit-export", 1
FACTS_NAME, DECIDE_NAME = "export.json", "decide.py"
FILE_NAMES = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
"""Graph of each precision. Weights beyond 2 GB are beside it, in a file of the same name plus `.data`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosine:
    """Cosine of a graph's embeddings with torch's, over the recordings of the check."""

    min: float
    mean: float
    required: float
    """Smallest cosine that passes the check."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """A model that was exported."""

    file: str
    size_bytes: int
    cosine: Cosine
    real_time_factor: Timing


@dataclass(frozen=True, kw_only=True, slots=True)
class Torch:
    """The model that the graphs were compared with."""

    size_bytes: int
    real_time_factor: Timing


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportFacts:
    """Content of `export.json`."""

    checkpoint: Artifact
    calibration: dict[str, Any] | None
    """As `svkit verify --json` describes it, and its sha256; None: scores only."""
    metadata: dict[str, str]
    """Also in each graph."""
    sample_rate_hz: int
    min_samples: int
    embedding_dim: int
    opset: int
    inputs: dict[str, str]
    outputs: dict[str, str]
    """Type and shape of each input, and of each output."""
    graphs: dict[str, Graph]
    """By precision."""
    torch: Torch
    machine: Machine
    versions: dict[str, str]


def size_bytes(path: Path) -> int:
    """Return the size of a graph with the weights beside it."""
    data = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)


def write_export(output: Output, facts: ExportFacts) -> None:
    """Write `export.json`, with paths inside the experiment relative to it."""
    record = {"format": FORMAT, "format_version": VERSION, **plain_record(facts)}
    write_json(output.path / FACTS_NAME, output.recorded(record))


def read_export(directory: Path) -> ExportFacts:
    """Read `export.json`, with usable paths (ArtifactError: missing, of another format or version, or unfit)."""
    path = directory / FACTS_NAME
    return typed(path, read_placed(path, FORMAT, VERSION, dict[str, Any]), ExportFacts)


def remove_graph(path: Path) -> None:
    """Remove a graph and the weights beside it."""
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)
