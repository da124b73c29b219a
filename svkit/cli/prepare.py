"""`svkit prepare`: one subcommand per corpus, four for noise and rooms, and those of `svkit.cli.manifests`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from svkit.cli import manifests, options
from svkit.cli.option_groups import takes_groups
from svkit.cli.options import option
from svkit.cli.prepare_options import (
    OWN_NOISE,
    OWN_RECORDINGS,
    CorpusOptions,
    DemoOptions,
    NoiseOptions,
    Root,
)
from svkit.config.ranges import Range
from svkit.errors import ConfigError

app = typer.Typer(
    help="Turn audio into lists: who speaks, where, how long, and which trials to evaluate.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

AllowOtherLists = Annotated[
    bool,
    option(
        "--allow-other-lists", "Accept a list with an official name whose counts are not the official ones."
    ),
]
ReadAudioRoot = Annotated[
    Path | None, option("--audio-root", "Directory that relative paths start from.", "DIR")
]


@app.command()
@takes_groups
def folder(
    root: Root,
    speaker_regex: Annotated[
        str | None,
        option(
            "--speaker-regex",
            "Regular expression for the path below ROOT; its first group is the speaker [default: the directory].",
            "REGEX",
        ),
    ] = None,
    corpus: CorpusOptions = OWN_RECORDINGS,
) -> None:
    """Prepare any tree of recordings with a directory for each speaker.

    Example: svkit prepare folder recordings --eval-speakers 20
    """
    from svkit.corpora.layouts.folder import run

    corpus.prepare(run, root, speaker_regex=speaker_regex)


@app.command()
@takes_groups
def demo(corpus: DemoOptions) -> None:
    """Render the embedded corpus of 48 synthetic speakers; needs no download.

    Example: svkit prepare demo
    """
    from svkit.demo.corpus import run

    corpus.prepare(run)


@app.command()
@takes_groups
def musan(root: Root, noise: NoiseOptions) -> None:
    """Prepare MUSAN for augmentation: noise, instrumental music, speech.

    Example: svkit prepare musan /data/musan
    """
    from svkit.corpora.layouts.noise import run_musan

    noise.prepare(run_musan, root)


@app.command()
@takes_groups
def rirs(
    root: Root,
    *,
    types: Annotated[
        list[str] | None,
        option(
            "--type", "smallroom, mediumroom, largeroom or real; repeatable [default: the first two].", "TYPE"
        ),
    ] = None,
    noise: NoiseOptions,
) -> None:
    """Prepare the impulse responses of RIRS_NOISES for reverberation: simulated rooms by size, and recorded ones.

    Example: svkit prepare rirs /data/RIRS_NOISES
    """
    from svkit.corpora.layouts.noise import PUBLISHED_RIR_TYPES, run_rirs

    noise.prepare(run_rirs, root, types=types or PUBLISHED_RIR_TYPES)


@app.command("noise")
@takes_groups
def any_noise(root: Root, noise: NoiseOptions = OWN_NOISE) -> None:
    """Prepare any directory of noises for augmentation.

    Example: svkit prepare noise /data/street-noise
    """
    from svkit.corpora.layouts.noise import run_tree

    noise.prepare(run_tree, root, category="noise")


@app.command()
@takes_groups
def music(root: Root, noise: NoiseOptions = OWN_NOISE) -> None:
    """Prepare any directory of instrumental music for augmentation.

    Example: svkit prepare music /data/music
    """
    from svkit.corpora.layouts.noise import run_tree

    noise.prepare(run_tree, root, category="music")


@app.command()
@takes_groups
def voxceleb(
    root: Annotated[
        Path,
        typer.Argument(
            metavar="[ROOT]", envvar="SVKIT_VOXCELEB", help="Directory above voxceleb1 and voxceleb2."
        ),
    ] = Path("VoxCeleb"),
    *,
    download_lists: Annotated[
        bool,
        option(
            "--download-lists/--no-download-lists",
            "Download the official lists O, E, H if they are neither given nor in ROOT.",
        ),
    ] = True,
    allow_other_lists: AllowOtherLists = False,
    strict: Annotated[
        bool, option("--strict", "Refuse VoxCeleb2 dev if its counts differ from the published ones.")
    ] = False,
    convert: Annotated[
        bool, option("--convert/--no-convert", "Convert AAC (.m4a) to 16 kHz with ffmpeg.")
    ] = True,
    audio_format: Annotated[
        Literal["flac", "wav"] | None,
        option("--format", "Format that .m4a files are converted to [default: flac]."),
    ] = None,
    convert_to: Annotated[
        Path | None,
        option("--convert-to", "Directory for converted files [default: flac/ beside aac/ in ROOT].", "DIR"),
    ] = None,
    corpus: CorpusOptions,
) -> None:
    """Prepare VoxCeleb2 dev for training and the VoxCeleb1 trial lists (O, E, H) for evaluation.

    AAC files (VoxCeleb2 as distributed) are converted first; an interrupted conversion is resumed.

    Example: svkit prepare voxceleb /data/VoxCeleb
    """
    if not convert and (audio_format, convert_to) != (None, None):
        raise ConfigError("--no-convert excludes --format and --convert-to; leave them out")
    from svkit.corpora.conversion import Conversion
    from svkit.corpora.layouts.voxceleb import run

    conversion = Conversion(is_wanted=convert, suffix=f".{audio_format or 'flac'}", directory=convert_to)
    lists = {"downloads_lists": download_lists, "allow_other_lists": allow_other_lists}
    corpus.prepare(run, root, conversion=conversion, is_strict=strict, **lists)


@app.command()
@takes_groups
def voxblink2(root: Root, corpus: CorpusOptions) -> None:
    """Prepare VoxBlink2, already cut into utterances by its own scripts.

    Example: svkit prepare voxblink2 /data/VoxBlink2 --eval-speakers 200
    """
    from svkit.corpora.layouts.voxblink2 import run

    corpus.prepare(run, root)


@app.command()
@takes_groups
def cnceleb(
    root: Root,
    *,
    join_below: Annotated[
        float,
        options.number(
            "--join-below",
            Range(ge=0, le=3600),
            "Join training utterances of one speaker and genre that are shorter; 0: none.",
            metavar="SECONDS",
        ),
    ] = 5.0,
    allow_other_lists: AllowOtherLists = False,
    corpus: CorpusOptions,
) -> None:
    """Prepare CN-Celeb1 and CN-Celeb2 for training and the official CN-Celeb list for evaluation.

    Enrollments are the concatenated files. To average their utterances instead, score with
    --enroll exp/data/trials/cnceleb-E.enroll.tsv.

    Example: svkit prepare cnceleb /data/CN-Celeb
    """
    from svkit.corpora.layouts.cnceleb import run

    corpus.prepare(run, root, join_below=join_below, allow_other_lists=allow_other_lists)


@app.command()
@takes_groups
def librispeech(root: Root, corpus: CorpusOptions) -> None:
    """Prepare LibriSpeech: train on train-*, evaluate on trials among the speakers of test-*.

    Example: svkit prepare librispeech /data/LibriSpeech
    """
    from svkit.corpora.layouts.librispeech import run

    corpus.prepare(run, root)


@app.command()
@takes_groups
def kaldi(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Kaldi data directory: wav.scp, utt2spk, ...")],
    audio_root: ReadAudioRoot = None,
    allow_pipes: Annotated[
        bool, option("--allow-pipes", "Run the commands in wav.scp (entries that end in |).")
    ] = False,
    corpus: CorpusOptions = OWN_RECORDINGS,
) -> None:
    """Prepare a Kaldi data directory: wav.scp, utt2spk, and segments and trials if present.

    Example: svkit prepare kaldi data/train --trials data/test/trials
    """
    from svkit.corpora.layouts.kaldi import run

    corpus.prepare(run, root, allow_pipes=allow_pipes, audio_root=audio_root)


def _column(name: str, usual: str) -> Any:
    return option(f"--{name}-column", f"Column of the {name} [default: {usual}].", "NAME")


@app.command("csv")
@takes_groups
def csv_table(
    root: Annotated[Path, typer.Argument(metavar="FILE", help="Table with a header line.")],
    path: Annotated[str | None, _column("path", "path, wav, audio, file, ...")] = None,
    speaker: Annotated[str | None, _column("speaker", "speaker_id, speaker, spk_id, ...")] = None,
    utterance: Annotated[str | None, _column("utterance", "utterance_id, id, ..., else the path")] = None,
    session: Annotated[str | None, _column("session", "session_id, session, video, ...")] = None,
    gender: Annotated[str | None, _column("gender", "gender, sex")] = None,
    audio_root: ReadAudioRoot = None,
    corpus: CorpusOptions = OWN_RECORDINGS,
) -> None:
    """Prepare a table with paths and speakers, separated by comma, semicolon or tab.

    Example: svkit prepare csv recordings.csv --speaker-column client_id
    """
    from svkit.corpora.layouts.csv_table import Columns, run

    columns = Columns(path=path, speaker=speaker, utterance=utterance, session=session, gender=gender)
    corpus.prepare(run, root, columns=columns, audio_root=audio_root)


manifests.register(app)
