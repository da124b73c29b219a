"""The report as sections, rendered as `report.html` (one page without any link to the network) and `report.md`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from svkit.reports import answer, conditions, results, wording
from svkit.reports.figures import GROUPS, Panel
from svkit.reports.tables import Table
from svkit.reports.templates import render_markdown, render_page
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
    return render_page("page.html.j2", **_first_screen(report), sections=_sections(report, panels), svgs=svgs)


def to_text(report: Report, panels: Sequence[Panel]) -> str:
    """Return the report as markdown, with links to `figures/`."""
    return render_markdown("report.md.j2", **_first_screen(report), sections=_sections(report, panels))


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
    systems = report.systems
    drawn = {group: [panel for panel in panels if panel.group == group] for group in GROUPS}
    breakdowns = results.breakdowns(systems)
    tables = {
        "errors": [results.errors(systems), *breakdowns],
        "calibration": [results.calibration(systems)],
        "structure": [results.pruning(report.prunings, "Pruning")],
        "training": [results.training(report.training)],
    }
    notes = {
        "results": wording.notes(report),
        "errors": [wording.ERRORS_NOTE, *dict.fromkeys(note for table in breakdowns for note in table.notes)],
        "calibration": [wording.CALIBRATION_NOTE],
        "structure": [wording.LAYERS_NOTE]
        * any(model.is_evaluated and model.sparsity for model in report.models)
        + [wording.DISTANCE_NOTE] * bool(report.prunings),
        "training": wording.training_notes(report),
    }
    figures = {
        group: Section(
            title=title, tables=tables.get(group, []), notes=notes.get(group, []), panels=drawn[group]
        )
        for group, title in GROUPS.items()
    }
    thresholds = [results.thresholds(system, wording.system_title(system)) for system in systems]
    origin = results.provenance(report.provenance)
    summary = f"{len(origin.rows)} outputs, from the audio lists to this report"
    found = [
        Section(title="Results", tables=[results.overview(report)], notes=notes["results"]),
        figures.pop("errors"),
        figures.pop("calibration"),
        Section(
            title=conditions.TITLE,
            tables=conditions.tables(report.conditions),
            notes=[*conditions.findings(report.conditions), conditions.NOTE],
        ),
        Section(title="Thresholds", tables=thresholds, notes=[results.threshold_note(systems)]),
        figures.pop("cost"),
        figures.pop("structure"),
        Section(
            title="Checkpoints",
            tables=[results.models(report.models)],
            notes=[wording.MODELS_NOTE] * any(model.is_evaluated for model in report.models),
        ),
        figures.pop("training"),
        Section(title="Provenance", tables=[origin], summary=summary),
    ]
    return [
        replace(part, notes=[*part.notes, f'More: svkit\'s docs/{page}, "{heading}".'])
        for part in found
        if part.panels or any(table.rows for table in part.tables)
        for page, heading in [READ_ON[part.title]]
    ]
