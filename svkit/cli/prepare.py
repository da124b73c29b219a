"""`svkit prepare`: one subcommand a corpus, four for augmentation material, and those of `svkit.cli.manifests`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svkit.cli import manifests, options, prepare_corpora
from svkit.cli.prepare_options import (
    Encoder,
    EvalSpeakers,
    MinSeconds,
    Preset,
    ReadSamples,
    Root,
    Seed,
    SkipBad,
    TrialLists,
    ValidSpeakers,
    Workers,
    scan_options,
    show_corpus,
    show_material,
)

if TYPE_CHECKING:
    from svkit.stages.prepare.noise import NoiseRequest
    from svkit.stages.prepare.scan import ScanOptions

app = typer.Typer(
    help="Turn audio into lists: who speaks, where, how long, and which trials to evaluate.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


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
        scan=scan_options(min_seconds, skip_bad, read_samples, workers),
        preset=preset,
        encoder=encoder,
        overwrite=overwrite,
        keep_finished=keep_finished,
    )
    show_corpus(lambda progress: run(request, progress, speaker_regex=speaker_regex), json)


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
        scan=scan_options(0.5, False, True, workers),
        preset=preset,
        encoder=encoder,
        overwrite=overwrite,
        keep_finished=keep_finished,
    )
    show_corpus(lambda progress: run(request, progress), json)


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

    request = _noise_request(
        exp, root, scan_options(0.0, skip_bad, read_samples, workers), overwrite, keep_finished
    )
    show_material(lambda progress: run_musan(request, progress), json)


@app.command()
def rirs(
    root: Root,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help="smallroom, mediumroom, largeroom or real; repeatable [default: the first two].",
        ),
    ] = None,
    skip_bad: SkipBad = False,
    read_samples: ReadSamples = False,
    workers: Workers = None,
    overwrite: options.Overwrite = False,
    keep_finished: options.KeepFinished = False,
    exp: options.Exp = Path("exp"),
    json: options.Json = False,
) -> None:
    """Prepare the impulse responses of RIRS_NOISES for reverberation: simulated rooms by size, and recorded ones.

    Example: svkit prepare rirs /data/RIRS_NOISES
    """
    from svkit.stages.prepare.noise import PUBLISHED_RIR_TYPES, run_rirs

    request = _noise_request(
        exp, root, scan_options(0.0, skip_bad, read_samples, workers), overwrite, keep_finished
    )
    show_material(lambda progress: run_rirs(request, progress, types or PUBLISHED_RIR_TYPES), json)


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

    request = _noise_request(
        exp, root, scan_options(0.0, skip_bad, read_samples, workers), overwrite, keep_finished
    )
    show_material(lambda progress: run_tree(request, progress, "noise"), json)


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

    request = _noise_request(
        exp, root, scan_options(0.0, skip_bad, read_samples, workers), overwrite, keep_finished
    )
    show_material(lambda progress: run_tree(request, progress, "music"), json)


def _noise_request(
    exp: Path, root: Path, scan: "ScanOptions", overwrite: bool, keep_finished: bool
) -> "NoiseRequest":
    from svkit.stages.prepare.noise import NoiseRequest

    return NoiseRequest(exp=exp, root=root, scan=scan, overwrite=overwrite, keep_finished=keep_finished)


for _command in (
    prepare_corpora.voxceleb,
    prepare_corpora.voxblink2,
    prepare_corpora.cnceleb,
    prepare_corpora.librispeech,
    prepare_corpora.kaldi,
):
    app.command()(_command)
app.command("csv")(prepare_corpora.csv_table)
manifests.register(app)
