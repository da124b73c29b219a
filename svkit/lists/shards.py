"""`svkit prepare shards`: packs the recordings of a list into tar files, for network file systems.

The layout is WebDataset's: uncompressed tar files with members `KEY.flac` (or another suffix) and `KEY.json` side by
side. A list beside them gives the file and the place of each recording, so that training reads any crop at any time, as
from single files: order, resuming and every sample stay the same.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svkit.errors import ArtifactError, DataError
from svkit.progress import Progress
from svkit.store.atomic import replacing
from svkit.store.files import open_file, read_file
from svkit.store.manifest import SHARD_COLUMNS, Manifest, read_manifest, write_manifest
from svkit.store.output import Output

Rows = NDArray[np.int64]
Index = dict[int, tuple[int, int]]
"""Row -> first byte and size of its recording in the shard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardsRequest:
    """Request to pack a list."""

    list: Path
    out: Path
    """Directory of the shards and of the list that points into them."""
    audio_root: Path | str | None = None
    per_shard: int = 4096
    """Number of utterances per tar file."""
    seed: int = 24
    num_workers: int | None = None
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardsResult:
    """The shards that were written."""

    list: str
    """The list that points into the shards."""
    shards: int
    utterances: int
    gigabytes: float


def run(request: ShardsRequest, progress: Progress) -> ShardsResult:
    """Pack a list.

    Utterances are assigned to shards at random, from the seed, so that each shard is a sample of the whole corpus, as
    programs need it that read shards from beginning to end. The rows of the list keep their order. Finished shards of
    an interrupted run are kept.

    Raises:
        ArtifactError: the directory holds something else, or cannot be written.
        ConfigError: the output is finished and `overwrite` is off.
        DataError: the list or a recording is missing or malformed.
    """
    output = Output(
        request.out,
        command="prepare shards",
        config={"per_shard": request.per_shard, "seed": request.seed},
        inputs={"manifest": request.list},
        overwrite=request.overwrite,
    )
    with output.open():
        manifest = read_manifest(request.list, request.audio_root)
        manifest.index()
        if SHARD_COLUMNS[0] in manifest.table.columns:
            raise DataError(
                f"{request.list}: already points into shards; give the list that they were made from"
            )
        order = np.random.default_rng(np.random.SeedSequence([request.seed])).permutation(len(manifest))
        shards = {
            f"shard-{start // request.per_shard:06d}.tar": order[start : start + request.per_shard]
            for start in range(0, len(order), request.per_shard)
        }
        places = _write_all(manifest, request.out, shards, request.num_workers or 4, progress)
        shard_of = np.zeros(len(manifest), np.int64)
        shard_of[order] = np.arange(len(manifest)) // request.per_shard
        table = manifest.table.assign(
            path=pd.Series(pd.Categorical.from_codes(shard_of, pd.Index(list(shards)))).astype(str),
            **dict(zip(SHARD_COLUMNS, places.astype(str), strict=True)),
        )
        path = request.out / request.list.name
        write_manifest(path, table, is_sorted=False)
        output.finish()
    return ShardsResult(
        list=str(path),
        shards=len(shards),
        utterances=len(manifest),
        gigabytes=round(float(places[1].sum()) / 1e9, 4),
    )


def _write_all(
    manifest: Manifest, out: Path, shards: Mapping[str, Rows], num_workers: int, progress: Progress
) -> NDArray[np.int64]:
    """Write the shards; return the first byte and the size of each recording in its shard, [2, N]."""
    places = np.zeros((2, len(manifest)), np.int64)
    with progress.task("packing", len(manifest)) as task, ThreadPoolExecutor(num_workers) as executor:
        paths = (out / name for name in shards)
        # If one fails, `map` cancels those that have not begun.
        for index in executor.map(_write_shard, repeat(manifest), paths, shards.values()):
            for row, place in index.items():
                places[:, row] = place
            task.advance(len(index))
    return places


def _write_shard(manifest: Manifest, path: Path, rows: Rows) -> Index:
    if path.exists():  # complete, as files are renamed last; other rows only if it was changed
        index = _read_index(path)
        if index.keys() == set(rows.tolist()):
            return index
    with replacing(path) as temporary, tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar:
        for row in rows.tolist():
            for name, content in _members(manifest, row):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return _read_index(path)


def _members(manifest: Manifest, row: int) -> Iterator[tuple[str, bytes]]:
    """Yield the two members of an utterance; the key is its row number, as an id may hold any text."""
    source = manifest.audio_path(row)
    try:
        audio = read_file(source, DataError)
    except DataError as error:
        raise DataError(f"{error}; find all such files with `svkit prepare check`") from error
    if not audio:
        raise DataError(f"{source}: empty file; find all such files with `svkit prepare check`")
    yield f"{row:09d}{source.suffix.lower()}", audio
    facts = {name: manifest.text(name, row) for name in manifest.table.columns if name != "path"}
    numbers = {name: int(facts[name]) for name in ("sample_rate_hz", "num_samples")}
    yield f"{row:09d}.json", json.dumps({**facts, **numbers}, ensure_ascii=False).encode()


def _read_index(path: Path) -> Index:
    try:
        with open_file(path, ArtifactError) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            return {
                int(member.name.partition(".")[0]): (member.offset_data, member.size)
                for member in tar
                if not member.name.endswith(".json")
            }
    except (tarfile.TarError, ValueError):
        return {}
