"""`svkit verify`."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svkit.cli import console, options
from svkit.cli.option_groups import takes_groups
from svkit.config.ranges import Range
from svkit.errors import ConfigError, DataError, first_five

if TYPE_CHECKING:
    from svkit.scoring.verify import CalibrationFacts, VerifyResult
    from svkit.store.gallery import Gallery
    from svkit.store.places import Artifact


@takes_groups
def verify(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Two recordings; with --enroll, those of the unknown speaker; or NAME FILE..., for somebody enrolled",
        ),
    ],
    enroll: Annotated[
        list[Path] | None,
        typer.Option("--enroll", metavar="FILE", help="Recording of the known speaker; repeatable."),
    ] = None,
    gallery: Annotated[
        Path | None,
        options.option(
            "--gallery",
            "Gallery made by `svkit enroll`; the first argument is a name in it [default: EXP/gallery].",
            "DIR",
        ),
    ] = None,
    calibration: options.Calibration = None,
    prior: Annotated[
        float | None,
        options.number(
            "--prior",
            Range(gt=0, lt=1),
            "Prior probability of the same speaker [default: that of the calibration, else 0.5].",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        options.number(
            "--threshold",
            Range(ge=-2, le=2),
            "Accept if the score is at least this [default: the calibrated threshold].",
        ),
    ] = None,
    exit_code: options.ExitCode = False,
    *,
    given: options.HearingOptions,
) -> None:
    """Decide whether recordings are of one speaker: score, log-likelihood ratio, posterior, decision.

    With several files per side: svkit verify --enroll a1.wav --enroll a2.wav b1.wav b2.wav

    With an enrolled person (of --gallery, else of the experiment's): svkit verify alice b.wav

    Example: svkit verify a.wav b.wav --prior 0.01
    """
    if gallery is not None and (enroll or len(files) < 2):
        raise ConfigError("verify: expected NAME FILE... with --gallery, and no --enroll")
    if not enroll and gallery is None and (len(files) < 2 or len(files) > 2 and files[0].is_file()):
        raise ConfigError(
            f"verify: expected two files, found {len(files)}; for several per side: --enroll A1 "
            "--enroll A2 B1 B2"
        )
    if not enroll and len(files) == 2 and files[0].is_file() and not files[1].exists():
        _refuse_swapped(files[0], str(files[1]), gallery or given.exp / "gallery")
    people = None
    if not enroll and gallery is None and not files[0].is_file():
        gallery, people = _gallery_of(files[0], given.exp / "gallery")
    elif not enroll and gallery is None:
        _tell_namesake(files[0], given.exp / "gallery")
    from svkit.scoring.verify import VerifyRequest, run

    request = given.hearing(
        VerifyRequest,
        enroll=enroll or (files[:1] if gallery is None else []),
        test=files if enroll else files[1:],
        person=None if gallery is None else str(files[0]),
        gallery=gallery,
        people=people,
        calibration=calibration,
        prior=prior,
        threshold=threshold,
    )
    with console.progress() as progress:
        done = run(request, progress)
        for warning in done.warnings if given.json else ():  # the table shows them
            progress.note(f"warning: {warning}")
    if given.json:
        console.result({**asdict(done), "is_trusted": done.is_trusted}, as_json=True)
    else:
        _print(done, is_as_learnt=prior is None and threshold is None)
    options.exit_decided([done.is_accepted], asked=exit_code)


def _refuse_swapped(file: Path, name: str, directory: Path) -> None:
    """Raise ConfigError if what stands in the place of the second recording is the name of somebody enrolled."""
    from svkit.store.gallery import read_gallery

    if directory.is_dir() and read_gallery(directory).has(name):
        raise ConfigError(f"verify: {name} is enrolled, and the name comes first: svkit verify {name} {file}")


def _gallery_of(name: Path, directory: Path) -> "tuple[Path, Gallery] | tuple[None, None]":
    """Return the experiment's gallery if it has this person; if there is none, `name` is no recording either."""
    from svkit.store.gallery import read_gallery

    if not directory.is_dir():
        if name.exists() or name.suffix:
            return None, None
        raise DataError(
            f"{name}: does not exist; if it is the name of somebody enrolled: there is no gallery in"
            f" {directory.as_posix()}, name yours with --gallery"
        )
    people = read_gallery(directory)
    if people.has(str(name)):
        return directory, people
    if name.exists():
        return None, None  # what it is instead of a recording is said when it is read
    raise DataError(
        f"{name}: does not exist, and nobody of that name is enrolled in {directory.as_posix()}"
        f" ({first_five(sorted(people.names)) or 'nobody is'})"
    )


def _tell_namesake(file: Path, directory: Path) -> None:
    """Note that a file has the name of somebody enrolled, because it is compared as a recording."""
    from svkit.store.gallery import read_gallery

    # Nobody is called like a recording unless by intention, and a gallery is read only where it may matter.
    if not file.suffix and directory.is_dir() and read_gallery(directory).has(str(file)):
        console.note(f"{file}: taken as the recording of that name; for the person: --gallery {directory}")


def _print(done: "VerifyResult", *, is_as_learnt: bool) -> None:
    from svkit.reports.tables import Table
    from svkit.store.source import shown as shown_model

    digits = 4  # more where score and threshold would look equal
    while (
        done.threshold not in (None, done.score)
        and digits < 9
        and (f"{done.threshold:.{digits}f}" == f"{done.score:.{digits}f}")
    ):
        digits += 1
    rows = [["score (cosine)", f"{done.score:.{digits}f}"]]
    if done.llr is None:
        rows.append(["log-likelihood ratio", "not calibrated"])
    else:
        # Beyond a factor of a thousand, the digits mean nothing.
        ratio = math.exp(abs(done.llr))
        times = "over 1,000" if ratio > 1000 else f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"
        written = bounded_ratio(done.llr, done.calibration)
        least = "at least " if not written.startswith(("+", "-")) and ratio <= 1000 else ""
        who = "one speaker" if done.llr >= 0 else "two speakers"
        says = (
            f"{least}{times} times likelier for {who}"
            if times != "1"
            else "as likely for one speaker as for two"
        )
        rows.append(["log-likelihood ratio", f"{written} (natural): {says}"])
        value = done.posterior or 0.0
        shown = "below 0.001" if value < 0.001 else "above 0.999" if value > 0.999 else f"{value:.3f}"
        rows.append([f"probability at prior {done.prior:g}", shown])
    if done.threshold is not None:
        ratio_too = "" if done.threshold_llr is None else f" (log-likelihood ratio {done.threshold_llr:+.2f})"
        rows.append([f"threshold ({_threshold_kind(done)})", f"{done.threshold:.{digits}f}{ratio_too}"])
    decision = None if done.calibration is None else done.calibration["decision"]
    # The rates of another threshold would be taken for those of this one.
    if is_as_learnt and decision is not None:
        rows.append(["measured on other people, %", measured_rates(decision)])
    if (person := done.person) is not None:
        rows.append(
            ["enrolled", f"{person['name']} (recordings: {person['recordings']}, {person['seconds']:.1f} s)"]
        )
    rows.append(["model", f"{shown_model(done.model['path'])} (sha256 {done.model['sha256'][:12]})"])
    rows.append(["trained on", ", ".join(map(training_list, done.model["trained_on"])) or "not recorded"])
    if (facts := done.calibration) is not None:
        rows.append(["calibration", f"{shown_model(facts['path'])}, {learnt_on(facts)}"])
    notes = list(done.notes)
    if done.is_accepted is None:
        notes.append(
            "No decision: this model is not calibrated, and a score alone is not a probability. Learn a calibration"
            f" with `svkit calibrate HELD_OUT_PEOPLE --model {shown_model(done.model['path'])}`, or give --threshold."
        )
    if done.warnings:
        notes.append("Do not trust this: " + "; ".join(done.warnings))
    console.table(Table(title=_verdict(done), headings=["", ""], rows=rows, left=(0, 1), notes=notes))


def training_list(entry: "Artifact") -> str:
    """Name a training list, and say whether it is still there."""
    path = Path(entry["path"])
    place = entry["path"] if path.exists() else f"{path.name}, which is not on this machine"
    return f"{place} (sha256 {entry['sha256'][:12]})"


def learnt_on(calibration: "CalibrationFacts") -> str:
    """Say what a calibration was learnt on."""
    people = "" if calibration["people"] is None else f"{calibration['people']:,} people, "
    counts = f"{calibration['num_targets']:,} target and {calibration['num_nontargets']:,} nontarget trials"
    return f"learnt on {calibration['trials']['name']} ({people}{counts})"


def bounded_ratio(llr: float, calibration: "CalibrationFacts | None") -> str:
    """Write a ratio; one at its bound may be beyond it."""
    low, high = (-math.inf, math.inf) if calibration is None else calibration["bounds"]
    return f"{'<= ' if llr <= low else '>= ' if llr >= high else ''}{llr:+.2f}"


def measured_rates(decision: Mapping[str, Any]) -> str:
    """Say, in per cent, how often the decision of a calibration was wrong about people it was not learnt on."""
    from svkit.eval.results import Interval
    from svkit.reports.tables import percent

    def rate(name: str) -> str:
        interval = decision["point"][f"{name}_interval"]
        return percent(decision["point"][name], None if interval is None else Interval(**interval))

    return f"false accepts {rate('false_accept_rate')}, misses {rate('miss_rate')}"


def _threshold_kind(done: "VerifyResult") -> str:
    decision = None if done.calibration is None else done.calibration["decision"]
    if decision is not None and done.threshold_from == "false accepts":
        return f"asked for: false accepts up to {100 * decision['false_accepts']:g} %"
    costs = "equal costs" if done.c_miss == done.c_fa else f"costs {done.c_miss:g} and {done.c_fa:g}"
    return "given" if done.threshold_from == "given" else f"Bayes, prior {done.prior:g}, {costs}"


def _verdict(done: "VerifyResult") -> str:
    if done.is_accepted is None:
        return "UNDECIDED"
    if done.is_accepted:
        one = 1.0 if done.posterior is None else done.posterior
        likely = "" if one >= 0.9 else "probably " if one >= 0.5 else "perhaps "
        return f"ACCEPT: {likely}the same speaker"
    one = done.posterior or 0.0
    if one > 0.5:  # by a stricter threshold
        return "REJECT: one speaker is likelier, but not likely enough"
    return "REJECT: not shown to be the same speaker" if one > 0.1 else "REJECT: different speakers"
