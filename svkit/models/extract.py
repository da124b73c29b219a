"""`svkit extract`: an embedding for every utterance of a manifest, in length-sorted padded batches.

Finished batches are kept in `resume/` every few seconds, so a killed extraction resumes where it was. The batches are
those of an uninterrupted run, whatever the number of processes, so the result is the same to the last bit.
"""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from svkit.errors import ArtifactError, ConfigError, DataError, first_five
from svkit.models.embed import embed_rows, refuse_short
from svkit.models.load import load_model
from svkit.models.session import StopSignal, finish, make_accelerator, on_main, opened, unfinished
from svkit.nn import inference
from svkit.nn.precision import product_dtype
from svkit.progress import Progress, SilentProgress
from svkit.store import checkpoint
from svkit.store.embeddings import write_embeddings
from svkit.store.manifest import Manifest, read_manifest
from svkit.store.output import Output
from svkit.store.provenance import RUN_NAME, is_finished
from svkit.store.request import RunRequest

DTYPES = {
    "float32": (torch.float32, "fp32"),
    "bfloat16": (torch.bfloat16, "bf16"),
    "int8": (torch.int8, "fp32"),
}
"""Of the products in linear layers, and the precision of all else, by what is asked for; auto: the recipe decides."""
_STAGES = {
    "dense": ("finetune/lmft", "finetune/joint", "finetune/lora", "finetune/head"),
    "pruned": (
        *("finetune-pruned/lmft", "finetune-pruned/joint", "finetune-pruned/head"),
        *("distill", "prune"),
    ),
}
"""Where the models of an experiment are made, the last stage first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractRequest(RunRequest):
    """Models, and the arithmetic they run in."""

    models: tuple[Path, ...] = ()
    """Checkpoints; none: the final dense and the final pruned model."""
    dtype: str = "auto"


def final_models(exp: Path, progress: Progress | None = None) -> dict[str, Path]:
    """Final dense and final pruned checkpoint of an experiment, those that exist, by name.

    Where a later stage has begun and is not finished, `progress` is told which checkpoint stands in for it.
    """
    models = {}
    for name, stages in _STAGES.items():
        begun = [exp / stage for stage in stages if (exp / stage / RUN_NAME).exists()]
        found = next((exp / stage for stage in stages if is_finished(exp / stage)), None)
        if found is not None:
            models[name] = found
        if progress is not None and begun and not is_finished(begun[0]):
            taken = f"{found} is taken for the {name} model" if found else f"there is no {name} model yet"
            progress.note(f"{begun[0]} is not finished: {taken}")
    return models


def final_model(exp: Path, progress: Progress) -> Path:
    """Return the final pruned model of an experiment, else the final dense one.

    Raises:
        ArtifactError: there is neither.
    """
    models = final_models(exp, progress)
    if not models:
        raise ArtifactError(f"{exp}: no finished model; run `svkit finetune` first, or name a checkpoint")
    return models.get("pruned") or models["dense"]


def model_name(exp: Path, path: Path) -> str:
    """Name of a model in `exp/embeddings` and in tables: dense, pruned, or its place below the experiment."""
    for name, final in final_models(exp).items():
        if final.resolve() == path.resolve():
            return name
    try:
        return "-".join(path.resolve().relative_to(exp.resolve()).parts)
    except ValueError:
        return path.resolve().name


def run(request: ExtractRequest, progress: Progress) -> list[Path]:
    """Extract with every model; return the directories of the embeddings.

    Raises:
        ArtifactError: no model, or one that cannot be loaded.
        ConfigError: `out` and several models; or the embeddings are finished already.
        DataError: the manifest or an audio file is missing, unreadable or too short.
    """
    exp, recipe = request.exp, request.recipe
    models = {model_name(exp, path): path for path in request.models} or final_models(exp, progress)
    if not models:
        raise ArtifactError(f"{exp}: no finished model; run `svkit finetune` first, or pass --model")
    if request.out is not None and len(models) > 1:
        raise ConfigError(
            f"--out {request.out} holds the embeddings of one model; name it with --model, such as"
            f" {' or '.join(map(str, models.values()))}"
        )
    manifest = request.manifest or exp / "data" / "eval.tsv"
    record = {"extract": recipe.extract, "dtype": request.dtype, "precision": recipe.precision}
    outputs = []
    for name, path in models.items():
        inputs = {"checkpoint": path, "manifest": manifest}
        outputs.append(request.output(request.out or exp / "embeddings" / name, "extract", record, inputs))
    precision = recipe.precision if request.dtype == "auto" else DTYPES[request.dtype][1]
    accelerator = make_accelerator(precision)
    for number in unfinished(outputs, accelerator, progress):
        _extract(list(models)[number], request, outputs[number], accelerator, progress)
    return [output.path for output in outputs]


def _extract(
    name: str, request: ExtractRequest, output: Output, accelerator: Accelerator, progress: Progress
) -> None:
    extract = request.recipe.extract
    model = load_model(output.inputs["checkpoint"])
    manifest = read_manifest(output.inputs["manifest"], request.audio_root)
    refuse_short(manifest)
    dtype = product_dtype(accelerator.mixed_precision)
    if request.dtype != "auto":
        dtype = DTYPES[request.dtype][0]
    model.to(accelerator.device)
    inference.prepare(model, dtype)
    with opened(output, accelerator):
        parts = _Parts(output.path, accelerator.process_index, manifest, progress)
        # No process writes a part before all have read those that are there.
        accelerator.wait_for_everyone()
        started, cpu_started = time.perf_counter(), time.process_time()
        num_done, every = len(np.unique(parts.done_rows)), request.recipe.save.extraction_seconds
        stop = StopSignal()
        with stop.installed(), progress.task(f"extract {name}", len(manifest)) as bar:
            bar.advance(num_done)
            for rows, embeddings in embed_rows(model, manifest, extract, accelerator, parts.done_rows):
                parts.add(rows, embeddings, every)
                bar.advance(len(rows) * accelerator.num_processes)
                if stop.received is not None:
                    parts.save()
                    stop.leave(output, progress)
            parts.save()
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu_started
        accelerator.wait_for_everyone()

        def write() -> None:
            meta = {
                "model": name,
                **{
                    kind: {"path": path.as_posix(), "sha256": output.hashes[kind]}
                    for kind, path in output.inputs.items()
                },
                "max_seconds": extract.max_seconds,
                "dtype": str(dtype).removeprefix("torch."),
                "device": str(accelerator.device),
                "audio_seconds": float(np.minimum(manifest.durations_seconds, extract.max_seconds).sum()),
                # Times of a resumed run would leave out what was done before.
                "wall_seconds": None if num_done else wall,
                "cpu_seconds": None if num_done else cpu,
            }
            matrix = parts.assemble(model.architecture.head.embedding_dim)
            ids = [str(name) for name in manifest.utterance_ids]
            write_embeddings(output.path, ids, matrix, output.recorded(meta))
            finish(output, accelerator, {})

        on_main(accelerator, write)


class _Parts:
    """Embeddings done so far, in numbered files of each process, whatever processes have written them."""

    def __init__(self, directory: Path, rank: int, manifest: Manifest, progress: Progress) -> None:
        self.directory, self.rank, self.manifest = directory / checkpoint.RESUME_NAME, rank, manifest
        files = self._files()
        parts = [_read_part(file, len(manifest), progress) for file in files]
        rows = [part["rows"].numpy() for part in parts if part is not None]
        self.done_rows = np.concatenate([np.zeros(0, dtype=np.int64), *rows])
        self._pending: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
        self._count = len(files)
        self._saved_at = time.monotonic()

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("part-*.safetensors"))

    def add(self, rows: NDArray[np.int64], embeddings: NDArray[np.float32], every_seconds: float) -> None:
        self._pending.append((rows, embeddings))
        if time.monotonic() - self._saved_at > every_seconds:
            self.save()

    def save(self) -> None:
        self._saved_at = time.monotonic()
        if not self._pending:
            return
        rows = torch.from_numpy(np.concatenate([rows for rows, _ in self._pending]).astype(np.int64))
        embeddings = torch.from_numpy(np.concatenate([matrix for _, matrix in self._pending]))
        part = {"rows": rows, "embeddings": embeddings, "sha256": _digest(rows, embeddings)}
        name = f"part-{self._count:06d}-{self.rank:04d}.safetensors"
        checkpoint.write_tensors(self.directory / name, part)
        self._count += 1
        self._pending = []

    def assemble(self, dim: int) -> NDArray[np.float32]:
        """Return the embeddings of all rows, [N, dim]; DataError where they are not finite."""
        manifest = self.manifest
        matrix = np.full((len(manifest), dim), np.nan, dtype=np.float32)
        for part in (_read_part(file, len(manifest), SilentProgress()) for file in self._files()):
            if part is not None:
                matrix[part["rows"].numpy()] = part["embeddings"].numpy()
        bad = manifest.utterance_ids[~np.isfinite(matrix).all(axis=1)]
        if len(bad):
            raise DataError(
                f"{manifest.source}: embeddings are not finite for {first_five(list(bad))}; check the audio"
            )
        return matrix


def _digest(rows: Tensor, embeddings: Tensor) -> Tensor:
    """Return the sha256 of a part's numbers, uint8 `[32]`."""
    content = hashlib.sha256(rows.numpy().tobytes() + embeddings.numpy().tobytes())
    return torch.frombuffer(bytearray(content.digest()), dtype=torch.uint8)


def _read_part(file: Path, num_rows: int, progress: Progress) -> dict[str, Tensor] | None:
    """Read embeddings that an interrupted run has saved; None where they are not as it saved them.

    Parts of earlier versions have no hash.
    """
    try:
        part = checkpoint.read_tensors(file)
        checkpoint.check_keys([*part, "sha256"], ["rows", "embeddings", "sha256"], str(file))
        rows, embeddings = part["rows"], part["embeddings"]
        kinds = (rows.dtype, embeddings.dtype)
        if kinds != (torch.int64, torch.float32) or rows.shape != embeddings.shape[:1]:
            raise ArtifactError(f"{file}: expected rows int64 [R] and embeddings float32 [R, D]")
        if "sha256" in part and part["sha256"].tolist() != _digest(rows, embeddings).tolist():
            raise ArtifactError(f"{file}: has changed since it was saved")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < num_rows:
            raise ArtifactError(f"{file}: expected rows of the {num_rows:,} utterances")
    except ArtifactError as error:
        progress.note(f"{error}: its utterances are embedded again")
        return None
    return part
