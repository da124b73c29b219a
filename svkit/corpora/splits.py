"""Choosing the speakers that evaluate, validate and train, and making trials from a list of utterances.

Every draw follows from the seed and a name, so that equal corpora give equal splits and lists.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from svkit.corpora.membership import EVALUATION, VALIDATION
from svkit.corpora.request import EVERYBODY
from svkit.corpora.scan import BadFile
from svkit.corpora.text_lists import read_lines
from svkit.errors import ConfigError, DataError, first_five
from svkit.eval.bootstrap import MIN_SPEAKERS
from svkit.scoring.id_matching import find_matching
from svkit.store.trials import Trials

TRIALS_PER_UTTERANCE = 20
"""Made lists have at most this many target and as many nontarget trials per utterance."""
_MAX_PAIRED_UTTERANCES = 400
"""At most this many utterances of a speaker are paired, as the number of pairs grows with the square."""
_MAX_ENUMERATED = 2_500
"""Up to this many utterances, nontarget trials are drawn from a list of all pairs; beyond, pairs are drawn directly."""
_VALID_FRACTION, _MIN_VALID, _MAX_VALID, _MIN_TRAIN = 0.05, 3, 40, 2
_EVAL_FRACTION, _MIN_EVAL = 0.1, 2

Codes = npt.NDArray[np.intp]
Pairs = npt.NDArray[np.int64]


def generator(seed: int, name: str) -> np.random.Generator:
    """Return the random generator for the purpose `name`."""
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(name.encode())]))


def choose_eval_speakers(
    spec: str | None, table: pd.DataFrame, seed: int, known: Mapping[str, str] | None = None
) -> list[str]:
    """Choose the evaluation speakers of a manifest's rows.

    `spec` is a number, `all`, or a file with one speaker per line; None: a tenth of the speakers, at least five, which
    an interval needs, or a third of fewer than 15, at least two. Those who evaluated in an earlier preparation
    (`known`: speaker -> part) stay; more are drawn from new speakers first.

    Raises:
        ConfigError: the corpus cannot spare so many speakers, or too few of those who evaluated are left.
        DataError: the file does not exist, is empty, or names a speaker the corpus lacks.
    """
    counts = table["speaker_id"].value_counts()
    if spec == EVERYBODY:
        return sorted(counts.index)
    if spec is not None and not is_count("--eval-speakers", spec):
        return read_speakers(Path(spec), counts.index)
    usable, known, kept = _pools(counts, known, EVALUATION)
    if spec is None and known:
        if len(kept) < _MIN_EVAL:
            raise ConfigError(
                f"{len(kept)} of the earlier evaluation speakers are left, expected {_MIN_EVAL} or more; name others"
                " with --eval-speakers, or draw anew with --redraw"
            )
        return kept
    few = max(_MIN_EVAL, min(MIN_SPEAKERS, len(counts) // 3))
    wanted = max(few, round(_EVAL_FRACTION * len(counts))) if spec is None else int(spec)
    spare = min(len(usable), len(counts) - _MIN_TRAIN)
    if not _MIN_EVAL <= wanted <= spare:
        raise ConfigError(
            f"--eval-speakers {wanted}: expected {_MIN_EVAL} to {spare}: the corpus has"
            f" {len(counts)} speakers, {len(usable)} of them with two utterances or more,"
            f" and {_MIN_TRAIN} must be left to train on"
        )
    return _draw_speakers(generator(seed, "eval speakers"), wanted, kept, usable, known)


def choose_valid_speakers(
    wanted: int | None, table: pd.DataFrame, seed: int, known: Mapping[str, str] | None = None
) -> list[str]:
    """Choose the training speakers held out for validation, sorted; `table` has the rows of all training speakers.

    By default (`wanted` None) these are a twentieth, at least 3 and at most 40, with at least two left to train on;
    none if the corpus is too small for that. Those who validated in an earlier preparation (`known`: speaker -> part)
    stay.

    Raises:
        ConfigError: the corpus cannot give so many.
    """
    counts = table["speaker_id"].value_counts()
    usable, known, kept = _pools(counts, known, VALIDATION)
    spare = min(len(usable), len(counts) - _MIN_TRAIN)
    if wanted is None and known:
        wanted = len(kept) if 2 <= len(kept) <= len(counts) - _MIN_TRAIN else 0
    elif wanted is None:
        wanted = min(max(_MIN_VALID, round(_VALID_FRACTION * len(counts))), _MAX_VALID, spare)
        # One speaker alone makes no nontarget trial.
        wanted = 0 if wanted < 2 else wanted
    elif wanted and not 2 <= wanted <= spare:
        raise ConfigError(
            f"--valid-speakers {wanted}: expected 0, or 2 to {spare} of the {len(counts)} training speakers"
            f" (they need two utterances each, and {_MIN_TRAIN} speakers must be left to train on)"
        )
    return _draw_speakers(generator(seed, "valid speakers"), wanted, kept, usable, known)


def _pools(
    counts: "pd.Series[int]", known: Mapping[str, str] | None, part: str
) -> tuple[list[str], dict[str, str], list[str]]:
    """Return the speakers with two utterances or more, the known ones, and those who were in `part` before."""
    speakers = sorted(map(str, counts.index))
    present = {speaker: known[speaker] for speaker in speakers if speaker in known} if known else {}
    # One utterance alone makes no target trial.
    usable = [speaker for speaker in speakers if counts[speaker] > 1]
    return usable, present, [speaker for speaker in present if present[speaker] == part]


def _draw_speakers(
    rng: np.random.Generator,
    wanted: int,
    kept: Sequence[str],
    usable: Sequence[str],
    known: Mapping[str, str],
) -> list[str]:
    """Draw from those kept if they are enough, else add to them: new speakers first, then others."""
    if wanted <= len(kept):
        return sorted(rng.choice(list(kept), wanted, replace=False).tolist()) if wanted else []
    chosen = list(kept)
    for is_known in (False, True):
        pool = [speaker for speaker in usable if (speaker in known) is is_known and speaker not in kept]
        count = min(wanted - len(chosen), len(pool))
        chosen += rng.choice(pool, count, replace=False).tolist() if count else []
    return sorted(chosen)


def is_count(option: str, spec: str) -> bool:
    """Say whether N|FILE is a number of speakers (ConfigError: one that counts nothing, such as -1, 2.5 or nan)."""
    if Path(spec).exists():  # even if its name is a number
        return False
    if spec.isdecimal() and len(spec) < 10:
        return True
    try:
        float(spec)
    except ValueError:
        return False
    raise ConfigError(f"{option} {spec[:80]}: expected a number of speakers, all, or a file that lists them")


def read_speakers(path: Path, known: Iterable[str]) -> list[str]:
    """Read a list of speakers, one per line (DataError: missing, empty, or with speakers that are not `known`)."""
    named = list(read_lines(path))
    if not named:
        raise DataError(f"{path}: no speakers; expected one per line")
    known = set(known)
    unknown = [f"{speaker} (line {number})" for number, speaker in named if speaker not in known]
    if unknown:
        raise DataError(f"{path}: speakers that the corpus lacks: {first_five(unknown)}")
    return sorted({speaker for _, speaker in named})


def make_trials(
    table: pd.DataFrame, seed: int, name: str, per_utterance: int = TRIALS_PER_UTTERANCE
) -> Trials:
    """Make a trial list from utterances (DataError: there are no target or no nontarget pairs).

    Target trials pair utterances of one speaker from different sessions, if sessions are known. Nontarget trials pair
    utterances of different speakers, of one gender if there is a column `gender`. Both are drawn without replacement,
    each pair at most once, up to `per_utterance` trials per utterance.
    """
    # Equal utterances give equal lists, in whatever order they were found.
    table = table.sort_values("utterance_id", kind="stable").reset_index(drop=True)
    speakers = pd.factorize(table["speaker_id"])[0]
    # An utterance of an unknown session counts as a session of its own.
    sessions = pd.factorize(table["session_id"].where(table["session_id"] != "", table["utterance_id"]))[0]
    genders = pd.factorize(table["gender"])[0] if "gender" in table else np.zeros_like(speakers)
    rng = generator(seed, f"trials {name}")
    targets = _target_pairs(speakers, sessions, rng, per_utterance)
    if not len(targets):
        raise DataError(f"{name}: no target trials: no speaker has two utterances from different sessions")
    nontargets = _nontarget_pairs(speakers, genders, rng, per_utterance)
    if not len(nontargets):
        raise DataError(f"{name}: no nontarget trials: expected at least two speakers of one gender")
    pairs = np.concatenate([targets, nontargets])
    labels = np.repeat([1, 0], [len(targets), len(nontargets)]).astype(np.int8)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    ids = np.asarray(table["utterance_id"], dtype=object)
    return Trials.of(ids[pairs[order, 0]], ids[pairs[order, 1]], labels[order])


def _target_pairs(speakers: Codes, sessions: Codes, rng: np.random.Generator, per_utterance: int) -> Pairs:
    found = [np.zeros((0, 2), np.int64)]
    order = np.argsort(speakers, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(speakers[order])) + 1):
        chosen = rows
        if len(rows) > _MAX_PAIRED_UTTERANCES:
            chosen = np.sort(rng.choice(rows, _MAX_PAIRED_UTTERANCES, replace=False))
        pairs = chosen[np.stack(np.triu_indices(len(chosen), k=1), axis=1)]
        pairs = pairs[sessions[pairs[:, 0]] != sessions[pairs[:, 1]]]
        found.append(_draw(pairs, per_utterance * len(rows), rng))
    return np.concatenate(found)


def _nontarget_pairs(speakers: Codes, genders: Codes, rng: np.random.Generator, per_utterance: int) -> Pairs:
    def only_nontargets(pairs: Pairs) -> Pairs:
        first, second = pairs[:, 0], pairs[:, 1]
        return pairs[(speakers[first] != speakers[second]) & (genders[first] == genders[second])]

    wanted = per_utterance * len(speakers)
    if len(speakers) <= _MAX_ENUMERATED:
        pairs = np.stack(np.triu_indices(len(speakers), k=1), axis=1)
        return _draw(only_nontargets(pairs), wanted, rng)
    codes = np.zeros(0, np.int64)
    for _ in range(50):  # with few speakers or genders, most drawn pairs are not nontargets
        drawn = only_nontargets(np.sort(rng.integers(0, len(speakers), (wanted, 2)), axis=1))
        codes = np.unique(np.concatenate([codes, drawn[:, 0] * len(speakers) + drawn[:, 1]]))
        if len(codes) >= wanted:
            break
    return _draw(np.stack(np.divmod(codes, len(speakers)), axis=1), wanted, rng)


def _draw(pairs: Pairs, limit: int, rng: np.random.Generator) -> Pairs:
    if len(pairs) <= limit:
        return pairs
    return pairs[np.sort(rng.choice(len(pairs), limit, replace=False))]


def check_given_trials(path: Path, trials: Trials, table: pd.DataFrame, bad: Sequence[BadFile] = ()) -> None:
    """Check a given list (`path` is for messages) against the rows of a corpus and its `bad` files.

    Raises:
        DataError: the corpus lacks utterances (the first five are named, with lines), or a label contradicts the
            speakers.
    """
    broken = sorted({file.utterance_id for file in bad}.intersection(trials.ids))
    if broken:
        raise DataError(f"{path}: names utterances that cannot be read: {first_five(broken)}")
    ids, table = table["utterance_id"], table[table["utterance_id"].isin(trials.ids)]
    codes, speakers = pd.factorize(table["speaker_id"])
    code_of = dict(zip(table["utterance_id"], codes, strict=True))
    unknown = {name for name in trials.ids if name not in code_of}
    if unknown:
        shown = first_five(_with_lines(path, unknown))
        matching = find_matching(trials.ids, ids)
        advice = "an id is the path below the corpus root" if matching is None else matching.offer()
        raise DataError(f"{path}: utterances that the corpus lacks: {shown}; {advice}")
    sides = (trials.enroll, trials.test)
    enroll, test = (
        side.look_up(np.array([code_of[name] for name in side.values], np.int32)) for side in sides
    )
    wrong = np.flatnonzero((enroll == test) != (trials.labels == 1))
    if len(wrong):
        row = int(wrong[0])
        label = "target" if trials.labels[row] else "nontarget"
        names = " ".join(side[row : row + 1].item() for side in sides)
        raise DataError(
            f"{path}: trial {row + 1}: {names} is labelled {label}, but its speakers are"
            f" {speakers[enroll[row]]} and {speakers[test[row]]} ({len(wrong)} such trials)"
        )


def _with_lines(path: Path, unknown: set[str]) -> Sequence[str]:
    lines: dict[str, int] = {}
    for number, line in read_lines(path):
        for field in line.split("\t") if "\t" in line else line.split():
            if field.strip() in unknown:
                lines.setdefault(field.strip(), number)
    return [f"{name} (line {number})" for name, number in lines.items()] or sorted(unknown)
