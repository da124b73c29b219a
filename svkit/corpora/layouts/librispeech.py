"""`svkit prepare librispeech`: read books; train on `train-*`, evaluate on `test-*`.

Panayotov et al. 2015. `SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac`; the speakers of the subsets are disjoint.
There is no official verification list: one is made, its nontarget trials within one gender (`SPEAKERS.TXT`).
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from svkit.corpora import splits
from svkit.corpora.corpus import DataDirectory, identity, split_and_write
from svkit.corpora.evaluation_lists import named_rows
from svkit.corpora.recognise import wrong_tree
from svkit.corpora.request import CorpusRequest, CorpusResult, EvaluationList
from svkit.corpora.scan import Candidate, scan_files
from svkit.corpora.walk import find_audio
from svkit.errors import DataError
from svkit.progress import Progress
from svkit.store.files import read_file

LAYOUT = "expected ROOT/train-clean-100/SPEAKER/CHAPTER/*.flac and other subsets, and ROOT/SPEAKERS.TXT (OpenSLR 12)"
_SUBSET = re.compile(r"(train|dev|test)-(clean|other)(-\d+)?")
_UTTERANCE = re.compile(r"[^/]+/(?P<speaker>\d+)/(?P<chapter>\d+)/[^/]+")


def run(request: CorpusRequest, progress: Progress) -> CorpusResult:
    """Prepare LibriSpeech.

    Training takes the `train-*` subsets and evaluation the `test-*` ones, else `dev-*`. With evaluation speakers
    or trials asked for, or with one kind of subset only, speakers are split over all subsets.

    Args:
        request: with `root`: `LibriSpeech` or the directory above it.
        progress: counts files.

    Raises:
        DataError: the tree is not LibriSpeech's; see also the files of this package.
    """
    given = (request.root or Path("LibriSpeech")).resolve()
    root = next((place for place in (given, given / "LibriSpeech") if _subsets(place)), None)
    if root is None:
        raise wrong_tree(given, "librispeech", "no subset (train-clean-100, test-clean, ...)", LAYOUT)
    with DataDirectory(request, progress, "librispeech", identity(request)) as data:
        if data.finished is not None:
            return data.finished
        subsets = _subsets(root)
        evaluating = [name for name in subsets if name.startswith("test")] or [
            name for name in subsets if name.startswith("dev")
        ]
        training = [name for name in subsets if name.startswith("train")]
        is_split = bool(training and evaluating and not request.trials and request.eval_speakers is None)
        used = [*training, *evaluating] if is_split else subsets
        if set(subsets) - set(used):
            progress.note(f"not used: {', '.join(sorted(set(subsets) - set(used)))}")
        candidates = _find_audio(root, used)
        table, bad = scan_files(candidates, request.scan, progress)
        data.accept(bad, len(candidates))
        _add_genders(table, root, progress)
        if not is_split:
            return split_and_write(data, table, bad, request, "librispeech", progress)
        is_train = table["utterance_id"].str.startswith("train-")
        trials = splits.make_trials(table[~is_train], request.seed, "librispeech")
        lists = [EvaluationList(name="librispeech", trials=trials, source=None)]
        return data.write(table[is_train], named_rows(table, lists), lists, bad, progress)


def _subsets(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and _SUBSET.fullmatch(entry.name))


def _find_audio(root: Path, subsets: Sequence[str]) -> list[Candidate]:
    found = []
    for subset in subsets:
        for name in find_audio(root / subset):
            place = _UTTERANCE.fullmatch(f"{subset}/{name}")
            if place is None:
                raise DataError(
                    f"{root / subset / name}: expected SUBSET/SPEAKER/CHAPTER/FILE with numbers as names"
                )
            found.append(
                Candidate(
                    utterance_id=f"{subset}/{name}",
                    speaker_id=place["speaker"],
                    session_id=f"{place['speaker']}/{place['chapter']}",
                    path=f"{root.as_posix()}/{subset}/{name}",
                )
            )
    return found


def _add_genders(table: pd.DataFrame, root: Path, progress: Progress) -> None:
    """Add the column `gender` (F, M) where `SPEAKERS.TXT` has every speaker."""
    path = root / "SPEAKERS.TXT"
    genders = {}
    if path.is_file():
        for line in read_file(path, DataError).decode(errors="replace").splitlines():
            fields = [field.strip() for field in line.split("|")]
            if not line.startswith(";") and len(fields) >= 3 and fields[1] in ("F", "M"):
                genders[fields[0]] = fields[1]
    missing = set(table["speaker_id"]) - set(genders)
    if missing:
        progress.note(f"{path}: {len(missing)} speakers without a gender: nontarget trials of both genders")
        return
    table["gender"] = table["speaker_id"].map(genders)
