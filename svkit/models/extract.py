"""`svkit extract`: an embedding for every utterance of a manifest, in length-sorted padded batches.

Finished batches are saved in `resume/` every few seconds, so a killed extraction resumes where it was. The batches are
those of an uninterrupted run, whatever the number of processes, so the result is the same to the last bit.
"""

import contextlib
import hashlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from svkit.config.conditions import CUTS, plain_name, under
from svkit.data.conditions import changer, require_condition
from svkit.errors import ArtifactError, ConfigError, DataError, first_five
from svkit.models.embed import embed_rows, refuse_short_rows
from svkit.models.final import MODEL_STAGES, final_models, model_name
from svkit.models.load import load_model, refuse_broken
from svkit.models.session import StopSignal, finish, make_accelerator, on_main, opened, unfinished
from svkit.nn import inference
from svkit.nn.precision import product_dtype
from svkit.progress import Progress, SilentProgress
from svkit.store import checkpoint
from svkit.store.embeddings import MANIFEST_NAME, write_embeddings
from svkit.store.manifest import Manifest, read_manifest, write_manifest
from svkit.store.output import Output
from svkit.store.provenance import InputEntry, plain, real_path, sha256_file
from svkit.store.request import RunRequest

DTYPES = {
    "float32": (torch.float32, "fp32"),
    "bfloat16": (torch.bfloat16, "bf16"),
    "int8": (torch.int8, "fp32"),
}
"""Type of the products in linear layers and precision of everything else, by `--dtype`; auto: the recipe decides."""
_JOURNAL_NAME = ".scan"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recordings:
    """Recordings that no manifest lists yet."""

    name: str
    """Name of the list that is made from them."""
    sources: tuple[str, ...]
    """Absolute paths, which tell them from other recordings."""
    read: Callable[[Path, Progress], pd.DataFrame]
    """Examines them (main process) and returns the rows of a manifest; takes the directory of the scan's journal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractRequest(RunRequest):
    """Models, what they embed (a manifest, or recordings), and the arithmetic they run in."""

    models: tuple[Path, ...] = ()
    """Checkpoints; none: the final dense and the final pruned model, which need not be fine-tuned."""
    dtype: str = "auto"
    recordings: Recordings | None = None
    """Given instead of a manifest; the manifest made from them is written into each output."""
    conditions: tuple[str, ...] = ()
    """Names in `config.conditions`, each of which gets its own embeddings; empty: recordings as they are."""


def run(request: ExtractRequest, progress: Progress) -> list[Path]:
    """Extract with every model; return the directories of the embeddings.

    The experiment's own list goes to `exp/embeddings/MODEL`, another list to `MODEL-LIST`, with a number if another
    model or list has taken that name. Under a condition the name is `MODEL@CONDITION`, and so on.

    Raises:
        ArtifactError: no model, or one that cannot be loaded.
        ConfigError: `out` with several models or conditions; a condition whose codec is missing; or the embeddings are
            already finished.
        DataError: the manifest or an audio file is missing, unreadable or too short.
    """
    exp, recipe = request.exp, request.recipe
    given = {real_path(path): path for path in request.models}.values()
    models = [(model_name(exp, path), path) for path in given] or [*final_models(exp, progress).items()]
    if not models:
        raise ArtifactError(f"{exp}: no finished model; run `svkit finetune` first, or pass --model")
    if request.out is not None and len(models) > 1:
        raise ConfigError(
            f"--out {request.out} holds the embeddings of one model; name it with --model, such as"
            f" {' or '.join(str(path) for _, path in models)}"
        )
    conditions: tuple[str | None, ...] = tuple(dict.fromkeys(request.conditions)) or (None,)
    if request.out is not None and len(conditions) > 1:
        raise ConfigError(f"--out {request.out} holds the embeddings of one condition; give one --condition")
    for asked in request.conditions:
        require_condition(asked)
    jobs = [(name, path, condition) for name, path in models for condition in conditions]
    precision = recipe.precision if request.dtype == "auto" else DTYPES[request.dtype][1]
    accelerator = make_accelerator(precision)
    outputs = on_main(accelerator, partial(_plan, request, jobs, progress))
    table: pd.DataFrame | None = None

    def examine(recordings: Recordings) -> dict[str, object]:
        nonlocal table
        table = recordings.read(outputs[0].path / _JOURNAL_NAME, progress)
        digest = hashlib.sha256()
        for column in table:
            digest.update("\n".join([str(column), *map(str, table[column])]).encode())
        return {"sources": recordings.sources, "utterances": len(table), "sha256": digest.hexdigest()}

    if request.recordings is not None:
        on_main(
            accelerator, lambda: [output.describe() for output in outputs]
        )  # a missing model is reported before a long scan
        # Part of the configuration: finished embeddings are kept only if the recordings are still the same.
        facts = on_main(accelerator, partial(examine, request.recordings))
        outputs = [replace(output, config={**output.config, "recordings": facts}) for output in outputs]
    for number in unfinished(outputs, accelerator, progress):
        name, _, condition = jobs[number]
        _extract((name, condition), request, outputs[number], table, accelerator, progress)
    return [output.path for output in outputs]


def _plan(
    request: ExtractRequest, jobs: Sequence[tuple[str, Path, str | None]], progress: Progress
) -> list[Output]:
    """Return the output of each job: a model by its name, and a condition."""
    exp, recordings, own = request.exp, request.recordings, request.exp / "data" / "eval.tsv"
    manifest = request.manifest or own
    is_own = recordings is None and manifest.resolve() == own.resolve()
    if is_own and not own.exists():
        raise DataError(
            f"{own}: does not exist; say what to embed (svkit extract FOLDER), or run `svkit prepare` first"
        )
    config: dict[str, object] = {
        "extract": request.recipe.extract, "dtype": request.dtype, "precision": request.recipe.precision,
    }  # fmt: skip
    if recordings is not None:
        config["recordings"] = {"sources": recordings.sources}
    outputs: list[Output] = []
    for name, path, condition in jobs:
        inputs = (
            {"checkpoint": path} if recordings is not None else {"checkpoint": path, "manifest": manifest}
        )
        full_name = name if is_own else f"{name}-{manifest.stem if recordings is None else recordings.name}"
        place = request.out or exp / "embeddings" / under(full_name, condition)
        heard = {} if condition is None else {"condition": condition, "seed": request.recipe.seed}
        output = request.output(place, "extract", {**config, **heard}, inputs)
        if request.out is None and not (is_own and name in MODEL_STAGES):
            # A model of the experiment is identified by its name, even if it has been trained again since.
            is_named = real_path(path).is_relative_to(real_path(exp))
            compared = [kind for kind in inputs if not (is_named and kind == "checkpoint")]
            output = _own_place(output, [one.path for one in outputs], compared, progress)
        outputs.append(output)
    return outputs


def _own_place(output: Output, taken: Sequence[Path], names: Sequence[str], progress: Progress) -> Output:
    """Return an output at its own path, or at NAME-2, NAME-3, ... if an output made from other inputs is there.

    The inputs with these `names` are compared, by path or else by content.
    """

    def is_other(entry: InputEntry | None, name: str) -> bool:
        path = output.inputs[name]
        is_place = entry is not None and Path(entry["path"]).resolve() == path.resolve()
        return not is_place and (entry is None or entry["sha256"] != output.hashes[name])

    def is_taken(place: Output) -> bool:
        record = None
        # A corrupt output is refused or replaced later, as anywhere else.
        with contextlib.suppress(ArtifactError):
            record = place.begun()
        if record is None:
            return place.path in taken
        before = {entry["name"]: entry for entry in record["inputs"]}
        sources = (record["config"].get("recordings") or {}).get("sources")
        own = plain(output.config.get("recordings") or {}).get("sources")
        return sources != own or any(is_other(before.get(name), name) for name in names)

    place, stem = output, plain_name(output.path.name)
    for number in itertools.count(2):
        if not is_taken(place):
            break
        name = f"{stem}-{number}{output.path.name.removeprefix(stem)}"
        place = replace(output, path=output.path.with_name(name))
    if place is not output:
        progress.note(f"{output.path} is of another model or list; these embeddings go to {place.path}")
    return place


def _extract(
    who: tuple[str, str | None],
    request: ExtractRequest,
    output: Output,
    table: pd.DataFrame | None,
    accelerator: Accelerator,
    progress: Progress,
) -> None:
    """Embed a manifest, or the one that is written from `table` (main process), with a model under a condition."""
    (name, condition), extract = who, request.recipe.extract
    heard = replace(
        extract, max_seconds=min(extract.max_seconds, CUTS.get(condition or "", extract.max_seconds))
    )
    model = load_model(output.inputs["checkpoint"])
    manifest = None if "manifest" not in output.inputs else _read(output.inputs["manifest"], request)
    dtype = product_dtype(accelerator.mixed_precision)
    if request.dtype != "auto":
        dtype = DTYPES[request.dtype][0]
    model.to(accelerator.device)
    refuse_broken(model, output.inputs["checkpoint"])
    inference.prepare(model, dtype)
    with opened(output, accelerator):
        used = dict(output.inputs)
        if manifest is None:
            used["manifest"] = made = output.path / MANIFEST_NAME
            on_main(accelerator, lambda: None if table is None else write_manifest(made, table))
            manifest = _read(made, request)
        parts = _Parts(output.path, accelerator.process_index, manifest, progress)
        # No process writes a part before all have read those that are there.
        accelerator.wait_for_everyone()
        started, cpu_started = time.perf_counter(), time.process_time()
        num_done, every = len(np.unique(parts.done_rows)), request.recipe.save.extraction_seconds
        change = changer(condition, request.recipe.seed, manifest)
        num_whole = int(np.count_nonzero(manifest.durations_seconds <= heard.max_seconds))
        if condition in CUTS and num_whole:
            progress.note(
                f"{condition}: {num_whole:,} of {len(manifest):,} recordings are no longer than the cut and stay whole"
            )
        stop = StopSignal()
        label = f"extract {under(name, condition)}"
        with stop.installed(), progress.task(label, len(manifest), num_done) as bar:
            for rows, embeddings in embed_rows(model, manifest, heard, accelerator, parts.done_rows, change):
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
                    kind: {"path": path.as_posix(), "sha256": output.hashes.get(kind) or sha256_file(path)}
                    for kind, path in used.items()
                },
                **({} if condition is None else {"condition": condition}),
                "max_seconds": extract.max_seconds,
                "dtype": str(dtype).removeprefix("torch."),
                "device": str(accelerator.device),
                "audio_seconds": float(np.minimum(manifest.durations_seconds, heard.max_seconds).sum()),
                # Times of a resumed run would leave out what was done before.
                "wall_seconds": None if num_done else wall,
                "cpu_seconds": None if num_done else cpu,
            }
            matrix = parts.assemble(model.architecture.head.embedding_dim)
            ids = [str(name) for name in manifest.utterance_ids]
            write_embeddings(output.path, ids, matrix, output.recorded(meta))
            finish(output, accelerator, {})

        on_main(accelerator, write)


def _read(path: Path, request: ExtractRequest) -> Manifest:
    manifest = read_manifest(path, request.audio_root, needs_speakers=False)
    refuse_short_rows(manifest)
    return manifest


class _Parts:
    """Embeddings done so far, in numbered files of each process; a resumed run may have another number of processes."""

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
        """Return the embeddings of all rows, [N, dim]; DataError if they are not finite."""
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
    """Read embeddings saved by an interrupted run; None, with a note, if the file is damaged.

    Parts saved by earlier versions of svkit have no hash.
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
        progress.note(f"{error}; its utterances are embedded again")
        return None
    return part
