"""The report as sections, rendered as `report.html` (one page without any link to the network) and `report.md`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from svkit.reports import answer, conditions, results, wording
from svkit.reports.figures import Panel
from svkit.reports.tables import Table
from svkit.reports.templates import render
from svkit.store.report import Report

READ_ON = {
    "Results": ("decisions.md", "3. Is the difference real?"),
    "Errors": ("concepts.md", "How it is evaluated"),
    "Calibration": ("decisions.md", "2. Which calibration?"),
    conditions.TITLE: ("conditions.md", "In an evaluation"),
    "Thresholds": ("decisions.md", "1. Which threshold?"),
    "Accuracy against cost": ("performance.md", "The pruned structure"),
    "Structure": ("concepts.md", "How it learns"),
    "Training": ("concepts.md", "How it learns"),
    "Checkpoints": ("concepts.md", "What is on disk"),
    "Provenance": ("concepts.md", "What is on disk"),
}
"""Page and heading of the documentation, which has no public address yet, for each section of the report."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the report under a heading."""

    title: str
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    panels: Sequence[Panel] = ()
    summary: str = ""
    """If not empty, the page folds the tables under this line."""

    @property
    def anchor(self) -> str:
        """The fragment that the table of contents links to."""
        return self.title.lower().replace(" ", "-")


def to_page(report: Report, panels: Sequence[Panel], svgs: Mapping[str, str]) -> str:
    """Return the report as one self-contained HTML page; `svgs` are the drawn panels by name."""
    return render("page.html.j2", **_first_screen(report), sections=_sections(report, panels), svgs=svgs)


def to_text(report: Report, panels: Sequence[Panel]) -> str:
    """Return the report as markdown, with links to `figures/`."""
    return render("report.md.j2", **_first_screen(report), sections=_sections(report, panels))


def tables(report: Report) -> dict[str, Table]:
    """Return every table of the page under a unique name."""
    found = [(part.title, table) for part in _sections(report, ()) for table in part.tables]
    shown = {" ".join(filter(None, (title, table.title))): table for title, table in found}
    return {table.title: table for table in answer.tables(report)} | shown


def _first_screen(report: Report) -> dict[str, Sequence[object]]:
    return {
        "subject": answer.subject(report),
        "advice": answer.advice(report),
        "rule": answer.rule(report),
        "headline": answer.headline(report),
        "cautions": answer.cautions(report),
        "compared": answer.tables(report),
    }


def _sections(report: Report, panels: Sequence[Panel]) -> list[Section]:
    """Return the parts of the report that have anything to show, in their order."""
    systems, breakdowns = report.systems, results.breakdowns(report.systems)
    has_cut = any(model.is_evaluated and model.sparsity for model in report.models)
    origin = results.provenance(report.provenance)
    found = [
        Section(title="Results", tables=[results.overview(report)], notes=wording.notes(report)),
        Section(
            title="Errors",
            tables=[results.errors(systems), *breakdowns],
            notes=[wording.ERRORS_NOTE, *dict.fromkeys(note for table in breakdowns for note in table.notes)],
        ),
        Section(title="Calibration", tables=[results.calibration(systems)], notes=[wording.CALIBRATION_NOTE]),
        Section(
            title=conditions.TITLE,
            tables=conditions.tables(report.conditions),
            notes=[*conditions.findings(report.conditions), conditions.NOTE],
        ),
        Section(
            title="Thresholds",
            tables=[results.thresholds(system, wording.system_title(system)) for system in systems],
            notes=[results.threshold_note(systems)],
        ),
        Section(title="Accuracy against cost"),
        Section(
            title="Structure",
            tables=[results.pruning(report.prunings, "Pruning")],
            notes=[wording.LAYERS_NOTE] * has_cut + [wording.DISTANCE_NOTE] * bool(report.prunings),
        ),
        Section(
            title="Checkpoints",
            tables=[results.models(report.models)],
            notes=[wording.MODELS_NOTE] * any(model.is_evaluated for model in report.models),
        ),
        Section(
            title="Training",
            tables=[results.training(report.training)],
            notes=wording.training_notes(report),
        ),
        Section(
            title="Provenance",
            tables=[origin],
            notes=origin.notes,
            summary=f"{len(origin.rows)} outputs, from the audio lists to this report",
        ),
    ]
    return [
        replace(part, panels=drawn, notes=[*part.notes, f'More: svkit\'s docs/{page}, "{heading}".'])
        for part in found
        if (drawn := [panel for panel in panels if panel.section == part.title])
        or any(table.rows for table in part.tables)
        for page, heading in [READ_ON[part.title]]
    ]
