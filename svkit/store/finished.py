"""Whether a finished output is what a command would make again: `--keep-finished` and `make` rest on it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svkit.store.provenance import describe_inputs, identity, is_finished, plain, read_provenance


def is_current(
    directory: Path, *, command: str, config: Mapping[str, Any], inputs: Mapping[str, Path]
) -> bool:
    """Say whether `directory` is finished and was made by this command with equal configuration and inputs.

    Args:
        directory: the output.
        command: the verb.
        config: the resolved configuration.
        inputs: name -> path; compared by content, not by path.
    """
    if not is_finished(directory):
        return False
    recorded = read_provenance(directory)
    wanted = {"command": command, "config": plain(config), "inputs": recorded["inputs"]}
    if identity(wanted) != identity(recorded):  # which needs no hash
        return False
    return identity({**wanted, "inputs": describe_inputs(inputs)}) == identity(recorded)
