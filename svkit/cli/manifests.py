"""`svkit prepare merge|split|check|stats|shards`: the subcommands that work on existing lists."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from svkit.cli import console, options
from svkit.cli.option_groups import OptionGroup, takes_groups
from svkit.config.ranges import Range

if TYPE_CHECKING:
    from svkit.lists.stats import Distribution, Stats

_BAR_WIDTH = 40
List = Annotated[Path, typer.Argument(metavar="LIST", help="Manifest, .tsv or .parquet.")]


@dataclass(frozen=True, kw_only=True)
class ListOptions(OptionGroup):
    """Options of every command that writes lists."""

    overwrite: options.Overwrite = False
    json: options.Json = False

    def run(self, run: Callable[..., Any], request: Callable[..., Any], **asked: Any) -> Any:
        """Build the request, run it and return its result."""
        with console.progress() as progress:
            return run(self.request(request, **asked), progress)

    def show(self, done: Any, lines: object) -> None:
        """Print the result: all of it with `--json`, else `lines`."""
        console.result(asdict(done) if self.json else lines, as_json=self.json)


@dataclass(frozen=True, kw_only=True)
class AudioOptions(ListOptions):
    """Options of every command that reads the recordings of a list."""

    audio_root: options.AudioRoot = None
    num_workers: options.Workers = None


def merge(
    lists: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]LIST...", help="Manifests; NAME is used as prefix [default: the file name]."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Merged list, .tsv or .parquet.")],
    prefix: Annotated[
        Literal["collision", "always", "never"],
        typer.Option(
            "--prefix",
            help="Which ids get the prefix NAME/: those in several lists, all, or none (equal ids are one person).",
        ),
    ] = "collision",
    *,
    group: ListOptions,
) -> None:
    """Merge lists; speakers of different lists stay different people.

    Example: svkit prepare merge vox2=exp/data/train.tsv cn=exp-cnceleb/data/train.tsv --out all.parquet
    """
    from svkit.lists.merge import MergeRequest, run

    done = group.run(run, MergeRequest, lists=lists, out=out, prefix=prefix)
    group.show(done, done.list)


def split(
    listed: List,
    part: Annotated[
        list[str],
        typer.Option(
            "--part",
            metavar="NAME=SPEAKERS",
            help="Speakers of a part: a number, a percentage, or a file with one per line; repeatable.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory for the parts.")],
    rest: Annotated[
        str, typer.Option("--rest", metavar="NAME", help="Name of the part with everyone else.")
    ] = "train",
    seed: options.Seed = 24,
    *,
    group: ListOptions,
) -> None:
    """Split a list into lists that share no speaker.

    Example: svkit prepare split all.parquet --part valid=40 --part test=5% --out lists
    """
    from svkit.lists.split import SplitRequest, run

    done = group.run(run, SplitRequest, list=listed, out=out, parts=part, rest=rest, seed=seed)
    group.show(done, [entry.list for entry in done.parts.values()])


def check(
    listed: List,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Write the list without its bad rows, which are then not an error."
        ),
    ] = None,
    min_seconds: options.MinSeconds = 0.5,
    max_clipped: Annotated[
        float,
        options.number(
            "--max-clipped", Range(ge=0, le=100), "Largest share of clipped samples.", metavar="PERCENT"
        ),
    ] = 0.1,
    *,
    group: AudioOptions,
) -> None:
    """Decode every recording of a list and report the unreadable, silent, clipped, too short and repeated ones.

    The exit code is 3 if there are any, unless --out writes a list without them.

    Example: svkit prepare check exp/data/train.tsv --out exp/data/clean.tsv
    """
    from svkit.cli.prepare_options import with_table
    from svkit.corpora.scan import BadFilesError
    from svkit.lists.check import CheckRequest, run

    limits = {"min_seconds": min_seconds, "max_clipped": max_clipped / 100}
    request = group.request(CheckRequest, list=listed, out=out, **limits)
    try:
        done = with_table(lambda progress: run(request, progress))
    except BadFilesError as error:
        if group.json:
            bad_files = [asdict(file) for file in error.bad_files]
            facts = {"list": str(listed), "bad": len(bad_files), "out": None, "bad_files": bad_files}
            console.result(facts, as_json=True)
        raise
    verdict = f"{done.list}: {done.utterances:,} utterances, {done.hours:,.1f} hours, none of them bad"
    group.show(done, done.out or verdict)


def stats(listed: List, json: options.Json = False) -> None:
    """Count speakers, utterances and hours of a list, and show their distribution.

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

    counts = {"speakers": found.speakers, "utterances": found.utterances, "sessions": found.sessions}
    rows = [*([name, f"{count:,}"] for name, count in counts.items()), ["hours", f"{found.hours:,.1f}"]]
    others = {"in shards": found.in_shards} if found.in_shards else {}
    others |= {f"at {rate} Hz": count for rate, count in found.sample_rates_hz.items()}
    for name, values in found.columns.items():
        others |= {f"{name}: {value or '(none)'}": count for value, count in values.items()}
    rows += ([name, f"{count:,}"] for name, count in others.items())
    console.result(found.list)
    console.table(Table(headings=["", "count"], rows=rows))
    _print_histogram("duration, s", found.seconds, "utterances")
    _print_histogram("utterances per speaker", found.utterances_per_speaker, "speakers")
    _print_histogram("minutes per speaker", found.minutes_per_speaker, "speakers")


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
    per_shard: Annotated[
        int, options.number("--per-shard", Range(ge=1, le=10**6), "Utterances per file.", metavar="N")
    ] = 4096,
    seed: options.Seed = 24,
    *,
    group: AudioOptions,
) -> None:
    """Pack the recordings of a list into tar files (WebDataset's layout), for slow network file systems.

    Other commands read the list that is written beside the shards: svkit finetune --manifest shards/train.tsv

    Example: svkit prepare shards exp/data/train.tsv --out shards
    """
    from svkit.lists.shards import ShardsRequest, run

    done = group.run(run, ShardsRequest, list=listed, out=out, per_shard=per_shard, seed=seed)
    group.show(done, done.list)


def register(app: typer.Typer) -> None:
    """Add these commands to `svkit prepare`."""
    for command in (merge, split, check, stats, shards):
        app.command()(takes_groups(command))
