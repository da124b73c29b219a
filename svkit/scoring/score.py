"""`svkit score`: score a trial list with embeddings, and measure the errors with confidence intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svkit.errors import ArtifactError, ConfigError, DataError
from svkit.progress import Progress, SilentProgress
from svkit.scoring.backend import Backend, describe_backend
from svkit.scoring.calibrate import Features, check_calibration, install, quality_features
from svkit.scoring.comparison import compare_systems, find_resamples
from svkit.scoring.conditions import compare_conditions
from svkit.scoring.fusion import fuse
from svkit.scoring.guards import (
    Guards,
    check_checkpoint,
    check_classes,
    check_labels,
    check_list,
    check_speakers,
    check_training,
)
from svkit.scoring.imported import plan_imported, score_imported
from svkit.scoring.material import KINDS, Material, material_directory
from svkit.scoring.measurement import judge
from svkit.scoring.request import ScoreRequest, ScoreResult, SystemScore, check_options, score_output
from svkit.scoring.subject import Subject, TrialSet
from svkit.scoring.systems import find_systems, one_each, without_condition
from svkit.scoring.trial_scores import Lookup, has_embeddings, look_up, score_trials
from svkit.store.calibration import FILE_NAME
from svkit.store.embeddings import Embeddings, read_embeddings, read_facts
from svkit.store.metrics import Comparison, Condition, Metrics, read_metrics
from svkit.store.output import Output, continue_parts


def run(request: ScoreRequest, progress: Progress) -> ScoreResult:
    """Score a trial list with every system, or fuse finished scores of it.

    Raises:
        DataError: the trials are missing or bad, have only one class, name utterances without an embedding, or
            share speakers with the model's training, a cohort, the training data of PLDA or a calibration.
        ArtifactError: embeddings, scores or a cohort are missing, corrupt or stale.
        ConfigError: the output is already finished, or options contradict each other.
    """
    guards = Guards(allowed=frozenset(request.allow))  # checks the names
    trial_set = TrialSet.read(request)
    check_options(request, trial_set.trials)
    check_list(guards, request.trials, trial_set.trials, trial_set.enrollment)
    guards.tell(progress)
    name = request.trials.stem
    if request.fuse:
        return ScoreResult(trials=name, systems=(fuse(request, trial_set, guards, progress),))
    imported, own_request = plan_imported(request)
    outputs = _plan(own_request, trial_set, progress) if request.embeddings or not imported else []
    outputs += imported
    continue_parts(outputs)  # after a kill between two systems, the same command continues with the second
    systems = []
    kept = [output.is_kept(progress) for output in outputs]
    shown = SilentProgress() if all(kept) else progress
    with shown.task(f"score {name}", kept.count(False)) as task:
        for output, stays in zip(outputs, kept, strict=True):
            if not stays:
                # Each system records what was found for it, and what holds for the list.
                own = replace(guards, cautions=[*guards.cautions], unchecked=[], found_nothing=[])
                score_one = score_imported if "scores" in output.inputs else _score_system
                score_one(request, trial_set, output, own, progress)
                task.advance(1, system=output.path.parent.name)
            systems.append(SystemScore(directory=output.path, metrics=read_metrics(output.path)))
    rated = [(one.directory, one.metrics) for one in systems if isinstance(one.metrics, Metrics)]
    return ScoreResult(
        trials=name,
        systems=tuple(systems),
        comparisons=_compare(systems, request.seed, progress),
        conditions=compare_conditions(rated, request.seed, progress),
    )


def _plan(request: ScoreRequest, trial_set: TrialSet, progress: Progress) -> list[Output]:
    """Find the systems and the other inputs of each; a manifest given as material is embedded here."""
    directories = find_systems(request, trial_set.trials, progress)
    asked = {**request.material, "--calibration": request.calibrations}
    names = [directory.name for directory in directories]
    given = [one_each(option, paths, names) for option, paths in asked.items()]
    outputs: list[Output] = []
    for directory, *paths, calibration in zip(directories, *given, strict=True):
        material = {
            name: material_directory(path, directory, request.exp, progress)
            for name, path in zip(KINDS, paths, strict=True)
            if path is not None
        }
        if not directory.is_dir():
            raise ArtifactError(f"{directory}: does not exist; run `svkit extract` first")
        inputs = {"embeddings": directory, **material, "calibration": calibration}
        is_changed = "condition" in read_facts(directory)
        if is_changed and request.sides == "test":
            inputs["enrolled"] = without_condition(directory)
        changes = {"sides": "both"} if is_changed and request.sides == "both" else {}
        outputs.append(score_output(request, directory.name, inputs, changes))
    if request.sides == "both" and not any("sides" in output.config for output in outputs):
        raise ConfigError(
            "--sides both is for embeddings under a condition (svkit extract --condition); found none"
        )
    return outputs


def _score_system(
    request: ScoreRequest, trial_set: TrialSet, output: Output, guards: Guards, progress: Progress
) -> None:
    """Read and check everything that one system needs, then score the trials, judge the scores and write them."""
    inputs, num_said = output.inputs, len(guards.cautions)
    directory = inputs["embeddings"]
    embeddings = read_embeddings(directory)
    meta = embeddings.meta
    check_checkpoint(guards, directory, meta)
    trial_set, offers = trial_set.matched(embeddings.ids, directory, guards, match_ids=request.match_ids)
    whole_list = trial_set.trials
    trial_set, lookup = _look_up(trial_set, embeddings, directory, guards, offers)
    trials, enrollment = trial_set.trials, trial_set.enrollment
    if "enrolled" in inputs:  # made by the same model from the same list, so only the numbers differ
        enrolled = read_embeddings(inputs["enrolled"])
        lookup = replace(lookup, enroll=look_up(trials, enrolled, str(inputs["enrolled"]), enrollment).enroll)
    learns = request.calibrate or request.calibrate_folds > 0
    check_classes(guards, trial_set.path, trials.labels, learns=learns)
    check_training(guards, directory, meta, trials, enrollment)
    material = Material.read(inputs, embeddings)
    for name, one in material.embeddings.items():
        if name != "mean":  # a mean tells nothing about single speakers
            check_speakers(guards, (KINDS[name], inputs[name], one), trials, embeddings, enrollment)
    mean = material.mean(request.backend, lookup.test)
    cohort = material.cohort(request.backend, mean)
    backend, cohort_size = _counted(material.weighed(request.backend), cohort, inputs, guards)
    # Labels are checked on the whole list, because a wrong one makes the others doubtful even if its trial is left out.
    check_labels(guards, trial_set.path, whole_list, meta.get("manifest"), enrollment)
    subject = Subject(
        name=directory.name,
        trial_set=trial_set,
        guards=guards,
        backend=describe_backend(backend, request.backend.name(inputs), material.hashes),
        manifest=meta.get("manifest"),
        checkpoint=meta.get("checkpoint"),
        model=meta.get("model"),
        condition=Condition(name=meta["condition"], sides=request.sides) if "condition" in meta else None,
        num_folds=request.calibrate_folds,
    )
    if "calibration" in inputs:
        record = check_calibration(inputs["calibration"], subject, cohort_size)
        subject = replace(subject, calibration=record)
    plda = material.plda(backend, progress)
    groupings = subject.groupings(request.by)
    with output.open():
        guards.tell(progress, num_said)
        centered = lookup if mean is None else lookup.centered(mean)
        scores, cohort_means = score_trials(centered, backend, cohort, plda)
        features = Features(names=("score",), values=scores[:, None])
        if request.quality and (learns or subject.calibration is not None):
            # Norms before centring, as in `svkit verify`, which centres nothing.
            features = quality_features(scores, cohort_means, lookup, subject)
            if cohort_means is None:
                progress.note(
                    "--qmf without --cohort: uses norms and durations, but no mean scores against impostors"
                )
        learnt = judge(request, subject, features, scores, groupings, output, progress)
        if learnt is not None:
            own = output.path / FILE_NAME
            # `svkit verify` decides on recordings as they are, so it gets no calibration of a condition.
            is_own = subject.condition is not None
            place = str(own) if is_own else install(own, learnt, subject.checkpoint)
            progress.note(f"calibration: {place}")
        output.finish()


def _counted(
    backend: Backend, cohort: NDArray[np.float32] | None, inputs: Mapping[str, Path], guards: Guards
) -> tuple[Backend, int | None]:
    """Return the back-end with `top_n` limited to the cohort's size, and that size; None if all members count anyway.

    The limited number is recorded, so that back-ends that give equal scores have equal records.
    """
    if cohort is None or backend.norm == "snorm":
        return backend, None
    if len(cohort) < backend.top_n:
        if backend.norm == "asnorm":
            asked = f"{inputs['cohort']}: --top-n {backend.top_n}"
            guards.caution(f"{asked}: the cohort has {len(cohort):,} members, and all of them count")
        backend = replace(backend, top_n=len(cohort))
    return backend, len(cohort)


def _look_up(
    trial_set: TrialSet, embeddings: Embeddings, directory: Path, guards: Guards, offers: str
) -> tuple[TrialSet, Lookup]:
    """Find the embeddings of the trials; if the guard allows it, trials without embeddings are left out."""
    try:
        lookup = look_up(trial_set.trials, embeddings, str(directory), trial_set.enrollment)
    except DataError as found:
        error = DataError(f"{found}{offers}")
        if "missing-utterances" not in guards.allowed:
            guards.stop("missing-utterances", error)
        kept = has_embeddings(trial_set.trials, embeddings, trial_set.enrollment)
        if not kept.any():
            raise error from found
        guards.cautions.append(f"{error}; {np.count_nonzero(~kept):,} of {len(kept):,} trials are left out")
        trial_set = trial_set.only(kept)
        lookup = look_up(trial_set.trials, embeddings, str(directory), trial_set.enrollment)
    return trial_set, lookup


def _compare(systems: Sequence[SystemScore], seed: int, progress: Progress) -> tuple[Comparison, ...]:
    """Compare the systems without a condition by their resamples; with trials of one class there is no comparison."""
    systems = [one for one in systems if one.metrics.condition is None]
    rated = [(one.directory, one.metrics) for one in systems if isinstance(one.metrics, Metrics)]
    if len(systems) < 2 or len(rated) < len(systems):
        return ()
    found = [(one, find_resamples(directory, one, seed, progress)) for directory, one in rated]
    return tuple(compare_systems(found, progress))
