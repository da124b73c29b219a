"""`svkit extract`: an embedding for every utterance of a manifest, in length-sorted padded batches.

Finished batches are kept in `resume/` every few seconds, so a killed extraction goes on where it was. The batches are
those of an uninterrupted run, whatever the number of processes, so the result is the same to the last bit.
"""

import hashlib
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from svkit.config.schema import ExtractConfig, SaveConfig
from svkit.data.evaluation import LengthSortedBatches, read_batches
from svkit.errors import ArtifactError, ConfigError, DataError, first_five
from svkit.models.embed import refuse_short
from svkit.models.load import SpeakerModel, load_model
from svkit.models.session import StageOutput, StopSignal, exit_code, make_accelerator
from svkit.nn import inference
from svkit.nn.precision import product_dtype
from svkit.progress import Progress, SilentProgress
from svkit.store import checkpoint as store
from svkit.store.embeddings import write_embeddings
from svkit.store.manifest import Manifest, read_manifest
from svkit.store.output import Output, continue_parts
from svkit.store.provenance import RUN_NAME, is_finished
from svkit.store.request import RunRequest

DTYPES = {
    "float32": (torch.float32, "fp32"),
    "bfloat16": (torch.bfloat16, "bf16"),
    "int8": (torch.int8, "fp32"),
}
"""Of the products in linear layers, and the precision of all else, by what is asked for; auto: the recipe decides."""


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
    for name, stages in (
        ("dense", ("finetune/lmft", "finetune/joint", "finetune/lora", "finetune/head")),
        (
            "pruned",
            ("finetune-pruned/lmft", "finetune-pruned/joint", "finetune-pruned/head", "distill", "prune"),
        ),
    ):
        begun = [exp / stage for stage in stages if (exp / stage / RUN_NAME).exists()]
        found = next((exp / stage for stage in stages if is_finished(exp / stage)), None)
        if found is not None:
            models[name] = found
        if progress is not None and begun and begun[0] != found and not is_finished(begun[0]):
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
        ConfigError: `out` and several models.
        DataError: the manifest or an audio file is missing, unreadable or too short.
    """
    if request.models:
        targets = {model_name(request.exp, path): path for path in request.models}
    else:
        targets = final_models(request.exp, progress)
    if not targets:
        raise ArtifactError(f"{request.exp}: no finished model; run `svkit finetune` first, or pass --model")
    if request.out is not None and len(targets) > 1:
        raise ConfigError(
            f"--out {request.out} holds the embeddings of one model; name it with --model, such as"
            f" {' or '.join(map(str, targets.values()))}"
        )
    accelerator: Accelerator | None = None
    jobs = [_Job(request=request, name=name, checkpoint=path) for name, path in targets.items()]
    continue_parts([job.output for job in jobs])
    for job in jobs:
        if job.output.is_kept(progress):
            continue
        precision = request.recipe.precision if request.dtype == "auto" else DTYPES[request.dtype][1]
        accelerator = accelerator or make_accelerator(precision)
        _extract(job, accelerator, progress)
    return [job.out for job in jobs]


@dataclass(kw_only=True)
class _Job:
    """One model on one manifest."""

    request: ExtractRequest
    name: str
    checkpoint: Path
    out: Path = field(init=False)
    inputs: dict[str, Path] = field(init=False)
    output: Output = field(init=False)

    def __post_init__(self) -> None:
        request = self.request
        self.out = request.out or request.exp / "embeddings" / self.name
        manifest = request.manifest or request.exp / "data" / "eval.tsv"
        self.inputs = {"checkpoint": self.checkpoint, "manifest": manifest}
        recipe = request.recipe
        self.output = Output(
            self.out,
            command="extract",
            config={"extract": recipe.extract, "dtype": request.dtype, "precision": recipe.precision},
            inputs=self.inputs,
            overwrite=request.overwrite,
            keep_finished=request.keep_finished,
            experiment=request.exp,
        )


def _extract(job: _Job, accelerator: Accelerator, progress: Progress) -> None:
    request, config = job.request, job.request.recipe.extract
    model = load_model(job.checkpoint)
    manifest = read_manifest(job.inputs["manifest"], request.audio_root)
    refuse_short(manifest)
    model.to(accelerator.device)
    inference.prepare(model, _dtype(job, accelerator))
    with StageOutput(accelerator, job.output) as output:
        parts = _Parts(job.out / store.RESUME_NAME, accelerator, request.recipe.save, manifest, progress)
        started, cpu_started = time.perf_counter(), time.process_time()
        resumed = _embed_missing(model, manifest, config, accelerator, parts, progress, job)
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu_started
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            matrix = parts.assemble(model.architecture.head.embedding_dim)
            meta = _meta(job, output, manifest, accelerator)
            # Times of a resumed run would leave out what was done before.
            meta |= {"wall_seconds": None if resumed else wall, "cpu_seconds": None if resumed else cpu}
            ids = [str(name) for name in manifest.utterance_ids]
            write_embeddings(job.out, ids, matrix, output.recorded(meta))
        output.finish({"device": str(accelerator.device)})


def _embed_missing(
    model: SpeakerModel,
    manifest: Manifest,
    config: ExtractConfig,
    accelerator: Accelerator,
    parts: "_Parts",
    progress: Progress,
    job: _Job,
) -> bool:
    """Embed what no part holds yet; returns whether there was a part."""
    num_missing = len(manifest) - len(np.unique(parts.done_rows))
    batches = LengthSortedBatches(
        manifest,
        max_seconds=config.max_seconds,
        batch_seconds=config.batch_seconds,
        done_rows=parts.done_rows,
        rank=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    stop = StopSignal()
    with torch.inference_mode(), stop.installed(), progress.task(f"extract {job.name}", len(manifest)) as bar:
        bar.advance(len(manifest) - num_missing)
        for batch_rows, waveforms in read_batches(manifest, batches, max_seconds=config.max_seconds):
            with accelerator.autocast():
                embeddings = model.embed_padded(waveforms)
            parts.add(batch_rows, embeddings)
            bar.advance(len(batch_rows) * accelerator.num_processes)
            if stop.received is not None:
                parts.save()
                progress.note(
                    f"interrupted: what is done is saved in {job.out}; the same command goes on from there"
                )
                sys.exit(exit_code(stop.received))
        parts.save()
    return num_missing < len(manifest)


class _Parts:
    """Embeddings done so far, on disk in numbered files of each process."""

    def __init__(
        self,
        directory: Path,
        accelerator: Accelerator,
        save: SaveConfig,
        manifest: Manifest,
        progress: Progress,
    ) -> None:
        self.directory, self.rank, self.manifest = directory, accelerator.process_index, manifest
        accelerator.wait_for_everyone()
        files = self._files()
        parts = [_read_part(file, len(manifest), progress) for file in files]
        rows = [part["rows"].numpy() for part in parts if part is not None]
        self.done_rows: NDArray[np.int64] = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
        self._pending: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
        self._count = len(files)
        self._saved_at, self._save_every_seconds = time.monotonic(), save.extraction_seconds
        accelerator.wait_for_everyone()

    def _files(self) -> list[Path]:
        return sorted(self.directory.glob("part-*.safetensors"))

    def add(self, rows: NDArray[np.int64], embeddings: NDArray[np.float32]) -> None:
        self._pending.append((rows, embeddings))
        if time.monotonic() - self._saved_at > self._save_every_seconds:
            self.save()

    def save(self) -> None:
        self._saved_at = time.monotonic()
        if not self._pending:
            return
        rows = torch.from_numpy(np.concatenate([rows for rows, _ in self._pending]).astype(np.int64))
        embeddings = torch.from_numpy(np.concatenate([matrix for _, matrix in self._pending]))
        name = f"part-{self._count:06d}-{self.rank:04d}.safetensors"
        digest = _digest(rows, embeddings)
        store.write_tensors(self.directory / name, {"rows": rows, "embeddings": embeddings, "sha256": digest})
        self._count += 1
        self._pending = []

    def assemble(self, dim: int) -> NDArray[np.float32]:
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
        part = store.read_tensors(file)
        store.check_keys([*part, "sha256"], ["rows", "embeddings", "sha256"], str(file))
        rows, embeddings = part["rows"], part["embeddings"]
        if (rows.dtype, embeddings.dtype) != (torch.int64, torch.float32) or rows.shape != embeddings.shape[
            :1
        ]:
            raise ArtifactError(f"{file}: expected rows int64 [R] and embeddings float32 [R, D]")
        if "sha256" in part and part["sha256"].tolist() != _digest(rows, embeddings).tolist():
            raise ArtifactError(f"{file}: has changed since it was saved")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < num_rows:
            raise ArtifactError(f"{file}: expected rows of the {num_rows:,} utterances")
    except ArtifactError as error:
        progress.note(f"{error}: its utterances are embedded again")
        return None
    return part


def _dtype(job: _Job, accelerator: Accelerator) -> torch.dtype:
    if job.request.dtype != "auto":
        return DTYPES[job.request.dtype][0]
    return product_dtype(accelerator.mixed_precision)


def _meta(job: _Job, output: StageOutput, manifest: Manifest, accelerator: Accelerator) -> dict[str, Any]:
    config = job.request.recipe.extract
    durations = np.minimum(manifest.durations_seconds, config.max_seconds)
    return {
        "model": job.name,
        **{
            name: {"path": path.as_posix(), "sha256": output.input_hash(name)}
            for name, path in job.inputs.items()
        },
        "max_seconds": config.max_seconds,
        "dtype": str(_dtype(job, accelerator)).removeprefix("torch."),
        "device": str(accelerator.device),
        "audio_seconds": float(durations.sum()),
    }
