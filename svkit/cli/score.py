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
    from svkit.eval.results import Application
    from svkit.scoring.score import ScoreResult


class Form(str, Enum):
    """Text formats of other toolkits."""

    KALDI = "kaldi"
    WESPEAKER = "wespeaker"


_GUARDS = (
    "trained-speakers", "shared-speakers", "calibrated-on-test", "missing-utterances", "one-class", "self-trials",
    "duplicate-trials", "contradicting-labels", "stale",
)  # fmt: skip
Trials = Annotated[Path, typer.Argument(metavar="TRIALS", help="Trial list in any of the usual formats.")]
Paths = list[Path] | None
Numbers = list[float] | None


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(options.TableOptions):
    """Fields of `ScoreRequest` and of its `Backend`."""

    embeddings: Annotated[
        Paths,
        option(
            "--embeddings",
            "Embeddings to score; repeatable [default: those in exp/embeddings that have these utterances].",
            "DIR",
        ),
    ] = None
    scores: Annotated[
        Paths,
        option(
            "--scores",
            "Scores of another toolkit, with --name; repeatable, also together with --embeddings.",
            "FILE",
        ),
    ] = None
    names: Annotated[
        list[str] | None, option("--name", "Name of the system that produced --scores.", "NAME")
    ] = None
    method: Annotated[
        Literal["cosine", "plda"], option("--backend", "Cosine, or PLDA with --plda-train.")
    ] = "cosine"
    plda_training: Annotated[
        Paths,
        option(
            "--plda-train",
            "Embeddings or manifest of training speakers: one for all systems, or one for each.",
            "PATH",
        ),
    ] = None
    length_norm: Annotated[
        bool, option("--length-norm/--no-length-norm", "Length-normalise embeddings for PLDA.")
    ] = True
    plda_adaptation: Annotated[
        Paths,
        option(
            "--plda-adapt",
            "Embeddings or manifest to adapt PLDA to: recordings without labels, or a few with known speakers.",
            "PATH",
        ),
    ] = None
    adapt_weight: Annotated[
        float | None,
        options.number(
            "--adapt-weight",
            Range(ge=0, le=1),
            "Weight of these in the covariances; 0: only their mean [default: 0.8; with S known speakers S / (S + D)].",
        ),
    ] = None
    norm: Annotated[
        Literal["none", "snorm", "asnorm"], option("--norm", "S-norm, or adaptive S-norm with --top-n.")
    ] = "none"
    cohorts: Annotated[
        Paths,
        option(
            "--cohort", "Embeddings or manifest of the cohort: one for all systems, or one for each.", "PATH"
        ),
    ] = None
    cohort_speakers: Annotated[
        bool, option("--cohort-speakers", "One cohort member per speaker instead of one per utterance.")
    ] = False
    top_n: Annotated[
        int | None,
        options.number(
            "--top-n", Range(ge=2, le=10**7), "Closest cohort members that asnorm uses [default: 300]."
        ),
    ] = None
    center: Annotated[
        bool, option("--center", "Subtract the mean of the cohort, or of the tests if there is no cohort.")
    ] = False
    means: Annotated[
        Paths,
        option(
            "--mean",
            "Embeddings or manifest whose mean is subtracted: one for all systems, or one for each.",
            "PATH",
        ),
    ] = None
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
            "Judge LLRs of these trials by cross-validation over this many folds of speakers, at least 3.",
        ),
    ] = 0
    calibrations: Annotated[
        Paths,
        option(
            "--calibration",
            "Apply a calibration learnt on other trials: one for all systems, or one for each.",
            "FILE",
        ),
    ] = None
    quality: Annotated[
        bool, option("--qmf", "Calibrate on durations, norms and cohort means as well as scores.")
    ] = False
    fuse: Annotated[
        Paths,
        option(
            "--fuse",
            "Scores of these trials to fuse, over folds of speakers or with --calibration; repeatable.",
            "DIR",
        ),
    ] = None
    p_target: Annotated[
        Numbers,
        options.number(
            "--p-target",
            Range(gt=0, lt=1),
            "Further prior of a target for which to report costs; repeatable.",
        ),
    ] = None
    c_miss: Annotated[
        Numbers,
        options.number("--c-miss", options.COST, "Cost of a miss: one for all --p-target, or one for each."),
    ] = None
    c_fa: Annotated[
        Numbers,
        options.number(
            "--c-fa", options.COST, "Cost of a false accept: one for all --p-target, or one for each."
        ),
    ] = None
    by: Annotated[
        list[str] | None,
        option(
            "--by", "Break down by a column of the manifest or sidecar, or by duration; repeatable.", "COLUMN"
        ),
    ] = None
    sidecar: Annotated[
        Path | None,
        option("--sidecar", "Table with further columns for the trials (enroll_id, test_id, ...).", "TSV"),
    ] = None
    sides: Annotated[
        Literal["test", "both"],
        option("--sides", "Sides of the trials that take the embeddings of a condition."),
    ] = "test"
    forms: Annotated[
        list[Form] | None,
        option("--format", "Also write scores and trials in this format; repeatable."),
    ] = None
    allow: Annotated[
        list[str] | None,
        options.allow(f"Continue and record the exception: {', '.join(_GUARDS)}; repeatable.", *_GUARDS),
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

    To fuse two systems: svkit score trials.txt --fuse exp/scores/a/trials --fuse exp/scores/b/trials

    Example: svkit score exp/data/trials/demo.txt
    """
    if given.top_n is not None and given.norm != "asnorm":
        raise ConfigError("--top-n is only for --norm asnorm; give both")
    given.check_tables("score")
    from svkit.scoring.backend import Backend
    from svkit.scoring.score import ScoreRequest, run
    from svkit.store.metrics import metrics_record, plain_record

    asked = {"backend": given.request(Backend), "applications": _applications(given)}
    request = given.request(ScoreRequest, trials=trials, **asked)
    with console.progress() as progress:
        done = run(request, progress)
    from svkit.reports import conditions, results

    found = results.tables([system.metrics for system in done.systems])
    given.write_tables("score", found | {table.title: table for table in conditions.tables(done.conditions)})
    if not given.json:
        _print(done)
        console.result([system.directory for system in done.systems])
        return given.show_next(lambda: given.following("scores"))
    systems = [
        {"directory": system.directory.as_posix(), **metrics_record(system.metrics)}
        for system in done.systems
    ]
    answer = {"trials": done.trials, "systems": systems, "comparisons": plain_record(done.comparisons)}
    answer |= {"conditions": plain_record(done.conditions)} if done.conditions else {}
    return console.result(answer, as_json=True)


def _applications(given: ScoreOptions) -> "tuple[Application, ...]":
    """Pair priors with costs; ConfigError unless there is one cost for all priors or one for each."""
    from svkit.eval.results import Application

    priors = given.p_target or []
    costs = []
    for flag, values in (("--c-miss", given.c_miss or [1.0]), ("--c-fa", given.c_fa or [1.0])):
        if len(values) not in (1, len(priors)):
            raise ConfigError(
                f"{flag}: expected one cost for all, or one for each of {len(priors)} --p-target, found {len(values)}"
            )
        costs.append(values if len(values) == len(priors) else values * len(priors))
    if not priors and (given.c_miss or given.c_fa):
        raise ConfigError("--c-miss and --c-fa are the costs at a --p-target; give that too")
    return tuple(
        Application(p_target=prior, c_miss=miss, c_fa=accept)
        for prior, miss, accept in zip(priors, *costs, strict=True)
    )


def _print(done: "ScoreResult") -> None:
    """Print what a decision needs, 80 columns wide: errors, comparison, calibration, thresholds, breakdowns."""
    from svkit.reports import conditions, results, wording

    everything = [system.metrics for system in done.systems]
    # Systems under a condition have a table of their own.
    scored = [one for one in everything if one.condition is None] or everything
    title, cautions = f"Trials {done.trials}", wording.caution_sentences(scored)
    systems = results.rated(scored)
    if (num_trials := scored[0].num_unlabelled) is not None:
        for text in (f"{title}: {num_trials:,} without labels: scores only, no error rates.", *cautions):
            console.sentence(text)
        return None
    if not systems:  # trials of one class, which --allow accepts, have no error rates
        return console.table(results.counts(scored, title, cautions))
    notes = [wording.trials_note(systems), wording.interval_note(systems)]
    notes += [*map(wording.comparison_sentence, done.comparisons), *cautions]
    console.table(results.brief_errors(systems, title, notes))
    for table in results.asked_costs(systems):
        console.table(table)
    if systems[0].cllr is not None:
        console.table(results.brief_calibration(systems))
    for one in systems:
        notes = [results.threshold_note(systems), wording.MIN_CLLR_NOTE] if one is systems[-1] else []
        console.table(results.thresholds(one, f"Thresholds of {one.name}", notes))
    for table in (*results.breakdowns(systems), *conditions.tables(done.conditions, is_brief=True)):
        console.table(table)
    for sentence in conditions.findings(done.conditions):
        console.sentence(sentence)
    return None
