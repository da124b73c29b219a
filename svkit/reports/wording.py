"""What the report says, as sentences and table cells; the terminal, the markdown and the page share it."""

from collections.abc import Mapping, Sequence
from typing import Any

MEGA, GIGA = 1e6, 1e9
MISSING = "-"
SIGNIFICANT = 0.05
MANY_TRIALS = 1000
"""Targets from which an EER without an interval gets two decimals."""
FEW_SPEAKERS = 15
"""With fewer, intervals are too narrow still (`benchmarks/intervals.py`)."""
REPORTED_PRIORS = (0.01, 0.05, 0.001)

Report = Mapping[str, Any]


def label(system: Mapping[str, Any]) -> str:
    """Name a system: its own name, with the back-end unless plain cosine."""
    backend = system["backend"]["name"]
    return str(system["name"]) if backend == "cosine" else f"{system['name']} ({backend})"


def system_title(system: Mapping[str, Any]) -> str:
    """Name a system on its trials."""
    return f"{label(system)} on {system['trials']['name']}"


def trial_names(report: Report) -> list[str]:
    """Return the trial lists in the order of the systems."""
    return list(dict.fromkeys(system["trials"]["name"] for system in report["systems"]))


def model_of(report: Report, system: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the facts of a system's model, None where the experiment does not have it."""
    for model in report["models"]:
        if model["path"] == system["model_path"]:
            return dict(model)
    return None


def percent(value: float, digits: int = 2) -> str:
    """Render a fraction in percent, without the sign."""
    return f"{100 * value:.{digits}f}"


def p_value(value: float) -> str:
    """Render a p-value; small ones only as below a bound."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def cost(system: Mapping[str, Any], prior: float) -> str:
    """Render minDCF at a prior."""
    values = [f"{entry['value']:.3f}" for entry in system["min_dcf"] if entry["p_target"] == prior]
    return values[0] if values else MISSING


def _digits(low: float, high: float) -> int:
    """Return decimals of a percentage: no more than an interval of fractions makes worth reading."""
    return 1 if high - low >= 0.01 else 2


def _eer_digits(system: Mapping[str, Any]) -> int:
    interval = system["eer_interval"]
    if interval is None:
        return 2 if system["num_targets"] >= MANY_TRIALS else 1
    return _digits(interval["low"], interval["high"])


def eer_text(system: Mapping[str, Any]) -> str:
    """Render the EER in percent, with as many digits as its interval warrants."""
    return f"{percent(system['eer'], _eer_digits(system))} %"


def eer_cell(system: Mapping[str, Any]) -> str:
    """Render the EER with its interval, in percent without the sign."""
    return _joined(eer_text(system).removesuffix(" %"), interval_text(system["eer_interval"]))


def interval_text(interval: Mapping[str, Any] | None) -> str:
    """Render an interval of fractions in percent, without the sign; empty where there is none."""
    if interval is None:
        return ""
    digits = _digits(interval["low"], interval["high"])
    return f"{percent(interval['low'], digits)} to {percent(interval['high'], digits)}"


def cost_cell(entry: Mapping[str, Any], digits: int = 3) -> str:
    """Render a detection cost with its interval."""
    interval = entry.get("interval")
    spread = "" if interval is None else f"{interval['low']:.2f} to {interval['high']:.2f}"
    return _joined(f"{entry['value']:.{digits}f}", spread)


def rate_cell(point: Mapping[str, Any], name: str, num_trials: int) -> str:
    """Render an error rate in percent with its interval; one without any error says of how many trials.

    Args:
        point: an operating point.
        name: `miss_rate` or `false_accept_rate`.
        num_trials: of the class.
    """
    count = round(point[name] * num_trials)
    if count == 0:
        return f"0 (none of {num_trials:,})"
    interval = point.get(f"{name}_interval")
    spread = "" if interval is None else f"{_rate(interval['low'])} to {_rate(interval['high'])}"
    return _joined(_rate(point[name]), spread)


def _rate(value: float) -> str:
    """Render a fraction in percent to two significant digits."""
    return f"{100 * value:.0f}" if value >= 0.1 else f"{100 * value:.2g}"


def _joined(value: str, spread: str) -> str:
    return f"{value} ({spread})" if spread else value


def far_points(system: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the thresholds at fixed false-accept rates, each with its rate as text."""
    return [
        (f"{100 * float(name.removeprefix('far_')):g} %", point)
        for name, point in system["thresholds"].items()
        if name.startswith("far_")
    ]


def threshold_table(system: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the operating points of one system: where to accept, and what that costs."""
    headings = ["decide for", "accept from", "misses, %", "false accepts, %"]
    num_targets, num_nontargets = system["num_targets"], system["num_nontargets"]

    def row(name: str, point: Mapping[str, Any], scale: str = "score") -> list[str]:
        return [
            name,
            f"{scale} {point['threshold']:.3f}",
            rate_cell(point, "miss_rate", num_targets),
            rate_cell(point, "false_accept_rate", num_nontargets),
        ]

    rows = [row("equal error rates", system["thresholds"]["eer"])]
    for rate, point in far_points(system):
        if point["is_resolved"]:
            rows.append(row(f"false accepts {rate}", point))
        else:
            needed = round(100 / float(rate.removesuffix(" %")))
            rows.append([f"false accepts {rate}", MISSING, MISSING, f"needs {needed:,} trials"])
    rows += [row(f"lowest cost, prior {entry['p_target']:g}", entry) for entry in system["min_dcf"]]
    for name, point in system.get("bayes_thresholds", {}).items():
        rows.append(row(f"Bayes, prior {name.removeprefix('p_target_')}", point, "LLR"))
    return headings, rows


THRESHOLD_NOTE = (
    "Rates with their 95 % intervals, for the threshold as it stands. Thresholds but the Bayes ones are chosen on"
    " these very trials: other recordings give other rates. A false-accept rate of one in N needs N nontarget trials"
    " to be seen once. Costs of a miss and of a false accept are equal; prior: probability of a target."
)


def error_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of what needs no threshold: both EERs, minDCF, minCllr."""
    headings = ["system", "trials", "EER, % (95 %)", "convex hull EER, %"]
    headings += [f"minDCF {prior:g} (95 %)" for prior in REPORTED_PRIORS] + ["minCllr, bits"]
    rows = []
    for system in report["systems"]:
        costs = {entry["p_target"]: cost_cell(entry) for entry in system["min_dcf"]}
        rows.append(
            [
                label(system),
                system["trials"]["name"],
                eer_cell(system),
                percent(system["eer_convex_hull"], _eer_digits(system)),
                *(costs[prior] for prior in REPORTED_PRIORS),
                f"{system['min_cllr']:.3f}",
            ]
        )
    return headings, rows


def short_error_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the errors that fit 80 columns."""
    headings = ["system", "trials", "EER, % (95 %)", "minDCF 0.01", "minDCF 0.05"]
    rows = [
        [label(system), system["trials"]["name"], eer_cell(system), cost(system, 0.01), cost(system, 0.05)]
        for system in report["systems"]
    ]
    return headings, rows


def calibration_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the log-likelihood ratios' quality, each beside the best any map reaches."""
    headings = ["system", "trials", "calibrated by", "Cllr, bits (95 %)", "minCllr, bits"]
    for prior in REPORTED_PRIORS:
        headings += [f"actDCF {prior:g} (95 %)", f"minDCF {prior:g}"]
    rows = []
    for system in report["systems"]:
        if "cllr" not in system:
            continue
        actual, best = (
            {entry["p_target"]: entry for entry in system[key]} for key in ("act_dcf", "min_dcf_llr")
        )
        row = [label(system), system["trials"]["name"], calibration_text(system["calibration"])]
        row += [cost_cell({"value": system["cllr"], "interval": system.get("cllr_interval")})]
        row.append(f"{system['min_cllr_llr']:.3f}")
        for prior in REPORTED_PRIORS:
            row += [cost_cell(actual[prior]), f"{best[prior]['value']:.3f}"]
        rows.append(row)
    return headings, rows


def calibration_text(facts: Mapping[str, Any]) -> str:
    """Say what log-likelihood ratios were learnt on."""
    if facts["method"] == "held-out trials":
        return f"held-out trials {facts['trials']['name']}"
    return f"{facts['num_folds']} folds of speakers"


def model_columns() -> list[str]:
    """Return the headings of the model part of the table."""
    return [
        "model",
        "encoder, M",
        "head, M",
        "sparsity, %",
        "GMACs, 1 s",
        "size, MB",
        "RTF wall",
        "RTF CPU",
    ]


def model_cells(name: str, model: Mapping[str, Any] | None) -> list[str]:
    """Render a model's cells; dashes where it is not known or was not timed."""
    if model is None:
        return [name, *[MISSING] * (len(model_columns()) - 1)]
    timing = model.get("timing")
    return [
        name,
        f"{model['encoder_parameters'] / MEGA:.3g}",
        f"{model['head_parameters'] / MEGA:.3g}",
        percent(model["sparsity"], 1),
        f"{model['macs_per_second']['total'] / GIGA:.3g}",
        f"{model['size_bytes'] / MEGA:.3g}",
        MISSING if timing is None else f"{timing['wall']:.3g}",
        MISSING if timing is None else f"{timing['cpu']:.3g}",
    ]


def table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the main table: a row for each system, trial lists beside each other."""
    names = trial_names(report)
    headings = model_columns()
    for name in names:
        headings += [f"{name}: EER, % (95 %)", "minDCF .01", "minDCF .05"]
    rows = []
    for key in dict.fromkeys(label(system) for system in report["systems"]):
        members = {system["trials"]["name"]: system for system in report["systems"] if label(system) == key}
        row = model_cells(key, model_of(report, next(iter(members.values()))))
        for name in names:
            system = members.get(name)
            row += (
                [MISSING] * 3
                if system is None
                else [eer_cell(system), cost(system, 0.01), cost(system, 0.05)]
            )
        rows.append(row)
    return headings, rows


def checkpoint_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of every checkpoint in the experiment."""
    return model_columns(), [model_cells(model["path"], model) for model in report["models"]]


def comparison_sentence(comparison: Mapping[str, Any]) -> str:
    """Say whether one system is worse than another."""
    difference, low, high = (100 * comparison[key] for key in ("eer_difference", "low", "high"))
    digits = _digits(comparison["low"], comparison["high"])
    if comparison["p_value"] < SIGNIFICANT:
        verdict = "significantly worse" if difference > 0 else "significantly better"
    elif low == high == 0:
        verdict = "no difference"
    else:
        verdict = "not a significant difference"
        if high > 0:
            verdict += f", but up to {high:.{digits}f} points worse is not ruled out"
    backend = "" if comparison["backend"] == "cosine" else f" with {comparison['backend']}"
    return (
        f"On {comparison['trials']}, {comparison['first']} minus {comparison['second']}{backend}:"
        f" {difference:+.{digits}f} points of EER (95 %: {low:+.{digits}f} to {high:+.{digits}f},"
        f" {p_value(comparison['p_value'])}): {verdict}."
    )


def caution_sentences(systems: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which guards were passed with `--allow`, and what they could not check."""
    found = [f"Caution: {caution}." for system in systems for caution in system.get("cautions", [])]
    found += [f"Not checked: {gap}." for system in systems for gap in system.get("unchecked", [])]
    return list(dict.fromkeys(found))


def breakdown_rows(
    column: str, systems: Sequence[tuple[str, Mapping[str, Any]]]
) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of a breakdown: a row a group, the systems beside each other.

    Args:
        column: what the trials are grouped by.
        systems: name and breakdown of each, of the same trials.
    """
    headings = [column, "targets", "nontargets"]
    headings += [f"{name}: EER, % (95 %)" for name, _ in systems]
    rows = []
    for number, group in enumerate(systems[0][1]["groups"]):
        counts = [f"{group['num_targets']:,}", f"{group['num_nontargets']:,}"]
        members = [facts["groups"][number] for _, facts in systems]
        rates = [MISSING if member["eer"] is None else eer_cell(member) for member in members]
        rows.append([group["value"], *counts, *rates])
    return headings, rows


def breakdowns(report: Report) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, headings and rows of every breakdown; systems with equal groups share a table."""
    tables: dict[tuple[str, ...], list[tuple[str, Mapping[str, Any]]]] = {}
    for system in report["systems"]:
        for facts in system.get("breakdown", []):
            groups = tuple(group["value"] for group in facts["groups"])
            key = (system["trials"]["name"], facts["column"], *groups)
            tables.setdefault(key, []).append((label(system), facts))
    return [
        (f"EER by {key[1]} on {key[0]}", *breakdown_rows(key[1], members)) for key, members in tables.items()
    ]


def headline(report: Report) -> list[str]:
    """Say in a few sentences what the pruned models cost and gain against the dense one."""
    timed = {model["path"]: model for model in report["models"] if model["is_evaluated"]}
    dense = [model for model in timed.values() if model["sparsity"] == 0]
    sentences = []
    for model in timed.values():
        if model["sparsity"] > 0 and dense:
            sentences.append(_against(model, dense[-1], report["systems"]))
    sentences += [comparison_sentence(comparison) for comparison in report["comparisons"]]
    cautions = [*report["systems"], {"cautions": report.get("cautions", [])}]
    return sentences + caution_sentences(cautions)


def _against(model: Mapping[str, Any], dense: Mapping[str, Any], systems: Sequence[Mapping[str, Any]]) -> str:
    name = next(system["name"] for system in systems if system["model_path"] == model["path"])
    parts = [
        f"{percent(model['sparsity'], 1)} % of the encoder's parameters are gone",
        f"{dense['macs_per_second']['total'] / model['macs_per_second']['total']:.1f} times fewer MACs",
        f"{dense['size_bytes'] / model['size_bytes']:.1f} times smaller on disk",
    ]
    if model.get("timing") and dense.get("timing"):
        ratio = dense["timing"]["cpu"] / model["timing"]["cpu"]
        parts.append(f"{ratio:.1f} times faster" if ratio >= 1 else f"{1 / ratio:.1f} times slower")
    return f"{name}: {', '.join(parts)}."


NO_INTERVAL = (
    "No confidence intervals: trials without an error, or with too few speakers, do not tell how far off the"
    " rates are."
)
"""Where nothing says why: metrics of earlier versions."""
FEW_SPEAKERS_NOTE = (
    f"Fewer than {FEW_SPEAKERS} speakers: such intervals are too narrow, the truth lies outside in more than one case"
    " of ten."
)


def interval_note(report: Report) -> str:
    """Say what the intervals are."""
    known = [system["eer_interval"] for system in report["systems"] if system["eer_interval"]]
    reasons = dict.fromkeys(
        f"No confidence interval: {system['no_interval']}."
        for system in report["systems"]
        if system.get("no_interval")
    )
    if not known:
        return " ".join(reasons) or NO_INTERVAL
    speakers = sorted({facts["num_speakers"] for facts in known})
    count = " and ".join(str(number) for number in speakers)
    note = (
        f"Intervals: 95 %, bootstrap over {count} speakers ({known[0]['num_resamples']} resamples);"
        " differences are paired (the same resamples for both systems)."
    )
    return " ".join([note, *[FEW_SPEAKERS_NOTE] * (min(speakers) < FEW_SPEAKERS), *reasons])


def timing_note(report: Report) -> str:
    """Say how the real-time factors were measured."""
    machine = report["machine"]
    if not any(model.get("timing") for model in report["models"]):
        return ""
    lengths = ", ".join(f"{seconds:g}" for seconds in machine["utterance_seconds"])
    return (
        "M: millions of parameters; GMACs, 1 s: billions of multiply-adds for a second of audio; RTF: seconds that a"
        f" second of audio takes on {machine['num_threads']} thread of"
        f" {machine['processor']}, single utterances of {lengths} s, median of {machine['rounds']} rounds"
        " taken in turns; CPU is its computing time, which a busy machine disturbs less."
    )


def trials_note(report: Report) -> str:
    """Count the trials."""
    seen: dict[str, str] = {}
    for system in report["systems"]:
        counts = f"{system['num_targets']:,} target and {system['num_nontargets']:,} nontarget trials"
        seen.setdefault(system["trials"]["name"], counts)
    return "; ".join(f"{name}: {counts}" for name, counts in seen.items()) + "."
