"""Trial lists of a corpus, given or made, and the evaluation speakers that follow from them."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from svkit.corpora import splits
from svkit.corpora.membership import EVALUATION
from svkit.corpora.request import CorpusRequest, EvaluationList
from svkit.errors import ConfigError, DataError, first_five
from svkit.scoring.id_matching import find_matching
from svkit.store.trials import read_trials


def made_list(table: pd.DataFrame, seed: int, corpus: str) -> EvaluationList:
    """Return a list made among the speakers of a table."""
    return EvaluationList(name=corpus, trials=splits.make_trials(table, seed, corpus), source=None)


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
        ConfigError: two lists of one name.
        DataError: a list names utterances of speakers that are not for evaluation; see also `read_trials` and
            `check_trials`.
    """
    spec, known = request.eval_speakers, request.known_splits()
    lists = [_read_list(path, table, match_ids=request.match_ids) for path in request.trials]
    names = [entry.name for entry in lists]
    for path, name in zip(request.trials, names, strict=True):
        if names.count(name) > 1:
            raise ConfigError(f"--trials {path}: two lists are called {name}; rename one")
    if not lists and spec == "0" and not Path("0").exists():
        return [], []
    is_known = any(speaker in known for speaker in table["speaker_id"].unique())
    if not lists and spec is None and is_known and EVALUATION not in known.values():
        return [], []  # as before
    # A remembered number draws nobody: who evaluated before still does.
    if request.is_remembered and known and spec is not None and splits.is_count("--eval-speakers", spec):
        spec = None
    in_trials = sorted(named_rows(table, lists)["speaker_id"].unique())
    if lists and spec is None:
        return in_trials, lists
    speakers = splits.choose_eval_speakers(spec, table, request.seed, known)
    others = sorted(set(in_trials) - set(speakers))
    if others:
        raise DataError(
            f"{first_five(request.trials)}: speakers that --eval-speakers does not name: {first_five(others)}"
        )
    return speakers, lists or [made_list(table[table["speaker_id"].isin(speakers)], request.seed, corpus)]


def _read_list(path: Path, table: pd.DataFrame, *, match_ids: bool) -> EvaluationList:
    """Read a given list and check it; one whose ids differ in notation from the corpus' is written with those."""
    trials, matched = read_trials(path), None
    if match_ids and (matching := find_matching(trials.ids, table["utterance_id"])) is not None:
        matched = matching.take(str(path))
        trials = trials.renamed(matching.names, matching.names)
    splits.check_trials(path, trials, table)
    return EvaluationList(name=path.stem, trials=trials, source=None if matched else path, matched=matched)
