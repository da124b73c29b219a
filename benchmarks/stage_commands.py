"""Run svkit commands in benchmarks that train; finished parts are kept, and interrupted ones are resumed."""

import contextlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from svkit.cli.app import app
from svkit.errors import ConfigError
from svkit.store.provenance import is_finished


def svkit(*arguments: object) -> None:
    """Run a command in this process, with its results on stderr; an error ends the script with its exit code."""
    words = [str(argument) for argument in arguments]
    print("+ svkit", shlex.join(words), file=sys.stderr, flush=True)
    with contextlib.redirect_stdout(sys.stderr):
        try:
            app(words, prog_name="svkit")
        except SystemExit as end:
            if end.code:
                raise


def make(out: Path, *arguments: object, last: str = "") -> Path:
    """Run a stage unless its result is in `out` already; return the checkpoint `out / last`.

    Args:
        out: where the stage writes.
        arguments: the command, without `--out`.
        last: the last of the directories that the stage writes below `out`, if it writes several.
    """
    replace = ["--overwrite"] if is_finished(out / last) else []
    svkit(*arguments, "--out", out, "--keep-finished", *replace)
    return out / last


def is_current(outs: Sequence[Path], *arguments: object) -> bool:
    """Say whether finished output is what this command would make, without training anything."""
    if not all(is_finished(out) for out in outs):
        return False
    try:
        with contextlib.redirect_stdout(sys.stderr):
            app([str(a) for a in (*arguments, "--keep-finished")], prog_name="svkit", standalone_mode=False)
    except ConfigError:
        return False
    return True


def score(work: Path, trials: Path, embeddings: Sequence[Path]) -> dict[str, Path]:
    """Score embeddings into `work/scores`; return the scores directory of each by name."""
    options = [word for directory in embeddings for word in ("--embeddings", directory)]
    svkit("score", trials, "--exp", work, *options, "--keep-finished", "--overwrite")
    return {directory.name: work / "scores" / directory.name / trials.stem for directory in embeddings}
