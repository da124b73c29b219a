"""Renders `report.md` from the facts of `report.json`."""

import re
import sys
from collections.abc import Sequence

from svkit.errors import terminal_text
from svkit.reports import wording
from svkit.reports.wording import Report

_MARKS = re.compile(
    r"""[\\`*\[\]|$]        # code, emphasis, links, cells of tables, formulas
    | ~(?=~) | <(?=[A-Za-z/!?]) | &(?=\#?\w+;)
    | (?<![^\W_])_ | _(?![^\W_])  # within a word it marks nothing
    | ^[#>](?=[#>\s])""",
    re.VERBOSE,
)
PROVENANCE_HEADINGS = ["output", "command", "finished", "svkit", "commit", "inputs (sha256)"]


def escape(text: str) -> str:
    """Return text that markdown shows as it is: names of people, files and systems may hold anything."""
    return _MARKS.sub(r"\\\g<0>", terminal_text(text, sys.maxsize).replace("\n", " "))


def render(report: Report, figures: Sequence[tuple[str, str]]) -> str:
    """Return the report as markdown.

    Args:
        report: content of `report.json`.
        figures: (file name without suffix below `figures/`, caption).
    """
    lines = ["# Speaker verification report", ""]
    lines += [f"- {escape(sentence)}" for sentence in wording.headline(report)]
    if report["systems"]:
        notes = [wording.trials_note(report), wording.interval_note(report), wording.timing_note(report)]
        lines += ["", "## Results", "", *table(*wording.table(report)), ""]
        lines += [f"{escape(note)}\n" for note in notes if note]
        lines += ["## Errors", "", *table(*wording.error_table(report)), ""]
        for title, headings, rows in wording.breakdowns(report):
            lines += [f"### {escape(title)}", "", *table(headings, rows), ""]
        calibrated = wording.calibration_table(report)
        if calibrated[1]:
            lines += ["## Calibration", "", *table(*calibrated), ""]
        lines += ["## Thresholds", ""]
        for system in report["systems"]:
            lines += [
                f"### {escape(wording.system_title(system))}",
                "",
                *table(*wording.threshold_table(system)),
                "",
            ]
        lines += [wording.THRESHOLD_NOTE, ""]
    if report["models"]:
        lines += ["## Checkpoints", "", *table(*wording.checkpoint_table(report)), ""]
    if figures:
        lines += ["## Figures", ""]
        for name, caption in figures:
            lines.append(f"![{escape(caption)}](figures/{name}.png)\n\n{escape(caption)}\n")
    if report["provenance"]:
        lines += ["## Provenance", "", *table(*provenance_table(report)), ""]
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


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table of plain text."""
    first, *others = [f"| {' | '.join(map(escape, cells))} |" for cells in (headings, *rows)]
    return [first, f"|{'---|' * len(headings)}", *others]
