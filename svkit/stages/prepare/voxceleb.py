"""`svkit prepare voxceleb`: VoxCeleb2 dev to train on, VoxCeleb1 to evaluate, with the official trial lists.

Nagrani et al. 2017 and Chung et al. 2018. A speaker is a directory `idXXXXX`, a session is a video.
VoxCeleb1 has the ids id10001 to id11251, of which id10270 to id10309 are its test set; all other ids are
VoxCeleb2's.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from svkit.errors import DataError, first_five
from svkit.progress import Progress
from svkit.stages.prepare import splits
from svkit.stages.prepare.corpus import (
    CorpusRequest,
    CorpusResult,
    DataDirectory,
    EvaluationList,
    named_rows,
)
from svkit.stages.prepare.scan import READABLE_SUFFIXES, BadFile, Candidate, find_audio, scan_files
from svkit.store.lists import OfficialList, official_lists
from svkit.store.trials import Trials, read_trials

LAYOUT = """expected below ROOT (names of the upper directories are free):
  voxceleb1/dev/wav/id10001/VIDEO/00001.wav
  voxceleb1/test/wav/id10270/VIDEO/00001.wav
  voxceleb2/dev/wav/id00012/VIDEO/00001.wav
  veri_test2.txt, list_test_all2.txt, list_test_hard2.txt in ROOT, ROOT/meta or ROOT/voxceleb1"""
PUBLISHED_SPEAKERS, PUBLISHED_UTTERANCES = 5_994, 1_092_009
"""VoxCeleb2 dev."""
_SPEAKER = re.compile(r"id\d{5}")
_VOX1, _VOX1_TEST = range(10_001, 11_252), range(10_270, 10_310)
_MAX_DEPTH = 5


@dataclass(frozen=True, kw_only=True)
class _Tree:
    """Audio by part of the corpus."""

    vox1_dev: list[Candidate]
    vox1_test: list[Candidate]
    vox2_dev: list[Candidate]


def run(request: CorpusRequest, progress: Progress, *, allow_other_lists: bool = False) -> CorpusResult:
    """Prepare VoxCeleb.

    Training takes VoxCeleb2 dev, or VoxCeleb1 dev where there is no VoxCeleb2. Evaluation takes what the
    trial lists name: those given, else the official lists found (the cleaned ones first), else a list made
    among the speakers of VoxCeleb1 test.

    Args:
        request: with `root` (None: `./VoxCeleb`).
        progress: counts files and notes differences from what is published.
        allow_other_lists: accept a list that has an official name but not its number of lines.

    Raises:
        DataError: the tree, the lists or the audio are not as they should be.
    """
    root = (request.root or Path("VoxCeleb")).resolve()
    if not root.is_dir():
        raise DataError(f"{root}: no such directory; give ROOT or set SVKIT_VOXCELEB; {LAYOUT}")
    config = {
        "root": root,
        "trials": request.trials,
        "valid_speakers": request.valid_speakers,
        "min_seconds": request.scan.min_seconds,
        "skip_bad": request.scan.skip_bad,
        "reads_samples": request.scan.reads_samples,
        "allow_other_lists": allow_other_lists,
    }
    with DataDirectory(request, "voxceleb", config, "w2v-bert-2.0") as data:
        if data.finished is not None:
            return data.finished
        tree = _find_audio(root, progress)
        lists = _take_lists(root, request, allow_other_lists, progress)
        training = _training_files(tree, lists, progress)
        evaluating = _evaluation_files(tree, lists)
        table, bad = scan_files([*training, *evaluating], request.scan, progress, "reading headers")
        data.accept(bad, len(training) + len(evaluating))
        is_train = table["speaker_id"].isin({file.speaker_id for file in training})
        evaluation = table[~is_train]
        if not lists:
            trials = splits.make_trials(evaluation, request.seed, "voxceleb")
            lists = [EvaluationList(name="voxceleb", trials=trials, source=None)]
        _check_lists(lists, evaluation, bad)
        return data.write(table[is_train], named_rows(evaluation, lists), lists, bad, progress)


def _find_audio(root: Path, progress: Progress) -> _Tree:
    parts: dict[str, dict[str, Candidate]] = {"vox1_dev": {}, "vox1_test": {}, "vox2_dev": {}}
    with progress.task("listing speakers", None) as task:
        for directory in _speaker_directories(root):
            number = int(directory.name[2:])
            if number in _VOX1:
                part = "vox1_test" if number in _VOX1_TEST else "vox1_dev"
            elif any("test" in name.lower() for name in directory.relative_to(root).parts):
                continue  # VoxCeleb2 test: used neither for training nor by any official list
            else:
                part = "vox2_dev"
            _add_speaker(directory, parts[part])
            task.advance()
    if not any(parts.values()):
        raise DataError(f"{root}: no speaker directories idXXXXX with audio below it; {LAYOUT}")
    return _Tree(**{name: [files[key] for key in sorted(files)] for name, files in parts.items()})


def _speaker_directories(directory: Path, depth: int = 0) -> Iterator[Path]:
    try:
        names = sorted(
            entry.name for entry in os.scandir(directory) if entry.is_dir() and entry.name[0] != "."
        )
    except OSError as error:
        raise DataError(f"{directory}: cannot be listed: {error.strerror}") from error
    for name in names:
        if _SPEAKER.fullmatch(name):
            yield directory / name
        elif depth < _MAX_DEPTH:
            yield from _speaker_directories(directory / name, depth + 1)


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


def _take_lists(
    root: Path, request: CorpusRequest, allow_other: bool, progress: Progress
) -> list[EvaluationList]:
    official = {entry.file: entry for entry in official_lists() if entry.name.startswith("vox1")}
    paths = list(request.trials) or _find_lists(root, official, progress)
    lists: list[EvaluationList] = []
    for path in paths:
        trials = read_trials(path)
        entry = official.get(path.name)
        name = path.stem if entry is None else entry.name
        if entry is not None:
            if not allow_other:
                _check_official(path, entry, trials, list(official.values()))
            if not _has_known_bytes(path, entry):
                progress.note(f"{path}: not byte for byte the published {entry.title}")
        if any(other.name == name for other in lists):
            raise DataError(f"{path}: a second list for {name}; give one")
        lists.append(EvaluationList(name=name, trials=trials, source=path))
    return lists


def _find_lists(root: Path, official: dict[str, OfficialList], progress: Progress) -> list[Path]:
    found: dict[str, Path] = {}
    for entry in official.values():
        for pattern in (entry.file, f"*/{entry.file}", f"*/*/{entry.file}"):
            for path in sorted(root.glob(pattern)):
                found.setdefault(entry.name, path)
    originals = [
        name for name in found if name.removesuffix("-original") in found and name.endswith("-original")
    ]
    for name in originals:
        progress.note(
            f"{found.pop(name)} is left out: its cleaned form is there (give it with --trials to use it)"
        )
    return list(found.values())


def _check_official(
    path: Path, entry: OfficialList, trials: Trials, official: Sequence[OfficialList]
) -> None:
    lines, targets = len(trials), int((trials.labels == 1).sum())
    if (lines, targets) == (entry.lines, entry.targets):
        return
    same = [other.title for other in official if (other.lines, other.targets) == (lines, targets)]
    mix_up = f"; these are the counts of {same[0]}: two lists were mixed up" if same else ""
    raise DataError(
        f"{path}: expected {entry.lines:,} lines and {entry.targets:,} targets ({entry.title}), found"
        f" {lines:,} and {targets:,}{mix_up}; get it from {entry.address}, or use --allow-other-lists"
    )


def _has_known_bytes(path: Path, entry: OfficialList) -> bool:
    content = path.read_bytes()
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return entry.md5 in (None, md5) and entry.sha256 in (None, hashlib.sha256(content).hexdigest())


def _training_files(tree: _Tree, lists: Sequence[EvaluationList], progress: Progress) -> list[Candidate]:
    training = tree.vox2_dev or tree.vox1_dev
    if not training:
        raise DataError(f"no training speakers: neither VoxCeleb2 nor VoxCeleb1 dev was found; {LAYOUT}")
    speakers = {file.speaker_id for file in training}
    if tree.vox2_dev:
        found = (len(speakers), len(training))
        if found != (PUBLISHED_SPEAKERS, PUBLISHED_UTTERANCES):
            progress.note(
                f"VoxCeleb2 dev: {found[0]:,} speakers and {found[1]:,} utterances found, published"
                f" {PUBLISHED_SPEAKERS:,} and {PUBLISHED_UTTERANCES:,}"
            )
    else:
        progress.note("no VoxCeleb2 found: VoxCeleb1 dev is the training set")
    for entry in lists:
        shared = sorted(speakers & {name.partition("/")[0] for name in _named(entry)})
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
    named = {name for entry in lists for name in _named(entry)}
    pool = (*tree.vox1_test, *tree.vox1_dev, *tree.vox2_dev)
    return [file for file in pool if file.utterance_id in named]


def _named(entry: EvaluationList) -> list[str]:
    both = np.concatenate([entry.trials.enroll_ids, entry.trials.test_ids])
    return [str(name) for name in pd.unique(both)]


def _check_lists(lists: Sequence[EvaluationList], table: pd.DataFrame, bad: Sequence[BadFile]) -> None:
    left_out = {file.utterance_id for file in bad}
    for entry in lists:
        if entry.source is None:
            continue
        broken = sorted(left_out.intersection(_named(entry)))
        if broken:
            raise DataError(f"{entry.source}: names utterances that cannot be read: {first_five(broken)}")
        splits.check_trials(entry.source, entry.trials, table)
