"""Options that the subcommands of `svkit prepare` share, and how their results are shown."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svkit.cli import console

if TYPE_CHECKING:
    from svkit.progress import Progress
    from svkit.stages.prepare.corpus import CorpusResult
    from svkit.stages.prepare.noise import NoiseResult
    from svkit.stages.prepare.scan import BadFile, ScanOptions

MAX_TABLE_ROWS = 40
"""Bad files shown in the table; all of them are in `exp/data/bad_files.tsv`."""

Root = Annotated[Path, typer.Argument(metavar="ROOT", help="Directory of the corpus.")]
EvalSpeakers = Annotated[
    str | None,
    typer.Option(
        "--eval-speakers",
        metavar="N|FILE",
        help="How many (0: none), or a file with one a line [default: official, else a tenth].",
    ),
]
TrialLists = Annotated[
    list[Path] | None,
    typer.Option(
        "--trials",
        metavar="FILE",
        help="Evaluation trials; repeatable [default: official, else made from the seed].",
    ),
]
ValidSpeakers = Annotated[
    int | None,
    typer.Option(
        "--valid-speakers",
        min=0,
        metavar="N",
        help="Training speakers held out for validation [default: a twentieth, 3 to 40].",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of every draw.")]
MinSeconds = Annotated[float, typer.Option("--min-seconds", min=0.0, help="Shorter files are bad.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad files out instead of refusing.")]
ReadSamples = Annotated[
    bool,
    typer.Option(
        "--read-samples/--headers-only",
        help="Decode every file: finds truncated, non-finite, duplicate ones.",
    ),
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, metavar="N", help="Files read at once.")]
Preset = Annotated[str | None, typer.Option("--preset", help="Recipe noted for the commands that follow.")]
Encoder = Annotated[str | None, typer.Option("--encoder", help="Encoder noted for the commands that follow.")]


def scan_options(
    min_seconds: float, skip_bad: bool, read_samples: bool, workers: int | None
) -> "ScanOptions":
    """Return how files are examined."""
    from svkit.stages.prepare.scan import ScanOptions

    return ScanOptions(
        min_seconds=min_seconds, reads_samples=read_samples, num_workers=workers, skip_bad=skip_bad
    )


def show_corpus(run: Callable[["Progress"], "CorpusResult"], json: bool) -> None:
    """Run the preparation of a corpus and print its directory, or all about it."""
    done = _with_table(run)
    console.result(asdict(done) if json else done.data, as_json=json)


def show_material(run: Callable[["Progress"], "NoiseResult"], json: bool) -> None:
    """Run the preparation of augmentation material and print its list, or all about it."""
    done = _with_table(run)
    console.result(asdict(done) if json else done.list, as_json=json)


def _with_table(run: Callable[["Progress"], Any]) -> Any:
    """Run a stage and show the bad files: refused ones before the error, left out ones at the end."""
    from svkit.stages.prepare.scan import BadFilesError

    try:
        with console.progress() as progress:
            done = run(progress)
    except BadFilesError as error:
        show_bad_files(error.bad_files)
        raise
    show_bad_files(done.bad_files)
    return done


def show_bad_files(bad_files: "Sequence[BadFile]") -> None:
    """Draw the table of bad files on stderr."""
    if not bad_files:
        return
    from rich.console import Console
    from rich.table import Table

    from svkit.stages.prepare.scan import printable

    counts = Counter(file.reason for file in bad_files)
    summary = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    table = Table(title=f"{len(bad_files)} bad files: {summary}")
    for heading in ("file", "reason", "cause"):
        table.add_column(heading, overflow="fold")
    for file in bad_files[:MAX_TABLE_ROWS]:
        table.add_row(
            *(printable(text).replace("[", r"\[") for text in (file.utterance_id, file.reason, file.detail))
        )
    if len(bad_files) > MAX_TABLE_ROWS:
        table.add_row(f"... and {len(bad_files) - MAX_TABLE_ROWS} more", "", "")
    Console(stderr=True).print(table)
