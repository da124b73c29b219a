"""`svkit score`: a trial list against embeddings, to scores and metrics with confidence intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svkit.errors import ArtifactError, ConfigError, DataError
from svkit.eval.logistic import cross_validate
from svkit.eval.plda import Plda
from svkit.progress import Progress
from svkit.scoring import calibrate as calibrations
from svkit.scoring import fusion as fusions
from svkit.scoring.backend import (
    Backend,
    Lookup,
    Scored,
    cohort_members,
    has_embeddings,
    look_up,
    matrix_sha256,
    read_material,
    score_trials,
    train_backend,
)
from svkit.scoring.breakdown import Grouping, read_sidecar
from svkit.scoring.cohort import material_directory
from svkit.scoring.guards import (
    Guards,
    check_checkpoint,
    check_classes,
    check_labels,
    check_list,
    check_speakers,
    check_training,
)
from svkit.scoring.id_matching import find_matching
from svkit.scoring.measurement import (
    Material,
    Measured,
    compare_systems,
    draw_speakers,
    find_groupings,
    identify,
    make_metrics,
    measure,
    measure_again,
    write,
)
from svkit.scoring.request import ScoreRequest, ScoreResult, SystemScore, check_options, resolved_config
from svkit.scoring.systems import find_systems, one_each
from svkit.scoring.trial_speakers import trial_speaker_names
from svkit.store.calibration import FILE_NAME as CALIBRATION_NAME
from svkit.store.calibration import CalibrationRecord, write_calibration
from svkit.store.embeddings import Embeddings, read_embeddings
from svkit.store.enrollment import read_enrollment
from svkit.store.metrics import BackendRecord, CalibratedBy, ScoredList, read_metrics
from svkit.store.output import Output, continue_parts
from svkit.store.provenance import is_finished
from svkit.store.scores import read_scores
from svkit.store.trials import read_trials


def run(request: ScoreRequest, progress: Progress) -> ScoreResult:
    """Score a trial list with every system, or fuse scores of it.

    Raises:
        DataError: the trials are missing or bad, have one class only, name utterances without an embedding, or
            share speakers with the model's training, a cohort, the training data of PLDA or a calibration.
        ArtifactError: embeddings, scores or cohort missing, corrupt or stale.
        ConfigError: finished already, or options that contradict each other.
    """
    guards = Guards(allowed=request.allow)  # checks the names
    trials = read_trials(request.trials)
    material = Material(
        path=request.trials,
        trials=trials,
        enrollment=None if request.enroll is None else read_enrollment(request.enroll),
        sidecar=None if request.sidecar is None else read_sidecar(request.sidecar, trials),
        columns=request.by,
        forms=request.forms,
        seed=request.seed,
    )
    check_options(request, trials)
    check_list(guards, request.trials, trials, material.enrollment)
    _say(guards.cautions, progress)
    if request.fuse:
        system, _ = _fuse_systems(request, material, guards, progress)
        return ScoreResult(trials=request.trials.stem, systems=(system,))
    directories = find_systems(request, trials, progress)
    count = len(directories)
    cohorts = one_each("--cohort", request.cohorts, count)
    training = one_each("--plda-train", request.plda_training, count)
    records = one_each("--calibration", request.calibrations, count)
    plans = []
    for number, directory in enumerate(directories):
        cohort, plda_training = (
            None if path is None else material_directory(path, directory, request.exp, progress)
            for path in (cohorts[number], training[number])
        )
        plans.append(
            _Paths(
                embeddings=directory, cohort=cohort, plda_training=plda_training, calibration=records[number]
            )
        )
    outputs = [_output(request, paths) for paths in plans]
    continue_parts(outputs)
    systems: list[SystemScore] = []
    measured: list[tuple[ScoredList, Measured]] = []
    with progress.task(f"score {request.trials.stem}", count) as task:
        for paths, output in zip(plans, outputs, strict=True):
            facts = None
            if output.is_kept(progress):
                system = _finished_system(paths.embeddings.name, output.path)
            else:
                own = replace(guards, cautions=[*guards.cautions], unchecked=[])
                system, facts = _score_system(request, material, paths, output, own, progress)
            systems.append(system)
            if count > 1:
                facts = facts or measure_again(material, system.directory, progress)
                measured.append((system.metrics, facts))
            task.advance(1, system=paths.embeddings.name)
    comparisons = compare_systems(measured, progress)
    return ScoreResult(trials=request.trials.stem, systems=tuple(systems), comparisons=tuple(comparisons))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Paths:
    """What one system is made of."""

    embeddings: Path
    cohort: Path | None
    plda_training: Path | None
    calibration: Path | None

    def inputs(self, request: ScoreRequest) -> dict[str, Path]:
        """Return all inputs by name, as provenance records them."""
        found = {"trials": request.trials, "embeddings": self.embeddings}
        optional = {
            "cohort": self.cohort,
            "plda_training": self.plda_training,
            "enroll": request.enroll,
            "sidecar": request.sidecar,
            "calibration": self.calibration,
        }
        return found | {name: path for name, path in optional.items() if path is not None}


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class _System:
    """One system's inputs, read and checked before anything is written."""

    directory: Path
    material: Material
    """The trials that are scored."""
    embeddings: Embeddings
    found: Lookup
    cohort: NDArray[np.float32] | None
    method: Backend
    """With the number of cohort members that there are, where more were asked for."""
    plda: Plda | None
    backend: BackendRecord
    """The back-end with its material, as metrics and calibrations record it."""
    calibration: CalibrationRecord | None
    groupings: list[Grouping]
    guards: Guards


def _output(request: ScoreRequest, paths: _Paths) -> Output:
    if not paths.embeddings.is_dir():
        raise ArtifactError(f"{paths.embeddings}: does not exist; run `svkit extract` first")
    suffix = request.backend.suffix
    stem = f"{request.trials.stem}-{suffix}" if suffix else request.trials.stem
    return Output(
        request.exp / "scores" / paths.embeddings.name / stem,
        command="score",
        config=resolved_config(request),
        inputs=paths.inputs(request),
        overwrite=request.overwrite,
        keep_finished=request.keep_finished,
        experiment=request.exp,
    )


def _finished_system(name: str, directory: Path) -> SystemScore:
    return SystemScore(name=name, directory=directory, metrics=read_metrics(directory))


def _say(cautions: Sequence[str], progress: Progress) -> None:
    for caution in cautions:
        progress.note(f"allowed, and recorded: {caution}")


def _score_system(
    request: ScoreRequest,
    material: Material,
    paths: _Paths,
    output: Output,
    guards: Guards,
    progress: Progress,
) -> tuple[SystemScore, Measured]:
    """Score with one system."""
    of_list = len(guards.cautions)  # said already
    system = _read_system(request, material, paths, guards)
    with output.open():
        _say(system.guards.cautions[of_list:], progress)
        scored = score_trials(system.found, system.method, system.cohort, system.plda)
        metrics, llrs, learnt, measured = _measure(request, system, scored, progress)
        write(output, system.material, scored.scores, llrs, metrics)
        if learnt is not None:
            write_calibration(output.path / CALIBRATION_NAME, learnt)
            installed = calibrations.install(learnt, system.embeddings)
            progress.note(f"calibration: {installed or output.path / CALIBRATION_NAME}")
        output.finish()
    return _finished_system(paths.embeddings.name, output.path), measured


def _read_system(request: ScoreRequest, material: Material, paths: _Paths, guards: Guards) -> _System:
    backend, directory = request.backend, paths.embeddings
    embeddings = read_embeddings(directory)
    check_checkpoint(guards, directory, embeddings.meta)
    material, offers = _match_ids(
        request, material, embeddings.ids, f"{material.path} and {directory}", guards
    )
    listed = material.trials
    material, found = _look_up(material, embeddings, directory, guards, offers)
    trials, enrollment = material.trials, material.enrollment
    learns = request.calibrate or request.calibrate_folds > 0
    check_classes(guards, material.path, trials.labels, learns=learns)
    check_training(guards, directory, embeddings, trials, enrollment)
    used: dict[str, Embeddings] = {}
    for name, what, path in (
        ("cohort", "the cohort", paths.cohort),
        ("plda_training", "the training data of PLDA", paths.plda_training),
    ):
        if path is not None:
            used[name] = read_material(what, path, embeddings, directory)
            check_speakers(guards, (what, path, used[name]), trials, embeddings, enrollment)
    cohort = cohort_members(used["cohort"], backend) if "cohort" in used else None
    if cohort is not None and backend.norm != "snorm" and len(cohort) < backend.top_n:
        if backend.norm == "asnorm":
            guards.caution(
                f"{paths.cohort}: --top-n {backend.top_n}: the cohort has {len(cohort):,} members, all of which count"
            )
        backend = replace(backend, top_n=len(cohort))
    check_labels(guards, material.path, listed, embeddings.meta.get("manifest"), enrollment)
    description = calibrations.describe_backend(
        backend, {name: matrix_sha256(embedded) for name, embedded in used.items()}
    )
    sha256 = calibrations.checkpoint_facts(embeddings).get("sha256")
    record = None
    if paths.calibration is not None:
        speakers = trial_speaker_names(trials, embeddings.meta.get("manifest"), enrollment)
        record = calibrations.check_calibration(
            paths.calibration,
            request.trials,
            description,
            sha256,
            speakers,
            guards,
            None if cohort is None or backend.norm == "snorm" else len(cohort),
        )
    return _System(
        directory=directory,
        material=material,
        embeddings=embeddings,
        found=found,
        cohort=cohort,
        method=backend,
        plda=train_backend(used["plda_training"]) if "plda_training" in used else None,
        backend=description,
        calibration=record,
        groupings=find_groupings(material, embeddings.meta.get("manifest")),
        guards=guards,
    )


def _match_ids(
    request: ScoreRequest, material: Material, known: NDArray[np.object_], source: str, guards: Guards
) -> tuple[Material, str]:
    """Rename what `--match-ids` matches with the known utterances; without it, say which rule would match.

    The list is looked at again where it was renamed: two ids may have become one.

    Raises:
        DataError: ids that match more than one utterance.
    """
    trials, enrollment = material.trials, material.enrollment
    found = {"trials": find_matching(trials.ids if enrollment is None else trials.test.values, known)}
    if enrollment is not None:
        found["utterances of the enrollment map"] = find_matching(enrollment["utterance_id"].unique(), known)
        found["enrollments"] = find_matching(trials.enroll.values, enrollment["enroll_id"].unique())
    matched = {what: one for what, one in found.items() if one is not None}
    if not matched or not request.match_ids:
        return material, "".join(f"; {what}: {one.offer()}" for what, one in matched.items())
    for what, one in matched.items():
        guards.caution(one.take(f"{source}, {what}"))
    names = {what: one.names for what, one in matched.items()}
    test = names.get("trials", {})
    if enrollment is not None:
        of_map = names.get("utterances of the enrollment map", {})
        enrollment = enrollment.assign(utterance_id=[of_map.get(n, n) for n in enrollment["utterance_id"]])
    trials = trials.renamed(test if enrollment is None else names.get("enrollments", {}), test)
    check_list(guards, material.path, trials, enrollment)
    return replace(material, trials=trials, enrollment=enrollment), ""


def _look_up(
    material: Material, embeddings: Embeddings, directory: Path, guards: Guards, offers: str
) -> tuple[Material, Lookup]:
    """Find the embeddings of the trials; where the guard may be passed, of those trials that have them."""
    try:
        return material, look_up(material.trials, embeddings, str(directory), material.enrollment)
    except DataError as found:
        error = DataError(f"{found}{offers}")
        if "missing-utterances" not in guards.allowed:
            guards.stop("missing-utterances", error)
        kept = has_embeddings(material.trials, embeddings, material.enrollment)
        if not kept.any():
            raise error from found
        guards.cautions.append(f"{error}; {np.count_nonzero(~kept):,} of {len(kept):,} trials are left out")
    material = material.only(kept)
    return material, look_up(material.trials, embeddings, str(directory), material.enrollment)


def _measure(
    request: ScoreRequest, system: _System, scored: Scored, progress: Progress
) -> tuple[ScoredList, NDArray[np.float64] | None, CalibrationRecord | None, Measured]:
    """Return the metrics, log-likelihood ratios if calibrated, the calibration learnt if asked, and the rest."""
    material, meta = system.material, system.embeddings.meta
    trials = material.trials
    draws = draw_speakers(material, meta.get("manifest"), progress)
    llrs, learnt = None, None
    calibrated: CalibratedBy | None = None
    if request.calibrate or request.calibrate_folds or system.calibration is not None:
        features = calibrations.trial_features(
            scored, system.found, trials, system.embeddings, material.enrollment, quality=request.quality
        )
        if request.quality and scored.cohort_means is None:
            progress.note("--qmf without --cohort: norms and durations, but no mean scores against impostors")
        if system.calibration is not None:
            _, llrs = calibrations.apply(system.calibration, features)
            calibrated = CalibratedBy(method="held-out trials", trials=system.calibration.trials)
        elif request.calibrate_folds:
            if isinstance(draws, str):
                raise ConfigError(f"--calibrate-folds needs the speakers: {draws}")
            found = cross_validate(
                features.values, trials.labels, draws.speakers, request.calibrate_folds, request.seed
            )
            llrs = found.llrs
            system.guards.caution(calibrations.folds_caution(found))
            calibrated = CalibratedBy(
                method="cross-validation over speakers", num_folds=request.calibrate_folds
            )
        if request.calibrate:
            sha256 = calibrations.checkpoint_facts(system.embeddings).get("sha256")
            names = trial_speaker_names(trials, meta.get("manifest"), material.enrollment)
            learnt = calibrations.learn(features, trials, request.trials, system.backend, sha256, names)
            system.guards.caution(calibrations.separable_caution(learnt))
    measured = measure(material, scored.scores, llrs, draws, system.groupings, progress)
    metrics = make_metrics(
        measured,
        trials.labels,
        name=system.directory.name,
        trials=identify(material),
        backend=system.backend,
        **{key: meta.get(key) for key in ("model", "checkpoint", "manifest")},
        calibration=calibrated,
        cautions=tuple(system.guards.cautions),
        unchecked=tuple(system.guards.unchecked),
    )
    return metrics, llrs, learnt, measured


def _fuse_systems(
    request: ScoreRequest, material: Material, guards: Guards, progress: Progress
) -> tuple[SystemScore, Measured | None]:
    """Fuse finished scores into a scores directory of their own."""
    if request.match_ids and is_finished(request.fuse[0]):  # what the scores have was matched before
        scored = read_scores(request.fuse[0]).trials.ids
        material, _ = _match_ids(request, material, scored, f"{material.path} and {request.fuse[0]}", guards)
    fusion = fusions.open_fusion(request.fuse, material, guards)
    manifest = fusion.metrics[0].manifest
    check_labels(guards, request.trials, material.trials, manifest, material.enrollment)
    (path,) = one_each("--calibration", request.calibrations, 1)
    num_folds = 0 if path is not None else request.calibrate_folds or fusions.DEFAULT_FOLDS
    inputs = {"trials": request.trials}
    inputs |= {f"scores_{number + 1}": directory for number, directory in enumerate(request.fuse)}
    optional = {"enroll": request.enroll, "sidecar": request.sidecar, "calibration": path}
    inputs |= {name: given for name, given in optional.items() if given is not None}
    output = Output(
        request.exp / "scores" / fusion.name / request.trials.stem,
        command="score",
        config={**resolved_config(request), "fuse": fusion.name, "calibrate_folds": num_folds},
        inputs=inputs,
        overwrite=request.overwrite,
        keep_finished=request.keep_finished,
        experiment=request.exp,
    )
    if output.is_kept(progress):
        return _finished_system(fusion.name, output.path), None
    record = None
    if path is not None:
        record = calibrations.check_calibration(
            path, request.trials, fusion.description, None, fusion.speakers, guards
        )
    check_classes(guards, request.trials, material.trials.labels, learns=request.calibrate or path is None)
    with output.open():
        _, measured = fusions.fuse(
            fusion,
            material,
            guards,
            record,
            num_folds,
            output,
            learn=request.calibrate,
            progress=progress,
        )
        output.finish()
    return _finished_system(fusion.name, output.path), measured
