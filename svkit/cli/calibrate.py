"""`svkit calibrate`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svkit.cli import console, options
from svkit.cli.options import option
from svkit.cli.prepare_options import bad_files_shown
from svkit.config.ranges import Range
from svkit.errors import ConfigError

if TYPE_CHECKING:
    from svkit.reports.tables import Table
    from svkit.tools.calibrate import CalibrateResult


def calibrate(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER|TSV", help="Folder with a directory of recordings for each person, or a manifest."
        ),
    ],
    model: Annotated[
        Path | None,
        option(
            "--model", "Checkpoint, or a name on the hub [default: final pruned, else final dense].", "CKPT"
        ),
    ] = None,
    file: options.HubFile = None,
    false_accepts: Annotated[
        str | None,
        option("--false-accepts", "Accept at most this share of other people: 0.1% or 0.001.", "RATE"),
    ] = None,
    p_target: Annotated[
        float | None,
        options.number(
            "--p-target", Range(gt=0, lt=1), "Prior probability of the same speaker [default: 0.5]."
        ),
    ] = None,
    c_miss: Annotated[
        float | None,
        options.number("--c-miss", options.COST, "Cost of rejecting the same speaker [default: 1]."),
    ] = None,
    c_fa: Annotated[
        float | None,
        options.number("--c-fa", options.COST, "Cost of accepting another speaker [default: 1]."),
    ] = None,
    quality: Annotated[bool, option("--qmf", "Calibrate on durations and norms as well as scores.")] = False,
    out: Annotated[
        Path | None, option("--out", "Write here instead of calibration.json beside the model.", "FILE")
    ] = None,
    speaker_regex: options.PersonRegex = None,
    channel: options.Channel = "0",
    skip_bad: options.SkipBad = False,
    allow_cut: options.AllowCut = False,
    skip_trained: Annotated[
        bool, option("--skip-trained", "Leave out people on whom the model was trained.")
    ] = False,
    allow: Annotated[
        list[str] | None,
        options.allow(
            "Continue and record the exception: trained-speakers (people on whom the model was trained).",
            "trained-speakers",
        ),
    ] = None,
    seed: options.Seed = 24,
    overwrite: Annotated[bool, option("--overwrite", "Replace an existing calibration.")] = False,
    exp: options.Exp = Path("exp"),
    json: options.Json = False,
) -> None:
    """Learn a decision threshold from recordings of people like yours, and estimate its error rates.

    Take other people than those you will enroll: the rates are measured for people whom it has not learnt from.

    Example: svkit calibrate held-out --model model --false-accepts 0.1%
    """
    costs = {"p_target": p_target, "c_miss": c_miss, "c_fa": c_fa}
    given = {name: value for name, value in costs.items() if value is not None}
    if false_accepts is not None and given:
        raise ConfigError(
            "--false-accepts and costs (--p-target, --c-miss, --c-fa) exclude each other; give one of them"
        )
    rate = None if false_accepts is None else parse_rate(false_accepts)
    from svkit.corpora.scan import ScanOptions
    from svkit.tools.calibrate import CalibrateRequest, run

    request = CalibrateRequest(
        source=source,
        exp=exp,
        model=options.on_disk(model, file),
        out=out,
        false_accepts=rate,
        **given,
        quality=quality,
        speaker_regex=speaker_regex,
        scan=ScanOptions(channel=options.parse_channel(channel), skip_bad=skip_bad, allow_cut=allow_cut),
        skip_trained=skip_trained,
        allow=tuple(allow or ()),
        overwrite=overwrite,
        seed=seed,
    )
    with bad_files_shown(), console.progress() as progress:
        done = run(request, progress)
    if json:
        return console.result(asdict(done), as_json=True)
    other = "" if model is None else f" --model {model}"
    _print(done, None if out is None else f"svkit verify A.wav B.wav --calibration {out}{other}")
    return console.result(done.calibration)


def parse_rate(text: str) -> float:
    """Parse a rate such as `0.1%` or `0.001`; ConfigError unless it is above 0 and at most 0.5."""
    try:
        rate = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 0.5:
        raise ConfigError(
            f"--false-accepts {text}: expected a rate above 0 and up to 50%, such as 0.1% or 0.001"
        )
    return rate


def _print(done: "CalibrateResult", command: str | None) -> None:
    """Print what was learnt; `command` decides by it, if it is not beside the model."""
    from svkit.reports.tables import Table, number, percent
    from svkit.store.source import shown

    decision, point = done.decision, done.decision.point
    if decision.false_accepts is None:
        wish = f"the cheapest decision at prior {decision.p_target:g}"
        if decision.c_miss != decision.c_fa:
            wish += f", a miss costing {decision.c_miss:g} and a false accept {decision.c_fa:g}"
    else:
        wish = f"false accepts up to {100 * decision.false_accepts:g} %"
    rows = [
        ["people, recordings", f"{done.people:,}, {done.recordings:,}"],
        ["pairs of one person; of two people", f"{done.targets:,}, {done.nontargets:,}"],
        ["EER, %; Cllr, bits", f"{percent(done.eer)}; {number(done.cllr, digits=3)}"],
        ["accept from log-likelihood ratio", f"{point.threshold:+.2f}"],
        ["accept from score", "by the recordings' quality" if done.score is None else f"{done.score:.4f}"],
        ["one person rejected (miss), %", _rate(point.miss_rate, point.miss_rate_interval, done.targets)],
        [
            "another person accepted, %",
            _rate(point.false_accept_rate, point.false_accept_rate_interval, done.nontargets),
        ],
    ]
    notes = [
        "In brackets: 95 % intervals over people. Each pair was judged with a calibration and a threshold "
        f"learnt from other people ({done.folds} folds, so {done.folds * (done.folds + 1) // 2} calibrations)."
    ]
    notes += filter(None, (_beside_the_target(done), _misses_below_the_limit(done)))
    if "trained-speakers" in done.found_nothing:
        notes.append("None of these people has the name of anybody on whom the model was trained.")
    if done.people_once:
        notes.append(
            f"{done.people_once} of {done.people} people have only one recording or one session, so they say "
            "nothing about misses; record them again on another day."
        )
    notes += filter(None, (_missing(done),))
    notes += [f"Caution: {text}" for text in done.cautions]
    notes.append(
        f"Kept for another target, with the embeddings of these people: {Path(done.trials).parent}. Delete it when you"
        " are done."
    )
    notes.append(
        "`svkit verify` with this model now decides by this calibration, unless --prior or --threshold is given."
        if command is None
        else f"To decide by it: {command}"
    )
    console.table(
        Table(
            title=f"Decisions of {shown(done.model)}: {wish}",
            headings=["", ""],
            rows=rows,
            left=(0, 1),
            notes=notes,
        )
    )
    console.table(_comparison(done))


def _comparison(done: "CalibrateResult") -> "Table":
    """Show what these people show of several targets, so that one is not found by trying."""
    from svkit.reports.tables import Table, percent
    from svkit.scoring.ratio import highest_rate

    rows = []
    for one in done.targets_compared:
        point = one.point
        rows.append(
            [
                f"{100 * (one.false_accepts or 0.0):g}%",
                _rate(point.false_accept_rate, point.false_accept_rate_interval, done.nontargets),
                percent(highest_rate(one)),
                _rate(point.miss_rate, point.miss_rate_interval, done.targets),
            ]
        )
    return Table(
        title="Targets compared",
        headings=[
            "--false-accepts",
            "others accepted, %",
            "at most, %",
            "misses, %",
        ],
        rows=rows,
        notes=[
            f"At most: the end of the interval, which can be counted on; the pairs of {done.people} people show no rate"
            f' below {100 * done.lowest_shown:.2g} %. Of the rows whose "at most" you can bear,'
            " the lowest misses least: ask for its target."
        ],
    )


def _rate(rate: float, interval: object, num_trials: int) -> str:
    from svkit.eval.results import Interval
    from svkit.reports.tables import percent

    assert isinstance(interval, Interval)
    return percent(rate, interval) if rate else f"none of {num_trials:,} (at most {percent(interval.high)})"


def _beside_the_target(done: "CalibrateResult") -> str | None:
    """Say that the rate of false accepts is or may be above the target; None: it is not, or too few people show it."""
    from svkit.reports.tables import percent
    from svkit.scoring.ratio import highest_rate, misses_target

    decision, highest = done.decision, highest_rate(done.decision)
    target, rate = decision.false_accepts, decision.point.false_accept_rate
    if target is None or highest <= target:
        return None
    measured = f"{100 * rate:.3g} % of the pairs of other people were accepted"
    if misses_target(decision):
        return (
            f"The target was missed: {measured}, not {100 * target:g} %. Learn on more people, or give a lower"
            " --false-accepts."
        )
    if done.missing is not None:
        return None
    stricter = [
        one
        for one in done.targets_compared
        if (one.false_accepts or 1.0) < target and highest_rate(one) <= target
    ]
    instead = "learn on more people, which makes the intervals narrower"
    if stricter:
        one = stricter[-1]
        instead = (
            f"ask for --false-accepts {100 * (one.false_accepts or 0.0):g}%, whose interval ends at"
            f" {percent(highest_rate(one))} %, for {percent(one.point.miss_rate)} % misses, or {instead}"
        )
    return (
        f"The target of {100 * target:g} % is neither missed nor assured: {measured}, and by the interval it may be up"
        f" to {percent(highest)} %. To count on {100 * target:g} %, {instead}."
    )


def _misses_below_the_limit(done: "CalibrateResult") -> str | None:
    """Explain an interval of misses that ends below what no error at all would allow; None if it does not."""
    from svkit.eval.bootstrap import highest_unseen

    point, limit = done.decision.point, highest_unseen(done.people - done.people_once)
    interval = point.miss_rate_interval
    if not point.miss_rate or interval is None or interval.high >= limit:
        return None
    return (
        "The interval of misses holds. Without a single one, the limit would be higher"
        f" ({100 * limit:.2g} %), because it would follow from the number of people alone, while misses show how they"
        " spread over people."
    )


def _missing(done: "CalibrateResult") -> str | None:
    """Say which rate cannot be shown with so few people, and how many it takes; None if there are enough."""
    missing, decision = done.missing, done.decision
    if missing is None:
        return None
    needed = (
        f"{missing.people_needed:,} people with two recordings or more each (missing: {missing.people:,}, with"
        f" {missing.recordings:,} recordings), and usually more"
    )
    shown = f"no rate below {100 * done.lowest_shown:.2g} %"
    if decision.false_accepts is None:
        return (
            f"A ratio of {decision.point.threshold:+.2f} cannot be shown with {done.people} people, whose pairs show"
            f" {shown}: it takes at least {needed}."
        )
    from svkit.reports.tables import percent
    from svkit.scoring.ratio import highest_rate

    highest, do_show = highest_rate(decision), ""
    if highest > decision.false_accepts:
        do_show = f" By this decision, they show that it is not above {percent(highest)} %."
    return (
        f"{100 * decision.false_accepts:g} % false accepts cannot be shown with {done.people} people: even without a"
        f" single error their pairs would show {shown}.{do_show} It takes at least {needed}. Until then"
        f" {100 * decision.false_accepts:g} % is not assured for other people."
    )
