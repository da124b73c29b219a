"""What the report says, as sentences and table cells; the terminal, the markdown and the page share it."""

from collections.abc import Mapping, Sequence
from typing import Any

MEGA, GIGA = 1e6, 1e9
MISSING = "-"
SIGNIFICANT = 0.05

Report = Mapping[str, Any]


def label(system: Mapping[str, Any]) -> str:
    """Name a system: its own name, with the back-end unless plain cosine."""
    backend = system["backend"]["name"]
    return str(system["name"]) if backend == "cosine" else f"{system['name']} ({backend})"


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


def eer_cell(system: Mapping[str, Any]) -> str:
    """Render the EER with its interval."""
    interval = system["eer_interval"]
    if interval is None:
        return percent(system["eer"])
    return f"{percent(system['eer'])} ({percent(interval['low'], 1)} to {percent(interval['high'], 1)})"


def model_columns() -> list[str]:
    """Return the headings of the model part of the table."""
    return [
        "model",
        "encoder, M",
        "head, M",
        "sparsity, %",
        "GMACs / s",
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
    if comparison["p_value"] >= SIGNIFICANT:
        verdict = "not a significant difference"
    else:
        verdict = "significantly worse" if difference > 0 else "significantly better"
    backend = "" if comparison["backend"] == "cosine" else f" with {comparison['backend']}"
    return (
        f"{comparison['trials']}: {comparison['first']} minus {comparison['second']}{backend}:"
        f" {difference:+.2f} points of EER (95 %: {low:+.2f} to {high:+.2f},"
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
    headings = [column, "target", "nontarget"]
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
    return [(f"{key[0]} by {key[1]}", *breakdown_rows(key[1], members)) for key, members in tables.items()]


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


def interval_note(report: Report) -> str:
    """Say what the intervals are."""
    known = [system["eer_interval"] for system in report["systems"] if system["eer_interval"]]
    if not known:
        return "No confidence intervals: the trials do not allow a bootstrap over speakers."
    speakers = sorted({facts["num_speakers"] for facts in known})
    count = " and ".join(str(number) for number in speakers)
    return (
        f"Intervals: 95 %, bootstrap over {count} speakers ({known[0]['num_resamples']} resamples);"
        " differences are paired (the same resamples for both systems)."
    )


def timing_note(report: Report) -> str:
    """Say how the real-time factors were measured."""
    machine = report["machine"]
    if not any(model.get("timing") for model in report["models"]):
        return ""
    lengths = ", ".join(f"{seconds:g}" for seconds in machine["utterance_seconds"])
    return (
        f"RTF: seconds that a second of audio takes on {machine['num_threads']} thread of"
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
