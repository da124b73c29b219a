"""What the report says in sentences; the terminal, the markdown and the page share them."""

from collections.abc import Mapping, Sequence

from svkit.config.changes import Change
from svkit.config.schema import TINY_ENCODER
from svkit.pruning.outcome import vanished_sentence
from svkit.reports.tables import MISSING
from svkit.store.metrics import CalibratedBy, Comparison, Metrics, ScoredList
from svkit.store.report import Model, Pruning, Report, StageCurves, System
from svkit.store.source import shown

SIGNIFICANT = 0.05
FEW_SPEAKERS = 15
"""A smaller group may well contain none of the speakers, about one in fifteen, on whom a system does badly."""

SHOWN_CHANGES = 6
_WIDTH_OF_VALUE = 40

MIN_CLLR_NOTE = (
    "minCllr: the Cllr (loss of the likelihood ratios in bits; 0 is perfect, 1 no information) that the best"
    " calibration of these scores would reach on these trials."
)
ERRORS_NOTE = (
    "Trial: a pair of recordings, target if both are of one speaker, else nontarget. EER: the error rate where misses"
    " and false accepts are equally frequent; convex hull EER: the same if each decision may be drawn at random between"
    " two thresholds, which is never higher. minDCF P: the lowest cost of errors at the prior P of a target; 1 is the"
    " cost of rejecting, or of accepting, everybody."
    f" {MIN_CLLR_NOTE}"
)
CALIBRATION_NOTE = (
    f"actDCF P: the cost at the threshold that the ratios themselves say. {MIN_CLLR_NOTE} What actDCF and Cllr are"
    " above minDCF and minCllr is lost to the calibration."
)
_VALIDATION_NOTE = (
    "Two kinds of EER: a stage's validation EER is measured on a few speakers held out of training, and shows whether"
    " training went well. The EER of the results is measured on the evaluation speakers, who took no part in training."
    " The trials differ, so either EER may be the higher one."
)
_POINTS_NOTE = "A stage whose loss was written only once, at its end, has no first loss."
_MARGIN_NOTE = (
    "Margin: the angle, in radians, by which the training loss wants speakers apart. A point of a curve is the mean"
    " over the last few steps, so in a stage of few steps the loss may rise by chance: go by the validation."
)
_LMFT_NOTE = (
    "Losses of two stages cannot be compared: lmft trains with a larger margin, on longer crops and at a lower rate,"
    " so its loss begins higher, and may rise."
)
_DISTANCE_LOSS_NOTE = (
    "The loss of prune and distill is L1 minus cosine, as explained under Structure, so it is negative for a student"
    " close to its teacher (with equal weights, -1 is perfect); a Lagrangian constraint adds its penalty. While prune"
    " closes units, the loss may rise."
)
LAYERS_NOTE = (
    "Each layer has attention heads, a convolution, and two feed-forward networks: FFN 1 comes before them, FFN 2"
    " after them. Pruning learns a gate (0 to 1) for each attention head, channel and unit, and cuts off those whose"
    " gates close."
)
MODELS_NOTE = "The columns are explained under Results; models that were not evaluated were not timed."
DISTANCE_NOTE = (
    "L1: the mean absolute difference between the student's and the teacher's hidden states (0: equal); cosine: their"
    " mean cosine (1: equal)."
)

_CORPORA = {
    "demo": "svkit demo: synthetic voices, no people",
    "voxceleb": "VoxCeleb",
    "voxblink2": "VoxBlink2",
    "cnceleb": "CN-Celeb",
    "librispeech": "LibriSpeech",
    None: "recordings that svkit did not prepare",
}


CHANGED_LIST = "recordings of a list that svkit prepared and that has changed since"


def corpus_title(corpus: str | None, owned: str = "recordings that the model's makers collected") -> str:
    """Describe the recordings of a corpus, given the name of its preparation; `owned` describes other recordings."""
    return _CORPORA.get(corpus, f"{owned}, by svkit prepare {corpus}")


def start_of(encoder: str | None) -> str | None:
    """Say what the training of an encoder started from, given its name; None: not known."""
    return "random weights" if encoder == TINY_ENCODER else encoder


def label(system: ScoredList) -> str:
    """Name a system: its own name, with the back-end unless plain cosine."""
    backend = system.backend.name
    return system.name if backend == "cosine" else f"{system.name} ({backend})"


def system_title(system: ScoredList) -> str:
    """Name a system on its trials."""
    return f"{label(system)} on {system.trials.name}"


def trial_names(systems: Sequence[ScoredList]) -> list[str]:
    """Return the trial lists in the order of the systems."""
    return list(dict.fromkeys(system.trials.name for system in systems))


def model_of(report: Report, system: System) -> Model | None:
    """Return the facts of a system's model; None if the experiment lacks it."""
    return next((model for model in report.models if model.path == system.model_path), None)


def calibration_text(calibration: CalibratedBy | None) -> str:
    """Say what log-likelihood ratios were learnt on."""
    if calibration is None:
        return MISSING
    if calibration.trials is not None:
        return f"held-out trials {calibration.trials.name}"
    if calibration.num_folds is None:
        return f"{calibration.method} itself, not calibrated"
    return f"{calibration.num_folds} folds of speakers"


def comparison_sentence(comparison: Comparison) -> str:
    """Say whether one system is worse than another."""
    difference, low, high = (
        100 * value for value in (comparison.eer_difference, comparison.low, comparison.high)
    )
    p = "p < 0.001" if comparison.p_value < 0.001 else f"p = {comparison.p_value:.3f}"
    if comparison.p_value < SIGNIFICANT:
        verdict = "significantly worse" if difference > 0 else "significantly better"
    elif low == high == 0:
        verdict = "no difference"
    else:
        verdict = "not a significant difference"
        if high > 0:
            verdict += f", but up to {high:.2f} points worse is not ruled out"
    backend = "" if comparison.backend == "cosine" else f" with {comparison.backend}"
    return (
        f"On list {comparison.trials}, {comparison.first} minus {comparison.second}{backend}:"
        f" {difference:+.2f} points of EER (95 %: {low:+.2f} to {high:+.2f}, {p}): {verdict}."
    )


def caution_sentences(systems: Sequence[ScoredList], others: Sequence[str] = ()) -> list[str]:
    """Say which guards were passed with `--allow` and what could not be checked; `others` are further cautions."""
    cautions = [caution for system in systems for caution in system.cautions]
    found = [f"Caution: {caution}." for caution in (*cautions, *others)]
    found += [f"Not checked: {gap}." for system in systems for gap in system.unchecked]
    return list(dict.fromkeys(found))


def changed(changes: Sequence[Change], elsewhere: str) -> str:
    """List what was changed of a preset, the length of training first; `elsewhere` has what is left out."""
    ordered = sorted(changes, key=lambda change: not change.setting.endswith(".epochs"))
    parts = [
        f"{change.setting}={_cut(change.value)} instead of {_cut(change.preset)}"
        for change in ordered[:SHOWN_CHANGES]
    ]
    left = len(ordered) - len(parts)
    return ", ".join(parts) + (f" and {left} more (all in {elsewhere})" if left else "")


def _cut(value: str) -> str:
    return value if len(value) <= _WIDTH_OF_VALUE else f"{value[:_WIDTH_OF_VALUE]}..."


def shortened(changes: Sequence[Change]) -> list[str]:
    """Say which stages were trained for fewer epochs than their preset says; empty if none was."""
    stages = [change.setting.removesuffix(".epochs") for change in changes if change.is_shorter]
    if not stages:
        return []
    return [
        f"training was shorter than the preset's in {', '.join(dict.fromkeys(stages))}: the results are not those of"
        " the preset"
    ]


def pruning_cautions(models: Sequence[Model], prunings: Mapping[str, Pruning]) -> list[str]:
    """Return the cautions that prunings recorded, and say which kinds of units have vanished."""
    cautions = [f"{name}: {caution}" for name, facts in prunings.items() for caution in facts.cautions]
    told = [name for name, facts in prunings.items() if facts.vanished]
    cautions += [
        f"{model.pruned_by or model.path}: {vanished_sentence(model.vanished)}"
        for model in models
        if model.vanished and model.pruned_by not in told
    ]
    return list(dict.fromkeys(cautions))


def interval_note(systems: Sequence[Metrics]) -> str:
    """Explain the intervals, or why there are none."""
    known = [system.eer_interval for system in systems if system.eer_interval]
    reasons = dict.fromkeys(
        f"No confidence interval: {system.no_interval}." for system in systems if system.no_interval
    )
    if not known:
        return " ".join(reasons) or (  # an earlier svkit recorded no reason
            "No confidence intervals: without an error, or with too few speakers, trials do not show how uncertain the"
            " rates are."
        )
    speakers = sorted({facts.num_speakers for facts in known})
    note = (
        f"Intervals: 95 %, bootstrap over {' and '.join(map(str, speakers))} speakers ({known[0].num_resamples}"
        " resamples); differences are paired (the same resamples for both systems) and taken before rounding; p: how"
        " often chance alone would give a difference this large (significant: below"
        f" {SIGNIFICANT:g}, which 0 to 9 % of simulated comparisons of equally good systems reached, fewer with few"
        " speakers). Neither covers another seed of the training, which may change an EER as much."
    )
    if speakers[0] < FEW_SPEAKERS:
        note += (
            f" Fewer than {FEW_SPEAKERS} speakers: if a few people cause most of the errors, none of them may be among"
            " these, and the intervals are then too narrow."
        )
    return " ".join([note, *reasons])


def trials_note(systems: Sequence[ScoredList]) -> str:
    """Count the trials of each list, as a range where systems lack different ones; empty without a system."""
    seen: dict[str, list[ScoredList]] = {}
    for system in systems:
        seen.setdefault(system.trials.name, []).append(system)
    found = []
    for name, of_list in seen.items():
        targets, nontargets = [one.num_targets for one in of_list], [one.num_nontargets for one in of_list]
        counts = f"{name}: {_span(targets)} target and {_span(nontargets)} nontarget trials"
        is_uneven = len({(one.trials.sha256, one.trials.left_out) for one in of_list}) > 1
        found.append(f"{counts} (not the same for all systems)" if is_uneven else counts)
    return "; ".join(found) + "." * bool(found)


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def timing_note(report: Report) -> str:
    """Say how the real-time factors were measured; empty where none were."""
    machine = report.machine
    if not any(model.timing for model in report.models):
        return ""
    lengths = ", ".join(f"{seconds:g}" for seconds in machine.utterance_seconds)
    return (
        "M: millions of parameters; speaker head: the layers that turn hidden states into an embedding; GMACs, 1 s:"
        " billions of multiply-adds for a second of audio; RTF (real-time factor): seconds that a second of audio takes"
        f" on {machine.num_threads} thread of {machine.processor}, single utterances of {lengths} s, median of"
        f" {machine.rounds} rounds taken in turns (in brackets: shortest and longest); wall: by the clock; CPU: in"
        " computing time, which other load on the machine disturbs less."
    )


def training_notes(report: Report) -> list[str]:
    """Explain what the table and the curves of training show, as far as there are such stages."""
    stages = report.training
    notes = {
        _POINTS_NOTE: any(len(stage.train["loss"].step) == 1 for stage in stages if "loss" in stage.train),
        _MARGIN_NOTE: any(stage.margin is not None for stage in stages),
        _LMFT_NOTE: any(stage.stage.endswith("lmft") for stage in stages),
        _DISTANCE_LOSS_NOTE: any("l1" in stage.train for stage in stages),
    }
    found = [note for note, is_needed in notes.items() if is_needed]
    found += [
        f"{shown(stage.stage)}: every stage goes through the recordings in the same order, so the first"
        f" {stage.repeated_steps:,} steps repeat the crops of the stage before, on which the loss is low; it rises when"
        " new ones come, and that is no harm."
        for stage in stages
        if _rises_with_new_crops(stage)
    ]
    return found + validation_notes(report)


def _rises_with_new_crops(stage: StageCurves) -> bool:
    """Say whether the loss is higher after the crops that the stage before it was trained on than on them."""
    loss, repeated = stage.train.get("loss"), stage.repeated_steps or 0
    points = [] if loss is None else [*zip(loss.step, loss.value, strict=True)]
    seen = [value for step, value in points if step <= repeated]
    new = [value for step, value in points if repeated < step <= 2 * repeated]
    return bool(seen and new) and sum(new) / len(new) > sum(seen) / len(seen)


def validation_notes(report: Report) -> list[str]:
    """Say on whom either EER was measured, if training measured one."""
    return [_VALIDATION_NOTE] if any("eer" in stage.valid for stage in report.training) else []


def notes(report: Report) -> list[str]:
    """Return the notes to the main table: trials, intervals and timing."""
    systems = report.systems
    return [note for note in (trials_note(systems), interval_note(systems), timing_note(report)) if note]
