"""Writes ONNX graphs of a speaker model, and runs them with onnxruntime.

The graph is torch's own (`torch.onnx.export` by way of `torch.export`). In int8, all products with constant weights are
quantised: weights have a scale per output channel, activations are scaled as they occur. Spectrum and mel filters stay
in float32. Weights use seven of the eight bits, because processors without VNNI add two products in 16 bits, which
would overflow (in the tests, the smallest cosine with torch is 0.946 with eight bits on AVX2, and 0.999 with seven).
"""

import contextlib
import importlib
import importlib.metadata
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from svkit.errors import ArtifactError, ConfigError, first_line
from svkit.nn.graph import GraphNetwork
from svkit.nn.speaker import SpeakerNetwork

OPSET = 20
"""ONNX operator set of the graphs: the one that torch 2.11's exporter writes without a conversion."""
_SINGLE_FILE_BYTES = 1_800_000_000
"""Larger weights go into a separate file, because protobuf is limited to 2 GB."""
_EXAMPLE_SAMPLES = (16_000, 12_345)
_FLOAT_INITIALIZERS = ("features.spectrum", "features.mel")
_LARGEST_WEIGHT = 64
"""The largest int8 weight: seven of the eight bits."""
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def require_packages() -> None:
    """Raise ConfigError unless the `export` extra is installed."""
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"export needs the package {error.name or name}, which is not installed: pip install 'svkit[export]'"
            ) from error


def write_graph(network: SpeakerNetwork, path: Path, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
    """Write a graph with dynamic batch and length; `network` is converted to `dtype`.

    `dtype` is the type of the weights; inputs and output stay float32. Weights of nearly 2 GB or more go to
    `path` + `.data`. A runtime can read `metadata`.
    """
    graph = GraphNetwork(network, dtype)
    waveforms = torch.zeros(len(_EXAMPLE_SAMPLES), max(_EXAMPLE_SAMPLES))
    size = sum(parameter.numel() * parameter.element_size() for parameter in graph.parameters())
    batch, samples = torch.export.Dim("batch"), torch.export.Dim("samples", min=560)
    with _quiet():
        program = torch.onnx.export(
            graph,
            (waveforms, torch.tensor(_EXAMPLE_SAMPLES)),
            input_names=["waveforms", "num_samples"],
            output_names=["embeddings"],
            dynamic_shapes={"waveforms": {0: batch, 1: samples}, "num_samples": {0: batch}},
            opset_version=OPSET,
            dynamo=True,
        )
        assert program is not None
        program.model.metadata_props.update(metadata)
        program.save(path, external_data=size > _SINGLE_FILE_BYTES)


def quantise(source: Path, target: Path) -> None:
    """Write the int8 form of a float32 graph, with its metadata.

    A product with constant weights becomes the nodes that onnxruntime's `quantize_dynamic` writes, which its sessions
    fuse. That function holds the float32 weights three times; here one matrix at a time is read from the file.
    """
    import onnx_ir as ir

    with _whole(source):
        model = ir.load(source)
    graph = model.graph
    quantised: dict[Any, Any] = {}
    constants: dict[Any, Any] = {}  # one pair for a matrix, whichever products share it
    for node in list(graph):
        weights = node.inputs[1] if node.op_type in ("MatMul", "Gemm") else None
        if weights is None or not weights.is_initializer() or weights.name in _FLOAT_INITIALIZERS:
            continue
        assert weights.const_value is not None
        if node.op_type == "Gemm":  # torch's linear layer over vectors: weights [N, K]
            assert {name: value.value for name, value in node.attributes.items()}.items() >= {("transB", 1)}
        if (weights, node.op_type) not in constants:
            with _whole(source):  # weights in a file of their own are read here
                matrix = weights.const_value.numpy()
            found = _quantised(matrix.T if node.op_type == "Gemm" else matrix)
            made = [
                ir.Value(name=f"{weights.name}_{node.op_type}_{what}", const_value=ir.tensor(array))
                for what, array in zip(("int8", "scales"), found, strict=True)
            ]
            for constant in made:
                graph.register_initializer(constant)
            constants[weights, node.op_type] = made
        in_int8, of_columns = constants[weights, node.op_type]
        values = node.inputs[0]
        if values not in quantised:
            quantised[values] = ir.node("DynamicQuantizeLinear", [values], num_outputs=3)
            graph.insert_before(node, quantised[values])
        integers, scale, zero = quantised[values].outputs
        product = ir.node("MatMulInteger", [integers, in_int8, zero])
        as_float = ir.node("Cast", [product.outputs[0]], {"to": ir.DataType.FLOAT})
        both = ir.node("Mul", [scale, of_columns])
        new = [product, as_float, both, ir.node("Mul", [as_float.outputs[0], both.outputs[0]])]
        if len(node.inputs) == 3:
            new.append(ir.node("Add", [new[-1].outputs[0], node.inputs[2]]))
        graph.insert_before(node, new)
        result, before = new[-1].outputs[0], node.outputs[0]
        result.name, result.type, result.shape = before.name, before.type, before.shape
        before.replace_all_uses_with(result, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        if not weights.uses():
            graph.initializers.pop(str(weights.name))
    ir.save(model, target)


def _quantised(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 weights [K, N] and the scale of each column, [N]."""
    scales = np.maximum(np.abs(matrix).max(axis=0) / _LARGEST_WEIGHT, np.finfo(np.float32).tiny)
    return np.round(matrix / scales).astype(np.int8), scales.astype(np.float32)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress messages, and deprecation notes of other packages, off the terminal."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turn the error of reading or running a graph into an ArtifactError: svkit has written it, and it was whole."""
    try:
        yield
    except Exception as error:  # onnx and onnxruntime have types of their own
        raise ArtifactError(
            f"{path}: cannot be used: {first_line(error)}; it was damaged after it was written, or memory is short:"
            " export it again"
        ) from error


class OnnxModel:
    """An exported graph with the interface of `SpeakerModel.embed`."""

    def __init__(self, path: Path, num_threads: int) -> None:
        """Open a graph on the CPU (ArtifactError, also of `embed`: it is damaged)."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.log_severity_level = 3
        self._path = path
        with _whole(path):
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )

    def embed(self, waveforms: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Embed recordings at 16 kHz as one padded batch: float32 [N, D]."""
        lengths = np.array([len(waveform) for waveform in waveforms], dtype=np.int64)
        batch = np.stack([np.pad(waveform, (0, lengths.max() - len(waveform))) for waveform in waveforms])
        with _whole(self._path):
            (embeddings,) = self._session.run(None, {"waveforms": batch, "num_samples": lengths})
        return np.asarray(embeddings, dtype=np.float32)


def versions() -> dict[str, str]:
    """Return the versions of the packages that make and run the graphs."""
    return {name: importlib.metadata.version(name) for name in (*_PACKAGES, "torch")}
