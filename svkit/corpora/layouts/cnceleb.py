"""`svkit prepare cnceleb`: CN-Celeb1 dev and CN-Celeb2 to train on, the official CN-Celeb.E list to evaluate.

Fan et al. 2020, Li et al. 2022 (OpenSLR 82). Files are called `GENRE-SESSION-NUMBER`. The list's enrollments
(`id00800-enroll`) are one file each, made of several utterances; `enroll.map` names these, for enrollment by the
mean of their embeddings.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from svkit.corpora import splits
from svkit.corpora.corpus import DataDirectory, identity, split_and_write
from svkit.corpora.evaluation_lists import named_rows
from svkit.corpora.joining import join_short
from svkit.corpora.official import check_counts
from svkit.corpora.recognise import CNCELEB_FILE, wrong_tree
from svkit.corpora.request import CorpusRequest, CorpusResult, EvaluationList
from svkit.corpora.scan import BadFile, Candidate, make_bad, scan_files
from svkit.corpora.walk import find_audio
from svkit.errors import ConfigError, DataError, first_five
from svkit.progress import Progress
from svkit.store.enrollment import read_enrollment
from svkit.store.lists import OfficialList, official_lists
from svkit.store.tables import read_bytes
from svkit.store.trials import read_trials

LAYOUT = (
    "expected ROOT/CN-Celeb_flac with data/id00000/GENRE-SESSION-NUMBER.flac, dev/dev.lst and"
    " eval/{enroll,test,lists}, and ROOT/CN-Celeb2_flac with data and spk.lst (OpenSLR 82)"
)
_FIRST_EVALUATION_SPEAKER = "id00800"
"""The speakers of CN-Celeb1 from here on evaluate (used where `dev/dev.lst` is missing)."""


@dataclass(frozen=True, kw_only=True)
class _Places:
    """The directories of the two corpora; None where one is missing."""

    first: Path | None
    second: Path | None


def run(
    request: CorpusRequest, progress: Progress, *, join_below: float = 5.0, allow_other_lists: bool = False
) -> CorpusResult:
    """Prepare CN-Celeb.

    Args:
        request: with `root`: the directory of one corpus, or the one above both.
        progress: counts files.
        join_below: training utterances shorter than this many seconds are joined with others of the same speaker
            and genre; 0: none.
        allow_other_lists: accept a `trials.lst` with other counts than the official one.

    Raises:
        DataError: the tree, the lists or the audio are not as they should be.
    """
    root = (request.root or Path("CN-Celeb")).resolve()
    places = _find_places(root)
    config = {**identity(request), "join_below": join_below, "allow_other_lists": allow_other_lists}
    with DataDirectory(request, progress, "cnceleb", config) as data:
        if data.finished is not None:
            return data.finished
        is_official = request.eval_speakers is None
        if is_official and request.match_ids:
            raise ConfigError(
                "--match-ids: the lists of this corpus name its files as they are; leave it out"
            )
        if is_official and places.first is None:
            raise DataError(
                f"{root}: no CN-Celeb1 to evaluate on; {LAYOUT}; --eval-speakers N holds out speakers of CN-Celeb2"
                " (0: none)"
            )
        training = _training_files(places, progress)
        if not training:
            raise wrong_tree(root, "cnceleb", "no training audio (data/id*/*.flac)", LAYOUT)
        # What is joined may be short; what is left short afterwards is not.
        options = replace(request.scan, min_seconds=0.0) if join_below else request.scan
        table, bad = scan_files(training, options, progress, "reading training audio")
        evaluation, num_files = pd.DataFrame(), 0
        lists: list[EvaluationList] = []
        if is_official:
            evaluation, lists, broken, num_files = _evaluation(places, request, allow_other_lists, progress)
            bad += broken
        data.accept(bad, len(training) + num_files)
        if join_below:
            groups = [_group(name) for name in table["utterance_id"]]
            table = join_short(
                table, groups, join_below, data.path / "cnceleb", request.scan.num_workers, progress
            )
            table, short = _leave_out_short(table, request.scan.min_seconds)
            bad += short
            data.accept(bad, len(training) + num_files)
        if not is_official:
            return split_and_write(data, table, bad, request, "cnceleb", progress)
        return data.write(table, named_rows(evaluation, lists), lists, bad, progress)


def _find_places(root: Path) -> _Places:
    if not root.is_dir():
        raise wrong_tree(root, "cnceleb", "not a directory", LAYOUT)
    with os.scandir(root) as entries:
        below = [root / entry.name for entry in sorted(entries, key=lambda e: e.name) if entry.is_dir()]
    first = [
        p for p in (root, *below) if (p / "dev" / "dev.lst").is_file() or (p / "eval" / "lists").is_dir()
    ]
    second = [
        p for p in (root, *below) if p not in first and (p / "spk.lst").is_file() and (p / "data").is_dir()
    ]
    for name, found in (("CN-Celeb1", first), ("CN-Celeb2", second)):
        if len(found) > 1:
            raise DataError(f"{root}: {name} is there more than once: {first_five(found)}; give one as ROOT")
    if not first and not second:
        raise wrong_tree(root, "cnceleb", "neither CN-Celeb1 nor CN-Celeb2", LAYOUT)
    return _Places(first=first[0] if first else None, second=second[0] if second else None)


def _training_files(places: _Places, progress: Progress) -> list[Candidate]:
    training: list[Candidate] = []
    for corpus, place, listing in (
        ("CN-Celeb1 dev", places.first, "dev/dev.lst"),
        ("CN-Celeb2", places.second, "spk.lst"),
    ):
        if place is None:
            progress.note(f"no {corpus.removesuffix(' dev')} found: training goes without it")
            continue
        path = place / listing
        if path.is_file():
            speakers = [line.strip() for line in read_bytes(path).decode().split("\n") if line.strip()]
        else:
            speakers = [path.name for path in (place / "data").glob("id*")]
            speakers = [
                name for name in speakers if corpus == "CN-Celeb2" or name < _FIRST_EVALUATION_SPEAKER
            ]
        missing = [name for name in speakers if not (place / "data" / name).is_dir()]
        if missing:
            progress.note(f"{path}: {len(missing)} speakers without audio: {first_five(missing)}")
        found = [
            _candidate(f"{name}/{file}", place / "data" / name / file, name)
            for name in sorted(set(speakers) - set(missing))
            for file in find_audio(place / "data" / name)
        ]
        progress.note(
            f"{corpus}: {len(speakers) - len(missing):,} speakers and {len(found):,} utterances found"
        )
        training += found
    return training


def _candidate(utterance_id: str, path: Path, speaker: str) -> Candidate:
    stem = path.stem.removeprefix(f"{speaker}-")
    place = CNCELEB_FILE.fullmatch(stem)
    session = f"{speaker}/{place['genre']}-{place['session']}" if place else ""
    return Candidate(utterance_id=utterance_id, speaker_id=speaker, session_id=session, path=path.as_posix())


def _group(utterance_id: str) -> str:
    speaker, _, name = utterance_id.partition("/")
    place = CNCELEB_FILE.fullmatch(name.rpartition(".")[0])
    return f"{speaker}/{place['genre'] if place else 'other'}"


def _leave_out_short(table: pd.DataFrame, min_seconds: float) -> tuple[pd.DataFrame, list[BadFile]]:
    seconds = table["num_samples"].astype("int64") / table["sample_rate_hz"].astype("int64")
    is_short = seconds < min_seconds
    bad = [
        make_bad(
            Candidate(utterance_id=name, speaker_id="", session_id="", path=path),
            "too short",
            f"shorter than {min_seconds:g} s and nothing to join it with",
        )
        for name, path in zip(table["utterance_id"][is_short], table["path"][is_short], strict=True)
    ]
    return table[~is_short], bad


def _evaluation(
    places: _Places, request: CorpusRequest, allow_other: bool, progress: Progress
) -> tuple[pd.DataFrame, list[EvaluationList], list[BadFile], int]:
    """Return rows, lists, bad files and the number of files of the evaluation."""
    assert places.first is not None
    folder = places.first / "eval"
    source = folder / "lists" / "trials.lst"
    paths = list(request.trials) or [source]
    entry = next(entry for entry in official_lists() if entry.name == "cnceleb-E")
    lists = [_read_list(path, entry, allow_other) for path in paths]
    # Audio is flac, the official lists say wav: ids are as in the lists.
    suffix = Path(str(lists[0].trials.test.values[0])).suffix or ".wav"
    enroll_ids = _enrollment_ids(folder / "lists" / "enroll.lst")
    files = [
        _candidate(
            enroll_ids.get(Path(name).stem, Path(name).stem), folder / "enroll" / name, name.split("-")[0]
        )
        for name in find_audio(folder / "enroll")
    ] + [
        _candidate(f"test/{Path(name).stem}{suffix}", folder / "test" / name, name.split("-")[0])
        for name in find_audio(folder / "test")
    ]
    options = replace(request.scan, min_seconds=0.0)
    table, bad = scan_files(files, options, progress, "reading evaluation audio")
    for entry_list, path in zip(lists, paths, strict=True):
        splits.check_trials(path, entry_list.trials, table, "are missing or cannot be read")
    enrollment = _enrollment_map(folder / "lists" / "enroll.map", places.first / "data", suffix, progress)
    if enrollment is not None and not request.trials:
        unknown = sorted(set(lists[0].trials.enroll.values) - set(enrollment["enroll_id"]))
        if unknown:
            raise DataError(
                f"{folder}/lists/enroll.map: lacks enrollments of {source.name}: {first_five(unknown)}"
            )
        members = [
            _candidate(str(name), Path(path), str(name).partition("/")[0])
            for name, path in enrollment[["utterance_id", "path"]].drop_duplicates().to_numpy()
        ]
        # Scanned alone: an enrollment of one utterance is no duplicate of it.
        rows, broken = scan_files(members, options, progress, "reading enrollment audio")
        table, bad = pd.concat([table, rows], ignore_index=True), [*bad, *broken]
        files += members
        lists = [replace(lists[0], enrollment=enrollment[["enroll_id", "utterance_id"]])]
    return table, lists, bad, len(files)


def _read_list(path: Path, entry: OfficialList, allow_other: bool) -> EvaluationList:
    trials = read_trials(path)
    is_official = path.name == entry.file
    if is_official and not allow_other:
        check_counts(path, entry, trials, [entry])
    return EvaluationList(name=entry.name if is_official else path.stem, trials=trials, source=path)


def _enrollment_ids(path: Path) -> dict[str, str]:
    """Return the stem of each enrollment file -> its id in the trials (`enroll.lst`: `id path`)."""
    if not path.is_file():
        return {}
    ids = {}
    for number, line in enumerate(read_bytes(path).decode().split("\n"), start=1):
        fields = line.split()
        if fields and len(fields) != 2:
            raise DataError(f"{path}:{number}: expected `enrollment path`, found {line[:80]!r}")
        if fields:
            ids[Path(fields[1]).stem] = fields[0]
    return ids


def _enrollment_map(path: Path, audio: Path, suffix: str, progress: Progress) -> pd.DataFrame | None:
    """Return `enroll.map` with ids as elsewhere and the column `path`; None where it cannot be used."""
    if not path.is_file():
        progress.note(f"{path}: not there; enrollments are their concatenated files only")
        return None
    table = read_enrollment(path)
    speakers = sorted({name.partition("/")[0] for name in table["utterance_id"]})
    there: dict[str, str] = {
        f"{speaker}/{Path(name).stem}": (audio / speaker / name).as_posix()
        for speaker in speakers
        if (audio / speaker).is_dir()
        for name in find_audio(audio / speaker)
    }
    stems = [name.rpartition(".")[0] or name for name in table["utterance_id"]]
    missing = sorted({stem for stem in stems if stem not in there})
    if missing:
        progress.note(
            f"{path}: {len(missing)} utterances that {audio} lacks ({first_five(missing)}); enrollments are their"
            " concatenated files only"
        )
        return None
    return table.assign(
        utterance_id=[f"{stem}{suffix}" for stem in stems], path=[there[stem] for stem in stems]
    )
