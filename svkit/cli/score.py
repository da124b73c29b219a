"""`svkit score`."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from svkit.cli import console, options
from svkit.cli.option_groups import takes_groups
from svkit.cli.options import option
from svkit.config.ranges import Range
from svkit.errors import ConfigError

if TYPE_CHECKING:
    from svkit.scoring.score import ScoreResult


class Form(str, Enum):
    """Text forms of other toolkits."""

    KALDI = "kaldi"
    WESPEAKER = "wespeaker"


Trials = Annotated[Path, typer.Argument(metavar="TRIALS", help="Trial list in any of the usual forms.")]
Paths = list[Path] | None


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(options.OutputOptions):
    """Fields of `ScoreRequest` and of its `Backend`."""

    embeddings: Annotated[
        Paths, option("--embeddings", "Repeatable [default: every directory in exp/embeddings].", "DIR")
    ] = None
    method: Annotated[
        Literal["cosine", "plda"], option("--backend", "Cosine, or PLDA with --plda-train.")
    ] = "cosine"
    plda_training: Annotated[
        Paths,
        option(
            "--plda-train",
            "Embeddings or manifest of training speakers: one for all systems or one each.",
            "PATH",
        ),
    ] = None
    norm: Annotated[
        Literal["none", "snorm", "asnorm"], option("--norm", "S-norm, or adaptive S-norm with --top-n.")
    ] = "none"
    cohorts: Annotated[
        Paths,
        option("--cohort", "Embeddings or manifest of the cohort: one for all systems or one each.", "PATH"),
    ] = None
    cohort_speakers: Annotated[
        bool, option("--cohort-speakers", "One cohort member a speaker instead of one an utterance.")
    ] = False
    top_n: Annotated[
        int | None,
        options.number(
            "--top-n", Range(ge=2, le=10**7), "Cohort members that count in asnorm [default: 300]."
        ),
    ] = None
    center: Annotated[
        bool, option("--center", "Subtract the mean of the cohort (without one: of the tests).")
    ] = False
    enroll: Annotated[
        Path | None,
        option("--enroll", "Utterances of each enrollment (enroll_id, utterance_id); averaged.", "MAP"),
    ] = None
    calibrate: Annotated[
        bool, option("--calibrate", "Learn a calibration on these trials (calibration.json).")
    ] = False
    calibrate_folds: Annotated[
        int,
        options.number(
            "--calibrate-folds",
            Range(ge=0, le=1000),
            "Judge LLRs of these trials by 3 or more folds of speakers.",
        ),
    ] = 0
    calibrations: Annotated[
        Paths, option("--calibration", "Apply what was learnt on other trials; one or one each.", "FILE")
    ] = None
    quality: Annotated[
        bool, option("--qmf", "Calibrate on duration, norm and cohort mean as well as the score.")
    ] = False
    fuse: Annotated[
        Paths,
        option(
            "--fuse",
            "Fuse these scores of the trials (repeatable), by folds of speakers or with --calibration.",
            "DIR",
        ),
    ] = None
    by: Annotated[
        list[str] | None,
        option("--by", "Break down by a column of manifest or sidecar, or duration; repeatable.", "COLUMN"),
    ] = None
    sidecar: Annotated[
        Path | None,
        option("--sidecar", "Columns of the trials (enroll_id, test_id, ...), a row each.", "TSV"),
    ] = None
    forms: Annotated[
        list[Form] | None,
        option("--format", "Also write scores and trials in this form; repeatable."),
    ] = None
    allow: Annotated[
        list[str] | None,
        option(
            "--allow",
            "Continue and record the exception: trained-speakers, shared-speakers, calibrated-on-test,"
            " missing-utterances, one-class, self-trials, duplicate-trials, contradicting-labels, stale; repeatable.",
            "GUARD",
        ),
    ] = None
    match_ids: Annotated[
        bool,
        option(
            "--match-ids",
            "Match ids that differ in prefix, extension, case, ./, \\ or quotes, and record it.",
        ),
    ] = False


@takes_groups
def score(trials: Trials, given: ScoreOptions) -> None:
    """Score a trial list: EER with interval, minDCF, thresholds; compare systems; fuse them.

    Two systems as one: svkit score trials.txt --fuse exp/scores/a/trials --fuse exp/scores/b/trials

    Example: svkit score exp/data/trials/demo.txt
    """
    if given.top_n is not None and given.norm != "asnorm":
        raise ConfigError("--top-n applies to --norm asnorm only; give both")
    from svkit.scoring.backend import Backend
    from svkit.scoring.score import ScoreRequest, run
    from svkit.store.metrics import metrics_record, plain_record

    request = given.request(ScoreRequest, trials=trials, backend=given.request(Backend))
    with console.progress() as progress:
        done = run(request, progress)
    if not given.json:
        _print(done)
        return console.result([system.directory for system in done.systems])
    systems = [
        {"directory": system.directory.as_posix(), **metrics_record(system.metrics)}
        for system in done.systems
    ]
    answer = {"trials": done.trials, "systems": systems, "comparisons": plain_record(done.comparisons)}
    return console.result(answer, as_json=True)


def _print(done: "ScoreResult") -> None:
    """Print what a person decides by: errors, comparison, calibration, thresholds, breakdowns; 80 columns wide."""
    from svkit.reports import results, wording
    from svkit.reports.tables import Table
    from svkit.store.metrics import Metrics

    scored = [system.metrics for system in done.systems]
    systems = [metrics for metrics in scored if isinstance(metrics, Metrics)]
    title, cautions = f"Trials {done.trials}", wording.caution_sentences(scored)
    if len(systems) < len(scored):  # trials of one class, allowed: there are no error rates
        rows = [[one.name, f"{one.num_targets:,}", f"{one.num_nontargets:,}"] for one in scored]
        headings = ["system", "targets", "nontargets"]
        return console.table(Table(title=title, headings=headings, rows=rows, notes=cautions))
    notes = [wording.trials_note(systems[:1]), wording.interval_note(systems)]
    notes += [*map(wording.comparison_sentence, done.comparisons), *cautions]
    console.table(results.brief_errors(systems, f"{title} ({systems[0].backend.name})", notes))
    if systems[0].cllr is not None:
        console.table(results.brief_calibration(systems))
    for one in systems:
        notes = [results.THRESHOLD_NOTE] if one is systems[-1] else []
        console.table(results.thresholds(one, f"Thresholds of {one.name}", notes))
    for table in results.breakdowns(systems):
        console.table(table)
    return None
