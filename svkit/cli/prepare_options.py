"""Options that the subcommands of `svkit prepare` share, and how their results are shown."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svkit.cli import console, options
from svkit.config.ranges import Range

if TYPE_CHECKING:
    from svkit.corpora.layouts.noise import NoiseRequest, NoiseResult
    from svkit.corpora.request import CorpusRequest, CorpusResult
    from svkit.corpora.scan import BadFile
    from svkit.progress import Progress

MAX_TABLE_ROWS = 40
"""Bad files shown in the table; all of them are in `exp/data/bad_files.tsv`."""

Root = Annotated[Path, typer.Argument(metavar="ROOT", help="Directory of the corpus.")]
EvalSpeakers = Annotated[
    str | None,
    typer.Option(
        "--eval-speakers",
        metavar="N|FILE",
        help="How many (0: none), or a file with one a line [default: as before, else official, else a tenth].",
    ),
]
TrialLists = Annotated[
    list[Path] | None,
    typer.Option(
        "--trials",
        metavar="FILE",
        help="Evaluation trials; repeatable [default: as before, else official, else made].",
    ),
]
MatchIds = Annotated[
    bool,
    typer.Option(
        "--match-ids", help="Match ids of --trials that differ in prefix, extension, case, ./, \\ or quotes."
    ),
]
ValidSpeakers = Annotated[
    int | None,
    options.number(
        "--valid-speakers",
        Range(ge=0, le=10**6),
        "Training speakers held out for validation [default: a twentieth, 3 to 40].",
        metavar="N",
    ),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad files out instead of refusing.")]
ReadSamples = Annotated[
    bool,
    typer.Option(
        "--read-samples/--headers-only",
        help="Decode every file: finds truncated, non-finite, duplicate ones.",
    ),
]
Redraw = Annotated[
    bool,
    typer.Option(
        "--redraw", help="Draw evaluation and validation speakers anew; else all stay where they were before."
    ),
]
Preset = Annotated[str | None, typer.Option("--preset", help="Recipe noted for the commands that follow.")]
Encoder = Annotated[str | None, typer.Option("--encoder", help="Encoder noted for the commands that follow.")]


@dataclass(frozen=True, kw_only=True)
class DemoOptions(options.OutputOptions):
    """Options of the rendered corpus: those of any corpus that do not speak of given recordings."""

    valid_speakers: ValidSpeakers = None
    workers: options.Workers = None
    seed: options.SeedOrBefore = None
    redraw: Redraw = False
    preset: Preset = None
    encoder: Encoder = None

    def prepare(
        self, run: "Callable[[CorpusRequest, Progress], CorpusResult]", root: Path | None = None
    ) -> None:
        """Prepare the corpus below `root` and print the directory of its lists, or all about it."""
        from svkit.corpora.remembered import as_before

        request = self._request(root)
        done = _with_table(lambda progress: run(as_before(request, progress, seed=self.seed), progress))
        self.show(asdict(done), done.data)

    def _request(self, root: Path | None) -> "CorpusRequest":
        from svkit.corpora.request import CorpusRequest
        from svkit.corpora.scan import ScanOptions

        return CorpusRequest(
            exp=self.exp,
            root=root,
            valid_speakers=self.valid_speakers,
            seed=24 if self.seed is None else self.seed,
            redraw=self.redraw,
            scan=ScanOptions(num_workers=self.workers),
            preset=self.preset,
            encoder=self.encoder,
            overwrite=self.overwrite,
            keep_finished=self.keep_finished,
        )


@dataclass(frozen=True, kw_only=True)
class CorpusOptions(DemoOptions):
    """Options of every corpus of recordings."""

    eval_speakers: EvalSpeakers = None
    trials: TrialLists = None
    match_ids: MatchIds = False
    min_seconds: options.MinSeconds = 0.5
    channel: options.Channel = "0"
    skip_bad: SkipBad = False
    allow_cut: options.AllowCut = False
    read_samples: ReadSamples = False

    def _request(self, root: Path | None) -> "CorpusRequest":
        request = super()._request(root)
        scan = replace(
            request.scan,
            min_seconds=self.min_seconds,
            channel=options.parse_channel(self.channel),
            allow_cut=self.allow_cut,
            reads_samples=self.read_samples,
            skip_bad=self.skip_bad,
        )
        return replace(
            request,
            eval_speakers=self.eval_speakers,
            trials=tuple(self.trials or ()),
            match_ids=self.match_ids,
            scan=scan,
        )


@dataclass(frozen=True, kw_only=True)
class MaterialOptions(options.OutputOptions):
    """Options of material for augmentation."""

    channel: options.Channel = "0"
    skip_bad: SkipBad = False
    allow_cut: options.AllowCut = False
    read_samples: ReadSamples = False
    workers: options.Workers = None

    def prepare(self, run: "Callable[[NoiseRequest, Progress], NoiseResult]", root: Path) -> None:
        """Prepare the material below `root` and print its list, or all about it."""
        from svkit.corpora.layouts.noise import NoiseRequest
        from svkit.corpora.scan import ScanOptions

        request = NoiseRequest(
            exp=self.exp,
            root=root,
            scan=ScanOptions(
                min_seconds=0.0,
                channel=options.parse_channel(self.channel),
                allow_cut=self.allow_cut,
                reads_samples=self.read_samples,
                num_workers=self.workers,
                skip_bad=self.skip_bad,
            ),
            overwrite=self.overwrite,
            keep_finished=self.keep_finished,
        )
        done = _with_table(lambda progress: run(request, progress))
        self.show(asdict(done), done.list)


OWN_RECORDINGS, OWN_MATERIAL = CorpusOptions(read_samples=True), MaterialOptions(read_samples=True)
"""Of files that no one has published, headers say too little."""


def _with_table(run: Callable[["Progress"], Any]) -> Any:
    """Run a stage and show the bad files: refused ones before the error, left out ones at the end."""
    from svkit.corpora.scan import BadFilesError

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

    from svkit.errors import printable

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
