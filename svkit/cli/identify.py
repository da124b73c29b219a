"""`svkit identify`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svkit.cli import console, options
from svkit.cli.option_groups import takes_groups
from svkit.cli.verify import bounded_ratio, learnt_on, measured_rates
from svkit.config.ranges import Range
from svkit.errors import ConfigError, DataError

if TYPE_CHECKING:
    from svkit.scoring.identify import Answer, Candidate, Identified


@takes_groups
def identify(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE|FOLDER...", help="Recordings of unknown speakers, or folders of them."),
    ],
    gallery: options.Gallery = None,
    one_speaker: Annotated[
        bool,
        options.option("--one-speaker", "All files are of one speaker; otherwise each is judged separately."),
    ] = False,
    calibration: options.Calibration = None,
    prior: Annotated[
        float | None,
        options.number(
            "--prior",
            Range(gt=0, lt=1),
            "Prior probability that the speaker is in the gallery, shared equally among its people"
            " [default: decide by the false accepts that `svkit calibrate` was given, else 0.5].",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        options.number(
            "--threshold",
            Range(ge=-2, le=2),
            "Accept the best if its score is at least this [default: from the calibration and --prior].",
        ),
    ] = None,
    margin: Annotated[
        float,
        options.number(
            "--margin",
            Range(ge=0, le=1000),
            "Undecided unless the best is this far ahead of the second (LLR if calibrated, else score).",
        ),
    ] = 0.0,
    top: Annotated[int, options.number("--top", Range(ge=1, le=1000), "Number of people to list.")] = 5,
    exit_code: options.ExitCode = False,
    *,
    given: options.HearingOptions,
) -> None:
    """Say which person of a gallery is speaking, or that it is none of them.

    Enroll people first: svkit enroll NAME FILE...

    Example: svkit identify unknown.wav --prior 0.1
    """
    _refuse_name(files, gallery or given.exp / "gallery")
    files = _recordings(files)
    from svkit.scoring.identify import IdentifyRequest, run

    request = given.hearing(
        IdentifyRequest,
        gallery=gallery or given.exp / "gallery",
        files=files,
        is_one_speaker=one_speaker,
        calibration=calibration,
        prior=prior,
        threshold=threshold,
        margin=margin,
        top=top,
    )
    with console.progress() as progress:
        done = run(request, progress)
        for text in done.notes if given.json else ():  # the tables show them
            progress.note(text)
    if given.json:
        answers = [{**asdict(answer), "is_trusted": answer.is_trusted} for answer in done.answers]
        console.result({**asdict(done), "answers": answers}, as_json=True)
    else:
        _print(done)
    options.exit_decided([answer.is_accepted for answer in done.answers], asked=exit_code)


def _refuse_name(files: Sequence[Path], directory: Path) -> None:
    """Raise ConfigError if what stands in the place of the first recording is the name of somebody enrolled."""
    from svkit.store.gallery import read_gallery

    name = str(files[0])
    if not files[0].exists() and (directory / "gallery.json").exists() and read_gallery(directory).has(name):
        raise ConfigError(
            f"identify: {name} is somebody enrolled, not a recording; to ask about one person: svkit verify {name} FILE"
        )


def _recordings(files: Sequence[Path]) -> list[Path]:
    """Return the files, with the recordings of each folder in its place."""
    from svkit.corpora.walk import expand

    found = list[Path]()
    for path in files:
        if not (inside := expand(path)):
            raise DataError(f"{path}: no audio files below it")
        found += inside
    return found


def _print(done: "Identified") -> None:
    """Print a table for each answer; what holds for all of them comes once, with a summary if there are several."""
    from svkit.reports.tables import Table
    from svkit.store.source import shown

    notes = [] if done.threshold is None else [_threshold(done, done.threshold)]
    if done.calibration is not None:
        notes.append(f"Calibration: {shown(done.calibration['path'])}, {learnt_on(done.calibration)}.")
    notes += done.notes
    is_one = len(done.answers) == 1
    cautions = [] if is_one else _in_all([answer.warnings for answer in done.answers])
    columns = 2 if done.answers[0].posterior_of_none is None else 4
    shared = f" shared by {done.people:,}" if done.people > 1 else ""
    probability = f"probability at prior {done.prior:g}{shared}"
    headings = ["score (cosine)", "log-likelihood ratio", probability][: columns - 1]
    summary: list[list[str]] = []
    for answer in done.answers:
        rows = [[one.name, *_evidence(one, done)] for one in answer.candidates]
        if answer.posterior_of_none is not None:
            rows.append(["none of them", "", "", f"{answer.posterior_of_none:.3f}"])
        own = [*_margin(answer, done), *answer.notes, *(notes if is_one else ())]
        warnings = [text for text in answer.warnings if text not in cautions]
        own += ["Do not trust this: " + "; ".join(warnings)] if warnings else []
        best, verdict = answer.candidates[0], _in_summary(answer) + (" (do not trust it)" if warnings else "")
        summary.append([_files(answer), verdict, best.name, *_evidence(best, done)[: columns - 1]])
        title = f"{_verdict(answer)} ({_files(answer)})"
        table = Table(
            title=title, headings=["name", *headings], rows=[row[:columns] for row in rows], notes=own
        )
        console.table(table)
    if not is_one:
        if cautions:
            notes.append("Do not trust any of this: " + "; ".join(cautions))
        headings = ["recording", "answer", "nearest", "its score", "its ratio", "its probability"]
        headings = headings[: columns + 2]
        console.table(
            Table(title="All answers", headings=headings, rows=summary, left=(0, 1, 2), notes=notes)
        )


def _in_all(lists: Sequence[Sequence[str]]) -> list[str]:
    return [text for text in lists[0] if all(text in other for other in lists)]


def _files(answer: "Answer") -> str:
    return ", ".join(str(one.path) for one in answer.files)


def _verdict(answer: "Answer") -> str:
    if (verdict := _brief_verdict(answer)) == _NOBODY:
        return f"{_in_summary(answer)}: together those enrolled are likelier than nobody, but no one is likely enough"
    return verdict + (f", but it may be {' or '.join(answer.doubts)}" if answer.doubts else "")


_NOBODY = "NOBODY ACCEPTED"


def _brief_verdict(answer: "Answer") -> str:
    if answer.is_accepted is None:
        return "UNDECIDED"
    if answer.is_accepted:
        posterior = answer.candidates[0].posterior
        return f"{'IDENTIFIED' if posterior is None or posterior >= 0.5 else 'PERHAPS'}: {answer.name}"
    of_none = answer.posterior_of_none
    return _NOBODY if of_none is not None and of_none < 0.5 else "NONE OF THEM"


def _in_summary(answer: "Answer") -> str:
    return _brief_verdict(answer) + (f", maybe {' or '.join(answer.doubts)}" if answer.doubts else "")


def _evidence(one: "Candidate", done: "Identified") -> list[str]:
    posterior = "" if one.posterior is None else f"{one.posterior:.3f}"
    return [
        f"{one.score:.4f}",
        "" if one.llr is None else bounded_ratio(one.llr, done.calibration),
        posterior,
    ]


def _margin(answer: "Answer", done: "Identified") -> list[str]:
    """Say how far the best is ahead; a difference of ratios at their bounds may be larger than it looks."""
    if answer.margin_score is None:
        return []
    text = f"Margin of the best over the second: {answer.margin_score:.4f} in score"
    best, margin = answer.candidates[0].llr, answer.margin_llr
    if best is None or not margin or done.calibration is None:  # a note says why two ratios are equal
        return [f"{text}."]
    low, high = done.calibration["bounds"]
    least = "at least " if best >= high or best - margin <= low else ""
    return [f"{text}, {least}{margin:.2f} in log-likelihood ratio."]


def _threshold(done: "Identified", threshold: float) -> str:
    """Say from which threshold the best is accepted, and what that means for this number of people."""
    if done.threshold_from == "given":
        return f"Accepted if the score is at least {threshold:.4g}, as given."
    score = "" if done.threshold_score is None else f" (score {done.threshold_score:.4f})"
    below = f'"None of them" if the best ratio is below {threshold:.2f}{score}'
    is_one = done.people == 1
    them = "the one person enrolled" if is_one else f"one of {done.people:,} people"
    if done.threshold_from == "bayes":
        each = "" if is_one else f", {done.prior_per_person:.2g} for each"
        return f"{below}: prior {done.prior:g} that it is {them}{each}."
    assert done.calibration is not None and done.calibration["decision"] is not None
    decision = done.calibration["decision"]
    rate, interval = decision["false_accepts"], decision["point"]["false_accept_rate_interval"]
    measured = ""
    if interval is not None and interval["high"] > rate:
        measured = f", by what was measured up to {100 * min(1, interval['high'] * done.people):.3g} %"
    return (
        f"{below}: asked for: false accepts up to {100 * rate:g} % for each person. If that holds, up to"
        f" {100 * min(1, rate * done.people):.3g} % of strangers are taken for {them}{measured}. Measured on"
        f" other people, in per cent: {measured_rates(decision)}. The probabilities"
        f" assume a prior of {done.prior:g} that it is {them}."
    )
