"""`svkit prepare merge|split|check|stats|shards`: what is done to lists that are there already."""

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svkit.cli import console, options
from svkit.config.ranges import Range

if TYPE_CHECKING:
    from svkit.lists.check import CheckResult
    from svkit.lists.stats import Distribution, Stats

_BAR_WIDTH = 40


class Prefix(str, Enum):
    """Which ids get the name of their list in front."""

    COLLISION = "collision"
    ALWAYS = "always"
    NEVER = "never"


List = Annotated[Path, typer.Argument(metavar="LIST", help="Manifest, .tsv or .parquet.")]


def merge(
    lists: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]LIST...", help="Manifests; NAME [default: the file's stem]."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Merged list, .tsv or .parquet.")],
    prefix: Annotated[
        Prefix,
        typer.Option(
            "--prefix",
            help="Ids that get NAME/ in front: those in several lists, all, or none (equal ids are one person).",
        ),
    ] = Prefix.COLLISION,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Merge lists; speakers of different lists stay different people.

    Example: svkit prepare merge vox2=exp/data/train.tsv cn=exp-cnceleb/data/train.tsv --out all.parquet
    """
    from svkit.lists.merge import MergeRequest, run

    request = MergeRequest(lists=tuple(lists), out=out, prefix=prefix.value, overwrite=overwrite)
    with console.progress() as progress:
        done = run(request, progress)
    console.result(asdict(done) if json else done.list, as_json=json)


def split(
    listed: List,
    part: Annotated[
        list[str],
        typer.Option(
            "--part",
            metavar="NAME=SPEAKERS",
            help="Speakers of a part: a number, a percentage or a file with one a line; repeatable.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory of the parts.")],
    rest: Annotated[str, typer.Option("--rest", metavar="NAME", help="Part with everyone else.")] = "train",
    seed: options.Seed = 24,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Split a list into lists that share no speaker.

    Example: svkit prepare split all.parquet --part valid=40 --part test=5% --out lists
    """
    from svkit.lists.split import SplitRequest, run

    request = SplitRequest(list=listed, out=out, parts=tuple(part), rest=rest, seed=seed, overwrite=overwrite)
    with console.progress() as progress:
        done = run(request, progress)
    console.result(asdict(done) if json else [entry.list for entry in done.parts.values()], as_json=json)


def check(
    listed: List,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Write the list without its bad rows; they are then no error."
        ),
    ] = None,
    audio_root: options.AudioRoot = None,
    min_seconds: options.MinSeconds = 0.5,
    max_clipped: Annotated[
        float,
        options.number("--max-clipped", Range(ge=0, le=100), "Samples cut off at most.", metavar="PERCENT"),
    ] = 0.1,
    workers: options.Workers = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Decode every recording of a list and name those that are unreadable, silent, clipped, too short or twice there.

    Exit code 3 where there are any, unless a list without them is written.

    Example: svkit prepare check exp/data/train.tsv --out exp/data/clean.tsv
    """
    from svkit.cli.prepare_options import show_bad_files
    from svkit.corpora.scan import BadFilesError
    from svkit.lists.check import CheckRequest, run

    request = CheckRequest(
        list=listed,
        out=out,
        audio_root=audio_root,
        min_seconds=min_seconds,
        max_clipped=max_clipped / 100,
        num_workers=workers,
        overwrite=overwrite,
    )
    try:
        with console.progress() as progress:
            done = run(request, progress)
    except BadFilesError as error:
        if json:
            bad_files = [asdict(file) for file in error.bad_files]
            facts = {"list": str(listed), "bad": len(bad_files), "out": None, "bad_files": bad_files}
            console.result(facts, as_json=True)
        show_bad_files(error.bad_files)
        raise
    show_bad_files(done.bad_files)
    console.result(asdict(done) if json else _summary(done), as_json=json)


def _summary(done: "CheckResult") -> str:
    if done.out is not None:
        return done.out
    return f"{done.list}: {done.utterances:,} utterances, {done.hours:,.1f} hours, nothing bad"


def stats(listed: List, json: options.Json = False) -> None:
    """Count speakers, utterances and hours of a list, and show how they spread.

    Example: svkit prepare stats exp/data/train.tsv --json
    """
    from svkit.lists.stats import run

    found = run(listed)
    if json:
        console.result(asdict(found), as_json=True)
    else:
        _print_stats(found)


def _print_stats(found: "Stats") -> None:
    from svkit.reports.tables import Table

    rows = [
        ["speakers", f"{found.speakers:,}"],
        ["utterances", f"{found.utterances:,}"],
        ["sessions", f"{found.sessions:,}"],
        ["hours", f"{found.hours:,.1f}"],
    ]
    if found.in_shards:
        rows.append(["in shards", f"{found.in_shards:,}"])
    rows += [[f"at {rate} Hz", f"{count:,}"] for rate, count in found.sample_rates_hz.items()]
    rows += [
        [f"{name}: {value or '(none)'}", f"{count:,}"]
        for name, values in found.columns.items()
        for value, count in values.items()
    ]
    console.result(found.list)
    console.table(Table(headings=["", "count"], rows=rows))
    for title, spread, unit in (
        ("duration, s", found.seconds, "utterances"),
        ("utterances a speaker", found.utterances_per_speaker, "speakers"),
        ("minutes a speaker", found.minutes_per_speaker, "speakers"),
    ):
        _print_histogram(title, spread, unit)


def _print_histogram(title: str, spread: "Distribution", unit: str) -> None:
    from svkit.reports.tables import Table, percent

    total = sum(bar.count for bar in spread.histogram)
    longest = max(bar.count for bar in spread.histogram)
    rows = []
    for bar in spread.histogram:
        span = f"{bar.low:g} and more" if bar.high is None else f"{bar.low:g} to {bar.high:g}"
        length = max(1, round(_BAR_WIDTH * bar.count / longest)) if bar.count else 0
        rows.append(
            [f"{span:<16}{'#' * length}", f"{bar.count:,}", f"{percent(bar.count / total, digits=1)} %"]
        )
    numbers = f"median {spread.median:g}, mean {spread.mean:.4g}, {spread.minimum:g} to {spread.maximum:g}"
    console.table(Table(title=f"{title}: {numbers}", headings=["", unit, "share"], rows=rows))


def shards(
    listed: List,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Directory of the shards and their list.")
    ],
    audio_root: options.AudioRoot = None,
    per_shard: Annotated[
        int, options.number("--per-shard", Range(ge=1, le=10**6), "Utterances a file.", metavar="N")
    ] = 4096,
    workers: options.Workers = None,
    seed: options.Seed = 24,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Pack the recordings of a list into tar files (WebDataset's layout), for slow network file systems.

    The list beside them is given to the other commands: svkit finetune --manifest shards/train.tsv

    Example: svkit prepare shards exp/data/train.tsv --out shards
    """
    from svkit.lists.shards import ShardsRequest, run

    request = ShardsRequest(
        list=listed,
        out=out,
        audio_root=audio_root,
        per_shard=per_shard,
        seed=seed,
        num_workers=workers,
        overwrite=overwrite,
    )
    with console.progress() as progress:
        done = run(request, progress)
    console.result(asdict(done) if json else done.list, as_json=json)


def register(app: typer.Typer) -> None:
    """Add these commands to `svkit prepare`."""
    for command in (merge, split, check, stats, shards):
        app.command()(command)
