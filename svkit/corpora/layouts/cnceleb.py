"""`svkit prepare cnceleb`: train on CN-Celeb1 dev and CN-Celeb2, evaluate on the official CN-Celeb.E list.

Fan et al. 2020, Li et al. 2022 (OpenSLR 82). Files are named `GENRE-SESSION-NUMBER`. Each enrollment of the list
(`id00800-enroll`) is one file, concatenated from several utterances. `enroll.map` names these utterances, so that the
mean of their embeddings can be enrolled instead.
"""

import os
from dataclasses import replace
from pathlib import Path

import pandas as pd

from svkit.corpora.joining import join_short
from svkit.corpora.official import take_lists
from svkit.corpora.recognise import CNCELEB_FILE, corpus_root, wrong_tree
from svkit.corpora.request import CorpusRequest, CorpusResult
from svkit.corpora.scan import BadFile, Candidate
from svkit.corpora.skeleton import Found, prepare, uses_official_lists
from svkit.corpora.text_lists import read_lines, read_map
from svkit.corpora.walk import find_audio
from svkit.errors import DataError, first_five
from svkit.progress import Progress
from svkit.store.enrollment import read_enrollment
from svkit.store.lists import official_lists

LAYOUT = (
    "expected ROOT/CN-Celeb_flac with data/id00000/GENRE-SESSION-NUMBER.flac, dev/dev.lst and"
    " eval/{enroll,test,lists}, and ROOT/CN-Celeb2_flac with data and spk.lst (OpenSLR 82)"
)
_FIRST_EVALUATION_SPEAKER = "id00800"
"""The speakers of CN-Celeb1 from here on evaluate; used if `dev/dev.lst` is missing."""


def run(
    request: CorpusRequest, progress: Progress, *, join_below: float = 5.0, allow_other_lists: bool = False
) -> CorpusResult:
    """Prepare CN-Celeb1, CN-Celeb2 or both (DataError: tree, lists or audio are not theirs; see also `prepare`).

    The root is the directory of one of them or the directory above. Training utterances shorter than `join_below`
    seconds are joined with others of their speaker and genre (0: none). `allow_other_lists` accepts a `trials.lst`
    whose counts differ from the official ones.
    """
    root = corpus_root(request.root, "cnceleb", LAYOUT)
    first, second = _find_corpora(root)

    def find(data: Path) -> Found:
        found = Found(groups=[])
        if uses_official_lists(request):
            found = _evaluation(root, first, request, allow_other_lists, progress)
        training = _training_files(first, "CN-Celeb1", "dev/dev.lst", progress)
        training += _training_files(second, "CN-Celeb2", "spk.lst", progress)
        if not training:
            raise wrong_tree(root, "cnceleb", "no training audio (data/id*/*.flac)", LAYOUT)
        # No file is too short for the scan: lists name short test utterances, and short training ones may be joined.
        return replace(
            found,
            groups=[training, *found.groups],
            scan=replace(request.scan, min_seconds=0.0),
            finish=lambda table: _join(table, found, join_below, data / "cnceleb", request, progress),
        )

    options = {"join_below": join_below, "allow_other_lists": allow_other_lists}
    return prepare(request, progress, "cnceleb", find, options)


def _find_corpora(root: Path) -> tuple[Path | None, Path | None]:
    """Return the directories of CN-Celeb1 and CN-Celeb2; None for one that is missing."""
    with os.scandir(root) as entries:
        places = [root, *(root / name for name in sorted(entry.name for entry in entries if entry.is_dir()))]
    first = [p for p in places if (p / "dev" / "dev.lst").is_file() or (p / "eval" / "lists").is_dir()]
    second = [p for p in places if p not in first and (p / "spk.lst").is_file() and (p / "data").is_dir()]
    for name, found in (("CN-Celeb1", first), ("CN-Celeb2", second)):
        if len(found) > 1:
            raise DataError(f"{root}: found {name} more than once: {first_five(found)}; give one as ROOT")
    if not first and not second:
        raise wrong_tree(root, "cnceleb", "neither CN-Celeb1 nor CN-Celeb2", LAYOUT)
    return first[0] if first else None, second[0] if second else None


def _training_files(place: Path | None, corpus: str, listing: str, progress: Progress) -> list[Candidate]:
    if place is None:
        progress.note(f"no {corpus} found: training does without it")
        return []
    path = place / listing
    if path.is_file():
        speakers = {line for _, line in read_lines(path)}
    else:
        speakers = {directory.name for directory in (place / "data").glob("id*")}
        if corpus == "CN-Celeb1":
            speakers = {name for name in speakers if name < _FIRST_EVALUATION_SPEAKER}
    missing = sorted(name for name in speakers if not (place / "data" / name).is_dir())
    if missing:
        progress.note(f"{path}: {len(missing)} speakers without audio: {first_five(missing)}")
    files = [
        _candidate(f"{name}/{file}", place / "data" / name / file, name)
        for name in sorted(speakers.difference(missing))
        for file in find_audio(place / "data" / name)
    ]
    part = "CN-Celeb1 dev" if corpus == "CN-Celeb1" else corpus
    progress.note(f"{part}: {len(speakers) - len(missing):,} speakers and {len(files):,} utterances found")
    return files


def _candidate(utterance_id: str, path: Path, speaker: str) -> Candidate:
    place = CNCELEB_FILE.fullmatch(path.stem)
    session = f"{speaker}/{place['genre']}-{place['session']}" if place else ""
    return Candidate(utterance_id, speaker, session, path.as_posix())


def _join(
    table: pd.DataFrame,
    found: Found,
    join_below: float,
    directory: Path,
    request: CorpusRequest,
    progress: Progress,
) -> tuple[pd.DataFrame, list[BadFile]]:
    """Join short training utterances of one speaker and genre; those still too short are bad."""
    is_evaluation = table["utterance_id"].isin(found.evaluation or ())
    train = table[~is_evaluation]
    if join_below:
        places = [CNCELEB_FILE.fullmatch(Path(path).stem) for path in train["path"]]
        genres = [place["genre"] if place else "other" for place in places]
        groups = [f"{speaker}/{genre}" for speaker, genre in zip(train["speaker_id"], genres, strict=True)]
        train = join_short(train, groups, join_below, directory, request.scan.num_workers, progress)
    min_seconds = request.scan.min_seconds
    seconds = train["num_samples"].astype("int64") / train["sample_rate_hz"].astype("int64")
    detail = f"shorter than {min_seconds:g} s" + " and nothing to join it with" * bool(join_below)
    bad = [
        BadFile(name, "too short", detail, path)
        for name, path in train.loc[seconds < min_seconds, ["utterance_id", "path"]].to_numpy()
    ]
    return pd.concat([train[seconds >= min_seconds], table[is_evaluation]], ignore_index=True), bad


def _evaluation(
    root: Path, first: Path | None, request: CorpusRequest, allow_other: bool, progress: Progress
) -> Found:
    """Return the lists, and the evaluation files under the ids of the lists."""
    if first is None:
        raise DataError(
            f"{root}: no CN-Celeb1 to evaluate on; {LAYOUT}; or hold out speakers of CN-Celeb2 with --eval-speakers N"
            " (0: none)"
        )
    folder = first / "eval"
    entry = next(entry for entry in official_lists() if entry.name == "cnceleb-E")
    paths = list(request.trials) or [folder / "lists" / entry.file]
    lists = take_lists(paths, {entry.file: entry}, allow_other, progress)
    # The audio is flac, but the official lists say wav.
    suffix = Path(str(lists[0].trials.test.values[0])).suffix or ".wav"
    path = folder / "lists" / "enroll.lst"
    enroll_ids = read_map(path, "enrollment path") if path.is_file() else {}
    id_of = {Path(file).stem: name for name, file in enroll_ids.items()}
    files = []
    for name in find_audio(folder / "enroll"):
        stem = Path(name).stem
        files.append(_candidate(id_of.get(stem, stem), folder / "enroll" / name, name.partition("-")[0]))
    for name in find_audio(folder / "test"):
        file = folder / "test" / name
        files.append(_candidate(f"test/{file.stem}{suffix}", file, name.partition("-")[0]))
    groups = [files]
    enrollment = _enrollment_map(folder / "lists" / "enroll.map", first / "data", suffix, progress)
    if enrollment is not None and not request.trials:
        unknown = sorted(set(lists[0].trials.enroll.values) - set(enrollment["enroll_id"]))
        if unknown:
            raise DataError(
                f"{folder}/lists/enroll.map: lacks enrollments of {entry.file}: {first_five(unknown)}"
            )
        members = enrollment[["utterance_id", "path"]].drop_duplicates().to_numpy()
        # In a group of their own, or an enrollment file made of one utterance would be its duplicate.
        groups.append([_candidate(name, Path(path), name.partition("/")[0]) for name, path in members])
        lists = [replace(lists[0], enrollment=enrollment[["enroll_id", "utterance_id"]])]
    evaluation = {file.utterance_id for group in groups for file in group}
    return Found(groups=groups, evaluation=evaluation, lists=lists)


def _enrollment_map(path: Path, audio: Path, suffix: str, progress: Progress) -> pd.DataFrame | None:
    """Return `enroll.map` with the ids used here and a column `path`; None if it cannot be used."""
    if not path.is_file():
        progress.note(f"{path}: does not exist; enrollments are the concatenated files only")
        return None
    table = read_enrollment(path)
    there = {
        f"{speaker}/{Path(name).stem}": (audio / speaker / name).as_posix()
        for speaker in sorted({name.partition("/")[0] for name in table["utterance_id"]})
        if (audio / speaker).is_dir()
        for name in find_audio(audio / speaker)
    }
    stems = [name.rpartition(".")[0] or name for name in table["utterance_id"]]
    missing = sorted(set(stems).difference(there))
    if missing:
        progress.note(
            f"{path}: {len(missing)} utterances that {audio} lacks ({first_five(missing)}); enrollments are the"
            " concatenated files only"
        )
        return None
    return table.assign(
        utterance_id=[f"{stem}{suffix}" for stem in stems], path=[there[stem] for stem in stems]
    )
