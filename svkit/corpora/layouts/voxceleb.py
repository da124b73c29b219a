"""`svkit prepare voxceleb`: VoxCeleb2 dev to train on, VoxCeleb1 to evaluate, with the official trial lists.

Nagrani et al. 2017 and Chung et al. 2018. A speaker is a directory `idXXXXX`, a session is a video.
VoxCeleb1 has the ids id10001 to id11251, of which id10270 to id10309 are its test set; all other ids are
VoxCeleb2's, whose audio is distributed as AAC (`dev/aac/idXXXXX/VIDEO/NNNNN.m4a`) and converted here.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from svkit.corpora import official, splits
from svkit.corpora.conversion import Conversion, convert_files
from svkit.corpora.corpus import DataDirectory, identity, report_difference, split_and_write
from svkit.corpora.evaluation_lists import named_rows
from svkit.corpora.recognise import wrong_tree
from svkit.corpora.request import CorpusRequest, CorpusResult, EvaluationList
from svkit.corpora.scan import BadFile, Candidate, scan_files
from svkit.corpora.walk import READABLE_SUFFIXES, find_audio, find_speakers
from svkit.errors import ConfigError, DataError, first_five
from svkit.progress import Progress
from svkit.store.lists import OfficialList

LAYOUT = (
    "expected below ROOT (upper directories as you like): voxceleb1/dev/wav/id10001/VIDEO/00001.wav,"
    " voxceleb1/test/wav/id10270/VIDEO/00001.wav, voxceleb2/dev/aac/id00012/VIDEO/00001.m4a (or wav)"
)
PUBLISHED = {
    "VoxCeleb2 dev": (5_994, 1_092_009),
    "VoxCeleb1 dev": (1_211, 148_642),
    "VoxCeleb1 test": (40, 4_874),
}
"""Speakers and utterances."""
_SPEAKER = re.compile(r"id\d{5}")
_VOX1, _VOX1_TEST = range(10_001, 11_252), range(10_270, 10_310)
_MAX_DEPTH = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class VoxcelebOptions:
    """What is particular to this corpus."""

    conversion: Conversion = Conversion()
    """Of the AAC files of VoxCeleb2."""
    downloads_lists: bool = False
    """Get the official lists that are neither given nor in ROOT."""
    allow_other_lists: bool = False
    """Accept a list that has an official name but not its number of lines."""
    is_strict: bool = False
    """Refuse a VoxCeleb2 dev with other numbers of speakers or utterances than published."""


@dataclass(frozen=True, kw_only=True)
class _Tree:
    """Audio by part of the corpus."""

    vox1_dev: list[Candidate]
    vox1_test: list[Candidate]
    vox2_dev: list[Candidate]


def run(request: CorpusRequest, progress: Progress, options: VoxcelebOptions | None = None) -> CorpusResult:
    """Prepare VoxCeleb.

    Training takes VoxCeleb2 dev, or VoxCeleb1 dev where there is no VoxCeleb2. Evaluation takes what the
    trial lists name: those given, else the official lists found (the cleaned ones first) or downloaded, else a list
    made among the speakers of VoxCeleb1 test. With evaluation speakers asked for, these are held out of the
    training set instead.

    Args:
        request: with `root` (None: `./VoxCeleb`).
        progress: counts files and notes differences from what is published.
        options: see there.

    Raises:
        ConfigError: files to convert and no ffmpeg.
        DataError: the tree, the lists or the audio are not as they should be.
        ArtifactError: no room for what is converted.
    """
    options = options or VoxcelebOptions()
    root = (request.root or Path("VoxCeleb")).resolve()
    if not root.is_dir():
        raise DataError(f"{root}: no such directory; give ROOT or set SVKIT_VOXCELEB; {LAYOUT}")
    config = {
        **identity(request),
        "root": root,
        "allow_other_lists": options.allow_other_lists,
        "convert": options.conversion.is_wanted,
        "strict": options.is_strict,
    }
    with DataDirectory(request, progress, "voxceleb", config) as data:
        if data.finished is not None:
            return data.finished
        tree = _find_audio(root, progress)
        is_official = request.eval_speakers is None
        if is_official and request.match_ids:
            raise ConfigError(
                "--match-ids: the lists of this corpus name its files as they are; leave it out"
            )
        lists: list[EvaluationList] = []
        if is_official:
            paths = _list_paths(root, tree, data.path, request, options, progress)
            lists = official.take_lists(paths, official.voxceleb_lists(), options.allow_other_lists, progress)
        training = _training_files(tree, lists, options.is_strict, progress)
        evaluating = _evaluation_files(tree, lists) if is_official else []
        files, bad = convert_files(
            [*training, *evaluating],
            replace(options.conversion, all_channels=request.scan.channel != 0),
            lambda file: _target(file, options.conversion),
            request.scan.num_workers,
            progress,
        )
        table, unusable = scan_files(files, request.scan, progress, "reading headers")
        bad += unusable
        data.accept(bad, len(training) + len(evaluating))
        if not is_official:
            return split_and_write(data, table, bad, request, "voxceleb", progress)
        is_train = table["speaker_id"].isin({file.speaker_id for file in training})
        evaluation = table[~is_train]
        if not lists:
            trials = splits.make_trials(evaluation, request.seed, "voxceleb")
            lists = [EvaluationList(name="voxceleb", trials=trials, source=None)]
            progress.note("no official trial list: the one written was made among the evaluation speakers")
        _check_lists(lists, evaluation, bad)
        return data.write(table[is_train], named_rows(evaluation, lists), lists, bad, progress)


def _target(file: Candidate, conversion: Conversion) -> Path:
    """Return where the conversion of `.../aac/idXXXXX/VIDEO/NNNNN.m4a` goes: `.../flac/idXXXXX/VIDEO/NNNNN.flac`."""
    name = os.path.splitext(file.utterance_id)[0] + conversion.suffix  # noqa: PTH122
    if conversion.directory is not None:
        return conversion.directory.resolve() / name
    above = Path(file.path).parents[len(Path(name).parts) - 1]
    return (above.parent if above.name == "aac" else above) / conversion.suffix[1:] / name


def _find_audio(root: Path, progress: Progress) -> _Tree:
    parts: dict[str, dict[str, Candidate]] = {"vox1_dev": {}, "vox1_test": {}, "vox2_dev": {}}
    directories = list(find_speakers(root, _SPEAKER, _MAX_DEPTH))
    with progress.task("listing speakers", len(directories)) as task:
        for directory in directories:
            part = _part(directory, root)
            if part is not None:
                _add_speaker(directory, parts[part])
            task.advance()
    if not any(parts.values()):
        raise wrong_tree(root, "voxceleb", "no speaker directories idXXXXX with audio below it", LAYOUT)
    return _Tree(**{name: [files[key] for key in sorted(files)] for name, files in parts.items()})


def _part(directory: Path, root: Path) -> str | None:
    """Return what a speaker belongs to; None: VoxCeleb2 test, used neither for training nor by any official list."""
    number = int(directory.name[2:])
    if number in _VOX1:
        return "vox1_test" if number in _VOX1_TEST else "vox1_dev"
    if any("test" in name.lower() for name in directory.relative_to(root).parts):
        return None
    return "vox2_dev"


def _add_speaker(directory: Path, files: dict[str, Candidate]) -> None:
    """Add a speaker's files under the ids of the official lists, which end in `.wav` whatever the format."""
    for name in find_audio(directory):
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 (a million names: no Path objects)
        candidate = Candidate(
            utterance_id=f"{directory.name}/{stem}.wav",
            speaker_id=directory.name,
            session_id=f"{directory.name}/{name.rpartition('/')[0]}",
            path=f"{directory.as_posix()}/{name}",
        )
        other = files.get(candidate.utterance_id)
        # The same utterance as wav and as distributed (m4a): the one that can be read.
        if other is None or (_rank(suffix) < _rank(Path(other.path).suffix)):
            files[candidate.utterance_id] = candidate


def _rank(suffix: str) -> int:
    return 0 if suffix.lower() == ".wav" else 1 if suffix.lower() in READABLE_SUFFIXES else 2


def _list_paths(
    root: Path,
    tree: _Tree,
    data: Path,
    request: CorpusRequest,
    options: VoxcelebOptions,
    progress: Progress,
) -> list[Path]:
    """Return the lists to use: those given, else those found in `root`, else those that can be downloaded."""
    known = official.voxceleb_lists()
    paths = list(request.trials) or official.find_lists(root, known, progress)
    if paths or not options.downloads_lists:
        return paths
    return official.download_lists(_usable_lists(tree, known.values()), data / "official_lists", progress)


def _usable_lists(tree: _Tree, known: Iterable[OfficialList]) -> list[OfficialList]:
    """Return the cleaned lists that there is audio for: O needs VoxCeleb1 test, E and H all of VoxCeleb1."""
    names = {"vox1-O"} if tree.vox1_test else set()
    # Without VoxCeleb2, the speakers of E and H train.
    if tree.vox1_test and tree.vox1_dev and tree.vox2_dev:
        names |= {"vox1-E", "vox1-H"}
    return [entry for entry in known if entry.name in names]


def _training_files(
    tree: _Tree, lists: Sequence[EvaluationList], is_strict: bool, progress: Progress
) -> list[Candidate]:
    training = tree.vox2_dev or tree.vox1_dev
    if not training:
        raise DataError(f"no training speakers: neither VoxCeleb2 nor VoxCeleb1 dev was found; {LAYOUT}")
    for part, files in (
        ("VoxCeleb2 dev", tree.vox2_dev),
        ("VoxCeleb1 dev", tree.vox1_dev),
        ("VoxCeleb1 test", tree.vox1_test),
    ):
        found = (len({file.speaker_id for file in files}), len(files))
        if files:
            report_difference(part, found, PUBLISHED[part], progress)
        if is_strict and part == "VoxCeleb2 dev" and found != PUBLISHED[part]:
            raise DataError(
                f"VoxCeleb2 dev: expected {PUBLISHED[part][0]:,} speakers and {PUBLISHED[part][1]:,} utterances,"
                f" found {found[0]:,} and {found[1]:,}; complete it, or leave --strict out"
            )
    if not tree.vox2_dev:
        progress.note("no VoxCeleb2 found: VoxCeleb1 dev is the training set")
    speakers = {file.speaker_id for file in training}
    for entry in lists:
        shared = sorted(speakers & {name.partition("/")[0] for name in entry.trials.ids})
        if shared:
            raise DataError(
                f"{entry.source}: names training speakers ({first_five(shared)}); without VoxCeleb2, only"
                " VoxCeleb1-O can be evaluated: give it alone with --trials"
            )
    return training


def _evaluation_files(tree: _Tree, lists: Sequence[EvaluationList]) -> list[Candidate]:
    """Return the files that the lists name, or VoxCeleb1 test where there are no lists."""
    if not lists:
        if not tree.vox1_test:
            raise DataError(
                f"no evaluation speakers: neither trial lists nor VoxCeleb1 test was found; {LAYOUT}"
            )
        return tree.vox1_test
    named = {name for entry in lists for name in entry.trials.ids}
    pool = (*tree.vox1_test, *tree.vox1_dev, *tree.vox2_dev)
    return [file for file in pool if file.utterance_id in named]


def _check_lists(lists: Sequence[EvaluationList], table: pd.DataFrame, bad: Sequence[BadFile]) -> None:
    left_out = {file.utterance_id for file in bad}
    for entry in lists:
        if entry.source is None:
            continue
        broken = sorted(left_out.intersection(entry.trials.ids))
        if broken:
            raise DataError(f"{entry.source}: names utterances that cannot be read: {first_five(broken)}")
        splits.check_trials(entry.source, entry.trials, table)
