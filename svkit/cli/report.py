"""`svkit report`."""

from pathlib import Path
from typing import Annotated

import typer

from svkit.cli import console, options, tables

Allow = Annotated[
    list[str] | None, typer.Option("--allow", metavar="GUARD", help="Go on, on record: stale; repeatable.")
]


def report(
    allow: Allow = None,
    overwrite: options.Overwrite = False,
    keep_finished: options.KeepFinished = False,
    exp: options.Exp = Path("exp"),
    json: options.Json = False,
) -> None:
    """Put every score and checkpoint on one page: table, DET plot, thresholds, structure, training.

    Example: svkit report --exp exp
    """
    from svkit.reports.report import ReportRequest, run, summary

    with console.progress() as progress:
        request = ReportRequest(
            exp=exp, allow=frozenset(allow or ()), overwrite=overwrite, keep_finished=keep_finished
        )
        done = run(request, progress)
    if json:
        return console.result(done.report, as_json=True)
    shown = summary(done.report)
    for sentence in shown.headline:
        tables.print_note(sentence)
    for title, headings, rows in shown.tables:
        tables.print_table(title, headings, rows)
    for note in shown.notes:
        tables.print_note(note)
    return console.result(done.page)
