"""Requests to `svkit prepare`, completed by what was asked for before, and their results."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from svkit.config.load import check_preset
from svkit.corpora.membership import read_splits
from svkit.corpora.scan import BadFile, ScanOptions
from svkit.errors import ConfigError
from svkit.progress import Progress
from svkit.store.provenance import is_finished, read_provenance
from svkit.store.request import Request
from svkit.store.trials import Trials

EVERYBODY = "all"
"""Value of `eval_speakers` with which nobody trains or validates."""
LIST_ENDINGS = (".txt", ".enroll.tsv")
"""Endings of the file names of an evaluation list: its trials and its enrollments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusRequest(Request):
    """Request to prepare a corpus, with its evaluation and validation speakers."""

    root: Path = Path()
    """Not used by the rendered corpus."""
    eval_speakers: str | None = None
    """A number (0: no evaluation at all), `all`, or a file."""
    is_remembered: bool = False
    """Whether `eval_speakers` comes from an earlier command: then a number draws nobody, even if speakers have gone."""
    trials: tuple[Path, ...] = ()
    """Given lists; none: a list is made from the evaluation speakers."""
    match_ids: bool = False
    """Match ids of given lists whose notation differs from that of the corpus (`svkit.scoring.id_matching`)."""
    valid_speakers: int | None = None
    seed: int = 24
    scan: ScanOptions = field(default_factory=ScanOptions)
    preset: str | None = None
    encoder: str | None = None
    redraw: bool = False
    """Draw evaluation and validation speakers anew; otherwise all stay where an earlier preparation put them."""

    def __post_init__(self) -> None:
        """Refuse an unknown preset, and validation speakers where everybody evaluates (ConfigError)."""
        if self.eval_speakers == EVERYBODY and self.valid_speakers:
            raise ConfigError(
                f"--valid-speakers {self.valid_speakers}: --eval-speakers all leaves nobody for "
                "validation; leave one of them out"
            )
        if self.preset is not None:
            check_preset(self.preset, "--preset")

    @property
    def speakers_file(self) -> Path | None:
        """The file of speakers, if `eval_speakers` names one."""
        spec = self.eval_speakers
        if spec is None or spec == EVERYBODY or (spec.isdecimal() and not Path(spec).exists()):
            return None
        return Path(spec)

    def known_splits(self) -> dict[str, str]:
        """Return the part of each speaker in an earlier preparation; none if all are drawn anew."""
        return {} if self.redraw else read_splits(self.exp / "data")


def as_before(request: CorpusRequest, progress: Progress, *, seed: int | None) -> CorpusRequest:
    """Fill what a request leaves open with the settings of the last preparation of the same corpus, and note that.

    This holds for evaluation speakers, trials and validation speakers, and for the seed if `seed` is None.

    Raises:
        ConfigError: a file of evaluation speakers from that preparation is gone.
    """
    data = request.exp / "data"
    earlier = read_provenance(data).get("config") if is_finished(data) else None
    if request.redraw or not isinstance(earlier, dict):
        return request
    changes: dict[str, Any] = {}
    if seed is None and isinstance(earlier.get("seed"), int):
        changes["seed"] = earlier["seed"]
    root = str(request.root.resolve())
    if earlier.get("root", root) == root:
        if request.eval_speakers is None and not request.trials:
            lists = [Path(name) for name in earlier.get("trials") or ()]
            # The given files if they are still there, else the copies in the experiment.
            copies = [data / "trials" / f"{path.stem}{LIST_ENDINGS[0]}" for path in lists]
            changes |= {
                "eval_speakers": earlier.get("eval_speakers"),
                "trials": tuple(p if p.is_file() else copy for p, copy in zip(lists, copies, strict=True)),
                "is_remembered": True,
                "match_ids": request.match_ids or bool(lists and earlier.get("match_ids")),
            }
        if request.valid_speakers is None and earlier.get("valid_speakers") == 0:
            changes["valid_speakers"] = 0
    filled = replace(request, **changes)
    spec = filled.speakers_file if "eval_speakers" in changes else None
    if spec is not None and not spec.exists():
        raise ConfigError(
            f"{data} was prepared with --eval-speakers {spec}, which does not exist any more; give the file, or"
            " --redraw"
        )
    flags = {"--eval-speakers": "eval_speakers", "--trials": "trials", "--seed": "seed"}
    same = [flag for flag, name in flags.items() if getattr(filled, name) != getattr(request, name)]
    if same:
        progress.note(f"{', '.join(same)}: kept from the last preparation of {data}; --redraw starts anew")
    return filled


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusResult:
    """What was prepared."""

    data: str
    """The directory written."""
    corpus: str
    train_speakers: int
    train_utterances: int
    train_hours: float
    valid_speakers: int
    valid_utterances: int
    eval_speakers: int
    eval_utterances: int
    trials: dict[str, dict[str, int]]
    """Name of each list -> its `targets` and `nontargets`."""
    bad_files: tuple[BadFile, ...]
    """Left out; also listed in `bad_files.tsv`."""
    valid_hours: float | None = None
    """None, as those below: not recorded by earlier versions."""
    eval_hours: float | None = None
    unlisted_utterances: int | None = None
    """Utterances of evaluation speakers that are in no trial and therefore in no list."""


@dataclass(frozen=True, kw_only=True)
class EvaluationList:
    """A trial list to be written."""

    name: str
    trials: Trials
    source: Path | None
    """The given file, which is copied unchanged; None: the list was made, or its ids were matched."""
    matched: str | None = None
    """The rule by which ids were matched; None: they were not."""
    enrollment: pd.DataFrame | None = None
    """`enroll_id`, `utterance_id`: the utterances of each enrollment, for `svkit score --enroll`."""
