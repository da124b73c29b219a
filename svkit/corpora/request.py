"""What the user asks `svkit prepare` for, and what it answers."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from svkit.config.load import check_preset
from svkit.corpora.membership import read_splits
from svkit.corpora.scan import BadFile, ScanOptions
from svkit.store.request import Request
from svkit.store.trials import Trials

JOURNAL_NAME = ".scan"
LIST_ENDINGS = (".txt", ".enroll.tsv")
"""What the names of an evaluation list's files end in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusRequest(Request):
    """A corpus, and who of it evaluates and validates."""

    root: Path | None = None
    eval_speakers: str | None = None
    """A number (0: no evaluation at all) or a file."""
    is_remembered: bool = False
    """Whether an earlier command said so: a number then draws nobody, however many have gone or come back."""
    trials: tuple[Path, ...] = ()
    """Given lists; none: made from the evaluation speakers."""
    match_ids: bool = False
    """Match ids of given lists that differ in notation from the corpus' (`svkit.scoring.id_matching`)."""
    valid_speakers: int | None = None
    seed: int = 24
    scan: ScanOptions = field(default_factory=ScanOptions)
    preset: str | None = None
    encoder: str | None = None
    redraw: bool = False
    """Draw evaluation and validation speakers anew; otherwise everyone stays where an earlier preparation put them."""

    def __post_init__(self) -> None:
        """Let the scan be remembered in the experiment until the corpus is prepared.

        Raises:
            ConfigError: an unknown preset.
        """
        if self.preset is not None:
            check_preset(self.preset, "--preset")
        object.__setattr__(self, "scan", replace(self.scan, journal=self.exp / "data" / JOURNAL_NAME))

    def known_splits(self) -> dict[str, str]:
        """Return the part of each speaker in an earlier preparation, unless all are to be drawn anew."""
        return {} if self.redraw else read_splits(self.exp / "data")


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


@dataclass(frozen=True, kw_only=True)
class EvaluationList:
    """A trial list to be written."""

    name: str
    trials: Trials
    source: Path | None
    """The given file, copied as it is; None: the list was made, or its ids were matched."""
    matched: str | None = None
    """By which rule, where they were."""
    enrollment: pd.DataFrame | None = None
    """`enroll_id`, `utterance_id`: the utterances of each enrollment, for `svkit score --enroll`."""
