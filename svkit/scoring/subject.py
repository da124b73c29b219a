"""What is judged: a trial list with its enrollments and sidecar, and a system, or a fusion of systems, on it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svkit.scoring.breakdown import Grouping, group_trials, read_sidecar
from svkit.scoring.guards import Guards, check_list
from svkit.scoring.id_matching import find_matching
from svkit.scoring.request import ScoreRequest
from svkit.scoring.trial_speakers import trial_speaker_names
from svkit.store.calibration import CalibrationRecord
from svkit.store.coded import Coded
from svkit.store.enrollment import read_enrollment
from svkit.store.metrics import BackendRecord, Condition, LeftOut, TrialList
from svkit.store.places import Artifact
from svkit.store.provenance import sha256_file
from svkit.store.trials import Trials, read_trials


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class TrialSet:
    """A trial list with its enrollments and sidecar."""

    path: Path
    trials: Trials
    enrollment: pd.DataFrame | None
    """Utterances of each enrollment; None: every enrollment is an utterance."""
    sidecar: Mapping[str, Coded] | None
    """More columns of the trials, by name."""
    kept: NDArray[np.bool_] | None = None
    """Which trials of the list are in `trials`, [N] bool; None: all of them."""

    @classmethod
    def read(cls, request: ScoreRequest) -> "TrialSet":
        """Read the files that the request names."""
        trials = read_trials(request.trials, needs_labels=False)
        return cls(
            path=request.trials,
            trials=trials,
            enrollment=None if request.enroll is None else read_enrollment(request.enroll),
            sidecar=None if request.sidecar is None else read_sidecar(request.sidecar, trials),
        )

    def only(self, kept: NDArray[np.bool_]) -> "TrialSet":
        """Return the set without the trials that are not kept, [T] bool."""
        sidecar = self.sidecar and {name: column.only(kept) for name, column in self.sidecar.items()}
        return replace(self, trials=self.trials.only(kept), sidecar=sidecar, kept=kept)

    def describe(self) -> TrialList:
        """Return the record of the list, and of the trials that were left out."""
        left_out = None
        if self.kept is not None:
            mask = hashlib.sha256(np.packbits(self.kept).data).hexdigest()
            left_out = LeftOut(num_trials=int(np.count_nonzero(~self.kept)), sha256=mask)
        path = self.path
        return TrialList(name=path.stem, path=path.as_posix(), sha256=sha256_file(path), left_out=left_out)

    def matched(
        self, known: NDArray[np.object_], source: Path, guards: Guards, *, match_ids: bool
    ) -> tuple["TrialSet", str]:
        """Rename the ids that `--match-ids` matches to known utterances; without it, say which rule would match.

        Raises:
            DataError: an id matches more than one utterance.
        """
        trials, enrollment = self.trials, self.enrollment
        found = {"trials": find_matching(trials.ids if enrollment is None else trials.test.values, known)}
        if enrollment is not None:
            found["utterances of the enrollment map"] = find_matching(
                enrollment["utterance_id"].unique(), known
            )
            found["enrollments"] = find_matching(trials.enroll.values, enrollment["enroll_id"].unique())
        matched = {what: one for what, one in found.items() if one is not None}
        if not matched or not match_ids:
            return self, "".join(f"; {what}: {one.offer()}" for what, one in matched.items())
        for what, one in matched.items():
            guards.caution(one.take(f"{self.path} and {source}, {what}"))
        names = {what: one.names for what, one in matched.items()}
        test = names.get("trials", {})
        if enrollment is not None:
            of_map = names.get("utterances of the enrollment map", {})
            enrollment = enrollment.assign(
                utterance_id=[of_map.get(name, name) for name in enrollment["utterance_id"]]
            )
        trials = trials.renamed(test if enrollment is None else names.get("enrollments", {}), test)
        check_list(guards, self.path, trials, enrollment)  # two ids may have become one
        return replace(self, trials=trials, enrollment=enrollment), ""


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Subject:
    """A system or a fusion, and its trials; everything is read and checked before anything is written."""

    name: str
    trial_set: TrialSet
    guards: Guards
    backend: BackendRecord
    manifest: Artifact | None
    """The manifest behind the embeddings; of a fusion, that of its first system."""
    checkpoint: Artifact | None = None
    """None: there are several, or it is not known."""
    model: str | None = None
    condition: Condition | None = None
    calibration: CalibrationRecord | None = None
    """Calibration learnt on other trials, to be applied to these."""
    num_folds: int = 0
    """Folds of a cross-validation on these trials; 0: none."""

    def speaker_names(self) -> set[str] | None:
        """Return the speakers of the trials by the manifest; None: not known."""
        return trial_speaker_names(self.trial_set.trials, self.manifest, self.trial_set.enrollment)

    def groupings(self, columns: tuple[str, ...]) -> list[Grouping]:
        """Find the groups of every breakdown; call this before writing anything, because columns may be missing."""
        own = self.trial_set
        return [
            group_trials(column, own.trials, own.sidecar, self.manifest, own.enrollment) for column in columns
        ]
