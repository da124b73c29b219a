"""The settings that all commands share; the request of each command adds its own.

The command line fills a request from its groups of options by the names of the fields (`svkit.cli.option_groups`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svkit.config.schema import Recipe
from svkit.store.output import Output


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Request for a command that writes into an experiment."""

    exp: Path = Path("exp")
    overwrite: bool = False
    """Replace finished output; an unfinished run of the same command is still resumed."""
    keep_finished: bool = False
    """Keep finished output of equal inputs and settings as the result; with `overwrite`, replace any other."""

    def output(
        self, path: Path, command: str, config: Mapping[str, Any], inputs: Mapping[str, Path]
    ) -> Output:
        """Return the output that this request makes at `path`; the arguments are those of `Output`."""
        return Output(
            path,
            command=command,
            config=config,
            inputs=inputs,
            overwrite=self.overwrite,
            keep_finished=self.keep_finished,
            experiment=self.exp,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest(Request):
    """Request for a command that runs a recipe on a manifest."""

    recipe: Recipe
    out: Path | None = None
    """None: the command's default directory in `exp`."""
    manifest: Path | None = None
    """None: the experiment's."""
    audio_root: Path | str | None = None
    """Directory that the manifest's paths are relative to, or URL of tar shards; None: the manifest's own directory."""
