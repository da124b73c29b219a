"""Guards against silent wrong science: an error by default; `--allow NAME` continues and records the exception.

Both orders of a pair count as two trials, although a symmetric score makes them one comparison, because the published
VoxCeleb1-O has 338 pairs in both orders (and no repeated trial, and no self-trial).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svkit.errors import ArtifactError, ConfigError, DataError, SvkitError, first_five
from svkit.progress import Progress
from svkit.scoring.lineage import training_speakers
from svkit.scoring.trial_speakers import (
    manifest_speakers,
    speakers_of_manifest,
    trial_speaker_names,
    trial_utterances,
)
from svkit.store.coded import row_blocks
from svkit.store.embeddings import Embeddings, read_facts
from svkit.store.lists import published_title
from svkit.store.metrics import ScoredList
from svkit.store.places import Artifact, sha256_of
from svkit.store.provenance import read_provenance, sha256_artifact, sha256_file
from svkit.store.source import shown
from svkit.store.trials import Trials, find_lines

Guard = Literal[
    "trained-speakers",  # the model was trained on speakers of the trials
    "shared-speakers",  # the cohort, or what PLDA is trained on or adapted to, has speakers of the trials
    "calibrated-on-test",  # a calibration or fusion was learnt on the trials, or on others of their speakers
    "missing-utterances",  # trials name utterances that the embeddings lack; such trials are left out
    "one-class",  # no target or no nontarget trials: there are scores, but no error rates
    "self-trials",  # trials compare an utterance with itself
    "duplicate-trials",  # trials are repeated; each counts as often as it is listed
    "contradicting-labels",  # the same two utterances have both labels, or a label contradicts the manifest
    "stale",  # a checkpoint or embeddings have changed since they were used
]
NAMES: tuple[Guard, ...] = get_args(Guard)


@dataclass(frozen=True, kw_only=True, slots=True)
class Guards:
    """The guards that may be passed, what was found when they were, and what could not be checked."""

    allowed: frozenset[str] = frozenset()
    cautions: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    """Those of the cautions that would have stopped the command."""
    found_nothing: list[str] = field(default_factory=list)
    """Guards that could be checked and found nothing, as far as the report tells of them."""

    def __post_init__(self) -> None:
        unknown = self.allowed - set(NAMES)
        if unknown:
            known = f"{', '.join(NAMES[:-1])} or {NAMES[-1]}"
            raise ConfigError(f"--allow: expected {known}, found {first_five(sorted(unknown))}")

    def stop(self, name: Guard, error: SvkitError) -> None:
        """Raise the error, or record it if the guard may be passed."""
        if name not in self.allowed:
            raise type(error)(f"{error}; `--allow {name}` continues and records the exception")
        self.passed.append(str(error))
        self.caution(str(error))

    def caution(self, words: str | None) -> None:
        """Record once what does not have to stop the command; None: nothing."""
        if words is not None and words not in self.cautions:
            self.cautions.append(words)

    def tell(self, progress: Progress, first: int = 0) -> None:
        """Tell the user the cautions from number `first` on."""
        for caution in self.cautions[first:]:
            progress.note(f"allowed, and recorded: {caution}")


def check_training(
    guards: Guards,
    directory: Path,
    facts: Mapping[str, Any],
    trials: Trials,
    enrollment: pd.DataFrame | None,
    remedy: str = "leave them out",
) -> None:
    """Stop if the model behind the embeddings in `directory` was trained on speakers of the trials (DataError).

    `facts` are those of `embeddings.json`; `remedy` says how to go on if others are left.
    """
    tested = trial_speaker_names(trials, facts.get("manifest"), enrollment)
    path = str((facts.get("checkpoint") or {}).get("path") or "")
    trained = training_speakers(Path(path)) if path and Path(path).is_dir() else None
    if tested is None or trained is None:
        whose = "the trials" if tested is None else f"the training of {shown(path or directory)}"
        guards.unchecked.append(
            f"{directory}: whether the model was trained on speakers of the trials: the speakers of {whose} are"
            " not known"
        )
    elif shared := tested & trained:
        others = first_five(sorted(tested - trained))
        left = f"{remedy} ({others} would be left)" if others else "take others"
        found = (
            f"{shown(path)} was trained on {len(shared)} of the {len(tested)} speakers of the trials, which makes "
            f"results look better: {first_five(sorted(shared))}"
        )
        guards.stop("trained-speakers", DataError(f"{directory}: {found}; {left}"))
    else:
        guards.found_nothing.append("trained-speakers")


def check_speakers(
    guards: Guards,
    used: tuple[str, Path, Embeddings],
    trials: Trials,
    embeddings: Embeddings,
    enrollment: pd.DataFrame | None,
) -> None:
    """Stop if a cohort or training data (what, directory, embeddings) has speakers of the trials (DataError).

    If the speakers of one side are not known, utterances are compared instead.
    """
    what, directory, other = used
    tested = trial_speaker_names(trials, embeddings.meta.get("manifest"), enrollment)
    known = speakers_of_manifest(other.meta.get("manifest"))
    if tested is None or known is None:
        shared, kind = trial_utterances(trials, enrollment) & set(other.ids), "utterances"
    else:
        shared, kind = tested & {known[name] for name in other.ids if name in known}, "speakers"
    if shared:
        found = (
            f"{what} has {kind} of the trials, which makes results look better: {first_five(sorted(shared))}"
        )
        guards.stop("shared-speakers", DataError(f"{directory}: {found}"))


def check_classes(guards: Guards, path: Path, labels: NDArray[np.int8], *, learns: bool) -> None:
    """Stop if there are no target or no nontarget trials (DataError); always if a calibration `learns` on them."""
    num_targets = int(np.count_nonzero(labels))
    if num_targets in (0, len(labels)) and labels.min() >= 0:
        error = DataError(
            f"{path}: expected target and nontarget trials, found {num_targets} targets and"
            f" {len(labels) - num_targets} nontargets; error rates need both"
        )
        if learns:
            raise error
        guards.stop("one-class", error)


def check_checkpoint(
    guards: Guards,
    directory: Path,
    facts: Mapping[str, Any],
    hash_file: Callable[[Path], str] = sha256_file,
) -> None:
    """Stop if the checkpoint has changed since it made the embeddings in `directory` (ArtifactError).

    A checkpoint that no longer exists is accepted. `facts` are those of `embeddings.json`; `hash_file` is passed to
    `sha256_artifact`.
    """
    recorded = facts.get("checkpoint") or {}
    path = Path(str(recorded.get("path", "")))
    if not recorded.get("path") or not path.is_dir():
        return
    now, then = sha256_artifact(path, hash_file), recorded.get("sha256")
    if now != then:
        expected = f"expected embeddings of {path} (sha256 {now[:12]})"
        found = f"found those of an earlier one (sha256 {str(then)[:12]}); extract again"
        guards.stop("stale", ArtifactError(f"{directory}: {expected}, {found}"))


def check_scores(
    guards: Guards,
    directory: Path,
    metrics: ScoredList,
    hash_file: Callable[[Path], str] = sha256_file,
) -> None:
    """Stop if the embeddings that were scored, or the checkpoint that made them, have changed since (ArtifactError)."""
    then = sha256_of(metrics.checkpoint)
    for entry in read_provenance(directory)["inputs"]:
        path = Path(entry["path"])
        if entry["name"] != "embeddings" or not path.is_dir():
            continue
        facts = read_facts(path)
        now = sha256_of(facts.get("checkpoint"))
        if now == then:
            check_checkpoint(guards, path, facts, hash_file)
        else:
            found = f"was made with another checkpoint (sha256 {str(then)[:12]}) than {path} has now"
            guards.stop("stale", ArtifactError(f"{directory}: {found} (sha256 {str(now)[:12]}); score again"))


def check_list(guards: Guards, path: Path, trials: Trials, enrollment: pd.DataFrame | None) -> None:
    """Stop at self-trials, repeated trials and pairs with both labels (DataError), naming their lines in `path`.

    A repeated self-trial counts only as a self-trial. With enrollments of several utterances, a self-trial is one whose
    test is among them. Findings in a published list are recorded and stop nothing. This needs some 20 bytes per trial,
    or 40 if trials are repeated.
    """
    keys, is_self = _keys(trials, enrollment)
    whole = f"of {len(trials):,} trials"
    if is_self.any():
        what = (
            f"{np.count_nonzero(is_self):,} {whole} compare an utterance with itself, which makes results "
            "look better"
        )
        _stop_at(guards, "self-trials", path, trials, what, np.flatnonzero(is_self))
        keys = keys[~is_self]
    # In sorted order, equal trials and both labels of one pair are neighbours. Places are sorted only if needed.
    ordered = np.sort(keys)
    steps = ordered[1:] ^ ordered[:-1]
    repeated, contradicted = np.flatnonzero(steps == 0), np.flatnonzero((steps | 1) == 3)
    if not len(repeated) + len(contradicted):
        return
    del ordered, steps
    places = np.flatnonzero(~is_self)[np.argsort(keys, kind="stable")]
    found: tuple[tuple[Guard, NDArray[np.int64], str], ...] = (
        ("duplicate-trials", repeated, "repeat an earlier one and would count twice"),
        ("contradicting-labels", contradicted, "have another label than the same two utterances before"),
    )
    for name, rows, words in found:
        if len(rows):
            later = np.sort(np.maximum(places[rows], places[rows + 1]))
            _stop_at(guards, name, path, trials, f"{len(rows):,} {whole} {words}", later)


def check_labels(
    guards: Guards,
    path: Path,
    trials: Trials,
    manifest: Artifact | None,
    enrollment: pd.DataFrame | None,
) -> None:
    """Stop if the manifest contradicts labels, or has several speakers in one enrollment (DataError).

    Nothing is checked if the manifest behind the embeddings is gone or has changed.
    """
    known = speakers_of_manifest(manifest)
    if known is None or not trials.has_labels:
        return
    whole = f"of {len(trials):,} trials have"
    if enrollment is not None:
        num_speakers = enrollment["utterance_id"].map(known).groupby(enrollment["enroll_id"]).nunique()
        mixed = list(num_speakers.index[num_speakers > 1])
        rows = np.flatnonzero(trials.enroll.look_up(np.isin(trials.enroll.values, mixed)))
        if len(rows):
            what = f"{len(rows):,} {whole} enrollments with several speakers of the manifest ({first_five(mixed)})"
            _stop_at(guards, "contradicting-labels", path, trials, what, rows)
    enroll, test = manifest_speakers(trials, known, enrollment)
    left, right = trials.enroll.look_up(enroll), trials.test.look_up(test)
    rows = np.flatnonzero(((left == right) != trials.labels.astype(bool)) & (left >= 0) & (right >= 0))
    if len(rows):
        what = f"{len(rows):,} {whole} a label that contradicts the speakers of the manifest"
        _stop_at(guards, "contradicting-labels", path, trials, what, rows)


def _keys(trials: Trials, enrollment: pd.DataFrame | None) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return a number for each trial, [N], and whether it is a self-trial.

    The number encodes the pair in either order, then the label, then the order. So equal trials have equal numbers, and
    those of two trials of one pair with different labels have an exclusive or of 2 or 3.
    """
    enroll_ids, test_ids = trials.enroll.values, trials.test.values
    members = None
    if enrollment is None:
        numbers, values = pd.factorize(np.concatenate([enroll_ids, test_ids]))
        left, right = np.split(numbers, [len(enroll_ids)])
        base = len(values)
    else:
        left, right = np.arange(len(enroll_ids)), np.arange(len(test_ids))
        base = max(len(left), len(right))
        of_enroll = pd.Index(enroll_ids).get_indexer(pd.Index(enrollment["enroll_id"]))
        of_test = pd.Index(test_ids).get_indexer(pd.Index(enrollment["utterance_id"]))
        members = (of_enroll * base + of_test)[(of_enroll >= 0) & (of_test >= 0)]
    keys, is_self = np.empty(len(trials), np.int64), np.empty(len(trials), bool)
    for rows in row_blocks(len(trials)):
        one, other = left[trials.enroll.codes[rows]], right[trials.test.codes[rows]]
        if members is None:
            is_self[rows] = one == other
            low, high = np.minimum(one, other), np.maximum(one, other)
        else:  # an enrollment is never an utterance, even if the names are equal
            low, high = one, other
            is_self[rows] = pd.Index(one * base + other).isin(members)
        keys[rows] = ((low * base + high) * 2 + trials.labels[rows]) * 2 + (low != one)
    return keys, is_self


def _stop_at(
    guards: Guards, name: Guard, path: Path, trials: Trials, what: str, rows: NDArray[np.int64]
) -> None:
    """Stop and name the first of these rows of a list, or record them if it is a published list."""
    lines = ", ".join(f"{path}:{line}" for line in find_lines(path, rows[:5]))
    error = DataError(f"{path}: {what}: {lines}")
    title = published_title(path, len(trials), int(np.count_nonzero(trials.labels == 1)))
    if title is None:
        guards.stop(name, error)
    else:
        guards.caution(f"{error} ({title} as published)")
