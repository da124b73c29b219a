"""Judge scores of another toolkit like svkit's own: `svkit score --scores FILE --name NAME`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svkit.config.conditions import plain_name
from svkit.errors import ArtifactError, ConfigError, DataError, first_five
from svkit.progress import Progress
from svkit.scoring.backend import Backend
from svkit.scoring.calibrate import Features, check_calibration
from svkit.scoring.guards import Guards, check_classes, check_labels
from svkit.scoring.id_matching import find_matching
from svkit.scoring.measurement import judge
from svkit.scoring.request import ScoreRequest, score_output
from svkit.scoring.subject import Subject, TrialSet
from svkit.scoring.systems import one_each
from svkit.scoring.trial_speakers import speakers_of_manifest, trial_utterances
from svkit.store.calibration import FILE_NAME
from svkit.store.embeddings import read_facts
from svkit.store.metrics import IMPORTED, BackendRecord
from svkit.store.output import Output
from svkit.store.places import Artifact
from svkit.store.provenance import sha256_file
from svkit.store.score_forms import ForeignScores, read_form
from svkit.store.trials import find_lines


def plan_imported(request: ScoreRequest) -> tuple[list[Output], ScoreRequest]:
    """Return the outputs of the scores to import, and what remains of the request for the systems with embeddings.

    Raises:
        ConfigError: a file has no name, or names are equal or not plain.
    """
    if not request.scores and not request.names:
        return [], request
    names = (*(path.name for path in request.embeddings), *request.names)
    if len(request.names) != len(request.scores) or len(set(names)) != len(names):
        raise ConfigError(
            f"--scores and --name: expected a different name for each file, found {first_five(names)} for"
            f" {len(request.scores)} files"
        )
    for name in request.names:
        if name != Path(name).name or name in ("", ".", "..") or not name.isprintable():
            raise ConfigError(f"--name {name!r}: expected a name without slashes and control characters")
    calibrations = one_each("--calibration", request.calibrations, names)
    num_ours = len(request.embeddings)
    of_systems = dict(zip(map(plain_name, names[:num_ours]), calibrations, strict=False))
    ours = tuple(path for path in of_systems.values() if path is not None)
    plain = replace(request, backend=Backend())
    outputs = [
        score_output(plain, name, {"scores": path, "calibration": calibration})
        for name, path, calibration in zip(
            request.names, request.scores, calibrations[num_ours:], strict=True
        )
    ]
    return outputs, replace(request, calibrations=ours)


def score_imported(
    request: ScoreRequest, trial_set: TrialSet, output: Output, guards: Guards, progress: Progress
) -> None:
    """Read scores of another toolkit, find their trials, judge and write.

    Raises:
        ArtifactError: the scores cannot be read, or are of other trials.
        DataError: trials lack a score, or are all of one class.
    """
    path, name, num_said = output.inputs["scores"], output.path.parent.name, len(guards.cautions)
    found = read_form(path, trial_set.trials)
    whole_list = trial_set.trials
    scores, trial_set = _of_trials(found, trial_set, guards, match_ids=request.match_ids)
    trials, manifest = trial_set.trials, _manifest(request, trial_set)
    learns = request.calibrate or request.calibrate_folds > 0
    check_classes(guards, trial_set.path, trials.labels, learns=learns)
    check_labels(guards, trial_set.path, whole_list, manifest, trial_set.enrollment)
    guards.unchecked.append(
        f"{path}: whether the model behind these scores was trained on speakers of the trials is not known"
    )
    subject = Subject(
        name=name,
        trial_set=trial_set,
        guards=guards,
        backend=BackendRecord(name=IMPORTED, method=name),
        manifest=manifest,
        num_folds=request.calibrate_folds,
    )
    if "calibration" in output.inputs:
        subject = replace(subject, calibration=check_calibration(output.inputs["calibration"], subject))
    groupings = subject.groupings(request.by)
    with output.open():
        guards.tell(progress, num_said)
        features = Features(names=("score",), values=scores[:, None])
        if judge(request, subject, features, scores, groupings, output, progress) is not None:
            progress.note(f"calibration: {output.path / FILE_NAME}")
        output.finish()


def _manifest(request: ScoreRequest, trial_set: TrialSet) -> Artifact | None:
    """Return the manifest of the embeddings scored here too, or else the experiment's; None: it lacks utterances."""
    path = request.exp / "data" / "eval.tsv"
    found: Artifact | None = None
    if request.embeddings:
        found = read_facts(request.embeddings[0]).get("manifest")
    elif path.is_file():
        found = {"path": path.as_posix(), "sha256": sha256_file(path)}
    known = speakers_of_manifest(found) or {}
    return found if trial_utterances(trial_set.trials, trial_set.enrollment) <= known.keys() else None


def _of_trials(
    found: ForeignScores, trial_set: TrialSet, guards: Guards, *, match_ids: bool
) -> tuple[NDArray[np.float64], TrialSet]:
    """Return the scores [T], and the trials that they belong to; others are left out if the guard allows it."""
    trials, path = trial_set.trials, found.path
    if found.enroll is None or found.test is None:
        if len(found.scores) != len(trials):
            raise ArtifactError(
                f"{path}: expected {len(trials):,} scores, one for each trial of {trial_set.path} in "
                "its order, found"
                f" {len(found.scores):,}"
            )
        rows = np.arange(len(trials))
    else:
        # Another toolkit may write ids with another prefix or ending, and a recording differently on each side. Should
        # two ids be two recordings after all, their scores are of one trial, or of none, which is refused below.
        matching = find_matching(
            found.enroll.values.tolist(), trials.ids.tolist(), apart=found.test.values.tolist()
        )
        offer = ""
        if matching is not None and match_ids:
            guards.caution(matching.take(str(path)))
            enroll, test = (side.renamed(matching.names) for side in (found.enroll, found.test))
            found = replace(found, enroll=enroll, test=test)
        elif matching is not None:
            offer = f"; {matching.offer()}"
        rows = _find_rows(found, trial_set, offer)
    if len(missing := np.flatnonzero(rows < 0)):
        lines = [f"{trial_set.path}:{line}" for line in find_lines(trial_set.path, missing[:5])]
        error = DataError(
            f"{path}: no score for {len(missing):,} of {len(trials):,} trials: {', '.join(lines)}"
        )
        guards.stop("missing-utterances", error)
        if len(missing) == len(trials):
            raise error
        trial_set, rows = trial_set.only(rows >= 0), rows[rows >= 0]
    labels = trial_set.trials.labels
    if found.labels is not None and trial_set.trials.has_labels:
        wrong = np.sort(found.lines[rows[found.labels[rows] != labels]])
        if len(wrong):
            raise ArtifactError(
                f"{path}:{wrong[0]}: {len(wrong):,} scores have another label than their trials in {trial_set.path}:"
                f" lines {first_five(wrong.tolist())}"
            )
    return found.scores[rows], trial_set


def _find_rows(found: ForeignScores, trial_set: TrialSet, offer: str) -> NDArray[np.int64]:
    """Return the row of the score of each trial [T], -1 if there is none.

    Raises:
        ArtifactError: there are scores of other trials, or several of one trial.
    """
    trials = trial_set.trials
    assert found.enroll is not None and found.test is not None, "lines that name their trials"
    if len(found.scores) == len(trials) and all(
        np.array_equal(side[:], other[:])
        for side, other in ((found.enroll, trials.enroll), (found.test, trials.test))
    ):
        return np.arange(len(trials))
    # A pair of ids becomes one integer, so that lists of millions of trials are matched fast.
    base = len(trials.test.values)
    enroll, test = (
        side.look_up(pd.Index(other.values).get_indexer(pd.Index(side.values)))
        for side, other in ((found.enroll, trials.enroll), (found.test, trials.test))
    )
    wanted = trials.enroll.codes.astype(np.int64) * base + trials.test.codes
    keys = np.where((enroll < 0) | (test < 0), -1, enroll * base + test)
    unknown = np.flatnonzero(~np.isin(keys, wanted))
    if len(unknown):
        _refuse(found, unknown, f"are of trials that {trial_set.path} lacks", offer)
    index = pd.Index(keys)
    if len(repeated := np.flatnonzero(index.duplicated())):
        _refuse(found, repeated, "repeat the trial of an earlier line", "")
    return index.get_indexer(pd.Index(wanted))


def _refuse(found: ForeignScores, rows: NDArray[np.int64], what: str, offer: str) -> None:
    assert found.enroll is not None and found.test is not None, "lines that name their trials"
    shown = [
        f"{found.path}:{found.lines[row]} ({found.enroll[row : row + 1].item()} {found.test[row : row + 1].item()})"
        for row in rows[:5]
    ]
    raise ArtifactError(
        f"{found.path}: {len(rows):,} of {len(found.scores):,} scores {what}: {', '.join(shown)}{offer}"
    )
