"""Guards against silent wrong science: an error by default; `--allow NAME` goes on and is recorded."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from svkit.errors import ArtifactError, ConfigError, DataError, SvkitError, first_five
from svkit.stages.trial_speakers import speakers_of_manifest
from svkit.store.embeddings import Embeddings, read_facts
from svkit.store.provenance import read_provenance, sha256_artifact
from svkit.store.trials import Trials

SHARED_SPEAKERS = "shared-speakers"
"""The cohort, or the training data of PLDA, has speakers of the trials."""
STALE = "stale"
"""A checkpoint or embeddings have changed since they were used."""
NAMES = (SHARED_SPEAKERS, STALE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Guards:
    """Which guards may be passed, and what was found when they were."""

    allowed: frozenset[str] = frozenset()
    cautions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        unknown = self.allowed - set(NAMES)
        if unknown:
            raise ConfigError(f"--allow: expected {' or '.join(NAMES)}, found {first_five(sorted(unknown))}")

    def stop(self, name: str, error: SvkitError) -> None:
        """Raise the error, or record it where the guard may be passed."""
        if name not in self.allowed:
            raise type(error)(f"{error}; `--allow {name}` goes on and records it")
        if str(error) not in self.cautions:
            self.cautions.append(str(error))


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
    utterances = set(trials.test_ids)
    utterances |= set(trials.enroll_ids if enrollment is None else enrollment["utterance_id"])
    tested, known = (speakers_of_manifest(facts.meta.get("manifest")) for facts in (embeddings, material))
    if tested is None or known is None:
        shared, kind = utterances & set(material.ids), "utterances"
    else:
        spoken = {tested[name] for name in utterances if name in tested}
        shared, kind = spoken & {known[name] for name in material.ids if name in known}, "speakers"
    if shared:
        names = first_five(sorted(shared))
        guards.stop(
            SHARED_SPEAKERS,
            DataError(f"{directory}: {what} has {kind} of the trials, which flatters: {names}"),
        )


def check_checkpoint(guards: Guards, directory: Path, embeddings: Embeddings) -> None:
    """Stop where the checkpoint that made the embeddings has changed since; one that is gone is no matter.

    Raises:
        ArtifactError: its content is not what the embeddings record.
    """
    recorded = embeddings.meta.get("checkpoint") or {}
    path = Path(str(recorded.get("path", "")))
    if not recorded.get("path") or not path.is_dir():
        return
    now = sha256_artifact(path)
    if now != recorded.get("sha256"):
        guards.stop(
            STALE,
            ArtifactError(
                f"{directory}: expected embeddings of {path} (sha256 {now[:12]}), found those of an earlier"
                f" one (sha256 {str(recorded.get('sha256'))[:12]}); extract again"
            ),
        )


def check_scores(guards: Guards, directory: Path, metrics: dict[str, Any]) -> None:
    """Stop where the embeddings that were scored are now those of another checkpoint than the scores claim.

    Raises:
        ArtifactError: likewise.
    """
    claimed = (metrics.get("checkpoint") or {}).get("sha256")
    for entry in read_provenance(directory)["inputs"]:
        path = Path(entry["path"])
        if entry["name"] == "embeddings" and path.is_dir():
            now = (read_facts(path).get("checkpoint") or {}).get("sha256")
            if now != claimed:
                guards.stop(
                    STALE,
                    ArtifactError(
                        f"{directory}: claims a checkpoint (sha256 {str(claimed)[:12]}) other than that of"
                        f" {path} now (sha256 {str(now)[:12]}); score again"
                    ),
                )
