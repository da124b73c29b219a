"""Measures scored trials: metrics, intervals over speakers, breakdowns; the same for every kind of system."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from svkit.errors import ConfigError, DataError
from svkit.eval import bootstrap
from svkit.eval.metrics import detection_cost, equal_error_rate, error_curve, min_dcf
from svkit.eval.summary import PRIORS, cost_facts, interval_facts, summarize
from svkit.progress import Progress
from svkit.scoring.breakdown import Grouping, group_trials
from svkit.scoring.comparison import Resampled, compare
from svkit.scoring.trial_speakers import find_speakers
from svkit.store.coded import Coded
from svkit.store.enrollment import first_utterances
from svkit.store.output import Output
from svkit.store.provenance import sha256_file
from svkit.store.score_forms import write_form
from svkit.store.scores import read_metrics, read_scores, write_metrics, write_scores
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
class Speakers:
    """Speakers of the trials and how often each is drawn in each resample."""

    of_trials: bootstrap.TrialSpeakers
    source: str
    """`manifest` or `trials`."""
    drawn: NDArray[np.int64]
    """[R, S]."""


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Measured:
    """The metrics of one system and what a comparison with another one needs."""

    facts: dict[str, Any]
    speakers: Speakers | None
    resampled: Resampled | None


def identify(material: Material) -> dict[str, Any]:
    """Return name, path and sha256 of the trial list, and which of its trials were left out."""
    path, kept = material.path, material.kept
    left_out = None
    if kept is not None:
        mask = hashlib.sha256(np.packbits(kept).data).hexdigest()
        left_out = {"num_trials": int(np.count_nonzero(~kept)), "sha256": mask}
    return {"name": path.stem, "path": path.as_posix(), "sha256": sha256_file(path), "left_out": left_out}


def speakers_of(material: Material, manifest: dict[str, Any] | None) -> tuple[bootstrap.TrialSpeakers, str]:
    """Find the speakers of both sides of every trial; see `find_speakers`."""
    first = None if material.enrollment is None else first_utterances(material.enrollment)
    return find_speakers(material.trials, manifest, first)


def draw_speakers(material: Material, manifest: dict[str, Any] | None, progress: Progress) -> Speakers | str:
    """Find the speakers and draw the resamples; why not, and a note, where labels contradict them or they are few."""
    try:
        speakers, source = speakers_of(material, manifest)
        drawn = bootstrap.draw_multiplicities(speakers.num_speakers, NUM_RESAMPLES, material.seed)
    except (ConfigError, DataError) as error:
        progress.note(f"no confidence interval: {error}")
        return str(error)
    return Speakers(of_trials=speakers, source=source, drawn=drawn)


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
    drawn: Speakers | str,
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
    trials = material.trials
    num_targets = int(np.count_nonzero(trials.labels))
    if num_targets in (0, len(trials)):
        counts = {"num_targets": num_targets, "num_nontargets": len(trials) - num_targets}
        return Measured(
            facts={**counts, "eer": None, "eer_interval": None, "no_interval": None, "breakdown": []},
            speakers=None,
            resampled=None,
        )
    facts = summarize(scores, trials.labels, llrs)
    speakers = drawn if isinstance(drawn, Speakers) else None
    facts["eer_interval"], resampled = None, None
    facts["no_interval"] = drawn if isinstance(drawn, str) else None
    if speakers is not None:
        samples = bootstrap.resample(
            scores, trials.labels, speakers.of_trials, speakers.drawn, _eer_and_min_dcf
        )
        resampled = Resampled(eer=facts["eer"], eers=samples[:, 0])
        try:
            facts["eer_interval"] = interval_facts(samples[:, 0], speakers.of_trials.num_speakers)
            for entry, values in zip(facts["min_dcf"], samples[:, 1:].T, strict=True):
                entry["interval"] = interval_facts(values, speakers.of_trials.num_speakers)
            _add_intervals(facts, scores, llrs, trials.labels, speakers)
        except DataError as error:
            facts["no_interval"] = str(error)
            progress.note(f"no confidence interval: {error}")
    if facts["eer_interval"] is not None and speakers is not None:
        facts["eer_interval"]["speakers_from"] = speakers.source
    facts["breakdown"] = [_break_down(grouping, scores, trials.labels, speakers) for grouping in groupings]
    return Measured(facts=facts, speakers=speakers, resampled=resampled)


def _eer_and_min_dcf(miss: Floats, false_accept: Floats) -> Floats:
    statistics = (bootstrap.eer_statistic, *map(bootstrap.min_dcf_statistic, PRIORS))
    return np.stack([statistic(miss, false_accept) for statistic in statistics], axis=1)


def _add_intervals(
    facts: dict[str, Any], scores: Floats, llrs: Floats | None, labels: NDArray[np.int8], speakers: Speakers
) -> None:
    """Add intervals of the error rates at every threshold, as if it had been fixed before, of actDCF and of Cllr."""
    given, drawn = speakers.of_trials, speakers.drawn

    def add_rates(points: list[dict[str, Any]], values: Floats) -> tuple[Floats, Floats]:
        rates = bootstrap.resample_rates(
            values, labels, given, drawn, [point["threshold"] for point in points]
        )
        for name, samples in zip(("miss_rate", "false_accept_rate"), rates, strict=True):
            for point, column in zip(points, samples.T, strict=True):
                point[f"{name}_interval"] = interval_facts(column, given.num_speakers)
        return rates

    add_rates([*facts["thresholds"].values(), *facts["min_dcf"]], scores)
    if llrs is None:
        return
    miss, false_accept = add_rates(facts["act_dcf"], llrs)
    add_rates(list(facts["bayes_thresholds"].values()), llrs)
    for entry, missed, accepted in zip(facts["act_dcf"], miss.T, false_accept.T, strict=True):
        costs = detection_cost(missed, accepted, entry["p_target"])
        entry["interval"] = interval_facts(costs, given.num_speakers)
    is_target = labels.astype(bool)

    def bits(rows: slice) -> Floats:
        wrong_way = np.where(is_target[rows], -llrs[rows], llrs[rows])
        return np.asarray(np.logaddexp(0, wrong_way) / np.log(2), dtype=np.float64)

    means = bootstrap.resample_means([bits], is_target, given, drawn)
    facts["cllr_interval"] = interval_facts((means[0] + means[1])[:, 0] / 2, given.num_speakers)


def _break_down(
    grouping: Grouping, scores: Floats, labels: NDArray[np.int8], speakers: Speakers | None
) -> dict[str, Any]:
    groups = []
    for code, value in enumerate(grouping.values):
        rows = np.flatnonzero(grouping.codes == code)
        if len(rows):
            groups.append({"value": value, **_measure_group(rows, scores, labels, speakers)})
    return {"column": grouping.column, "groups": groups}


def _measure_group(
    rows: NDArray[np.int64], scores: Floats, labels: NDArray[np.int8], speakers: Speakers | None
) -> dict[str, Any]:
    """Measure some trials; with one class only there are counts and no rates."""
    num_targets = int(np.count_nonzero(labels[rows]))
    facts: dict[str, Any] = {"num_targets": num_targets, "num_nontargets": len(rows) - num_targets}
    if num_targets in (0, len(rows)):
        return {**facts, "eer": None, "eer_interval": None, "min_dcf": None}
    curve = error_curve(scores[rows], labels[rows])
    facts["eer"] = equal_error_rate(curve)
    facts["eer_interval"] = None
    facts["min_dcf"] = [cost_facts(prior, *min_dcf(curve, prior)) for prior in PRIORS]
    if speakers is not None:
        whole = speakers.of_trials
        part = bootstrap.TrialSpeakers(
            enroll=whole.enroll[rows], test=whole.test[rows], num_speakers=whole.num_speakers
        )
        eers = bootstrap.resample(scores[rows], labels[rows], part, speakers.drawn, bootstrap.eer_statistic)
        present = len(np.union1d(part.enroll, part.test))
        # Too few speakers, or too few with target trials: the rate stands without an interval.
        if present >= bootstrap.MIN_SPEAKERS and 2 * np.count_nonzero(np.isfinite(eers)) >= len(eers):
            facts["eer_interval"] = interval_facts(eers, present)
    return facts


def measure_again(material: Material, directory: Path, progress: Progress) -> Measured:
    """Resample scores that are there already, for a comparison with others."""
    metrics, scores = read_metrics(directory), read_scores(directory)
    scored = replace(material, trials=scores.trials)
    speakers, resampled = None, None
    drawn = "" if metrics["eer"] is None else draw_speakers(scored, metrics.get("manifest"), progress)
    if isinstance(drawn, Speakers):
        speakers = drawn
        labels = scores.trials.labels
        eers = bootstrap.resample(
            scores.scores, labels, speakers.of_trials, speakers.drawn, bootstrap.eer_statistic
        )
        resampled = Resampled(eer=metrics["eer"], eers=eers)
    return Measured(facts={}, speakers=speakers, resampled=resampled)


def write(
    output: Output, material: Material, scores: Floats, llrs: Floats | None, metrics: dict[str, Any]
) -> None:
    """Write scores, metrics and the forms asked for."""
    write_scores(output.path, material.trials, scores, llrs)
    for form in material.forms:
        write_form(output.path, form, material.trials, scores)
    write_metrics(output.path, output.recorded(metrics))


def compare_systems(
    systems: list[tuple[dict[str, Any], Measured]], progress: Progress
) -> list[dict[str, Any]]:
    """Compare every system with the reference, `dense` or else the first; paired over the same speakers.

    Args:
        systems: metrics and measurement of each system on the same trials.
        progress: takes a note where speakers are too few for a comparison.
    """
    usable = [
        (facts, measured.resampled, measured.speakers)
        for facts, measured in systems
        if measured.resampled is not None and measured.speakers is not None
    ]
    if len(usable) < 2:
        if len(systems) > 1 and all(facts["eer"] is not None for facts, _ in systems):
            progress.note("no comparison of the systems: a p-value needs what confidence intervals need")
        return []
    usable.sort(key=lambda system: system[0]["name"] != "dense")
    reference, base, speakers = usable[0]
    comparisons = []
    for facts, resampled, others in usable[1:]:
        same = all(facts["trials"].get(key) == reference["trials"].get(key) for key in ("sha256", "left_out"))
        same &= np.array_equal(speakers.of_trials.enroll, others.of_trials.enroll)
        if not (same and np.array_equal(speakers.of_trials.test, others.of_trials.test)):
            continue
        try:
            difference = compare(resampled, base, speakers.of_trials.num_speakers)
        except DataError as error:
            progress.note(f"no comparison of {facts['name']} with {reference['name']}: {error}")
            continue
        comparisons.append(
            {
                "trials": facts["trials"]["name"],
                "backend": facts["backend"]["name"],
                "first": facts["name"],
                "second": reference["name"],
                "num_speakers": speakers.of_trials.num_speakers,
                **difference,
            }
        )
    return comparisons
