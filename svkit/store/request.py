"""What every command is asked for; the request of each command adds what is its own.

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
    """A command that writes into an experiment."""

    exp: Path = Path("exp")
    overwrite: bool = False
    """Replace output that already exists; an unfinished run of the same command is resumed all the same."""
    keep_finished: bool = False
    """Finished output of equal inputs and settings is the result; with `overwrite`, any other is replaced."""

    def output(
        self, path: Path, command: str, config: Mapping[str, Any], inputs: Mapping[str, Path]
    ) -> Output:
        """Return the output that this request makes at `path`; arguments as of `Output`."""
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
    """A command that runs a recipe on a manifest."""

    recipe: Recipe
    out: Path | None = None
    """None: the command's place in `exp`."""
    manifest: Path | None = None
    """None: the experiment's."""
    audio_root: Path | None = None
    """Directory that the manifest's paths are below; None: its own."""
