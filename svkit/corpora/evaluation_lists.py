"""Trial lists of a corpus, given or made, and the evaluation speakers that follow from them."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from svkit.corpora import splits
from svkit.corpora.membership import (
    EVALUATION,
)
from svkit.corpora.request import CorpusRequest, EvaluationList
from svkit.errors import ConfigError, DataError, first_five
from svkit.scoring.id_matching import find_matching
from svkit.store.trials import read_trials


def read_lists(
    paths: Sequence[Path], table: pd.DataFrame, *, match_ids: bool = False
) -> list[EvaluationList]:
    """Read given trial lists and check them against the corpus.

    Args:
        paths: of the lists.
        table: rows of the corpus.
        match_ids: write lists whose ids differ in notation with those of the corpus.

    Raises:
        ConfigError: two lists of one name.
        DataError: see `read_trials` and `check_trials`.
    """
    lists: list[EvaluationList] = []
    for path in paths:
        trials, matched = read_trials(path), None
        if match_ids and (matching := find_matching(trials.ids, table["utterance_id"])) is not None:
            matched = matching.take(str(path))
            trials = trials.renamed(matching.names, matching.names)
        splits.check_trials(path, trials, table)
        if any(entry.name == path.stem for entry in lists):
            raise ConfigError(f"--trials {path}: two lists are called {path.stem}; rename one")
        lists.append(
            EvaluationList(name=path.stem, trials=trials, source=None if matched else path, matched=matched)
        )
    return lists


def named_rows(table: pd.DataFrame, lists: Sequence[EvaluationList]) -> pd.DataFrame:
    """Return the rows of the utterances named in trial lists and their enrollments."""
    named: set[str] = set()
    for entry in lists:
        named.update(entry.trials.ids)
        if entry.enrollment is not None:
            named.update(entry.enrollment["utterance_id"])
    return table[table["utterance_id"].isin(named)]


def evaluation_lists(
    table: pd.DataFrame, request: CorpusRequest, corpus: str
) -> tuple[list[str], list[EvaluationList]]:
    """Choose the evaluation speakers of one table and take the given trial lists or make one.

    Args:
        table: rows of the whole corpus.
        request: names lists and speakers, or neither.
        corpus: name of a made list.

    Returns:
        Evaluation speakers, and at least one list among them; neither where none were asked for (`0`).

    Raises:
        DataError: a list names utterances of speakers that are not for evaluation; see also `read_lists`.
    """
    if not request.trials and request.eval_speakers == "0" and not Path("0").exists():
        return [], []
    known = request.known_splits()
    present = {known[speaker] for speaker in table["speaker_id"].unique() if speaker in known}
    if not request.trials and request.eval_speakers is None and present and EVALUATION not in known.values():
        return [], []  # as before
    spec = request.eval_speakers
    if request.is_remembered and known and spec is not None and splits.is_count("--eval-speakers", spec):
        spec = None
    if not request.trials:
        speakers = splits.choose_eval_speakers(spec, table, request.seed, known)
        trials = splits.make_trials(table[table["speaker_id"].isin(speakers)], request.seed, corpus)
        return speakers, [EvaluationList(name=corpus, trials=trials, source=None)]
    lists = read_lists(request.trials, table, match_ids=request.match_ids)
    in_trials = sorted(named_rows(table, lists)["speaker_id"].unique())
    if spec is None:
        return in_trials, lists
    speakers = splits.choose_eval_speakers(spec, table, request.seed, known)
    others = sorted(set(in_trials) - set(speakers))
    if others:
        raise DataError(
            f"{first_five(request.trials)}: speakers that --eval-speakers does not name: {first_five(others)}"
        )
    return speakers, lists
