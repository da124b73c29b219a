"""Judges scored trials, of a system or of a fusion: calibration, metrics with intervals over speakers, files."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svkit.errors import ConfigError, DataError
from svkit.eval.bootstrap import TrialSpeakers, draw_multiplicities
from svkit.eval.logistic import cross_validate
from svkit.eval.summary import Draws, Resampled, resample_errors, summarize, summarize_group
from svkit.progress import Progress
from svkit.scoring.breakdown import Grouping
from svkit.scoring.calibrate import Features, apply, folds_caution, learn, separable_caution
from svkit.scoring.comparison import NUM_RESAMPLES, keep_resamples
from svkit.scoring.request import ScoreRequest
from svkit.scoring.subject import Subject
from svkit.scoring.trial_speakers import find_speakers
from svkit.store.calibration import FILE_NAME, CalibrationRecord, write_calibration
from svkit.store.enrollment import first_utterances
from svkit.store.metrics import Breakdown, CalibratedBy, Metrics, ScoredList, write_metrics
from svkit.store.output import Output
from svkit.store.score_forms import write_form
from svkit.store.scores import write_resamples, write_scores

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class _Population:
    """The speakers of the trials, as far as they are known and enough."""

    speakers: TrialSpeakers | None = None
    draws: Draws | None = None
    problem: str | None = None
    """Why there are no draws."""


def judge(
    request: ScoreRequest,
    subject: Subject,
    features: Features,
    scores: Floats | None,
    groupings: Sequence[Grouping],
    output: Output,
    progress: Progress,
) -> CalibrationRecord | None:
    """Calibrate, measure and write.

    Args:
        request: what is wanted.
        subject: what is judged, on T trials.
        features: what a calibration sees of each trial.
        scores: [T]; None: the score is what the calibration makes of the features.
        groupings: of the breakdowns.
        output: open.
        progress: takes notes.

    Returns:
        The calibration learnt on these trials, where the request asks for one.

    Raises:
        ConfigError: a cross-validation without known speakers, or features other than those of the calibration.
    """
    trials, guards = subject.trial_set.trials, subject.guards
    population = _find_population(subject, request.seed, progress)
    # Ratios come from other trials or from those of other speakers, never from the trials they are judged on.
    unbounded, llrs, calibrated_by = None, None, None
    if subject.calibration is not None:
        unbounded, llrs = apply(subject.calibration, features)
        calibrated_by = CalibratedBy(method="held-out trials", trials=subject.calibration.trials)
    elif subject.num_folds:
        if population.speakers is None:
            raise ConfigError(f"a cross-validation over speakers needs them: {population.problem}")
        found = cross_validate(
            features.values, trials.labels, population.speakers, subject.num_folds, request.seed
        )
        unbounded, llrs = found.unbounded, found.llrs
        guards.caution(folds_caution(found))
        method = "cross-validation over speakers"
        calibrated_by = CalibratedBy(method=method, num_folds=subject.num_folds)
    if scores is None:  # unbounded: within bounds, many trials would tie
        assert unbounded is not None, "a fusion has a calibration or folds"
        scores = unbounded
    learnt = learn(subject, features) if request.calibrate else None
    if learnt is not None:
        guards.caution(separable_caution(learnt))
    metrics, resampled = _measure(subject, scores, llrs, calibrated_by, population, groupings, progress)
    write_scores(output.path, trials, scores, llrs)
    for form in request.forms:
        write_form(output.path, form, trials, scores)
    if population.draws is not None and resampled is not None:
        write_resamples(output.path, keep_resamples(population.draws, request.seed, resampled))
    write_metrics(output.path, metrics, output.experiment)
    if learnt is not None:
        write_calibration(output.path / FILE_NAME, learnt)
    return learnt


def _find_population(subject: Subject, seed: int, progress: Progress) -> _Population:
    """Find speakers and draw resamples of them; labels may contradict them, and they may be too few to draw from."""
    enrollment = subject.trial_set.enrollment
    first = None if enrollment is None else first_utterances(enrollment)
    speakers = None
    try:
        speakers, source = find_speakers(subject.trial_set.trials, subject.manifest, first)
        drawn = draw_multiplicities(speakers.num_speakers, NUM_RESAMPLES, seed)
    except (ConfigError, DataError) as error:
        progress.note(f"no confidence interval: {error}")
        return _Population(speakers=speakers, problem=str(error))
    return _Population(speakers=speakers, draws=Draws(speakers=speakers, multiplicities=drawn, source=source))


def _measure(
    subject: Subject,
    scores: Floats,
    llrs: Floats | None,
    calibrated_by: CalibratedBy | None,
    population: _Population,
    groupings: Sequence[Grouping],
    progress: Progress,
) -> tuple[ScoredList, Resampled | None]:
    labels, draws = subject.trial_set.trials.labels, population.draws
    facts: dict[str, Any] = {
        **{key: getattr(subject, key) for key in ("name", "backend", "model", "checkpoint", "manifest")},
        "trials": subject.trial_set.describe(),
        "calibration": calibrated_by,
        "cautions": tuple(subject.guards.cautions),
        "unchecked": tuple(subject.guards.unchecked),
    }
    num_targets = int(np.count_nonzero(labels))
    if num_targets in (0, len(labels)):  # a guard let this pass: counts, and no rates
        num_nontargets = len(labels) - num_targets
        return ScoredList(num_targets=num_targets, num_nontargets=num_nontargets, **facts), None
    problem = population.problem
    resampled = None if draws is None else resample_errors(scores, labels, draws)
    try:
        rates = summarize(scores, labels, llrs, draws, resampled)
    except DataError as error:  # most resamples lack a class
        problem = str(error)
        progress.note(f"no confidence interval: {error}")
        rates = summarize(scores, labels, llrs)
    breakdown = []
    for grouping in groupings:
        rows = [np.flatnonzero(grouping.codes == code) for code in range(len(grouping.values))]
        groups = tuple(
            summarize_group(value, scores, labels, draws, own)
            for value, own in zip(grouping.values, rows, strict=True)
            if len(own)
        )
        breakdown.append(Breakdown(column=grouping.column, groups=groups))
    measured = {field.name: getattr(rates, field.name) for field in fields(rates)}
    metrics = Metrics(**facts, **measured, no_interval=problem, breakdown=tuple(breakdown))
    return metrics, resampled
