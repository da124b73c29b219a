"""`svkit score`."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svkit.cli import console, options
from svkit.config.ranges import Range
from svkit.errors import ConfigError

if TYPE_CHECKING:
    from svkit.scoring.score import ScoreResult


class Norm(str, Enum):
    """Score normalisation."""

    NONE = "none"
    SNORM = "snorm"
    ASNORM = "asnorm"


class Method(str, Enum):
    """How two embeddings become a score."""

    COSINE = "cosine"
    PLDA = "plda"


class Form(str, Enum):
    """Text forms of other toolkits."""

    KALDI = "kaldi"
    WESPEAKER = "wespeaker"


Trials = Annotated[Path, typer.Argument(metavar="TRIALS", help="Trial list in any of the usual forms.")]
EmbeddingDirs = Annotated[
    list[Path] | None,
    typer.Option(
        "--embeddings", metavar="DIR", help="Repeatable [default: every directory in exp/embeddings]."
    ),
]
BackendMethod = Annotated[Method, typer.Option("--backend", help="Cosine, or PLDA with --plda-train.")]
PldaTraining = Annotated[
    list[Path] | None,
    typer.Option(
        "--plda-train",
        metavar="PATH",
        help="Embeddings or manifest of training speakers: one for all systems or one each.",
    ),
]
Normalisation = Annotated[Norm, typer.Option("--norm", help="S-norm, or adaptive S-norm with --top-n.")]
Cohorts = Annotated[
    list[Path] | None,
    typer.Option(
        "--cohort",
        metavar="PATH",
        help="Embeddings or manifest of the cohort: one for all systems or one each.",
    ),
]
CohortSpeakers = Annotated[
    bool, typer.Option("--cohort-speakers", help="One cohort member a speaker instead of one an utterance.")
]
TopN = Annotated[
    int | None,
    options.number("--top-n", Range(ge=2, le=10**7), "Cohort members that count in asnorm [default: 300]."),
]
Center = Annotated[
    bool, typer.Option("--center", help="Subtract the mean of the cohort (without one: of the tests).")
]
Enroll = Annotated[
    Path | None,
    typer.Option(
        "--enroll", metavar="MAP", help="Utterances of each enrollment (enroll_id, utterance_id); averaged."
    ),
]

Calibrate = Annotated[
    bool, typer.Option("--calibrate", help="Learn a calibration on these trials (calibration.json).")
]
CalibrateFolds = Annotated[
    int,
    options.number(
        "--calibrate-folds",
        Range(ge=0, le=1000),
        "Judge LLRs of these trials by 3 or more folds of speakers.",
    ),
]
Calibration = Annotated[
    list[Path] | None,
    typer.Option(
        "--calibration", metavar="FILE", help="Apply what was learnt on other trials; one or one each."
    ),
]
Quality = Annotated[
    bool, typer.Option("--qmf", help="Calibrate on duration, norm and cohort mean as well as the score.")
]
Fuse = Annotated[
    list[Path] | None,
    typer.Option(
        "--fuse", metavar="DIR",
        help="Fuse these scores of the trials (repeatable), by folds of speakers or with --calibration.",
    ),
]  # fmt: skip
By = Annotated[
    list[str] | None,
    typer.Option(
        "--by",
        metavar="COLUMN",
        help="Break down by a column of manifest or sidecar, or duration; repeatable.",
    ),
]
Sidecar = Annotated[
    Path | None,
    typer.Option(
        "--sidecar", metavar="TSV", help="Columns of the trials (enroll_id, test_id, ...), a row each."
    ),
]
Forms = Annotated[
    list[Form] | None, typer.Option("--format", help="Also write scores and trials in this form; repeatable.")
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow", metavar="GUARD",
        help="Go on, on record: trained-speakers, shared-speakers, calibrated-on-test, missing-utterances, one-class,"
        " self-trials, duplicate-trials, contradicting-labels, stale; repeatable.",
    ),
]  # fmt: skip


MatchIds = Annotated[
    bool,
    typer.Option(
        "--match-ids", help="Match ids that differ in prefix, extension, case, ./, \\ or quotes; on record."
    ),
]


def score(
    trials: Trials,
    embeddings: EmbeddingDirs = None,
    backend: BackendMethod = Method.COSINE,
    plda_train: PldaTraining = None,
    norm: Normalisation = Norm.NONE,
    cohort: Cohorts = None,
    cohort_speakers: CohortSpeakers = False,
    top_n: TopN = None,
    center: Center = False,
    enroll: Enroll = None,
    calibrate: Calibrate = False,
    calibrate_folds: CalibrateFolds = 0,
    calibration: Calibration = None,
    qmf: Quality = False,
    fuse: Fuse = None,
    by: By = None,
    sidecar: Sidecar = None,
    forms: Forms = None,
    allow: Allow = None,
    match_ids: MatchIds = False,
    overwrite: options.Overwrite = False,
    keep_finished: options.KeepFinished = False,
    exp: options.Exp = Path("exp"),
    json: options.Json = False,
) -> None:
    """Score a trial list: EER with interval, minDCF, thresholds; compare systems; fuse them.

    Two systems as one: svkit score trials.txt --fuse exp/scores/a/trials --fuse exp/scores/b/trials

    Example: svkit score exp/data/trials/demo.txt
    """
    if top_n is not None and norm is not Norm.ASNORM:
        raise ConfigError("--top-n counts in --norm asnorm only; give both")
    from svkit.scoring.backend import Backend
    from svkit.scoring.score import ScoreRequest, run
    from svkit.store.metrics import metrics_record, plain_record

    request = ScoreRequest(
        exp=exp,
        trials=trials,
        embeddings=tuple(embeddings or ()),
        backend=Backend(
            method=backend.value,
            norm=norm.value,
            top_n=300 if top_n is None else top_n,
            center=center,
            cohort_speakers=cohort_speakers,
        ),
        cohorts=tuple(cohort or ()),
        plda_training=tuple(plda_train or ()),
        enroll=enroll,
        calibrate=calibrate,
        calibrate_folds=calibrate_folds,
        calibrations=tuple(calibration or ()),
        quality=qmf,
        fuse=tuple(fuse or ()),
        by=tuple(by or ()),
        sidecar=sidecar,
        forms=tuple(form.value for form in forms or ()),
        allow=frozenset(allow or ()),
        match_ids=match_ids,
        overwrite=overwrite,
        keep_finished=keep_finished,
    )
    with console.progress() as progress:
        done = run(request, progress)
    if json:
        systems = [
            {"directory": system.directory.as_posix(), **metrics_record(system.metrics)}
            for system in done.systems
        ]
        answer = {"trials": done.trials, "systems": systems, "comparisons": plain_record(done.comparisons)}
        return console.result(answer, as_json=True)
    _print(done)
    return console.result([system.directory for system in done.systems])


def _print(done: "ScoreResult") -> None:
    """Print what a person decides by: errors, comparison, calibration, thresholds, breakdowns; 80 columns wide."""
    from svkit.reports import results, wording
    from svkit.reports.tables import Table
    from svkit.store.metrics import metrics_record, plain_record

    systems = [metrics_record(system.metrics) for system in done.systems]
    title, cautions = f"Trials {done.trials}", wording.caution_sentences(systems)
    if any(one["eer"] is None for one in systems):  # trials of one class, allowed: there are no error rates
        rows = [[one["name"], f"{one['num_targets']:,}", f"{one['num_nontargets']:,}"] for one in systems]
        headings = ["system", "targets", "nontargets"]
        console.table(Table(title=title, headings=headings, rows=rows, notes=cautions))
        return
    notes = [wording.trials_note(systems[:1]), wording.interval_note(systems)]
    notes += [*map(wording.comparison_sentence, plain_record(done.comparisons)), *cautions]
    console.table(results.brief_errors(systems, f"{title} ({systems[0]['backend']['name']})", notes))
    if "cllr" in systems[0]:
        console.table(results.brief_calibration(systems))
    for one in systems:
        notes = [results.THRESHOLD_NOTE] if one is systems[-1] else []
        console.table(results.thresholds(one, f"Thresholds of {one['name']}", notes))
    for table in results.breakdowns(systems):
        console.table(table)
