"""Lists made from lists: paths that stay valid in another directory, and outputs that record their inputs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from svkit.errors import ConfigError
from svkit.store.manifest import Manifest, write_manifest
from svkit.store.output import LIST_SUFFIXES, Output
from svkit.store.remote_file import URL
from svkit.store.tables import integers


def rebased_table(manifest: Manifest, directory: Path) -> pd.DataFrame:
    """Return a manifest's table with the paths of a list in `directory`: relative if they lie below it."""
    target, paths = directory.resolve(), manifest.table["path"]
    if isinstance(manifest.root, str):
        below = manifest.root
    else:
        root = manifest.root.resolve()
        if root == target:
            return manifest.table
        below = (root.relative_to(target) if root.is_relative_to(target) else root).as_posix()
    stays = paths.str.startswith("/") | paths.str.match(URL)
    return manifest.table.assign(path=paths.where(stays, f"{below.rstrip('/')}/" + paths))


def movable_table(table: pd.DataFrame, directory: Path) -> pd.DataFrame:
    """Return a table with paths below `directory` made relative, so that a list in it moves together with its audio."""
    paths = table["path"]
    for made in (directory, directory.resolve()):
        paths = paths.str.removeprefix(f"{made.as_posix()}/")
    return table.assign(path=paths)


def hours(table: pd.DataFrame) -> float:
    """Return the total duration of the recordings in a manifest's table, in hours rounded to four digits."""
    seconds = integers(table["num_samples"]) / integers(table["sample_rate_hz"])
    return round(float(seconds.sum()) / 3600, 4)


def derived_lists(
    configs: Mapping[Path, Mapping[str, Any]], *, command: str, inputs: Mapping[str, Path], overwrite: bool
) -> list[Output]:
    """Check the lists that a command will write (path -> configuration), and hash its inputs, before any work starts.

    Raises:
        ConfigError: a list already exists, is one of the inputs, or has no known suffix.
        DataError: an input does not exist.
    """
    for path in configs:
        if path.suffix not in LIST_SUFFIXES:
            raise ConfigError(f"{path}: expected a name that ends in {' or '.join(LIST_SUFFIXES)}")
    one = Output(Path(), command=command, config={}, inputs=inputs, overwrite=overwrite, kind="list")
    one.describe()
    outputs = [replace(one, path=path, config=config) for path, config in configs.items()]
    for output in outputs:
        output.open()
    return outputs


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A list that was written."""

    list: str
    speakers: int
    utterances: int
    hours: float


def write_derived(output: Output, table: pd.DataFrame) -> Written:
    """Write a list, then its record, the mark that it is complete."""
    output.unmark()
    write_manifest(output.path, table)
    output.finish({"rows": len(table)}, [output.path])
    num_speakers = int(table["speaker_id"].nunique())
    return Written(list=str(output.path), speakers=num_speakers, utterances=len(table), hours=hours(table))
