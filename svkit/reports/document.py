"""The report as sections, rendered as `report.html` (one page without any link to the network) and `report.md`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from svkit.reports import results, wording
from svkit.reports.figures import GROUPS, Panel
from svkit.reports.tables import Table, percent
from svkit.reports.templates import render_markdown, render_page
from svkit.store.report import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the report under a heading."""

    title: str
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    panels: Sequence[Panel] = ()
    summary: str = ""
    """Of what the page shows folded."""


def to_page(report: Report, panels: Sequence[Panel], svgs: Mapping[str, str]) -> str:
    """Return the report as one self-contained HTML page; `svgs` are the drawn panels by name."""
    headline, sections = wording.headline(report), _sections(report, panels)
    return render_page("page.html.j2", headline=headline, tiles=_tiles(report), sections=sections, svgs=svgs)


def to_text(report: Report, panels: Sequence[Panel]) -> str:
    """Return the report as markdown, with links to `figures/`."""
    return render_markdown(
        "report.md.j2", headline=wording.headline(report), sections=_sections(report, panels)
    )


def tables(report: Report) -> dict[str, Table]:
    """Return every table of the page under a name of its own."""
    found = [(part.title, table) for part in _sections(report, ()) for table in part.tables]
    return {" ".join(filter(None, (title, table.title))): table for title, table in found}


def _sections(report: Report, panels: Sequence[Panel]) -> list[Section]:
    """Return the parts of the report that have anything to show, in their order."""
    systems = report.systems
    drawn = {group: [panel for panel in panels if panel.group == group] for group in GROUPS}
    breakdowns = results.breakdowns(systems)
    tables = {
        "errors": [results.errors(systems), *breakdowns],
        "calibration": [results.calibration(systems)],
        "structure": [results.pruning(report.prunings, "Pruning")],
    }
    notes = {"errors": list(dict.fromkeys(note for table in breakdowns for note in table.notes))}
    figures = {
        group: Section(
            title=title, tables=tables.get(group, []), notes=notes.get(group, []), panels=drawn[group]
        )
        for group, title in GROUPS.items()
    }
    thresholds = [results.thresholds(system, wording.system_title(system)) for system in systems]
    origin = results.provenance(report.provenance)
    summary = f"{len(origin.rows)} outputs, from the lists of audio to this report"
    found = [
        Section(title="Results", tables=[results.overview(report)], notes=wording.notes(report)),
        figures.pop("errors"),
        figures.pop("calibration"),
        Section(title="Thresholds", tables=thresholds, notes=[results.THRESHOLD_NOTE]),
        *figures.values(),
        Section(title="Checkpoints", tables=[results.models(report.models)]),
        Section(title="Provenance", tables=[origin], summary=summary),
    ]
    return [part for part in found if part.panels or any(table.rows for table in part.tables)]


def _tiles(report: Report) -> list[dict[str, object]]:
    """Return what stands at the top of the page: the EER of each system, and what its model costs."""
    tiles = []
    for system in report.systems:
        model, interval = wording.model_of(report, system), system.eer_interval
        facts = [f"95 %: {percent(interval.low)} to {percent(interval.high)} %"] if interval else []
        facts += [f"{model.size_bytes / results.MEGA:.3g} MB"] if model else []
        facts += [f"{1000 * model.timing.cpu:.2g} ms for 1 s of audio"] if model and model.timing else []
        name, is_pruned = wording.system_title(system), model is not None and model.sparsity > 0
        tiles.append({"name": name, "eer": percent(system.eer), "facts": facts, "is_pruned": is_pruned})
    return tiles
