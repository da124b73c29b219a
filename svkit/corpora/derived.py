"""Lists made from lists: paths that stay right in another directory, and outputs that say what they were made from."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd

from svkit.errors import ConfigError
from svkit.store.manifest import Manifest, write_manifest
from svkit.store.provenance import describe_inputs, plain, write_provenance

SUFFIXES = (".tsv", ".parquet")


def rebased_table(manifest: Manifest, directory: Path) -> pd.DataFrame:
    """Return a manifest's table with paths for a list in another directory.

    Args:
        manifest: its relative paths are below its `root`.
        directory: of the new list; paths below it are relative, others absolute.
    """
    root, target = manifest.root.resolve(), directory.resolve()
    if root == target:
        return manifest.table
    below = root.relative_to(target) if root.is_relative_to(target) else root
    prefix = f"{below.as_posix().rstrip('/')}/"
    paths = manifest.table["path"]
    return manifest.table.assign(path=paths.where(paths.str.startswith("/"), prefix + paths))


def movable_table(table: pd.DataFrame, directory: Path) -> pd.DataFrame:
    """Return a table for a list in `directory` whose paths below it are relative, so that audio there moves with it."""
    paths = table["path"]
    for made in (directory, directory.resolve()):
        paths = paths.str.removeprefix(f"{made.as_posix()}/")
    return table.assign(path=paths)


class DerivedLists:
    """One or several lists that a command writes at once, each with a `NAME.provenance.json` beside it."""

    def __init__(self, paths: Sequence[Path], inputs: Mapping[str, Path], *, overwrite: bool) -> None:
        """Check the outputs and hash the inputs, before any work is done.

        Args:
            paths: lists to be written.
            inputs: name -> file that is read.
            overwrite: replace what is there.

        Raises:
            ConfigError: a list is there already, is one of the inputs, or has no known suffix.
            DataError: an input does not exist.
        """
        for path in paths:
            if path.suffix not in SUFFIXES:
                raise ConfigError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
            if any(path.resolve() == given.resolve() for given in inputs.values()):
                raise ConfigError(f"{path}: is read by this command; write to another file")
            if path.exists() and not overwrite:
                raise ConfigError(f"{path} is there already; use --overwrite to replace it")
        self._inputs = describe_inputs(inputs)
        self._started = datetime.now(timezone.utc).isoformat(timespec="seconds")

    def write(self, path: Path, table: pd.DataFrame, command: str, config: Mapping[str, Any]) -> None:
        """Write one list, then its provenance, the mark that it is complete.

        Args:
            path: one of the lists.
            table: its rows.
            command: the verb.
            config: what the command was asked for.
        """
        provenance = path.with_name(f"{path.stem}.provenance.json")
        provenance.unlink(missing_ok=True)
        write_manifest(path, table)
        write_provenance(
            provenance,
            [path],
            command=command,
            config=plain(config),
            inputs=self._inputs,
            started=self._started,
            extra={"rows": len(table)},
        )
