"""What a corpus was prepared with before, for a request that leaves it open."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from svkit.corpora.request import LIST_ENDINGS, CorpusRequest
from svkit.errors import ConfigError
from svkit.progress import Progress
from svkit.store.provenance import (
    is_finished,
    read_provenance,
)


def as_before(request: CorpusRequest, progress: Progress, *, seed: int | None) -> CorpusRequest:
    """Fill what a request leaves open with what the same corpus was prepared with before, and say so.

    Args:
        request: evaluation speakers, trials and validation speakers that it does not name are taken from before.
        progress: is told.
        seed: that was asked for; None: the one of before.

    Raises:
        ConfigError: a file of before is gone.
    """
    path = request.exp / "data"
    earlier = read_provenance(path).get("config") if is_finished(path) else None
    if request.redraw or not isinstance(earlier, dict):
        return request
    changes: dict[str, Any] = {}
    if seed is None and isinstance(earlier.get("seed"), int):
        changes["seed"] = earlier["seed"]
    root = None if request.root is None else str(request.root.resolve())
    if earlier.get("root", root) == root:
        asked, trials = request.eval_speakers is not None or bool(request.trials), earlier.get("trials") or ()
        if not asked:
            changes |= {"eval_speakers": earlier.get("eval_speakers"), "trials": _still_there(path, trials)}
            changes["is_remembered"] = True
            changes["match_ids"] = request.match_ids or bool(trials and earlier.get("match_ids"))
        if request.valid_speakers is None and earlier.get("valid_speakers") == 0:
            changes["valid_speakers"] = 0
    spec = changes.get("eval_speakers")
    if spec is not None and not spec.isdecimal() and not Path(spec).exists():
        raise ConfigError(
            f"{path} was prepared with --eval-speakers {spec}, which is not there any more: give the file, or --redraw"
        )
    filled = replace(request, **changes)
    given = {"--eval-speakers": "eval_speakers", "--trials": "trials", "--seed": "seed"}
    same = [
        name
        for name, field_name in given.items()
        if getattr(filled, field_name) != getattr(request, field_name)
    ]
    if same:
        progress.note(f"{', '.join(same)}: as {path} was prepared before; --redraw starts anew")
    return filled


def _still_there(data: Path, recorded: Sequence[str]) -> tuple[Path, ...]:
    """Return the trial lists of before: where they were given, else the copies of the experiment."""
    paths = [Path(name) for name in recorded]
    copies = [data / "trials" / f"{path.stem}{LIST_ENDINGS[0]}" for path in paths]
    return tuple(path if path.is_file() else copy for path, copy in zip(paths, copies, strict=True))
