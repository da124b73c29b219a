"""`svkit report`."""

from pathlib import Path
from typing import Annotated

import typer

from svkit.cli import console, options

Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="GUARD", help="Continue and record the exception: stale; repeatable."),
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
    from svkit.reports import wording
    from svkit.reports.report import ReportRequest, brief_tables, run
    from svkit.store.report import PAGE_NAME, read_report, report_record

    request = ReportRequest(
        exp=exp, allow=frozenset(allow or ()), overwrite=overwrite, keep_finished=keep_finished
    )
    with console.progress() as progress:
        directory = run(request, progress)
    done = read_report(directory)
    if json:
        return console.result(report_record(done), as_json=True)
    for text in wording.headline(done):
        console.sentence(text)
    for table in brief_tables(done):
        console.table(table)
    for text in wording.notes(done):
        console.sentence(text)
    return console.result(directory / PAGE_NAME)
