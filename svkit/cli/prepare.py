"""`svkit prepare`: one subcommand a corpus, four for augmentation material, and those of `svkit.cli.manifests`."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svkit.cli import console, manifests, options

if TYPE_CHECKING:
    from svkit.progress import Progress
    from svkit.stages.prepare.corpus import CorpusResult
    from svkit.stages.prepare.noise import NoiseRequest, NoiseResult
    from svkit.stages.prepare.scan import BadFile, ScanOptions

MAX_TABLE_ROWS = 40
"""Bad files shown in the table; all of them are in `exp/data/bad_files.tsv`."""

app = typer.Typer(
    help="Turn audio into lists: who speaks, where, how long, and which trials to evaluate.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Root = Annotated[Path, typer.Argument(metavar="ROOT", help="Directory of the corpus.")]
EvalSpeakers = Annotated[
    str | None,
    typer.Option(
        "--eval-speakers",
        metavar="N|FILE",
        help="How many, or a file with one a line [default: a tenth of them].",
    ),
]
TrialLists = Annotated[
    list[Path] | None,
    typer.Option(
        "--trials", metavar="FILE", help="Evaluation trials; repeatable [default: made from the seed]."
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


@app.command()
def folder(
    root: Root,
    eval_speakers: EvalSpeakers = None,
    trials: TrialLists = None,
    valid_speakers: ValidSpeakers = None,
    speaker_regex: Annotated[
        str | None,
        typer.Option(
            "--speaker-regex",
            metavar="REGEX",
            help="Searched in the path below ROOT; its first group is the speaker [default: the directory].",
        ),
    ] = None,
    min_seconds: MinSeconds = 0.5,
    skip_bad: SkipBad = False,
    read_samples: ReadSamples = True,
    workers: Workers = None,
    seed: Seed = 24,
    preset: Preset = None,
    encoder: Encoder = None,
    overwrite: options.Overwrite = False,
    keep_finished: options.KeepFinished = False,
    exp: options.Exp = Path("exp"),
    json: options.Json = False,
) -> None:
    """Prepare any tree of recordings, a directory a speaker.

    Example: svkit prepare folder recordings --eval-speakers 20
    """
    from svkit.stages.prepare.corpus import CorpusRequest
    from svkit.stages.prepare.folder import run

    request = CorpusRequest(
        exp=exp,
        root=root,
        eval_speakers=eval_speakers,
        trials=tuple(trials or ()),
        valid_speakers=valid_speakers,
        seed=seed,
        scan=_scan(min_seconds, skip_bad, read_samples, workers),
        preset=preset,
        encoder=encoder,
        overwrite=overwrite,
        keep_finished=keep_finished,
    )
    _corpus(lambda progress: run(request, progress, speaker_regex=speaker_regex), json)


@app.command()
def voxceleb(
    root: Annotated[
        Path,
        typer.Argument(
            metavar="[ROOT]", envvar="SVKIT_VOXCELEB", help="Directory above voxceleb1 and voxceleb2."
        ),
    ] = Path("VoxCeleb"),
    trials: TrialLists = None,
    allow_other_lists: Annotated[
        bool,
        typer.Option("--allow-other-lists", help="Accept a list with an official name but other counts."),
    ] = False,
    valid_speakers: ValidSpeakers = None,
    min_seconds: MinSeconds = 0.5,
    skip_bad: SkipBad = False,
    read_samples: ReadSamples = False,
    workers: Workers = None,
    seed: Seed = 24,
    preset: Preset = None,
    encoder: Encoder = None,
    overwrite: options.Overwrite = False,
    keep_finished: options.KeepFinished = False,
    exp: options.Exp = Path("exp"),
    json: options.Json = False,
) -> None:
    """Prepare VoxCeleb2 dev for training and the VoxCeleb1 trial lists (O, E, H) for evaluation.

    Example: svkit prepare voxceleb /data/VoxCeleb
    """
    from svkit.stages.prepare.corpus import CorpusRequest
    from svkit.stages.prepare.voxceleb import run

    request = CorpusRequest(
        exp=exp,
        root=root,
        trials=tuple(trials or ()),
        valid_speakers=valid_speakers,
        seed=seed,
        scan=_scan(min_seconds, skip_bad, read_samples, workers),
        preset=preset,
        encoder=encoder,
        overwrite=overwrite,
        keep_finished=keep_finished,
    )
    _corpus(lambda progress: run(request, progress, allow_other_lists=allow_other_lists), json)


@app.command()
def demo(
    valid_speakers: ValidSpeakers = None,
    workers: Workers = None,
    seed: Seed = 24,
    preset: Preset = None,
    encoder: Encoder = None,
    overwrite: options.Overwrite = False,
    keep_finished: options.KeepFinished = False,
    exp: options.Exp = Path("exp"),
    json: options.Json = False,
) -> None:
    """Render the embedded corpus of 48 synthetic speakers; needs no download.

    Example: svkit prepare demo
    """
    from svkit.stages.prepare.corpus import CorpusRequest
    from svkit.stages.prepare.demo import run

    request = CorpusRequest(
        exp=exp,
        valid_speakers=valid_speakers,
        seed=seed,
        scan=_scan(0.5, False, True, workers),
        preset=preset,
        encoder=encoder,
        overwrite=overwrite,
        keep_finished=keep_finished,
    )
    _corpus(lambda progress: run(request, progress), json)


@app.command()
def musan(
    root: Root,
    skip_bad: SkipBad = False,
    read_samples: ReadSamples = False,
    workers: Workers = None,
    overwrite: options.Overwrite = False,
    keep_finished: options.KeepFinished = False,
    exp: options.Exp = Path("exp"),
    json: options.Json = False,
) -> None:
    """Prepare MUSAN for augmentation: noise, instrumental music, speech.

    Example: svkit prepare musan /data/musan
    """
    from svkit.stages.prepare.noise import run_musan

    request = _noise_request(exp, root, _scan(0.0, skip_bad, read_samples, workers), overwrite, keep_finished)
    _material(lambda progress: run_musan(request, progress), json)


@app.command()
def rirs(
    root: Root,
    skip_bad: SkipBad = False,
    read_samples: ReadSamples = False,
    workers: Workers = None,
    overwrite: options.Overwrite = False,
    keep_finished: options.KeepFinished = False,
    exp: options.Exp = Path("exp"),
    json: options.Json = False,
) -> None:
    """Prepare the simulated small and medium rooms of RIRS_NOISES for reverberation.

    Example: svkit prepare rirs /data/RIRS_NOISES
    """
    from svkit.stages.prepare.noise import run_rirs

    request = _noise_request(exp, root, _scan(0.0, skip_bad, read_samples, workers), overwrite, keep_finished)
    _material(lambda progress: run_rirs(request, progress), json)


@app.command()
def noise(
    root: Root,
    skip_bad: SkipBad = False,
    read_samples: ReadSamples = True,
    workers: Workers = None,
    overwrite: options.Overwrite = False,
    keep_finished: options.KeepFinished = False,
    exp: options.Exp = Path("exp"),
    json: options.Json = False,
) -> None:
    """Prepare any directory of noises for augmentation.

    Example: svkit prepare noise /data/street-noise
    """
    from svkit.stages.prepare.noise import run_tree

    request = _noise_request(exp, root, _scan(0.0, skip_bad, read_samples, workers), overwrite, keep_finished)
    _material(lambda progress: run_tree(request, progress, "noise"), json)


@app.command()
def music(
    root: Root,
    skip_bad: SkipBad = False,
    read_samples: ReadSamples = True,
    workers: Workers = None,
    overwrite: options.Overwrite = False,
    keep_finished: options.KeepFinished = False,
    exp: options.Exp = Path("exp"),
    json: options.Json = False,
) -> None:
    """Prepare any directory of instrumental music for augmentation.

    Example: svkit prepare music /data/music
    """
    from svkit.stages.prepare.noise import run_tree

    request = _noise_request(exp, root, _scan(0.0, skip_bad, read_samples, workers), overwrite, keep_finished)
    _material(lambda progress: run_tree(request, progress, "music"), json)


def _scan(min_seconds: float, skip_bad: bool, read_samples: bool, workers: int | None) -> "ScanOptions":
    from svkit.stages.prepare.scan import ScanOptions

    return ScanOptions(
        min_seconds=min_seconds, reads_samples=read_samples, num_workers=workers, skip_bad=skip_bad
    )


def _noise_request(
    exp: Path, root: Path, scan: "ScanOptions", overwrite: bool, keep_finished: bool
) -> "NoiseRequest":
    from svkit.stages.prepare.noise import NoiseRequest

    return NoiseRequest(exp=exp, root=root, scan=scan, overwrite=overwrite, keep_finished=keep_finished)


def _corpus(run: Callable[["Progress"], "CorpusResult"], json: bool) -> None:
    done = _with_table(run)
    console.result(asdict(done) if json else done.data, as_json=json)


def _material(run: Callable[["Progress"], "NoiseResult"], json: bool) -> None:
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


manifests.register(app)
