"""Options that the subcommands of `svkit prepare` share, and how their results are shown."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svkit.cli import console, options
from svkit.cli.options import option
from svkit.config.ranges import Range

if TYPE_CHECKING:
    from svkit.corpora.request import CorpusResult
    from svkit.corpora.scan import BadFile, ScanOptions
    from svkit.progress import Progress

MAX_TABLE_ROWS = 40
"""Bad files shown in the table; all of them are in `exp/data/bad_files.tsv`."""

Root = Annotated[Path, typer.Argument(metavar="ROOT", help="Directory of the corpus.")]


@dataclass(frozen=True, kw_only=True)
class _ScanGroup(options.OutputOptions):
    """Options of every command that scans recordings."""

    channel: options.Channel = "0"
    skip_bad: options.SkipBad = False
    allow_cut: options.AllowCut = False
    reads_samples: Annotated[
        bool,
        option(
            "--read-samples/--headers-only",
            "Decode every file, to find truncated, non-finite and duplicate ones.",
        ),
    ] = False
    num_workers: options.Workers = None

    def scan(self, **own: Any) -> "ScanOptions":
        from svkit.corpora.scan import ScanOptions

        return self.request(ScanOptions, channel=options.parse_channel(self.channel), **own)


@dataclass(frozen=True, kw_only=True)
class NoiseOptions(_ScanGroup):
    """Options of noises, music and room impulse responses."""

    def prepare(self, run: Callable[..., Any], root: Path, **own: Any) -> None:
        """Prepare the recordings below `root`; print the path of their list, or the whole result with `--json`."""
        from svkit.corpora.layouts.noise import NoiseRequest

        request = self.request(NoiseRequest, root=root, scan=self.scan(min_seconds=0.0))
        done = with_table(lambda progress: run(request, progress, **own))
        self.show(asdict(done), done.list)


@dataclass(frozen=True, kw_only=True)
class DemoOptions(options.OutputOptions):
    """Options of the rendered corpus; every other corpus has them too."""

    valid_speakers: Annotated[
        int | None,
        options.number(
            "--valid-speakers",
            Range(ge=0, le=10**6),
            "Training speakers held out for validation [default: a twentieth, 3 to 40; 8 in the demo].",
            metavar="N",
        ),
    ] = None
    num_workers: options.Workers = None
    seed: options.SeedOrBefore = None
    redraw: Annotated[
        bool,
        option(
            "--redraw", "Draw evaluation and validation speakers again instead of keeping the former split."
        ),
    ] = False
    preset: Annotated[str | None, option("--preset", "Recipe for the commands that follow.")] = None
    encoder: Annotated[str | None, option("--encoder", "Encoder for the commands that follow.")] = None

    def scan(self) -> "ScanOptions":
        """Return how files are examined."""
        from svkit.corpora.scan import ScanOptions

        return self.request(ScanOptions)

    def prepare(self, run: Callable[..., Any], root: Path | None = None, **own: Any) -> None:
        """Prepare a corpus by its layout's `run`; print the directory of its lists, or the whole result with `--json`.

        `root` is None for the rendered corpus.
        """
        from svkit.corpora.request import CorpusRequest, as_before

        request = self.request(CorpusRequest, root=root, scan=self.scan())
        done = with_table(lambda progress: run(as_before(request, progress, seed=self.seed), progress, **own))
        if not self.json:
            _say_split(done)
        self.show(asdict(done), done.data)
        missing = _missing_material(self.exp) if done.train_utterances else {}
        for material, command in missing.items():
            self.show_next(command, label=f"next, for the {material} that the recipe trains with")
        label = "then, or at once with --no-augment" if missing else "next"
        self.show_next(
            lambda: self.following("data") if done.train_utterances else "svkit extract --model CKPT",
            label=label,
        )


@dataclass(frozen=True, kw_only=True)
class CorpusOptions(_ScanGroup, DemoOptions):
    """Options of every corpus of recordings."""

    eval_speakers: Annotated[
        str | None,
        option(
            "--eval-speakers",
            "Speakers to evaluate on: a number (0: none), all (nobody trains), or a file with one per line"
            " [default: as before, else official, else a tenth].",
            "N|all|FILE",
        ),
    ] = None
    trials: Annotated[
        list[Path] | None,
        option(
            "--trials",
            "Evaluation trials; repeatable [default: as before, else official, else generated].",
            "FILE",
        ),
    ] = None
    match_ids: Annotated[
        bool,
        option(
            "--match-ids", "Match ids of --trials that differ in prefix, extension, case, ./, \\ or quotes."
        ),
    ] = False
    min_seconds: options.MinSeconds = 0.5


OWN_RECORDINGS, OWN_NOISE = CorpusOptions(reads_samples=True), NoiseOptions(reads_samples=True)
"""Unpublished files are decoded by default, because their headers alone say too little."""


def _missing_material(exp: Path) -> dict[str, str]:
    """Return what fine-tuning by the experiment's recipe would be refused for -> the command that prepares it."""
    from svkit.config.load import load_recipe
    from svkit.store.experiment import FILE_NAME, read_experiment

    noted = read_experiment(exp)
    part = load_recipe(noted.preset, preset_from=f"{exp / FILE_NAME}: preset").dense
    used = [stage.augment for stage in (getattr(part, part.first), part.joint, part.lmft) if stage.augment]
    if noted.augment == "none":
        used = []
    missing = {}
    if noted.noise is None and any(one.noise_probability and not one.allow_missing_noise for one in used):
        missing["noise, music and speech"] = "svkit prepare musan DIR"
    if noted.rirs is None and any(one.reverb_probability and not one.allow_simulated_rooms for one in used):
        missing["room impulse responses"] = "svkit prepare rirs DIR"
    return missing


def _say_split(done: "CorpusResult") -> None:
    """Say who trains, validates and evaluates."""
    from svkit.reports.tables import shown_hours

    for part, purpose, told in (
        ("train", "training", ""),
        ("valid", "validation", " (held out of training: --valid-speakers)"),
        ("eval", "evaluation", " (never trained on: --eval-speakers)"),
    ):
        speakers, utterances, hours = (
            getattr(done, f"{part}_{what}") for what in ("speakers", "utterances", "hours")
        )
        length = "" if hours is None else f", {shown_hours(hours)}"
        counts = f"{speakers:,} speakers, {utterances:,} utterances{length}: {done.data}/{part}.tsv{told}"
        console.note(f"{purpose}: {counts if utterances else 'nobody'}")
    for name, trials in done.trials.items():
        path = f"{done.data}/trials/{name}.txt"
        console.note(f"trials: {trials['targets']:,} targets, {trials['nontargets']:,} nontargets: {path}")
    if done.unlisted_utterances:
        console.note(
            f"not listed: {done.unlisted_utterances:,} utterances of evaluation speakers that no trial names"
        )


def with_table(run: "Callable[[Progress], Any]") -> Any:
    """Run a command and show its bad files: before the error if they stop it, at the end if they are left out."""
    with bad_files_shown(), console.progress() as progress:
        done = run(progress)
    show_bad_files(done.bad_files)
    return done


@contextmanager
def bad_files_shown() -> Iterator[None]:
    """Show the bad files that stop a command, before the error."""
    from svkit.corpora.scan import BadFilesError

    try:
        yield
    except BadFilesError as error:
        show_bad_files(error.bad_files)
        raise


def show_bad_files(bad_files: "Sequence[BadFile]") -> None:
    """Draw the table of bad files on stderr."""
    if not bad_files:
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from svkit.errors import printable

    counts = Counter(file.reason for file in bad_files)
    summary = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    files = "file" if len(bad_files) == 1 else "files"
    table = Table(title=f"{len(bad_files)} bad {files}: {summary}")
    for heading in ("file", "reason", "cause"):
        table.add_column(heading, overflow="fold")
    for file in bad_files[:MAX_TABLE_ROWS]:
        table.add_row(*(escape(printable(text)) for text in (file.utterance_id, file.reason, file.detail)))
    if len(bad_files) > MAX_TABLE_ROWS:
        table.add_row(f"... and {len(bad_files) - MAX_TABLE_ROWS} more", "", "")
    Console(stderr=True).print(table)
