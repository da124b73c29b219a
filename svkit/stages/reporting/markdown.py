"""Renders `report.md` from the facts of `report.json`."""

from collections.abc import Sequence

from svkit.stages.reporting import wording
from svkit.stages.reporting.wording import Report


def render(report: Report, figures: Sequence[tuple[str, str]]) -> str:
    """Return the report as markdown.

    Args:
        report: content of `report.json`.
        figures: (file name without suffix below `figures/`, caption).
    """
    lines = ["# Speaker verification report", ""]
    lines += [f"- {sentence}" for sentence in wording.headline(report)]
    if report["systems"]:
        notes = [wording.trials_note(report), wording.interval_note(report), wording.timing_note(report)]
        lines += ["", "## Results", "", *_table(*wording.table(report)), ""]
        lines += [f"{note}\n" for note in notes if note]
        calibrated = calibration_table(report)
        if calibrated[1]:
            lines += ["## Calibration", "", *_table(*calibrated), ""]
        for title, headings, rows in wording.breakdowns(report):
            lines += [f"## {title}", "", *_table(headings, rows), ""]
        lines += ["## Thresholds", "", *_table(*threshold_table(report)), ""]
    if report["models"]:
        lines += ["## Checkpoints", "", *_table(*wording.checkpoint_table(report)), ""]
    if figures:
        lines += ["## Figures", ""]
        lines += [f"![{caption}](figures/{name}.png)\n\n{caption}\n" for name, caption in figures]
    if report["provenance"]:
        lines += ["## Provenance", "", *_table(*provenance_table(report)), ""]
    return "\n".join(lines).rstrip() + "\n"


def threshold_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the thresholds on the scale of the scores."""
    headings = ["system", "trials", "operating point", "threshold", "miss, %", "false accept, %"]
    rows = []
    for system in report["systems"]:
        points = {"EER": system["thresholds"]["eer"]}
        points |= {
            f"false accept {100 * float(name.removeprefix('far_')):g} %": point
            for name, point in system["thresholds"].items()
            if name.startswith("far_") and point["is_resolved"]
        }
        points |= {f"minDCF {entry['p_target']:g}": entry for entry in system["min_dcf"]}
        for name, point in points.items():
            rates = [wording.percent(point[key]) for key in ("miss_rate", "false_accept_rate")]
            rows.append(
                [wording.label(system), system["trials"]["name"], name, f"{point['threshold']:.4f}", *rates]
            )
    return headings, rows


def calibration_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the log-likelihood ratios' quality (and the best any map reaches)."""
    headings = ["system", "trials", "calibrated by", "Cllr (min), bits"]
    headings += [f"actDCF (min) {prior:g}" for prior in (0.01, 0.05, 0.001)]
    rows = []
    for system in report["systems"]:
        if system["tippett"] is None:
            continue
        costs = [
            {entry["p_target"]: entry["value"] for entry in system[key]} for key in ("act_dcf", "min_dcf_llr")
        ]
        rows.append(
            [
                wording.label(system),
                system["trials"]["name"],
                system["calibration"]["method"],
                f"{system['cllr']:.3f} ({system['min_cllr_llr']:.3f})",
                *(f"{costs[0][prior]:.3f} ({costs[1][prior]:.3f})" for prior in (0.01, 0.05, 0.001)),
            ]
        )
    return headings, rows


def provenance_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the chain of outputs."""
    rows = []
    for entry in report["provenance"]:
        inputs = ", ".join(f"{item['name']} {item['sha256'][:12]}" for item in entry["inputs"])
        rows.append(
            [
                entry["output"],
                str(entry["command"]),
                str(entry["finished"]),
                str(entry["svkit"]),
                (entry["git_commit"] or wording.MISSING)[:12],
                inputs or wording.MISSING,
            ]
        )
    return ["output", "command", "finished", "svkit", "commit", "inputs (sha256)"], rows


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [
        f"| {' | '.join(headings)} |",
        f"|{'---|' * len(headings)}",
        *(f"| {' | '.join(row)} |" for row in escaped),
    ]
