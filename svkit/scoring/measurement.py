"""Measures scored trials: metrics, intervals over speakers, breakdowns; the same for every kind of system."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svkit.errors import ConfigError, DataError
from svkit.eval import bootstrap
from svkit.eval.results import Group, Rates
from svkit.eval.summary import Draws, Resampled, resample_errors, summarize, summarize_group
from svkit.progress import Progress
from svkit.scoring.breakdown import Grouping, group_trials
from svkit.scoring.comparison import compare
from svkit.scoring.trial_speakers import find_speakers
from svkit.store.coded import Coded
from svkit.store.enrollment import first_utterances
from svkit.store.metrics import (
    Breakdown,
    Comparison,
    LeftOut,
    Metrics,
    ScoredList,
    TrialList,
    read_metrics,
    write_metrics,
)
from svkit.store.output import Output
from svkit.store.provenance import sha256_file
from svkit.store.score_forms import write_form
from svkit.store.scores import read_scores, write_scores
from svkit.store.trials import Trials

NUM_RESAMPLES = 1000

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Material:
    """What every system on one trial list is measured with."""

    path: Path
    """The trial list."""
    trials: Trials
    enrollment: pd.DataFrame | None
    """Utterances of each enrollment, where enrollments are not utterances."""
    sidecar: Mapping[str, Coded] | None
    """More columns of the trials, by name."""
    columns: tuple[str, ...]
    """Breakdowns wanted."""
    forms: tuple[str, ...]
    """Forms of other toolkits wanted."""
    seed: int
    kept: NDArray[np.bool_] | None = None
    """Which trials of the list are in `trials`, where some had to be left out."""

    def only(self, kept: NDArray[np.bool_]) -> "Material":
        """Return the material of some of the trials, [T] bool."""
        sidecar = None
        if self.sidecar is not None:
            sidecar = {name: column.only(kept) for name, column in self.sidecar.items()}
        return replace(self, trials=self.trials.only(kept), sidecar=sidecar, kept=kept)


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Measured:
    """The error rates of one system and what a comparison with another one needs."""

    rates: Rates | None
    """None: trials of one class."""
    no_interval: str | None
    breakdown: tuple[Breakdown, ...]
    draws: Draws | None
    resampled: Resampled | None


def identify(material: Material) -> TrialList:
    """Say which trial list it is, and which of its trials were left out."""
    path, kept = material.path, material.kept
    left_out = None
    if kept is not None:
        mask = hashlib.sha256(np.packbits(kept).data).hexdigest()
        left_out = LeftOut(num_trials=int(np.count_nonzero(~kept)), sha256=mask)
    return TrialList(name=path.stem, path=path.as_posix(), sha256=sha256_file(path), left_out=left_out)


def speakers_of(material: Material, manifest: dict[str, Any] | None) -> tuple[bootstrap.TrialSpeakers, str]:
    """Find the speakers of both sides of every trial; see `find_speakers`."""
    first = None if material.enrollment is None else first_utterances(material.enrollment)
    return find_speakers(material.trials, manifest, first)


def draw_speakers(material: Material, manifest: dict[str, Any] | None, progress: Progress) -> Draws | str:
    """Find the speakers and draw the resamples; why not, and a note, where labels contradict them or they are few."""
    try:
        speakers, source = speakers_of(material, manifest)
        drawn = bootstrap.draw_multiplicities(speakers.num_speakers, NUM_RESAMPLES, material.seed)
    except (ConfigError, DataError) as error:
        progress.note(f"no confidence interval: {error}")
        return str(error)
    return Draws(speakers=speakers, multiplicities=drawn, source=source)


def find_groupings(material: Material, manifest: dict[str, Any] | None) -> list[Grouping]:
    """Find the groups of every breakdown wanted; before anything is written, because columns may be missing."""
    return [
        group_trials(column, material.trials, material.sidecar, manifest, material.enrollment)
        for column in material.columns
    ]


def measure(
    material: Material,
    scores: Floats,
    llrs: Floats | None,
    drawn: Draws | str,
    groupings: Sequence[Grouping],
    progress: Progress,
) -> Measured:
    """Measure the scores [T] of one system; without target or nontarget trials there are counts and no rates.

    Args:
        material: trials and what is wanted of them.
        scores: [T].
        llrs: [T] natural-log likelihood ratios, where there are any.
        drawn: from `draw_speakers`.
        groupings: from `find_groupings`.
        progress: takes notes.
    """
    labels = material.trials.labels
    if len(np.unique(labels)) < 2:
        return Measured(rates=None, no_interval=None, breakdown=(), draws=None, resampled=None)
    draws, no_interval = (None, drawn) if isinstance(drawn, str) else (drawn, None)
    resampled = None if draws is None else resample_errors(scores, labels, draws)
    try:
        rates = summarize(scores, labels, llrs, draws, resampled)
    except DataError as error:  # most resamples lack a class
        no_interval = str(error)
        progress.note(f"no confidence interval: {error}")
        rates = summarize(scores, labels, llrs)
    breakdown = tuple(
        Breakdown(column=grouping.column, groups=tuple(_groups(grouping, scores, labels, draws)))
        for grouping in groupings
    )
    return Measured(
        rates=rates, no_interval=no_interval, breakdown=breakdown, draws=draws, resampled=resampled
    )


def _groups(
    grouping: Grouping, scores: Floats, labels: NDArray[np.int8], draws: Draws | None
) -> Iterator[Group]:
    for code, value in enumerate(grouping.values):
        rows = np.flatnonzero(grouping.codes == code)
        if len(rows):
            yield summarize_group(value, scores, labels, draws, rows)


def make_metrics(measured: Measured, labels: NDArray[np.int8], **facts: Any) -> ScoredList:
    """Join what was measured of trials with labels [T] with the other fields of `ScoredList`."""
    if measured.rates is None:
        num_targets = int(np.count_nonzero(labels))
        return ScoredList(num_targets=num_targets, num_nontargets=len(labels) - num_targets, **facts)
    rates = {field.name: getattr(measured.rates, field.name) for field in fields(measured.rates)}
    return Metrics(**facts, **rates, no_interval=measured.no_interval, breakdown=measured.breakdown)


def measure_again(material: Material, directory: Path, progress: Progress) -> Measured:
    """Resample scores that exist already, for a comparison with others."""
    metrics, scores = read_metrics(directory), read_scores(directory)
    scored = replace(material, trials=scores.trials)
    draws, resampled = None, None
    if isinstance(metrics, Metrics):
        drawn = draw_speakers(scored, metrics.manifest, progress)
        if isinstance(drawn, Draws):
            draws, resampled = drawn, resample_errors(scores.scores, scores.trials.labels, drawn)
    return Measured(rates=None, no_interval=None, breakdown=(), draws=draws, resampled=resampled)


def write(
    output: Output, material: Material, scores: Floats, llrs: Floats | None, metrics: ScoredList
) -> None:
    """Write scores, metrics and the forms asked for."""
    write_scores(output.path, material.trials, scores, llrs)
    for form in material.forms:
        write_form(output.path, form, material.trials, scores)
    write_metrics(output.path, metrics, output.experiment)


def compare_systems(systems: list[tuple[ScoredList, Measured]], progress: Progress) -> list[Comparison]:
    """Compare every system with the reference, `dense` or else the first; paired over the same speakers.

    Args:
        systems: metrics and measurement of each system on the same trials.
        progress: takes a note where speakers are too few for a comparison.
    """
    usable = [
        (metrics, measured.resampled, measured.draws)
        for metrics, measured in systems
        if isinstance(metrics, Metrics) and measured.resampled is not None and measured.draws is not None
    ]
    if len(usable) < 2:
        if len(systems) > 1 and all(isinstance(metrics, Metrics) for metrics, _ in systems):
            progress.note("no comparison of the systems: a p-value needs what confidence intervals need")
        return []
    usable.sort(key=lambda system: system[0].name != "dense")
    reference, base, draws = usable[0]
    comparisons = []
    for metrics, resampled, others in usable[1:]:
        same = metrics.trials.sha256 == reference.trials.sha256
        same &= metrics.trials.left_out == reference.trials.left_out
        same &= np.array_equal(draws.speakers.enroll, others.speakers.enroll)
        if same and np.array_equal(draws.speakers.test, others.speakers.test):
            try:
                comparisons.append(
                    compare((metrics, resampled), (reference, base), draws.speakers.num_speakers)
                )
            except DataError as error:
                progress.note(f"no comparison of {metrics.name} with {reference.name}: {error}")
    return comparisons
