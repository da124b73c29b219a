"""Renders `report.md` from the facts of `report.json`."""

from collections.abc import Sequence

from svkit.stages.reporting import wording
from svkit.stages.reporting.wording import Report

PROVENANCE_HEADINGS = ["output", "command", "finished", "svkit", "commit", "inputs (sha256)"]


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
        lines += ["## Errors", "", *_table(*wording.error_table(report)), ""]
        for title, headings, rows in wording.breakdowns(report):
            lines += [f"### {title}", "", *_table(headings, rows), ""]
        calibrated = wording.calibration_table(report)
        if calibrated[1]:
            lines += ["## Calibration", "", *_table(*calibrated), ""]
        lines += ["## Thresholds", ""]
        for system in report["systems"]:
            lines += [
                f"### {wording.system_title(system)}",
                "",
                *_table(*wording.threshold_table(system)),
                "",
            ]
        lines += [wording.THRESHOLD_NOTE, ""]
    if report["models"]:
        lines += ["## Checkpoints", "", *_table(*wording.checkpoint_table(report)), ""]
    if figures:
        lines += ["## Figures", ""]
        lines += [f"![{caption}](figures/{name}.png)\n\n{caption}\n" for name, caption in figures]
    if report["provenance"]:
        lines += ["## Provenance", "", *_table(*provenance_table(report)), ""]
    return "\n".join(lines).rstrip() + "\n"


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
    return PROVENANCE_HEADINGS, rows


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [
        f"| {' | '.join(headings)} |",
        f"|{'---|' * len(headings)}",
        *(f"| {' | '.join(row)} |" for row in escaped),
    ]
