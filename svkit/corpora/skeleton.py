"""The steps that every corpus takes from a tree of audio to its lists.

A layout (`svkit.corpora.layouts`) knows one corpus: its `find` returns what there is as `Found`. All else is here.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from svkit.corpora import splits
from svkit.corpora.corpus import DataDirectory
from svkit.corpora.evaluation_lists import evaluation_lists, made_list, named_rows
from svkit.corpora.request import CorpusRequest, CorpusResult, EvaluationList
from svkit.corpora.scan import BadFile, Candidate, ScanOptions, scan_files
from svkit.errors import ConfigError
from svkit.progress import Progress


@dataclass(kw_only=True)
class Found:
    """What a layout has found."""

    groups: Sequence[Sequence[Candidate]]
    """The files; equal content is a duplicate within one group only."""
    bad: list[BadFile] = field(default_factory=list)
    """What is known to be unusable before the scan."""
    evaluation: Collection[str] | None = None
    """Ids of the utterances that the corpus sets aside for evaluation; None: evaluation speakers are chosen here."""
    lists: Sequence[EvaluationList] = ()
    """Trial lists of `evaluation`; none: one is made."""
    scan: ScanOptions | None = None
    """Where it differs from the request's."""
    finish: Callable[[pd.DataFrame], tuple[pd.DataFrame, list[BadFile]]] | None = None
    """Called with the manifest rows of all usable files; returns the rows to write and what turned out bad."""


def prepare(
    request: CorpusRequest,
    progress: Progress,
    corpus: str,
    find: Callable[[Path], Found],
    config: Mapping[str, Any],
    *,
    inputs: Mapping[str, Path] | None = None,
    default_preset: str = "w2v-bert-2.0",
) -> CorpusResult:
    """Prepare a corpus.

    Args:
        request: the request.
        progress: counts files, notes what the user should know.
        corpus: its name, and that of a list made here.
        find: of the layout; gets `exp/data`, where it may write audio.
        config: what identifies the request.
        inputs: name -> lists that the corpus consists of, beside those that the request names.
        default_preset: noted in the experiment unless it or the request has one.

    Raises:
        ConfigError: finished already; speakers asked for that the corpus cannot spare.
        DataError: bad files that are not left out, or lists that do not fit the corpus.
        ArtifactError: another command writes here, or it cannot be written.
    """
    with DataDirectory(request, progress, corpus, config, default_preset, inputs) as data:
        if data.finished is not None:
            return data.finished
        found = find(data.path)
        bad, tables = list(found.bad), []
        for group in found.groups:
            table, unusable = scan_files(group, found.scan or request.scan, progress)
            tables.append(table)
            bad += unusable
        num_files = len(found.bad) + sum(map(len, found.groups))
        data.accept(bad, num_files)
        table = tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)
        if "channel" in table:
            table["channel"] = table["channel"].fillna("0")  # of a group whose files all have one channel
        if found.finish is not None:
            table, unusable = found.finish(table)
            bad += unusable
            data.accept(bad, num_files)
        if found.evaluation is None:
            speakers, lists = evaluation_lists(table, request, corpus)
            train = table[~table["speaker_id"].isin(speakers)]
            return data.write(train, named_rows(table, lists), lists, bad, progress, speakers)
        is_evaluation = table["utterance_id"].isin(found.evaluation)
        evaluation = table[is_evaluation]
        lists = list(found.lists) or [made_list(evaluation, request.seed, corpus)]
        for entry in lists:
            if entry.source is not None:
                splits.check_trials(entry.source, entry.trials, evaluation, bad)
        return data.write(table[~is_evaluation], named_rows(evaluation, lists), lists, bad, progress)


def uses_official_lists(request: CorpusRequest) -> bool:
    """Whether a corpus with official trial lists is evaluated on them: no evaluation speakers are asked for.

    Raises:
        ConfigError: the ids of such lists need no matching.
    """
    if request.eval_speakers is None and request.match_ids:
        raise ConfigError("--match-ids: the lists of this corpus name its files as they are; leave it out")
    return request.eval_speakers is None


def compare_counts(
    part: str, files: Sequence[Candidate], published: tuple[int, int], progress: Progress
) -> str:
    """Note numbers of speakers and utterances that differ from the published ones.

    Returns:
        The difference in words; empty where there is none.
    """
    found = (len({file.speaker_id for file in files}), len(files))
    if found == published:
        return ""
    progress.note(
        f"{part}: {found[0]:,} speakers and {found[1]:,} utterances found, published"
        f" {published[0]:,} and {published[1]:,}"
    )
    return (
        f"{part}: expected {published[0]:,} speakers and {published[1]:,} utterances, found {found[0]:,} and"
        f" {found[1]:,}"
    )
