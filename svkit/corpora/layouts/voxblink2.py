"""`svkit prepare voxblink2`: VoxBlink2 as its own scripts cut it from the downloaded videos.

Lin et al. 2024. `cropper_audio.py` writes `SPEAKER/VIDEO/NUMBER.wav`, a speaker being `id` and six digits; only
annotations are distributed, so how much of the audio there is differs from one download to another.
"""

import re
from pathlib import Path

from svkit.corpora.corpus import DataDirectory, identity, report_difference, split_and_write
from svkit.corpora.recognise import wrong_tree
from svkit.corpora.request import CorpusRequest, CorpusResult
from svkit.corpora.scan import Candidate, scan_files
from svkit.corpora.walk import find_audio, find_speakers
from svkit.errors import DataError
from svkit.progress import Progress

LAYOUT = "expected SPEAKER/VIDEO/NUMBER.wav below ROOT, such as id000000/DwgYRqnQZHM/00000.wav"
PUBLISHED = (111_284, 9_904_382)
"""Speakers and utterances."""
_SPEAKER = re.compile(r"id\d{6}")
_MAX_DEPTH = 3


def run(request: CorpusRequest, progress: Progress) -> CorpusResult:
    """Prepare VoxBlink2.

    It has no verification list of its own among its speakers: evaluation speakers are held out, or none with
    `eval_speakers` 0 (to train on it and evaluate elsewhere, by `merge`).

    Args:
        request: with `root`.
        progress: counts files and notes differences from what is published.

    Raises:
        DataError: the tree is not VoxBlink2's; see also the files of this package.
    """
    root = (request.root or Path("VoxBlink2")).resolve()
    if not root.is_dir():
        raise wrong_tree(root, "voxblink2", "not a directory", LAYOUT)
    with DataDirectory(request, progress, "voxblink2", identity(request)) as data:
        if data.finished is not None:
            return data.finished
        candidates = _find_audio(root, progress)
        if not candidates:
            raise _no_audio(root)
        speakers = len({file.speaker_id for file in candidates})
        report_difference("VoxBlink2", (speakers, len(candidates)), PUBLISHED, progress)
        table, bad = scan_files(candidates, request.scan, progress)
        data.accept(bad, len(candidates))
        return split_and_write(data, table, bad, request, "voxblink2", progress)


def _no_audio(root: Path) -> DataError:
    problem = "no speaker directories idNNNNNN with audio"
    if any(root.glob("meta/id*/*/*.txt")) or any(root.glob("id*/*/*.txt")):
        problem = (
            "time stamps without audio: the videos are still to be downloaded and cut (VoxBlink2's scripts)"
        )
    return wrong_tree(root, "voxblink2", problem, LAYOUT)


def _find_audio(root: Path, progress: Progress) -> list[Candidate]:
    found: list[Candidate] = []
    places: dict[str, Path] = {}
    directories = list(find_speakers(root, _SPEAKER, _MAX_DEPTH))
    with progress.task("listing speakers", len(directories)) as task:
        for directory in directories:
            names = list(find_audio(directory))
            other = places.setdefault(directory.name, directory) if names else directory
            if other != directory:
                raise DataError(
                    f"{root}: {directory.name} is there twice: {other} and {directory}; give one as ROOT"
                )
            for name in names:
                video = name.rpartition("/")[0]
                found.append(
                    Candidate(
                        utterance_id=f"{directory.name}/{name}",
                        speaker_id=directory.name,
                        session_id=f"{directory.name}/{video}" if video else "",
                        path=f"{directory.as_posix()}/{name}",
                    )
                )
            task.advance()
    return found
