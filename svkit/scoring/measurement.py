"""Judge the scored trials of a system or a fusion: calibrate, measure with intervals over speakers, write the files."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from svkit.errors import ConfigError, DataError
from svkit.eval.bootstrap import TrialSpeakers, draw_multiplicities
from svkit.eval.logistic import cross_validate
from svkit.eval.summary import APPLICATIONS, Draws, summarize, summarize_group
from svkit.progress import Progress
from svkit.scoring.breakdown import Grouping
from svkit.scoring.calibrate import Features, apply, learn
from svkit.scoring.comparison import NUM_RESAMPLES, make_resamples
from svkit.scoring.ratio import slope_caution
from svkit.scoring.request import ScoreRequest
from svkit.scoring.subject import Subject
from svkit.scoring.trial_speakers import find_speakers
from svkit.store.calibration import FILE_NAME, CalibrationRecord, write_calibration
from svkit.store.metrics import Breakdown, CalibratedBy, Metrics, ScoredList, write_metrics
from svkit.store.output import Output
from svkit.store.score_forms import write_form
from svkit.store.scores import write_resamples, write_scores

Floats = NDArray[np.float64]


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
        scores: [T]; None: the scores are what the calibration makes of the features.
        groupings: the groups of each breakdown.
        output: the open output to write to.
        progress: receives notes.

    Returns:
        The calibration learnt on these trials, if the request asks for one.

    Raises:
        ConfigError: a cross-validation without known speakers, or features other than those of the calibration.
    """
    trial_set, trials, guards = subject.trial_set, subject.trial_set.trials, subject.guards
    # There are no intervals if labels contradict the speakers, or if there are too few speakers to draw from.
    speakers, draws, no_interval = None, None, None
    try:
        if trials.has_labels:
            speakers, source = find_speakers(trials, subject.manifest, trial_set.enrollment)
            drawn = draw_multiplicities(speakers.num_speakers, NUM_RESAMPLES, request.seed)
            draws = Draws(speakers=speakers, multiplicities=drawn, source=source)
    except (ConfigError, DataError) as error:
        no_interval = str(error)
        progress.note(f"no confidence interval: {error}")
    unbounded, llrs, calibrated_by = _calibrate(subject, features, speakers, no_interval, request.seed)
    if scores is None:  # unbounded, because many trials would tie at the bounds
        assert unbounded is not None, "a fusion has a calibration or folds"
        scores = unbounded
    learnt = learn(subject, features) if request.calibrate else None
    if learnt is not None:
        guards.caution(slope_caution(learnt))
    metrics = ScoredList(
        name=subject.name,
        trials=trial_set.describe(),
        backend=subject.backend,
        num_targets=int(np.count_nonzero(trials.labels == 1)),
        num_nontargets=int(np.count_nonzero(trials.labels == 0)),
        num_unlabelled=None if trials.has_labels else len(trials),
        model=subject.model,
        checkpoint=subject.checkpoint,
        manifest=subject.manifest,
        calibration=calibrated_by,
        condition=subject.condition,
        cautions=tuple(guards.cautions),
        unchecked=tuple(guards.unchecked),
        found_nothing=tuple(guards.found_nothing),
    )
    # A guard may have let one class pass; then there are counts only.
    if metrics.num_targets and metrics.num_nontargets:
        eers = None
        applications = tuple(dict.fromkeys((*APPLICATIONS, *request.applications)))
        if draws is not None:
            resamples = make_resamples(scores, trials.labels, draws, request.seed)
            write_resamples(output.path, resamples)
            eers = resamples.eer
        try:
            rates = summarize(scores, trials.labels, llrs, draws, eers, applications)
        except DataError as error:  # most resamples lack a class
            no_interval = str(error)
            progress.note(f"no confidence interval: {error}")
            rates = summarize(scores, trials.labels, llrs, applications=applications)
        known = {field.name: getattr(part, field.name) for part in (metrics, rates) for field in fields(part)}
        breakdown = tuple(_break_down(one, scores, trials.labels, draws) for one in groupings)
        metrics = Metrics(**{**known, "no_interval": no_interval, "breakdown": breakdown})
    write_scores(output.path, trials, scores, llrs)
    for form in request.forms:
        write_form(output.path, form, trials, scores)
    write_metrics(output.path, metrics, output.experiment)
    if learnt is not None:
        write_calibration(output.path / FILE_NAME, learnt)
    return learnt


def _calibrate(
    subject: Subject, features: Features, speakers: TrialSpeakers | None, problem: str | None, seed: int
) -> tuple[Floats | None, Floats | None, CalibratedBy | None]:
    """Return log-likelihood ratios [T] without and within bounds, and what they were learnt on; None: no ratios.

    They are learnt on other trials, or on trials of other speakers, never on the trials they are judged on.
    """
    if subject.calibration is not None:
        trials = subject.calibration.trials
        return *apply(subject.calibration, features), CalibratedBy(method="held-out trials", trials=trials)
    if not subject.num_folds:
        if subject.backend.method == "plda" and subject.backend.norm == "none":  # its scores are such ratios
            ratios = features.values[:, 0]
            return ratios, ratios, CalibratedBy(method="PLDA")
        return None, None, None
    if speakers is None:
        raise ConfigError(f"cross-validation needs the speakers: {problem}")
    labels = subject.trial_set.trials.labels
    found = cross_validate(features.values, labels, speakers, subject.num_folds, seed)
    if found.num_separable:
        subject.guards.caution(
            f"{found.num_separable} of the {found.num_maps} maps of the cross-validation were learnt on "
            "trials that a threshold separates without error; their slope is set by their penalty alone"
        )
    by = CalibratedBy(method="cross-validation over speakers", num_folds=subject.num_folds)
    return found.unbounded, found.llrs, by


def _break_down(
    grouping: Grouping, scores: Floats, labels: NDArray[np.int8], draws: Draws | None
) -> Breakdown:
    groups = tuple(
        summarize_group(value, scores, labels, draws, rows)
        for code, value in enumerate(grouping.values)
        if len(rows := np.flatnonzero(grouping.codes == code))
    )
    return Breakdown(column=grouping.column, groups=groups)
