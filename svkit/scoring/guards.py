"""Guards against silent wrong science: an error by default; `--allow NAME` goes on and is recorded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svkit.errors import ArtifactError, ConfigError, DataError, SvkitError, first_five
from svkit.scoring.lineage import training_speakers
from svkit.scoring.trial_speakers import speakers_of_manifest, trial_speaker_names, trial_utterances
from svkit.store.embeddings import Embeddings, read_facts
from svkit.store.provenance import read_provenance, sha256_artifact, sha256_file
from svkit.store.trials import Trials

TRAINED_SPEAKERS = "trained-speakers"
"""The model was trained on speakers of the trials."""
SHARED_SPEAKERS = "shared-speakers"
"""The cohort, or the training data of PLDA, has speakers of the trials."""
CALIBRATED_ON_TEST = "calibrated-on-test"
"""A calibration or fusion was learnt on the trials it is judged on, or on others of their speakers."""
MISSING_UTTERANCES = "missing-utterances"
"""Trials name utterances that the embeddings lack; such trials are left out."""
ONE_CLASS = "one-class"
"""There are no target or no nontarget trials; there are scores, but no error rates."""
SELF_TRIALS = "self-trials"
"""Trials compare an utterance with itself."""
DUPLICATE_TRIALS = "duplicate-trials"
"""Trials are in the list more than once; each counts as often as it is listed."""
CONTRADICTING_LABELS = "contradicting-labels"
"""The same two utterances have both labels, or a label contradicts the speakers of the manifest."""
STALE = "stale"
"""A checkpoint or embeddings have changed since they were used."""
NAMES = (
    TRAINED_SPEAKERS,
    SHARED_SPEAKERS,
    CALIBRATED_ON_TEST,
    MISSING_UTTERANCES,
    ONE_CLASS,
    SELF_TRIALS,
    DUPLICATE_TRIALS,
    CONTRADICTING_LABELS,
    STALE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Guards:
    """Which guards may be passed, what was found when they were, and what could not be looked at."""

    allowed: frozenset[str] = frozenset()
    cautions: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        unknown = self.allowed - set(NAMES)
        if unknown:
            known = f"{', '.join(NAMES[:-1])} or {NAMES[-1]}"
            raise ConfigError(f"--allow: expected {known}, found {first_five(sorted(unknown))}")

    def stop(self, name: str, error: SvkitError) -> None:
        """Raise the error, or record it where the guard may be passed."""
        if name not in self.allowed:
            raise type(error)(f"{error}; `--allow {name}` goes on and records it")
        self.caution(str(error))

    def caution(self, words: str | None) -> None:
        """Record what nothing has to stop at, once."""
        if words is not None and words not in self.cautions:
            self.cautions.append(words)


def check_training(
    guards: Guards, directory: Path, embeddings: Embeddings, trials: Trials, enrollment: pd.DataFrame | None
) -> None:
    """Stop where the model behind the embeddings was trained on speakers of the trials.

    Args:
        guards: what is allowed; told where the speakers of either side are not known.
        directory: of the embeddings.
        embeddings: those that are scored.
        trials: the trials.
        enrollment: utterances of each enrollment, where enrollments are not utterances.

    Raises:
        DataError: speakers are shared.
    """
    tested = trial_speaker_names(trials, embeddings.meta.get("manifest"), enrollment)
    path = str((embeddings.meta.get("checkpoint") or {}).get("path") or "")
    trained = training_speakers(Path(path)) if path and Path(path).is_dir() else None
    if tested is None or trained is None:
        whose = "the trials" if tested is None else f"the training of {path or directory}"
        guards.unchecked.append(
            f"{directory}: whether the model was trained on speakers of the trials: the speakers of {whose} are"
            " not known"
        )
    elif shared := tested & trained:
        guards.stop(
            TRAINED_SPEAKERS,
            DataError(
                f"{directory}: {path} was trained on {len(shared)} of the {len(tested)} speakers of the trials, which"
                f" flatters: {first_five(sorted(shared))}"
            ),
        )


def check_speakers(
    guards: Guards,
    used: tuple[str, Path, Embeddings],
    trials: Trials,
    embeddings: Embeddings,
    enrollment: pd.DataFrame | None,
) -> None:
    """Stop where material that must not know the trials' speakers has some of them.

    Args:
        guards: what is allowed.
        used: what it is, its directory, and the embeddings.
        trials: the trials.
        embeddings: those that are scored.
        enrollment: utterances of each enrollment, where enrollments are not utterances.

    Raises:
        DataError: speakers, or utterances where a side's speakers are not known, are shared.
    """
    what, directory, material = used
    tested = trial_speaker_names(trials, embeddings.meta.get("manifest"), enrollment)
    known = speakers_of_manifest(material.meta.get("manifest"))
    if tested is None or known is None:
        shared, kind = trial_utterances(trials, enrollment) & set(material.ids), "utterances"
    else:
        shared, kind = tested & {known[name] for name in material.ids if name in known}, "speakers"
    if shared:
        names = first_five(sorted(shared))
        guards.stop(
            SHARED_SPEAKERS,
            DataError(f"{directory}: {what} has {kind} of the trials, which flatters: {names}"),
        )


def check_classes(guards: Guards, path: Path, labels: NDArray[np.int8], *, learns: bool) -> None:
    """Stop where there are no target or no nontarget trials.

    Args:
        guards: what is allowed.
        path: of the trial list.
        labels: of the trials that are scored, [T].
        learns: a calibration or fusion is to be learnt on them, which cannot be without both.

    Raises:
        DataError: likewise.
    """
    num_targets = int(np.count_nonzero(labels))
    if num_targets in (0, len(labels)):
        error = DataError(
            f"{path}: expected target and nontarget trials, found {num_targets} targets and"
            f" {len(labels) - num_targets} nontargets; error rates need both"
        )
        if learns:
            raise error
        guards.stop(ONE_CLASS, error)


def check_checkpoint(
    guards: Guards,
    directory: Path,
    facts: Mapping[str, Any],
    hash_file: Callable[[Path], str] = sha256_file,
) -> None:
    """Stop where the checkpoint that made the embeddings has changed since; one that is gone is no matter.

    Args:
        guards: what is allowed.
        directory: of the embeddings.
        facts: content of their `embeddings.json`.
        hash_file: as in `sha256_artifact`.

    Raises:
        ArtifactError: its content is not what the embeddings record.
    """
    recorded = facts.get("checkpoint") or {}
    path = Path(str(recorded.get("path", "")))
    if not recorded.get("path") or not path.is_dir():
        return
    now = sha256_artifact(path, hash_file)
    if now != recorded.get("sha256"):
        guards.stop(
            STALE,
            ArtifactError(
                f"{directory}: expected embeddings of {path} (sha256 {now[:12]}), found those of an earlier"
                f" one (sha256 {str(recorded.get('sha256'))[:12]}); extract again"
            ),
        )


def check_scores(
    guards: Guards,
    directory: Path,
    metrics: dict[str, Any],
    hash_file: Callable[[Path], str] = sha256_file,
) -> None:
    """Stop where the embeddings that were scored, or the checkpoint that made them, are others than were scored.

    Raises:
        ArtifactError: likewise.
    """
    claimed = (metrics.get("checkpoint") or {}).get("sha256")
    for entry in read_provenance(directory)["inputs"]:
        path = Path(entry["path"])
        if entry["name"] == "embeddings" and path.is_dir():
            facts = read_facts(path)
            now = (facts.get("checkpoint") or {}).get("sha256")
            if now != claimed:
                guards.stop(
                    STALE,
                    ArtifactError(
                        f"{directory}: claims a checkpoint (sha256 {str(claimed)[:12]}) other than that of"
                        f" {path} now (sha256 {str(now)[:12]}); score again"
                    ),
                )
            else:
                check_checkpoint(guards, path, facts, hash_file)
