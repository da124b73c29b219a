"""Fuses the scores of several systems on one trial list to one log-likelihood ratio, by logistic regression.

The weights are never fitted on the trials they are judged on: either they come from other trials (`--calibration
FILE`), or each trial gets those learnt on other speakers (`--calibrate-folds`). `--calibrate` learns on all
trials of a held-out list for later use; that list's own scores are still the cross-validated ones.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svkit.errors import ArtifactError, ConfigError, DataError, first_five
from svkit.eval.logistic import cross_validate
from svkit.progress import Progress
from svkit.scoring import calibrate as calibrations
from svkit.scoring.breakdown import Grouping
from svkit.scoring.calibrate import Features
from svkit.scoring.comparison import read_systems
from svkit.scoring.guards import Guards, check_scores
from svkit.scoring.measurement import (
    Material,
    Measured,
    draw_speakers,
    find_groupings,
    identify,
    make_metrics,
    measure,
    speakers_of,
    write,
)
from svkit.scoring.trial_speakers import trial_speaker_names
from svkit.store.calibration import FILE_NAME, CalibrationRecord, write_calibration
from svkit.store.metrics import BackendRecord, CalibratedBy, FusedSystem, ScoredList, read_metrics
from svkit.store.output import Output
from svkit.store.provenance import is_finished
from svkit.store.scores import Scores

DEFAULT_FOLDS = 5


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Fusion:
    """Systems that are fused."""

    name: str
    """Their names joined by plus signs."""
    directories: tuple[Path, ...]
    systems: tuple[Scores, ...]
    metrics: tuple[ScoredList, ...]
    groupings: tuple[Grouping, ...]
    """Breakdowns, by the manifest of the first system."""
    speakers: set[str] | None
    """Of the trials, likewise; None: not known."""

    @property
    def description(self) -> BackendRecord:
        """What a fusion's weights belong to."""
        systems = [
            FusedSystem(
                name=metrics.name,
                backend=metrics.backend,
                checkpoint_sha256=(metrics.checkpoint or {}).get("sha256"),
            )
            for metrics in self.metrics
        ]
        return BackendRecord(name="fusion", systems=tuple(systems))


def open_fusion(directories: tuple[Path, ...], material: Material, guards: Guards) -> Fusion:
    """Read the scores that are fused.

    Raises:
        ConfigError: fewer than two, or one twice.
        ArtifactError: not finished, or of other trials than the list given.
    """
    if len(directories) < 2 or len({path.resolve() for path in directories}) < len(directories):
        raise ConfigError(f"--fuse: expected two or more scores directories, found {first_five(directories)}")
    for directory in directories:
        if not is_finished(directory):
            raise ArtifactError(f"{directory}: no finished scores; run `svkit score` first")
    systems, metrics = read_systems(directories), [read_metrics(directory) for directory in directories]
    if not systems[0].trials.equals(material.trials):
        raise ArtifactError(f"{directories[0]}: expected the trials of {material.path}; score those first")
    for directory, facts in zip(directories, metrics, strict=True):
        check_scores(guards, directory, facts)
    names = [
        one.name if one.backend.name == "cosine" else f"{one.name}-{one.backend.name}" for one in metrics
    ]
    return Fusion(
        name="+".join(names),
        directories=directories,
        systems=tuple(systems),
        metrics=tuple(metrics),
        groupings=tuple(find_groupings(material, metrics[0].manifest)),
        speakers=trial_speaker_names(material.trials, metrics[0].manifest, material.enrollment),
    )


def fuse(
    fusion: Fusion,
    material: Material,
    guards: Guards,
    record: CalibrationRecord | None,
    num_folds: int,
    output: Output,
    *,
    learn: bool,
    progress: Progress,
) -> tuple[ScoredList, Measured]:
    """Fuse, measure and write.

    Args:
        fusion: the systems.
        material: the trials.
        guards: what was passed.
        record: weights learnt on other trials; None: cross-validation over speakers.
        num_folds: of the cross-validation.
        output: where to.
        learn: also learn weights on all of these trials, for others.
        progress: takes notes.

    Raises:
        ConfigError: a cross-validation on trials whose labels contradict the speakers.
    """
    labels = material.trials.labels
    names = tuple("score" if number == 0 else f"score_{number + 1}" for number in range(len(fusion.systems)))
    features = Features(names=names, values=np.stack([system.scores for system in fusion.systems], axis=1))
    manifest = fusion.metrics[0].manifest
    speakers = draw_speakers(material, manifest, progress)
    if record is not None:
        ranks, llrs = calibrations.apply(record, features)
        calibrated = CalibratedBy(method="held-out trials", trials=record.trials)
    else:
        try:
            of_trials, _ = speakers_of(material, manifest)
        except DataError as error:
            raise ConfigError(
                "--fuse without --calibration needs trials whose labels agree with the speakers"
            ) from error
        found = cross_validate(features.values, labels, of_trials, num_folds, material.seed)
        ranks, llrs = found.unbounded, found.llrs
        guards.caution(calibrations.folds_caution(found))
        calibrated = CalibratedBy(method="cross-validation over speakers", num_folds=num_folds)
    learnt = None
    if learn:
        learnt = calibrations.learn(
            features, material.trials, material.path, fusion.description, None, fusion.speakers
        )
        guards.caution(calibrations.separable_caution(learnt))
    measured = measure(material, ranks, llrs, speakers, fusion.groupings, progress)
    cautions, unchecked = [*guards.cautions], [*guards.unchecked]
    for one in fusion.metrics:
        cautions += one.cautions
        unchecked += one.unchecked
    metrics = make_metrics(
        measured,
        labels,
        name=fusion.name,
        trials=identify(material),
        backend=fusion.description,
        manifest=manifest,
        calibration=calibrated,
        cautions=tuple(dict.fromkeys(cautions)),
        unchecked=tuple(dict.fromkeys(unchecked)),
    )
    write(output, material, ranks, llrs, metrics)
    if learnt is not None:
        write_calibration(output.path / FILE_NAME, learnt)
        progress.note(f"fusion: {output.path / FILE_NAME}")
    return metrics, measured
