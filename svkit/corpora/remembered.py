"""What a corpus was prepared with before, for a request that leaves it open."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from svkit.corpora.request import LIST_ENDINGS, CorpusRequest
from svkit.errors import ConfigError
from svkit.progress import Progress
from svkit.store.provenance import is_finished, read_provenance


def as_before(request: CorpusRequest, progress: Progress, *, seed: int | None) -> CorpusRequest:
    """Fill what a request leaves open with what the same corpus was prepared with before, and say so.

    Args:
        request: evaluation speakers, trials and validation speakers that it does not name are taken from before.
        progress: is told.
        seed: that was asked for; None: the one of before.

    Raises:
        ConfigError: a file of before is gone.
    """
    data = request.exp / "data"
    earlier = read_provenance(data).get("config") if is_finished(data) else None
    if request.redraw or not isinstance(earlier, dict):
        return request
    changes: dict[str, Any] = {}
    if seed is None and isinstance(earlier.get("seed"), int):
        changes["seed"] = earlier["seed"]
    root = None if request.root is None else str(request.root.resolve())
    if earlier.get("root", root) == root:
        if request.eval_speakers is None and not request.trials:
            lists = [Path(name) for name in earlier.get("trials") or ()]
            # Where they were given, else the copies of the experiment.
            copies = [data / "trials" / f"{path.stem}{LIST_ENDINGS[0]}" for path in lists]
            changes |= {
                "eval_speakers": earlier.get("eval_speakers"),
                "trials": tuple(p if p.is_file() else copy for p, copy in zip(lists, copies, strict=True)),
                "is_remembered": True,
                "match_ids": request.match_ids or bool(lists and earlier.get("match_ids")),
            }
        if request.valid_speakers is None and earlier.get("valid_speakers") == 0:
            changes["valid_speakers"] = 0
    spec = changes.get("eval_speakers")
    if spec is not None and not spec.isdecimal() and not Path(spec).exists():
        raise ConfigError(
            f"{data} was prepared with --eval-speakers {spec}, which does not exist any more: give the file, or"
            " --redraw"
        )
    filled = replace(request, **changes)
    flags = {"--eval-speakers": "eval_speakers", "--trials": "trials", "--seed": "seed"}
    same = [flag for flag, name in flags.items() if getattr(filled, name) != getattr(request, name)]
    if same:
        progress.note(f"{', '.join(same)}: as {data} was prepared before; --redraw starts anew")
    return filled
