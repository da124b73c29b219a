"""The first screen of the report: what was evaluated, dense against pruned, and which of them to use."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from svkit.config.changes import Change
from svkit.reports import wording
from svkit.reports.results import GIGA, MEGA, cost_cells, cpu_cell, eer_cell
from svkit.reports.tables import LEVEL, MISSING, Table, percent, points, shown_hours
from svkit.store.metrics import Comparison
from svkit.store.report import ListCounts, Model, Recommendation, Report, System, Timing, Verdict

TOLERATED = 0.25
"""A pruned model is recommended if its EER, at the worse end of the interval, is above the dense one by at most this
fraction."""
TOO_HIGH = 0.1
"""Above this EER no model is recommended; guessing gives 0.5."""
RULE = (
    f"The rule: if the EERs (equal error rates) of both are above {100 * TOO_HIGH:g} %, no model is recommended."
    " Otherwise the pruned one is if its EER, even at the worse end of the difference's 95 % interval, is at most a"
    " quarter above the dense model's. If that end is further above, the choice depends on accuracy or size where the"
    " difference is significant, and is undecided where it is not. Your application may ask for more or less."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A pruned system and the dense one on the same trials, with the same back-end."""

    dense: System
    dense_model: Model
    pruned: System
    pruned_model: Model
    comparison: Comparison | None
    """Pruned minus dense; None if the trials give no interval."""


def pairs(report: Report) -> list[Pair]:
    """Return each pruned system of the report with the dense one to compare it with."""

    def key(system: System) -> tuple[object, ...]:
        return system.trials.sha256, system.trials.left_out, system.backend.name

    known = [(system, model) for system in report.systems if (model := wording.model_of(report, system))]
    # Reversed, because of several the first counts.
    dense = {key(system): (system, model) for system, model in reversed(known) if model.sparsity == 0}
    compared = {(one.trials, one.backend, one.first, one.second): one for one in reversed(report.comparisons)}
    found = []
    for pruned, model in known:
        if model.sparsity > 0 and key(pruned) in dense:
            other, other_model = dense[key(pruned)]
            comparison = compared.get((pruned.trials.name, pruned.backend.name, pruned.name, other.name))
            found.append(
                Pair(
                    dense=other,
                    dense_model=other_model,
                    pruned=pruned,
                    pruned_model=model,
                    comparison=comparison,
                )
            )
    return found


def recommendations(report: Report) -> list[Recommendation]:
    """Say for each pruned model whether to use it; of several trial lists, the worst decides.

    Of several systems that are one model on the same trials, the first counts.
    """
    found: dict[tuple[str, str], dict[object, Recommendation]] = {}
    for pair in pairs(report):
        scored = pair.pruned
        judged = found.setdefault((pair.pruned_model.path, scored.backend.name), {})
        judged.setdefault((scored.trials.sha256, scored.trials.left_out), _recommend(pair))
    verdicts = get_args(Verdict)
    return [max(judged.values(), key=lambda one: verdicts.index(one.use)) for judged in found.values()]


def advice(report: Report) -> list[str]:
    """Say which model to use, in one sentence per pruned model."""
    sentences = [one.sentence for one in recommendations(report)]
    return sentences or ["No advice: it needs a dense and a pruned model evaluated on the same trials."]


def rule(report: Report) -> list[str]:
    """Say by which rule the advice is given, if any is."""
    return [RULE] if pairs(report) else []


def is_unusable(pair: Pair) -> bool:
    """Say whether both systems make too many errors for a model to be recommended."""
    return min(pair.dense.eer, pair.pruned.eer) > TOO_HIGH


def _recommend(pair: Pair) -> Recommendation:
    use, sentence = _judge(pair)
    return Recommendation(
        use=use,
        sentence=sentence,
        rule=RULE,
        dense=pair.dense_model.path,
        pruned=pair.pruned_model.path,
        trials=pair.pruned.trials.name,
        backend=pair.pruned.backend.name,
        dense_eer=pair.dense.eer,
        pruned_eer=pair.pruned.eer,
        comparison=pair.comparison,
        highest_eer=TOO_HIGH,
        allowed_difference=TOLERATED * pair.dense.eer,
    )


def _judge(pair: Pair) -> tuple[Verdict, str]:
    """Return which model to use, and the sentence that says so."""
    dense, pruned, trials = (
        wording.label(pair.dense),
        wording.label(pair.pruned),
        f"list {pair.pruned.trials.name}",
    )
    eer, found = pair.dense.eer, pair.comparison
    allowed = f"{100 * TOLERATED * eer:.2f} points"
    if is_unusable(pair):
        rest = ""
        if found is not None and found.high > 0:
            keeps = "keeps" if found.high <= TOLERATED * eer else "breaks"
            rest = (
                f" The {pruned} model {keeps} the rest of the rule: at most {100 * found.high:.2f} points"
                f" higher{LEVEL}, {allowed} allowed."
            )
        return "neither", (
            f"Use neither model yet: on {trials} the measured EER of both is above {100 * TOO_HIGH:g} %. It is"
            f" {percent(eer)} % ({dense}) and {percent(pair.pruned.eer)} % ({pruned}); guessing gives 50 %.{rest}"
        )
    if found is None:
        return (
            "unknown",
            f"No advice on {pruned}: the trial {trials} gives no confidence interval for its EER.",
        )
    worse = f"{100 * found.high:.2f} points"
    both = f"{percent(pair.pruned.eer)} %, that of the {dense} model {percent(eer)} %"
    if found.high <= 0:
        return "pruned", f"Use the {pruned} model: on {trials} its EER is {both}; it is no worse{LEVEL}."
    if found.high <= TOLERATED * eer:
        return "pruned", (
            f"Use the {pruned} model: on {trials} its EER is {both}; it is at most {worse} higher{LEVEL}, and the rule"
            f" allows {allowed}."
        )
    if found.p_value < wording.SIGNIFICANT and found.eer_difference > 0:
        return "depends", (
            f"Use the {dense} model where accuracy matters, the {pruned} one where size or speed does: on {trials} its"
            f" EER is {100 * found.eer_difference:.2f} points above {percent(eer)} %, a significant difference."
        )
    return "undecided", (
        f"Undecided: on {trials} the EER of the {pruned} model is {both}. It is not significantly worse, but may be up"
        f" to {worse} higher{LEVEL}, and the rule allows {allowed}. Evaluate on more speakers to decide."
    )


def headline(report: Report) -> list[str]:
    """Say what pruning saves, then how the systems compare."""
    evaluated = [model for model in report.models if model.is_evaluated]
    dense = [model for model in evaluated if model.sparsity == 0]
    pruned = [model for model in evaluated if model.sparsity > 0]
    sentences = [_gain(model, dense[-1], report.systems) for model in pruned] if dense else []
    return sentences + [wording.comparison_sentence(one) for one in report.comparisons]


def cautions(report: Report) -> list[str]:
    """Return what a reader has to know before trusting the figures."""
    made_up = any(system.recordings and system.recordings.corpus == "demo" for system in report.systems)
    voices = [
        "Caution: these voices are synthetic. The figures show that the chain works, not how accurate it is on people."
    ]
    counts = [one.eer_interval.num_speakers for one in report.systems if one.eer_interval]
    few = [f"Caution: only {min(counts, default=0)} speakers, so even the intervals may be too narrow."]
    is_few = bool(counts) and min(counts) < wording.FEW_SPEAKERS
    none = [
        f"Caution: there is no confidence interval, so the figures may be far off ({reason}). Evaluate on more speakers"
        " (of your own recordings: svkit prepare folder DIR --eval-speakers N)."
        for reason in dict.fromkeys(system.no_interval for system in report.systems)
        if reason
    ]
    return voices * made_up + few * is_few + none + wording.caution_sentences(report.systems, report.cautions)


def _gain(model: Model, dense: Model, systems: Sequence[System]) -> str:
    name = next(system.name for system in systems if system.model_path == model.path)
    parts = [
        f"{percent(model.sparsity, digits=1)} % of the encoder's parameters are gone"
        f" ({percent(1 - _parameters(model) / _parameters(dense), digits=1)} % of the whole model's)",
        f"{dense.macs_per_second.total / model.macs_per_second.total:.1f} times fewer multiply-adds",
        f"{dense.size_bytes / model.size_bytes:.1f} times smaller on disk",
    ]
    if model.timing and dense.timing:
        parts.append(speed(model.timing, dense.timing))
    return f"{name}: {', '.join(parts)}."


def _parameters(model: Model) -> int:
    return model.encoder_parameters + model.head_parameters


def speed(timing: Timing, other: Timing) -> str:
    """Say how many times faster the first is, with the range over the rounds."""
    ratio = other.cpu / timing.cpu
    of_rounds = [then / now for now, then in zip(timing.cpu_rounds, other.cpu_rounds, strict=False)]
    word = "faster"
    if ratio < 1:
        word, ratio, of_rounds = "slower", 1 / ratio, [1 / one for one in of_rounds]
    spread = f" (in single rounds {min(of_rounds):.1f} to {max(of_rounds):.1f})" if of_rounds else ""
    return f"{ratio:.1f} times {word}{spread}"


def tables(report: Report) -> list[Table]:
    """Return each pruned model beside its dense one: what is lost on each trial list, and what is gained."""
    found: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs(report):
        found.setdefault((wording.label(pair.dense), wording.label(pair.pruned)), []).append(pair)
    return [
        Table(
            title=f"{pruned} against {dense}",
            headings=["", dense, pruned, "change"],
            rows=[row for pair in members for row in _errors(pair)] + list(_costs(members[0])),
        )
        for (dense, pruned), members in found.items()
    ]


def _errors(pair: Pair) -> Iterator[list[str]]:
    dense, pruned, found = pair.dense, pair.pruned, pair.comparison
    change = MISSING if found is None else points(found.eer_difference, found.low, found.high)
    yield [f"EER on list {dense.trials.name}, %{LEVEL}", eer_cell(dense), eer_cell(pruned), change]
    before, after = dense.min_dcf[0], pruned.min_dcf[0]
    costs = [cost_cells([one], [before.application])[0] for one in (before, after)]
    change = f"{after.value - before.value:+.3f}" if after.application == before.application else MISSING
    yield [f"minDCF {before.application.name} on list {dense.trials.name}", *costs, change]


def _costs(pair: Pair) -> Iterator[list[str]]:
    dense, pruned = pair.dense_model, pair.pruned_model
    for name, before, after in (
        ("encoder's parameters, M", dense.encoder_parameters / MEGA, pruned.encoder_parameters / MEGA),
        (
            "billion multiply-adds (GMACs) for 1 s",
            dense.macs_per_second.total / GIGA,
            pruned.macs_per_second.total / GIGA,
        ),
        ("size on disk, MB", dense.size_bytes / MEGA, pruned.size_bytes / MEGA),
    ):
        yield [name, f"{before:.3g}", f"{after:.3g}", f"{100 * (after / before - 1):+.1f} %"]
    if dense.timing and pruned.timing:
        times = [cpu_cell(timing, 1000) for timing in (dense.timing, pruned.timing)]
        yield ["computing time for 1 s, ms", *times, speed(pruned.timing, dense.timing)]


def subject(report: Report) -> list[str]:
    """Say what was evaluated, on whom, and with which recipe and seed the models were trained."""
    lists: dict[str, list[str]] = {}
    for system in report.systems:
        lists.setdefault(_recordings(system.recordings), []).append(system.trials.name)
    sentences = [
        f"Evaluated on {recordings}, trial list{'s' * (len(set(names)) > 1)} {', '.join(dict.fromkeys(names))}."
        for recordings, names in lists.items()
    ]
    trained: dict[tuple[str, str, str], dict[Change, None]] = {}
    for model in report.models:
        if model.is_evaluated and model.recipe:
            seed = "" if model.seed is None else f", seed {model.seed}"
            corpora = " and ".join(dict.fromkeys(map(_recordings, model.trained_on))) or _recordings(None)
            start = wording.start_of(model.encoder)
            begun = "" if start is None else f"from {start} "
            made = trained.setdefault((begun, model.recipe, f"{seed}, on {corpora}."), {})
            made.update(dict.fromkeys(model.changes))
    for (begun, recipe, rest), changes in trained.items():
        changed = f" (changed: {wording.changed([*changes], 'report.json')})" if changes else ""
        sentences.append(f"Trained {begun}with preset {recipe}{changed}{rest}")
    if report.systems and all("trained-speakers" in system.found_nothing for system in report.systems):
        sentences.append("The models were trained on none of the people they were evaluated on.")
    homes = {system.directory for system in report.systems}
    dates = [origin.finished for origin in report.provenance if origin.finished and origin.output in homes]
    sentences += [f"Scored on {max(dates)[:10]}."] if dates else []
    return list(dict.fromkeys(sentences))


def _recordings(counted: ListCounts | None) -> str:
    """Describe the recordings of a list: their corpus, and how many there are."""
    if counted is None or counted.corpus is None:
        return wording.corpus_title(None) if counted is None else wording.CHANGED_LIST
    counts = ((counted.num_speakers, "speakers"), (counted.num_utterances, "recordings"))
    parts = [f"{count:,} {what}" for count, what in counts if count is not None]
    if counted.hours is not None:
        parts.append(shown_hours(counted.hours))
    place = "" if counted.root is None else f" in {counted.root}"
    kind = wording.corpus_title(counted.corpus, f"own recordings{place}")
    return f"{kind} ({', '.join(parts)})" if parts else kind
