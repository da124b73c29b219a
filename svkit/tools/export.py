"""`svkit export`: writes a checkpoint as ONNX in float32, float16 and int8, checks each against torch, and times it.

The checkpoint's calibration, and a script that decides by it without svkit, go beside the graphs.
"""

import contextlib
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from svkit.audio.features import MIN_SAMPLES, SAMPLE_RATE_HZ
from svkit.errors import ArtifactError, ConfigError
from svkit.models.final import final_model, model_name
from svkit.models.load import load_model
from svkit.models.session import give_back_freed_memory
from svkit.progress import Progress, Task
from svkit.reports import timing
from svkit.reports.tables import Table
from svkit.scoring.ratio import distrust, limits_of_target, map_of, weak_rejection
from svkit.scoring.verify import describe_calibration, find_calibration
from svkit.store import checkpoint, exported
from svkit.store.atomic import one_line, write_bytes
from svkit.store.calibration import FILE_NAME, CalibrationRecord, write_calibration
from svkit.store.provenance import sha256_file, sha256_input
from svkit.store.report import Timing
from svkit.store.request import Request
from svkit.tools import onnx_graph

MIN_COSINE = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.95}
"""Smallest cosine of an exported embedding with torch's float32 one that passes the check."""
_CHECK_SAMPLES = (MIN_SAMPLES, 1_600, 9_601, 16_000, 37_123, 64_000, 111_111)
"""Lengths of the check: from the shortest allowed one to 7 s, each alone and all as one padded batch."""

Embed = Callable[[Sequence[NDArray[np.float32]]], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportRequest(Request):
    """Which checkpoint to export."""

    checkpoint: Path | None = None
    """None: the fine-tuned pruned model, else the final dense one."""
    out: Path | None = None
    precisions: tuple[str, ...] = ()
    """Empty: all of `MIN_COSINE`."""
    calibration: Path | None = None
    """None: `calibration.json` beside the checkpoint if it fits."""


def run(request: ExportRequest, progress: Progress) -> Path:
    """Export, check and time; return the directory of the graphs.

    Raises:
        ConfigError: the `export` extra is not installed, a precision is unknown, or the output is finished.
        ArtifactError: there is no checkpoint, the given calibration does not fit it, or a graph does not give torch's
            embeddings.
    """
    unknown = [name for name in request.precisions if name not in MIN_COSINE]
    if unknown:
        raise ConfigError(f"--precision: expected some of {', '.join(MIN_COSINE)}, found {unknown[0]!r}")
    onnx_graph.require_packages()
    source = request.checkpoint or final_model(request.exp, progress)
    architecture = checkpoint.read_architecture(source)
    sha256 = sha256_input(source)
    calibration = _calibration(request, source, sha256, progress)
    out = request.out or request.exp / "onnx" / model_name(request.exp, source)
    wanted = [name for name in MIN_COSINE if name in (request.precisions or MIN_COSINE)]
    output = request.output(
        out,
        "export",
        # `decides`: folders of an earlier svkit had no script and no calibration.
        {"precisions": wanted, "opset": onnx_graph.OPSET, "decides": True},
        {"checkpoint": source} | ({"calibration": calibration[0]} if calibration else {}),
    )
    if not output.is_kept(progress):
        with output.open():
            decides = _write_calibration(out, calibration)
            embedding_dim = architecture.head.embedding_dim
            metadata = _metadata(embedding_dim, sha256, decides, calibration)
            _write_graphs(source, out, wanted, metadata, progress)
            graphs, of_torch = _examine(source, out, wanted, progress)
            facts = exported.ExportFacts(
                checkpoint={"path": source.as_posix(), "sha256": sha256},
                calibration=decides,
                metadata=metadata,
                sample_rate_hz=SAMPLE_RATE_HZ,
                min_samples=MIN_SAMPLES,
                embedding_dim=embedding_dim,
                opset=onnx_graph.OPSET,
                inputs={"waveforms": "float32 [batch, samples]", "num_samples": "int64 [batch]"},
                outputs={"embeddings": "float32 [batch, embedding_dim]"},
                graphs=graphs,
                torch=of_torch,
                machine=timing.describe_machine(),
                versions=onnx_graph.versions(),
            )
            exported.write_export(output, facts)
            # Last, because it decides by all the others.
            script = files("svkit.tools").joinpath(exported.DECIDE_NAME)
            write_bytes(out / exported.DECIDE_NAME, script.read_bytes())
            output.finish()
    return out


def _calibration(
    request: ExportRequest, source: Path, sha256: str, progress: Progress
) -> tuple[Path, CalibrationRecord] | None:
    """Return the calibration; if there is none, or one that needs more than two recordings, say so and return None."""
    try:
        found = find_calibration(request.calibration, source, sha256)
    except ArtifactError as error:
        if request.calibration is not None:
            raise
        progress.note(f"the calibration is left out, so {exported.DECIDE_NAME} gives scores only: {error}")
        return None
    if found is None:
        progress.note(
            f"{source}: not calibrated, so {exported.DECIDE_NAME} gives scores only; for decisions, run `svkit calibrate"
            f" PEOPLE --model {source}` and export again"
        )
    return found


def _write_calibration(
    out: Path, calibration: tuple[Path, CalibrationRecord] | None
) -> dict[str, Any] | None:
    """Write the calibration with the bounds that `svkit verify` applies; return its description."""
    (out / FILE_NAME).unlink(missing_ok=True)  # left by an interrupted run
    if calibration is None:
        return None
    _, record = calibration
    write_calibration(out / FILE_NAME, replace(record, bounds=map_of(record).bounds))
    return {**describe_calibration(Path(FILE_NAME), record), "sha256": sha256_file(out / FILE_NAME)}


def _metadata(
    embedding_dim: int,
    sha256: str,
    decides: Mapping[str, Any] | None,
    calibration: tuple[Path, CalibrationRecord] | None,
) -> dict[str, str]:
    """Return the metadata of the graphs; fields that sherpa-onnx reads have its names."""
    known = {
        "framework": "svkit",
        "format": exported.FORMAT,
        "format_version": str(exported.VERSION),
        "sample_rate": str(SAMPLE_RATE_HZ),
        "output_dim": str(embedding_dim),
        "normalize_samples": "1",
        "input": f"waveforms [batch, samples]: one channel, from -1 to 1, padded on the right; num_samples [batch]: of"
        f" each, at least {MIN_SAMPLES}",
        "output": "embeddings [batch, output_dim]: not length-normalised, compared by their cosine",
        "checkpoint_sha256": sha256,
    }
    if decides is None or calibration is None:
        return known
    known["calibration_sha256"] = decides["sha256"]
    # The script prints them as they are, the limits where it decides by the calibration's own target, and the misses
    # where it then rejects.
    for key, notes in (
        ("calibration_warnings", distrust(calibration[1])),
        ("calibration_limits", limits_of_target(calibration[1])),
        ("calibration_misses", filter(None, (weak_rejection(calibration[1]),))),
    ):
        if said := "".join(f"note: {text}\n" for text in notes):
            known[key] = said
    return known


def _write_graphs(
    source: Path, out: Path, precisions: Sequence[str], metadata: Mapping[str, str], progress: Progress
) -> None:
    """Write the graphs; int8 is made from float32, which is removed if it was not requested."""
    needed = list(precisions) if "fp32" in precisions or "int8" not in precisions else ["fp32", *precisions]
    paths = {name: out / exported.FILE_NAMES[name] for name in needed}
    with progress.task("write graphs", len(needed)) as task:
        for name, path in paths.items():
            with one_line(path):
                if name == "int8":
                    _alone(onnx_graph.quantise, paths["fp32"], path)
                else:
                    _alone(_write_graph, source, path, name == "fp16", dict(metadata))
            task.advance(1, precision=name)
    if "fp32" not in precisions and "fp32" in paths:
        exported.remove_graph(paths["fp32"])


def _write_graph(source: Path, path: Path, is_half: bool, metadata: Mapping[str, str]) -> None:
    # Mapped, the file would stay in memory beside its copy in float16.
    network = load_model(source, mapped=not is_half)
    onnx_graph.write_graph(network, path, torch.float16 if is_half else torch.float32, metadata)


_EXIT_SECONDS = 10


def _alone(call: Callable[..., None], *arguments: object) -> None:
    """Call in a process of its own: torch 2.11 keeps a copy of the weights that it has exported until the end.

    A signal ends that process at once, because a graph takes minutes. ArtifactError if it was killed.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(theirs, call, arguments), daemon=True)
    # This process answers for both the signals that a terminal or a scheduler sends to all.
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        try:
            process.start()
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        failure = ours.recv()
        process.join(_EXIT_SECONDS)  # so that it removes its semaphores, of which Python would warn
    except EOFError as error:
        raise ArtifactError(
            f"{arguments[0]}: the process that writes its graph was killed; is there enough memory?"
        ) from error
    finally:
        if process.pid is not None:  # a signal may come before it has started
            process.kill()
            process.join()
        ours.close()
    if failure is not None:
        raise failure[0] from RuntimeError(failure[1])


def _report(result: Connection, call: Callable[..., None], arguments: Sequence[object]) -> None:
    """Call, and send None or the error with its traceback."""
    failure = None
    try:
        call(*arguments)
    except Exception as error:
        failure = error, traceback.format_exc()
    with contextlib.suppress(BrokenPipeError):  # the other process was killed
        result.send(failure)


def _examine(
    source: Path, out: Path, precisions: Sequence[str], progress: Progress
) -> tuple[dict[str, exported.Graph], exported.Torch]:
    """Compare every graph with torch and time it in turns with torch; one thread each, as in reports."""
    paths = {name: out / exported.FILE_NAMES[name] for name in precisions}
    graphs: dict[str, exported.Graph] = {}
    of_torch: list[Timing] = []
    with timing.one_thread():
        recordings = check_recordings()
        expected = load_model(source).embed(recordings)
        # One graph at a time: torch and all of them together need the memory of six models.
        for name, path in paths.items():
            graph = onnx_graph.OnnxModel(path, timing.NUM_THREADS)
            give_back_freed_memory()  # opening takes more than running, so torch's model is loaded after it
            model = load_model(source)
            with progress.task(f"compare {name} with torch", len(recordings) + 1) as task:
                cosines = compare(graph.embed, recordings, expected, task)
            least = min(cosines)
            if not least >= MIN_COSINE[name]:  # not <: NaN must not pass
                raise ArtifactError(
                    f"{path}: expected torch's embeddings with a cosine of at least {MIN_COSINE[name]},"
                    f" found {least:.6f}; choose another with --precision"
                )
            found = timing.time_models({"torch": model.embed, name: graph.embed}, progress)
            graphs[name] = exported.Graph(
                file=path.name,
                size_bytes=exported.size_bytes(path),
                cosine=exported.Cosine(min=least, mean=float(np.mean(cosines)), required=MIN_COSINE[name]),
                real_time_factor=found[name],
            )
            of_torch.append(found["torch"])
            del graph, model
            give_back_freed_memory()
    torch_timing = Timing(
        wall=float(np.median([one.wall for one in of_torch])),
        cpu=float(np.median([one.cpu for one in of_torch])),
        cpu_rounds=tuple(seconds for one in of_torch for seconds in one.cpu_rounds),
    )
    size = (source / checkpoint.MODEL_NAME).stat().st_size
    return graphs, exported.Torch(size_bytes=size, real_time_factor=torch_timing)


def check_recordings() -> list[NDArray[np.float32]]:
    """Return voiced sounds of changing pitch and level in noise, the same on every call."""
    recordings = []
    for index, num_samples in enumerate(_CHECK_SAMPLES):
        rng = np.random.default_rng(np.random.SeedSequence([7, index]))
        time = np.arange(num_samples) / SAMPLE_RATE_HZ
        pitch = rng.uniform(90, 240) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(1, 3) * time))
        phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE_HZ
        wave = sum(np.sin(k * phase) / k for k in range(1, 16)) * (0.6 + 0.4 * np.sin(25 * time))
        wave = wave + 0.1 * rng.standard_normal(num_samples)
        recordings.append((0.1 * wave).astype(np.float32))
    return recordings


def compare(
    embed: Embed, recordings: Sequence[NDArray[np.float32]], expected: NDArray[np.float32], task: Task
) -> list[float]:
    """Return the cosines with the expected embeddings: of each recording alone, then of all as one padded batch."""
    alone = []
    for recording in recordings:
        alone.append(embed([recording]))
        task.advance()
    found = np.stack([np.concatenate(alone), embed(recordings)]).astype(np.float64)
    task.advance()
    lengths = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected.astype(np.float64), axis=-1)
    return [float(cosine) for cosine in ((found * expected).sum(-1) / lengths).ravel()]


def summary(facts: exported.ExportFacts) -> Table:
    """Return sizes, cosines and times of the exported models as a table."""
    base = facts.torch.real_time_factor.wall
    rows = [["torch fp32", f"{facts.torch.size_bytes / 1e6:,.1f}", "", "", f"{base:.4f}", ""]]
    for name, graph in facts.graphs.items():
        factor, cosine = graph.real_time_factor.wall, graph.cosine
        sizes = [f"{graph.size_bytes / 1e6:,.1f}", f"{cosine.min:.6f}", f"{cosine.mean:.6f}"]
        rows.append([f"onnx {name}", *sizes, f"{factor:.4f}", f"{base / factor:.2f}"])
    machine = facts.machine
    return Table(
        title="Exported models",
        headings=["model", "size MB", "cosine, least", "mean", "real-time factor", "times torch"],
        rows=rows,
        notes=[
            f"Cosine with torch's embeddings: {len(_CHECK_SAMPLES)} synthetic recordings of 35 ms to 7 s, alone and"
            " padded.",
            f"Real-time factor: seconds for a second of audio, {machine.num_threads} thread, {machine.processor}.",
        ],
    )
