"""`svkit prepare voxceleb`: train on VoxCeleb2 dev, evaluate on VoxCeleb1 with the official trial lists.

Nagrani et al. 2017 and Chung et al. 2018. A speaker is a directory `idXXXXX`, and a session is a video. VoxCeleb1 has
the ids id10001 to id11251, of which id10270 to id10309 are its test set. All other ids belong to VoxCeleb2, whose audio
is distributed as AAC (`dev/aac/idXXXXX/VIDEO/NNNNN.m4a`) and converted here.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from svkit.corpora import official
from svkit.corpora.conversion import Conversion, convert_files
from svkit.corpora.recognise import corpus_root, wrong_tree
from svkit.corpora.request import CorpusRequest, CorpusResult, EvaluationList
from svkit.corpora.scan import Candidate
from svkit.corpora.skeleton import Found, compare_counts, prepare, uses_official_lists
from svkit.corpora.walk import READABLE_SUFFIXES, list_speakers, speaker_files
from svkit.errors import DataError, first_five
from svkit.progress import Progress

LAYOUT = (
    "expected below ROOT (the upper directories may have any names): "
    "voxceleb1/dev/wav/id10001/VIDEO/00001.wav,"
    " voxceleb1/test/wav/id10270/VIDEO/00001.wav, voxceleb2/dev/aac/id00012/VIDEO/00001.m4a (or wav)"
)
VOX2, VOX1_DEV, VOX1_TEST = "VoxCeleb2 dev", "VoxCeleb1 dev", "VoxCeleb1 test"
PUBLISHED = {VOX2: (5_994, 1_092_009), VOX1_DEV: (1_211, 148_642), VOX1_TEST: (40, 4_874)}
"""Numbers of speakers and utterances."""
_SPEAKER, _MAX_DEPTH = re.compile(r"id\d{5}"), 5

Parts = Mapping[str, Sequence[Candidate]]


def run(
    request: CorpusRequest,
    progress: Progress,
    *,
    conversion: Conversion | None = None,
    downloads_lists: bool = False,
    allow_other_lists: bool = False,
    is_strict: bool = False,
) -> CorpusResult:
    """Prepare VoxCeleb.

    Training uses VoxCeleb2 dev, or VoxCeleb1 dev if there is no VoxCeleb2. Evaluation uses what the trial lists name:
    those given, else official lists found below the root (cleaned ones are preferred) or downloaded, else a list made
    from the speakers of VoxCeleb1 test. If evaluation speakers are asked for, they are held out of the training set
    instead.

    `conversion` is how the AAC files of VoxCeleb2 are converted (None: to flac, beside them). `allow_other_lists`
    accepts a list with an official name but other counts. `is_strict` refuses a VoxCeleb2 dev whose numbers of speakers
    and utterances are not the published ones.

    Raises:
        ConfigError: there are files to convert, but no ffmpeg.
        DataError: the tree, the lists or the audio are not those of VoxCeleb.
        ArtifactError: there is not enough room for the converted files.
    """
    advice = f"give ROOT or set SVKIT_VOXCELEB; {LAYOUT}"
    root = corpus_root(request.root, "voxceleb", advice)
    conversion = replace(conversion or Conversion(), all_channels=request.scan.channel != 0)

    def find(data: Path) -> Found:
        is_official = uses_official_lists(request)
        parts = _find_parts(root, progress)
        lists: list[EvaluationList] = []
        if is_official:
            known = official.voxceleb_lists()
            paths = list(request.trials) or official.find_lists(root, known, progress)
            if not paths and downloads_lists:
                usable = [entry for entry in known.values() if entry.name in _usable_lists(parts)]
                paths = official.download_lists(usable, data / "official_lists", progress)
            lists = official.take_lists(paths, known, allow_other_lists, progress)
        training = _training_files(parts, lists, is_strict, progress)
        evaluating = _evaluation_files(parts, lists, progress) if is_official else []
        found, workers = [*training, *evaluating], request.scan.num_workers
        files, bad = convert_files(
            found, conversion, lambda file: _target(file, conversion), workers, progress
        )
        evaluation = {file.utterance_id for file in evaluating} if is_official else None
        return Found(groups=[files], bad=bad, evaluation=evaluation, lists=lists)

    config = {"allow_other_lists": allow_other_lists, "convert": conversion.is_wanted, "strict": is_strict}
    return prepare(request, progress, "voxceleb", find, config)


def _target(file: Candidate, conversion: Conversion) -> Path:
    """Return where the conversion of `.../aac/idXXXXX/VIDEO/NNNNN.m4a` goes: `.../flac/idXXXXX/VIDEO/NNNNN.flac`."""
    name = os.path.splitext(file.utterance_id)[0] + conversion.suffix  # noqa: PTH122
    if conversion.directory is not None:
        return conversion.directory.resolve() / name
    above = Path(file.path).parents[len(Path(name).parts) - 1]
    return (above.parent if above.name == "aac" else above) / conversion.suffix[1:] / name


def _find_parts(root: Path, progress: Progress) -> Parts:
    """Return the audio of each part, with the ids of the official lists, which end in `.wav` whatever the format."""
    parts: dict[str, dict[str, Candidate]] = {part: {} for part in PUBLISHED}
    for directory in list_speakers(root, _SPEAKER, _MAX_DEPTH, progress):
        number = int(directory.name[2:])
        if 10_001 <= number <= 11_251:
            files = parts[VOX1_TEST if 10_270 <= number <= 10_309 else VOX1_DEV]
        elif any("test" in name.lower() for name in directory.relative_to(root).parts):
            continue  # VoxCeleb2 test is used neither for training nor by any official list
        else:
            files = parts[VOX2]
        for file in speaker_files(directory):
            stem = os.path.splitext(file.utterance_id)[0]  # noqa: PTH122 (a million names: no Path objects)
            file = replace(file, utterance_id=f"{stem}.wav")
            other = files.get(file.utterance_id)
            # If an utterance is there both converted and as distributed (m4a), take the one that can be read.
            if other is None or _rank(file.path) < _rank(other.path):
                files[file.utterance_id] = file
    if not any(parts.values()):
        raise wrong_tree(root, "voxceleb", "no speaker directories idXXXXX with audio below it", LAYOUT)
    return {part: [files[key] for key in sorted(files)] for part, files in parts.items()}


def _rank(path: str) -> int:
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122
    return 0 if suffix == ".wav" else 1 if suffix in READABLE_SUFFIXES else 2


def _usable_lists(parts: Parts) -> set[str]:
    """Return the names of the cleaned lists whose audio is there."""
    if not parts[VOX1_TEST]:
        return set()
    # Vox1-E and H need all of VoxCeleb1, whose dev speakers train if there is no VoxCeleb2.
    return {"vox1-O", "vox1-E", "vox1-H"} if parts[VOX1_DEV] and parts[VOX2] else {"vox1-O"}


def _training_files(
    parts: Parts, lists: Sequence[EvaluationList], is_strict: bool, progress: Progress
) -> Sequence[Candidate]:
    training = parts[VOX2] or parts[VOX1_DEV]
    if not training:
        raise DataError(f"no training speakers: neither VoxCeleb2 nor VoxCeleb1 dev was found; {LAYOUT}")
    for part, files in parts.items():
        must_match = is_strict and part == VOX2
        if files or must_match:
            compare_counts(part, files, PUBLISHED[part], progress, is_strict=must_match)
    if not parts[VOX2]:
        progress.note("no VoxCeleb2 found: training uses VoxCeleb1 dev")
    speakers = {file.speaker_id for file in training}
    for entry in lists:
        shared = sorted(speakers & {name.partition("/")[0] for name in entry.trials.ids})
        if shared:
            raise DataError(
                f"{entry.source}: names training speakers ({first_five(shared)}); without VoxCeleb2, only"
                " VoxCeleb1-O can be evaluated: give it alone with --trials"
            )
    return training


def _evaluation_files(
    parts: Parts, lists: Sequence[EvaluationList], progress: Progress
) -> Sequence[Candidate]:
    """Return the files that the lists name, or VoxCeleb1 test if there are no lists."""
    if lists:
        named = {name for entry in lists for name in entry.trials.ids}
        return [file for part in (VOX1_TEST, VOX1_DEV) for file in parts[part] if file.utterance_id in named]
    if not parts[VOX1_TEST]:
        raise DataError(f"no evaluation speakers: neither trial lists nor VoxCeleb1 test was found; {LAYOUT}")
    progress.note("no official trial list found: one is made from the speakers of VoxCeleb1 test")
    return parts[VOX1_TEST]
