"""The steps from a tree of audio to lists, which are the same for every corpus.

A layout (`svkit.corpora.layouts`) knows one corpus: its `find` returns what it has found as `Found`. Everything else is
here.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from svkit.corpora import splits
from svkit.corpora.corpus import JOURNAL_NAME, DataDirectory, corpus_settings
from svkit.corpora.membership import EVALUATION
from svkit.corpora.request import EVERYBODY, CorpusRequest, CorpusResult, EvaluationList
from svkit.corpora.scan import BadFile, Candidate, ScanOptions, scan_files
from svkit.errors import ConfigError, DataError, first_five
from svkit.progress import Progress
from svkit.scoring.id_matching import find_matching
from svkit.store.trials import read_trials


@dataclass(kw_only=True)
class Found:
    """What a layout has found."""

    groups: Sequence[Sequence[Candidate]]
    """The files. Files of equal content are duplicates only within a group."""
    bad: list[BadFile] = field(default_factory=list)
    """Files that are known to be unusable before the scan."""
    evaluation: Collection[str] | None = None
    """Ids of the utterances that the corpus reserves for evaluation; None: evaluation speakers are chosen here."""
    lists: Sequence[EvaluationList] = ()
    """Trial lists of `evaluation`; empty: one is made."""
    genders: Mapping[str, str] = field(default_factory=dict)
    """Gender of every utterance; empty: unknown, and nontarget trials made here mix genders."""
    scan: ScanOptions | None = None
    """Options of the scan; None: those of the request."""
    finish: Callable[[pd.DataFrame], tuple[pd.DataFrame, list[BadFile]]] | None = None
    """Takes the manifest rows of all usable files; returns the rows to write and the files that turned out bad."""


def prepare(
    request: CorpusRequest,
    progress: Progress,
    corpus: str,
    find: Callable[[Path], Found],
    options: Mapping[str, Any] | None = None,
    *,
    inputs: Mapping[str, Path] | None = None,
    is_rendered: bool = False,
) -> CorpusResult:
    """Prepare a corpus; a list made here has its name.

    `find` is the function of the layout; it gets `exp/data`, where it may write audio. `options` are the layout's own;
    like those of the request, they identify a finished corpus. `inputs` (name -> path) are lists that the corpus itself
    consists of, beside those that the request names. With `is_rendered`, `find` makes the audio itself, so the
    request's options about recordings are not used.

    Raises:
        ConfigError: the output is finished, the corpus cannot spare the speakers asked for, or two lists have one name.
        DataError: there are bad files that are not left out, or lists that do not fit the corpus.
        ArtifactError: another command writes here, or the output cannot be written.
    """
    asked = {"valid_speakers": request.valid_speakers} if is_rendered else corpus_settings(request)
    preset = "tiny" if is_rendered else "w2v-bert-2.0"
    data = DataDirectory(request, progress, corpus, {**asked, **(options or {})}, preset, inputs)
    if data.is_kept(progress):
        return data.kept_result()
    with data.open():
        found = find(data.path)
        # The journal stays until the corpus is prepared, so that an interrupted scan continues.
        scan = replace(found.scan or request.scan, journal=data.path / JOURNAL_NAME)
        bad, tables = list(found.bad), []
        for group in found.groups:
            table, unusable = scan_files(group, scan, progress)
            tables.append(table)
            bad += unusable
        num_files = len(found.bad) + sum(map(len, found.groups))
        data.accept(bad, num_files)
        table = tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)
        if "channel" in table:
            table["channel"] = table["channel"].fillna("0")  # groups that all use the first channel
        if found.genders:
            table["gender"] = table["utterance_id"].map(found.genders)
        if found.finish is not None:
            table, unusable = found.finish(table)
            bad += unusable
            data.accept(bad, num_files)
        if found.evaluation is None:
            speakers, lists = _evaluation_lists(table, request, corpus)
            evaluation, is_train = table, ~table["speaker_id"].isin(speakers)
        else:
            is_train = ~table["utterance_id"].isin(found.evaluation)
            speakers, evaluation = [], table[~is_train]
            lists = list(found.lists) or [_made_list(evaluation, request.seed, corpus)]
            for entry in lists:
                if entry.source is not None:
                    splits.check_given_trials(entry.source, entry.trials, evaluation, bad)
        if request.eval_speakers != EVERYBODY:
            evaluation = evaluation[evaluation["utterance_id"].isin(_named(lists))]
        unlisted = int((~is_train).sum()) - len(evaluation)
        return data.write(table[is_train], evaluation, lists, bad, speakers, unlisted)


def _evaluation_lists(
    table: pd.DataFrame, request: CorpusRequest, corpus: str
) -> tuple[list[str], list[EvaluationList]]:
    """Choose evaluation speakers, and read the given trial lists or make one; neither with `--eval-speakers 0`."""
    spec, known = request.eval_speakers, request.known_splits()
    lists = [_read_list(path, table, match_ids=request.match_ids) for path in request.trials]
    names = [entry.name for entry in lists]
    for path, name in zip(request.trials, names, strict=True):
        if names.count(name) > 1:
            raise ConfigError(f"--trials {path}: two lists are called {name}; rename one")
    present = set(table["speaker_id"])
    # If they were prepared without evaluation, it stays so: those who trained models must not begin to evaluate.
    was_without = not known.keys().isdisjoint(present) and EVALUATION not in known.values()
    if not lists and ((spec == "0" and not Path("0").exists()) or (spec is None and was_without)):
        return [], []
    # A remembered number draws nobody: those who evaluated before still do.
    if request.is_remembered and known and spec is not None and splits.is_count("--eval-speakers", spec):
        spec = None
    in_trials = set(table["speaker_id"][table["utterance_id"].isin(_named(lists))])
    if lists and spec is None:
        return sorted(in_trials), lists
    speakers = splits.choose_eval_speakers(spec, table, request.seed, known)
    others = sorted(in_trials.difference(speakers))
    if others:
        raise DataError(
            f"{first_five(request.trials)}: has speakers that --eval-speakers does not name: {first_five(others)}"
        )
    return speakers, lists or [_made_list(table[table["speaker_id"].isin(speakers)], request.seed, corpus)]


def _read_list(path: Path, table: pd.DataFrame, *, match_ids: bool) -> EvaluationList:
    """Read and check a given list; if its ids were matched, it is written with those of the corpus."""
    trials, matched = read_trials(path), None
    if match_ids and (matching := find_matching(trials.ids, table["utterance_id"])) is not None:
        matched = matching.take(str(path))
        trials = trials.renamed(matching.names, matching.names)
    splits.check_given_trials(path, trials, table)
    return EvaluationList(name=path.stem, trials=trials, source=None if matched else path, matched=matched)


def _made_list(table: pd.DataFrame, seed: int, corpus: str) -> EvaluationList:
    return EvaluationList(name=corpus, trials=splits.make_trials(table, seed, corpus), source=None)


def _named(lists: Sequence[EvaluationList]) -> set[str]:
    """Return the utterances named in trial lists and their enrollments."""
    named: set[str] = set()
    for entry in lists:
        named.update(entry.trials.ids)
        if entry.enrollment is not None:
            named.update(entry.enrollment["utterance_id"])
    return named


def uses_official_lists(request: CorpusRequest) -> bool:
    """Say whether the official trial lists are used: unless evaluation speakers are asked for (no `match_ids` then)."""
    if request.eval_speakers is None and request.match_ids:
        raise ConfigError("--match-ids: the lists of this corpus already use its file names; leave it out")
    return request.eval_speakers is None


def compare_counts(
    part: str,
    files: Sequence[Candidate],
    published: tuple[int, int],
    progress: Progress,
    *,
    is_strict: bool = False,
) -> None:
    """Note numbers of speakers and utterances that are not the published ones; with `is_strict`, raise DataError."""
    found = (len({file.speaker_id for file in files}), len(files))
    if found == published:
        return
    speakers, utterances = published
    if is_strict:
        raise DataError(
            f"{part}: expected {speakers:,} speakers and {utterances:,} utterances, found {found[0]:,} and"
            f" {found[1]:,}; complete it, or leave --strict out"
        )
    progress.note(
        f"{part}: {found[0]:,} speakers and {found[1]:,} utterances found, published {speakers:,} and {utterances:,}"
    )
