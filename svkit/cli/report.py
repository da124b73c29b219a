"""`svkit report`."""

import os
import shlex
from pathlib import Path
from typing import Annotated

from svkit.cli import console, options
from svkit.cli.option_groups import takes_groups
from svkit.errors import OutdatedError

Allow = Annotated[
    list[str] | None, options.allow("Continue and record the exception: stale; repeatable.", "stale")
]


@takes_groups
def report(*, allow: Allow = None, common: options.TableOptions) -> None:
    """Show all scores and checkpoints on one page: tables, DET plot, thresholds, structure, training.

    Example: svkit report --exp exp
    """
    common.check_tables("report")
    os.environ["MPLBACKEND"] = "agg"  # a notebook sets its own backend, which may not be installed here
    from svkit.models.final import final_models
    from svkit.reports import answer, document, example, wording
    from svkit.reports import report as reporting
    from svkit.store.report import PAGE_NAME, read_report, report_record
    from svkit.tools.following import UPDATE

    request = common.request(reporting.ReportRequest, allow=frozenset(allow or ()))
    with console.progress() as progress:
        try:
            directory = reporting.run(request, progress)
        except OutdatedError as error:
            earlier = common.following("")
            # Of what was changed, the report would still show the results of before.
            is_first = earlier.endswith(UPDATE) and not earlier.startswith("svkit report")
            first = f", after `{common.to_type(earlier)}`, which comes first" if is_first else ""
            raise OutdatedError(f"{error}{first}") from None
    done = read_report(directory)
    common.write_tables("report", document.tables(done))
    if not common.json:
        opening = " ".join(answer.subject(done))
        advice = [*answer.advice(done), *answer.rule(done)]
        for text in (opening, *advice, *answer.cautions(done), *answer.headline(done)):
            console.sentence(text)
        for table in reporting.brief_tables(done):
            console.table(table)
        for text in (*wording.notes(done), wording.MIN_CLLR_NOTE, *wording.validation_notes(done)):
            console.sentence(text)
    common.show(report_record(done), directory / PAGE_NAME)
    if common.json:
        return
    console.note(f"open {directory / PAGE_NAME} in a browser")
    # Not "next" where the advice is to use no model.
    label = "to try a model anyway" if any(map(answer.is_unusable, answer.pairs(done))) else "next"
    lists = [Path(system.manifest["path"]) for system in done.systems if system.manifest]
    pair = example.two_recordings([common.exp / "data" / "eval.tsv", *lists])
    recordings = "A.wav B.wav" if pair is None else " ".join(shlex.quote(str(path)) for path in pair)
    command = f"svkit verify {recordings}"
    if not final_models(common.exp):  # it evaluates models from elsewhere
        paths = [Path(system.model_path) for system in done.systems if system.model_path]
        places = [place for path in paths for place in (common.exp / path, path) if place.is_dir()]
        command += f" --model {shlex.quote(str(places[0]))}" if places else ""
    common.show_next(command, label=label, is_last=True)
