"""`svkit prepare librispeech`: audiobooks; train on `train-*`, evaluate on `test-*`.

Panayotov et al. 2015. Files are `SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac`, and no speaker is in two subsets.
There is no official verification list, so one is made; its nontarget trials are within one gender (`SPEAKERS.TXT`).
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from svkit.corpora.recognise import LIBRISPEECH_SUBSET, wrong_tree
from svkit.corpora.request import CorpusRequest, CorpusResult
from svkit.corpora.scan import Candidate
from svkit.corpora.skeleton import Found, prepare
from svkit.corpora.walk import find_audio
from svkit.errors import DataError
from svkit.progress import Progress
from svkit.store.files import read_file

LAYOUT = "expected ROOT/train-clean-100/SPEAKER/CHAPTER/*.flac and other subsets, and ROOT/SPEAKERS.TXT (OpenSLR 12)"
_UTTERANCE = re.compile(r"(?P<speaker>\d+)/(?P<chapter>\d+)/[^/]+")


def run(request: CorpusRequest, progress: Progress) -> CorpusResult:
    """Prepare LibriSpeech (DataError: the tree is not LibriSpeech's; see also `prepare`).

    Training uses the `train-*` subsets and evaluation the `test-*` ones, or else `dev-*`. If evaluation speakers or
    trials are asked for, or if there is only one kind of subset, speakers are split over all subsets. The root is
    `LibriSpeech` or the directory above it.
    """
    given = request.root.resolve()
    root = next((place for place in (given, given / "LibriSpeech") if _subsets(place)), None)
    if root is None:
        raise wrong_tree(given, "librispeech", "no subset (train-clean-100, test-clean, ...)", LAYOUT)
    subsets = _subsets(root)

    def find(data: Path) -> Found:
        training = [name for name in subsets if name.startswith("train")]
        evaluating = [name for name in subsets if name.startswith("test")]
        evaluating = evaluating or [name for name in subsets if name.startswith("dev")]
        has_parts = bool(training and evaluating and not request.trials and request.eval_speakers is None)
        if not has_parts:
            training, evaluating = subsets, []
        unused = sorted({*subsets} - {*training, *evaluating})
        if unused:
            progress.note(f"not used: {', '.join(unused)}")
        files = [file for subset in (*training, *evaluating) for file in _files(root, subset)]
        ids = [file.utterance_id for file in files if file.utterance_id.partition("/")[0] in evaluating]
        genders = _read_genders(root / "SPEAKERS.TXT")
        unknown = {file.speaker_id for file in files} - genders.keys()
        if unknown:
            progress.note(
                f"{root}/SPEAKERS.TXT: {len(unknown)} speakers without a gender, so nontarget trials mix genders"
            )
            # All or none: speakers without a gender would be paired with each other alone.
            genders = {}
        return Found(
            groups=[files],
            evaluation=ids if has_parts else None,
            genders={file.utterance_id: genders[file.speaker_id] for file in files if genders},
        )

    return prepare(request, progress, "librispeech", find)


def _subsets(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        return sorted(e.name for e in entries if e.is_dir() and LIBRISPEECH_SUBSET.fullmatch(e.name))


def _files(root: Path, subset: str) -> Iterator[Candidate]:
    for name in find_audio(root / subset):
        place = _UTTERANCE.fullmatch(name)
        if place is None:
            raise DataError(
                f"{root / subset / name}: expected SUBSET/SPEAKER/CHAPTER/FILE with numbers as names"
            )
        speaker, chapter = place["speaker"], place["chapter"]
        path = f"{root.as_posix()}/{subset}/{name}"
        yield Candidate(f"{subset}/{name}", speaker, f"{speaker}/{chapter}", path)


def _read_genders(path: Path) -> dict[str, str]:
    """Return the gender (F or M) of each speaker whose line has one."""
    genders = {}
    if path.is_file():
        for line in read_file(path, DataError).decode(errors="replace").splitlines():
            fields = [field.strip() for field in line.split("|")]
            if not line.startswith(";") and len(fields) >= 3 and fields[1] in ("F", "M"):
                genders[fields[0]] = fields[1]
    return genders
