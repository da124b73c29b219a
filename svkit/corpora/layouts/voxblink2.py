"""`svkit prepare voxblink2`: VoxBlink2 as its own scripts cut it from the downloaded videos.

Lin et al. 2024. `cropper_audio.py` writes `SPEAKER/VIDEO/NUMBER.wav`, where a speaker is `id` with six digits. Only
annotations are distributed, so the amount of audio differs between downloads.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from svkit.corpora.recognise import corpus_root, wrong_tree
from svkit.corpora.request import CorpusRequest, CorpusResult
from svkit.corpora.scan import Candidate, CandidateTable
from svkit.corpora.skeleton import Found, compare_counts, prepare
from svkit.corpora.walk import list_speakers, speaker_files
from svkit.errors import DataError
from svkit.progress import Progress

LAYOUT = "expected SPEAKER/VIDEO/NUMBER.wav below ROOT, such as id000000/DwgYRqnQZHM/00000.wav"
PUBLISHED = (111_284, 9_904_382)
"""Numbers of speakers and utterances."""
_SPEAKER, _MAX_DEPTH = re.compile(r"id\d{6}"), 3


def run(request: CorpusRequest, progress: Progress) -> CorpusResult:
    """Prepare VoxBlink2 (DataError: the tree is not VoxBlink2's; see also `prepare`).

    There is no verification list among its speakers, so some are held out for evaluation. With `eval_speakers` 0 all of
    them train, to merge the list with others (`svkit prepare merge`) and evaluate elsewhere.
    """
    root = corpus_root(request.root, "voxblink2", LAYOUT)
    return prepare(request, progress, "voxblink2", lambda data: _find(root, progress))


def _find(root: Path, progress: Progress) -> Found:
    files = CandidateTable(_files(root, progress))
    if not len(files):
        has_stamps = any(root.glob("meta/id*/*/*.txt")) or any(root.glob("id*/*/*.txt"))
        problem = (
            "time stamps without audio: download the videos and cut them with VoxBlink2's scripts first"
            if has_stamps
            else "no speaker directories idNNNNNN with audio"
        )
        raise wrong_tree(root, "voxblink2", problem, LAYOUT)
    compare_counts("VoxBlink2", files, PUBLISHED, progress)
    return Found(groups=[files])


def _files(root: Path, progress: Progress) -> Iterator[Candidate]:
    places: dict[str, Path] = {}
    for directory in list_speakers(root, _SPEAKER, _MAX_DEPTH, progress):
        for file in speaker_files(directory):
            other = places.setdefault(directory.name, directory)
            if other != directory:
                raise DataError(
                    f"{root}: {directory.name} appears twice, in {other} and {directory}; give one as ROOT"
                )
            yield file
