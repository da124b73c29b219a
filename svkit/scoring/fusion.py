"""Fuse the scores of several systems on one trial list into one log-likelihood ratio, by logistic regression.

The weights are never fitted on the trials they are judged on. Either they come from other trials (`--calibration
FILE`), or each trial gets weights learnt on other speakers (`--calibrate-folds`). `--calibrate` also learns weights on
all trials of a held-out list for later use; that list's own scores are still the cross-validated ones.
"""

from dataclasses import replace

import numpy as np

from svkit.config.conditions import plain_name, under
from svkit.errors import ArtifactError, ConfigError, first_five
from svkit.progress import Progress
from svkit.scoring.calibrate import Features, check_calibration
from svkit.scoring.comparison import read_systems
from svkit.scoring.guards import Guards, check_classes, check_labels, check_scores
from svkit.scoring.measurement import judge
from svkit.scoring.request import ScoreRequest, SystemScore, score_output
from svkit.scoring.subject import Subject, TrialSet
from svkit.scoring.systems import one_each
from svkit.store.calibration import FILE_NAME
from svkit.store.metrics import BackendRecord, FusedSystem, read_metrics
from svkit.store.places import sha256_of
from svkit.store.provenance import is_finished

DEFAULT_FOLDS = 5


def fuse(request: ScoreRequest, trial_set: TrialSet, guards: Guards, progress: Progress) -> SystemScore:
    """Fuse finished scores into a scores directory of their own.

    Raises:
        ConfigError: there are fewer than two systems, or one is given twice; the weights were learnt on these trials;
            or folds are asked for and the speakers are not known.
        ArtifactError: scores are not finished, stale, or of other trials than the list.
    """
    directories = request.fuse
    if len(directories) < 2 or len({path.resolve() for path in directories}) < len(directories):
        raise ConfigError(f"--fuse: expected two or more scores directories, found {first_five(directories)}")
    for directory in directories:
        if not is_finished(directory):
            raise ArtifactError(f"{directory}: no finished scores; run `svkit score` first")
    systems, metrics = read_systems(directories), [read_metrics(directory) for directory in directories]
    if request.match_ids:  # the ids in the scores were matched when they were made
        known = systems[0].trials.ids
        trial_set, _ = trial_set.matched(known, directories[0], guards, match_ids=True)
    if not systems[0].trials.equals(trial_set.trials):
        raise ArtifactError(f"{directories[0]}: expected the trials of {trial_set.path}; score those first")
    for directory, one in zip(directories, metrics, strict=True):
        check_scores(guards, directory, one)
    fused = [
        FusedSystem(
            name=plain_name(one.name),
            backend=one.backend,
            checkpoint_sha256=sha256_of(one.checkpoint),
        )
        for one in metrics
    ]
    if any(one.condition != metrics[0].condition for one in metrics):
        raise ConfigError("--fuse: expected scores under one condition, found several")
    condition = metrics[0].condition
    title = "+".join(
        one.name if one.backend.name == "cosine" else f"{one.name}-{one.backend.name}" for one in fused
    )
    (calibration,) = one_each("--calibration", request.calibrations, [title])
    subject = Subject(
        name=title if condition is None else under(title, condition.name),
        trial_set=trial_set,
        guards=guards,
        backend=BackendRecord(name="fusion", systems=tuple(fused)),
        manifest=metrics[0].manifest,
        condition=condition,
        num_folds=0 if calibration is not None else request.calibrate_folds or DEFAULT_FOLDS,
    )
    groupings = subject.groupings(request.by)
    check_labels(guards, trial_set.path, trial_set.trials, subject.manifest, trial_set.enrollment)
    output = score_output(
        request,
        subject.name,
        {
            **{f"scores_{number}": directory for number, directory in enumerate(directories, start=1)},
            "calibration": calibration,
        },
        {"fuse": subject.name, "calibrate_folds": subject.num_folds}
        | ({"sides": "both"} if condition and condition.sides == "both" else {}),
    )
    if not output.is_kept(progress):
        if calibration is not None:
            subject = replace(subject, calibration=check_calibration(calibration, subject))
        labels = trial_set.trials.labels
        check_classes(guards, trial_set.path, labels, learns=request.calibrate or calibration is None)
        # Whatever a guard let pass, or could not check, for a system holds for the fusion too.
        for kind, found in (("cautions", guards.cautions), ("unchecked", guards.unchecked)):
            inherited = [entry for one in metrics for entry in getattr(one, kind)]
            found[:] = dict.fromkeys([*found, *inherited])
        guards.found_nothing[:] = set.intersection(*(set(one.found_nothing) for one in metrics))
        # As in every calibration, the first feature is called `score`.
        names = tuple(f"score_{number + 1}" if number else "score" for number in range(len(systems)))
        values = np.stack([system.scores for system in systems], axis=1)
        with output.open():
            learnt = judge(
                request, subject, Features(names=names, values=values), None, groupings, output, progress
            )
            if learnt is not None:
                progress.note(f"fusion: {output.path / FILE_NAME}")
            output.finish()
    return SystemScore(directory=output.path, metrics=read_metrics(output.path))
