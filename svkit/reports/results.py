"""The tables of results: what `svkit score` prints, and what stands in the report."""

from collections.abc import Mapping, Sequence
from typing import Any

from svkit.reports.tables import MISSING, Table, number, percent
from svkit.reports.wording import calibration_text, label, model_of, system_title, trial_names

MEGA, GIGA = 1e6, 1e9
EER = "EER, % (95 %)"
PRIORS = (0.01, 0.05, 0.001)
THRESHOLD_NOTE = (
    "EER: where both error rates are equal; FAR: false-accept rate, of which one in N needs N nontarget trials to be"
    " seen once; minDCF, Bayes: lowest cost at that prior of a target, where a miss costs as much as a false accept."
    " Rates with their 95 % intervals, for the threshold as it stands. All but the Bayes thresholds were chosen on"
    " these very trials: other recordings give other rates."
)

System = Mapping[str, Any]


def eer_cell(facts: Mapping[str, Any]) -> str:
    """Write the EER of a system or group, in percent."""
    return percent(facts["eer"], facts["eer_interval"])


def cost_cell(costs: Sequence[Mapping[str, Any]], prior: float, *, interval: bool = False) -> str:
    """Write the detection cost at a prior."""
    cost = next((cost for cost in costs if cost["p_target"] == prior), None)
    return MISSING if cost is None else number(cost["value"], cost.get("interval") if interval else None, 3)


def rate_cell(point: Mapping[str, Any], name: str, num_trials: int) -> str:
    """Write an error rate in percent; one without any error says of how many trials.

    Args:
        point: an operating point.
        name: `miss_rate` or `false_accept_rate`.
        num_trials: of the class.
    """
    if round(point[name] * num_trials) == 0:
        return f"0 (none of {num_trials:,})"
    return percent(point[name], point.get(f"{name}_interval"))


def errors(systems: Sequence[System]) -> Table:
    """What needs no threshold, with every interval."""
    return Table(
        headings=[
            *("system", "trials", EER, "convex hull EER, %"),
            *(f"minDCF {prior:g} (95 %)" for prior in PRIORS),
            "minCllr, bits",
        ],
        rows=[
            [
                label(system),
                system["trials"]["name"],
                eer_cell(system),
                percent(system["eer_convex_hull"]),
                *(cost_cell(system["min_dcf"], prior, interval=True) for prior in PRIORS),
                number(system["min_cllr"], digits=3),
            ]
            for system in systems
        ],
        left=(0, 1),
    )


def brief_errors(systems: Sequence[System], title: str, notes: Sequence[str] = ()) -> Table:
    """What fits 80 columns of it; systems on several lists are named with theirs."""
    name = label if len(trial_names(systems)) == 1 else system_title
    rows = [
        [
            name(system),
            eer_cell(system),
            cost_cell(system["min_dcf"], 0.01),
            cost_cell(system["min_dcf"], 0.05),
            number(system["min_cllr"], digits=3),
        ]
        for system in systems
    ]
    headings = ["system", EER, "minDCF 0.01", "minDCF 0.05", "minCllr, bits"]
    return Table(title=title, headings=headings, rows=rows, notes=notes)


def calibration(systems: Sequence[System]) -> Table:
    """The log-likelihood ratios' quality, each measure beside the best that any map reaches."""
    headings = ["system", "trials", "calibrated by", "Cllr, bits (95 %)", "minCllr, bits"]
    for prior in PRIORS:
        headings += [f"actDCF {prior:g} (95 %)", f"minDCF {prior:g}"]
    rows = []
    for system in systems:
        if "cllr" in system:
            row = [label(system), system["trials"]["name"], calibration_text(system["calibration"])]
            row.append(number(system["cllr"], system.get("cllr_interval"), 3))
            row.append(number(system["min_cllr_llr"], digits=3))
            for prior in PRIORS:
                row.append(cost_cell(system["act_dcf"], prior, interval=True))
                row.append(cost_cell(system["min_dcf_llr"], prior))
            rows.append(row)
    return Table(headings=headings, rows=rows, left=(0, 1, 2))


def brief_calibration(systems: Sequence[System]) -> Table:
    """What fits 80 columns of it, for systems on one trial list."""
    headings = ["system", "Cllr, bits (at best)", "actDCF 0.01 (at best)", "actDCF 0.05 (at best)"]
    rows = []
    for system in systems:
        row = [
            label(system),
            f"{number(system['cllr'], digits=3)} ({number(system['min_cllr_llr'], digits=3)})",
        ]
        for prior in (0.01, 0.05):
            row.append(f"{cost_cell(system['act_dcf'], prior)} ({cost_cell(system['min_dcf_llr'], prior)})")
        rows.append(row)
    note = f"Log-likelihood ratios: {calibration_text(systems[0]['calibration'])}."
    return Table(title="Calibration", headings=headings, rows=rows, notes=[note])


def far_points(system: System) -> list[tuple[float, Mapping[str, Any]]]:
    """Return the points at fixed false-accept rates, each with its rate."""
    points = system["thresholds"].items()
    return [(float(name.removeprefix("far_")), point) for name, point in points if name.startswith("far_")]


def thresholds(system: System, title: str = "", notes: Sequence[str] = ()) -> Table:
    """The operating points of one system: from which score to accept, and what that costs."""

    def row(name: str, point: Mapping[str, Any], scale: str = "score") -> list[str]:
        return [
            name,
            f"{scale} {number(point['threshold'], digits=3)}",
            rate_cell(point, "miss_rate", system["num_targets"]),
            rate_cell(point, "false_accept_rate", system["num_nontargets"]),
        ]

    rows = [row("EER", system["thresholds"]["eer"])]
    for rate, point in far_points(system):
        name = f"FAR {100 * rate:g} %"
        unknown = [name, MISSING, MISSING, f"needs {round(1 / rate):,} trials"]
        rows.append(row(name, point) if point["is_resolved"] else unknown)
    rows += [row(f"minDCF {point['p_target']:g}", point) for point in system["min_dcf"]]
    for name, point in system.get("bayes_thresholds", {}).items():
        rows.append(row(f"Bayes {name.removeprefix('p_target_')}", point, "LLR"))
    headings = ["decide by", "accept from", "misses, %", "false accepts, %"]
    return Table(title=title, headings=headings, rows=rows, notes=notes)


def breakdowns(systems: Sequence[System]) -> list[Table]:
    """Every breakdown, a row a group; systems with equal groups share a table."""
    found: dict[tuple[str, ...], list[tuple[str, Mapping[str, Any]]]] = {}
    for system in systems:
        for facts in system.get("breakdown", []):
            groups = tuple(group["value"] for group in facts["groups"])
            key = (system["trials"]["name"], facts["column"], *groups)
            found.setdefault(key, []).append((label(system), facts))
    tables = []
    for (trials, column, *_), members in found.items():
        rows = []
        for group in zip(*(facts["groups"] for _, facts in members), strict=True):
            rates = [MISSING if one["eer"] is None else eer_cell(one) for one in group]
            counts = [f"{group[0]['num_targets']:,}", f"{group[0]['num_nontargets']:,}"]
            rows.append([group[0]["value"], *counts, *rates])
        headings = [column, "targets", "nontargets", *(f"{name}: {EER}" for name, _ in members)]
        tables.append(Table(title=f"EER by {column} on {trials}", headings=headings, rows=rows))
    return tables


_MODEL_HEADINGS = (
    "model", "encoder, M", "head, M", "sparsity, %", "GMACs, 1 s", "size, MB", "RTF wall", "RTF CPU",
)  # fmt: skip


def _model_cells(name: str, model: Mapping[str, Any] | None) -> list[str]:
    if model is None:  # the experiment lacks it
        return [name, *[MISSING] * (len(_MODEL_HEADINGS) - 1)]
    timing = model["timing"]
    return [
        name,
        f"{model['encoder_parameters'] / MEGA:.3g}",
        f"{model['head_parameters'] / MEGA:.3g}",
        percent(model["sparsity"]),
        f"{model['macs_per_second']['total'] / GIGA:.3g}",
        f"{model['size_bytes'] / MEGA:.3g}",
        MISSING if timing is None else f"{timing['wall']:.3g}",
        MISSING if timing is None else f"{timing['cpu']:.3g}",
    ]


def models(described: Sequence[Mapping[str, Any]], title: str = "") -> Table:
    """Size, work and time of checkpoints."""
    rows = [_model_cells(model["path"], model) for model in described]
    return Table(title=title, headings=_MODEL_HEADINGS, rows=rows)


def overview(report: Mapping[str, Any]) -> Table:
    """The main table of the report: a row a system, trial lists beside each other."""
    systems, headings, rows = report["systems"], list(_MODEL_HEADINGS), []
    names = trial_names(systems)
    for name in names:
        headings += [f"{name}: {EER}", "minDCF 0.01", "minDCF 0.05"]
    for key in dict.fromkeys(map(label, systems)):
        members = {system["trials"]["name"]: system for system in systems if label(system) == key}
        row = _model_cells(key, model_of(report, next(iter(members.values()))))
        for name in names:
            system = members.get(name)
            if system is None:
                row += [MISSING] * 3
            else:
                row += [eer_cell(system), *(cost_cell(system["min_dcf"], prior) for prior in (0.01, 0.05))]
        rows.append(row)
    return Table(headings=headings, rows=rows)


def provenance(report: Mapping[str, Any]) -> Table:
    """The chain of outputs, from the lists of audio to the scores."""
    rows = []
    for entry in report["provenance"]:
        inputs = ", ".join(f"{item['name']} {item['sha256'][:12]}" for item in entry["inputs"])
        facts = [str(entry[key]) for key in ("output", "command", "finished", "svkit")]
        rows.append([*facts, (entry["git_commit"] or MISSING)[:12], inputs or MISSING])
    headings = ["output", "command", "finished", "svkit", "commit", "inputs (sha256)"]
    return Table(headings=headings, rows=rows, left=range(6))
