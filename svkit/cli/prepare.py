"""`svkit prepare`: one subcommand a corpus, four for augmentation material, and those of `svkit.cli.manifests`."""

from typing import Annotated

import typer

from svkit.cli import manifests, prepare_corpora
from svkit.cli.option_groups import takes_groups
from svkit.cli.prepare_options import (
    OWN_MATERIAL,
    OWN_RECORDINGS,
    CorpusOptions,
    DemoOptions,
    MaterialOptions,
    Root,
)

app = typer.Typer(
    help="Turn audio into lists: who speaks, where, how long, and which trials to evaluate.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
@takes_groups
def folder(
    root: Root,
    speaker_regex: Annotated[
        str | None,
        typer.Option(
            "--speaker-regex",
            metavar="REGEX",
            help="Searched in the path below ROOT; its first group is the speaker [default: the directory].",
        ),
    ] = None,
    corpus: CorpusOptions = OWN_RECORDINGS,
) -> None:
    """Prepare any tree of recordings, a directory a speaker.

    Example: svkit prepare folder recordings --eval-speakers 20
    """
    from svkit.corpora.layouts.folder import run

    corpus.prepare(lambda request, progress: run(request, progress, speaker_regex=speaker_regex), root)


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
def musan(root: Root, material: MaterialOptions) -> None:
    """Prepare MUSAN for augmentation: noise, instrumental music, speech.

    Example: svkit prepare musan /data/musan
    """
    from svkit.corpora.layouts.noise import run_musan

    material.prepare(run_musan, root)


@app.command()
@takes_groups
def rirs(
    root: Root,
    *,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help="smallroom, mediumroom, largeroom or real; repeatable [default: the first two].",
        ),
    ] = None,
    material: MaterialOptions,
) -> None:
    """Prepare the impulse responses of RIRS_NOISES for reverberation: simulated rooms by size, and recorded ones.

    Example: svkit prepare rirs /data/RIRS_NOISES
    """
    from svkit.corpora.layouts.noise import PUBLISHED_RIR_TYPES, run_rirs

    material.prepare(
        lambda request, progress: run_rirs(request, progress, types or PUBLISHED_RIR_TYPES), root
    )


@app.command()
@takes_groups
def noise(root: Root, material: MaterialOptions = OWN_MATERIAL) -> None:
    """Prepare any directory of noises for augmentation.

    Example: svkit prepare noise /data/street-noise
    """
    from svkit.corpora.layouts.noise import run_tree

    material.prepare(lambda request, progress: run_tree(request, progress, "noise"), root)


@app.command()
@takes_groups
def music(root: Root, material: MaterialOptions = OWN_MATERIAL) -> None:
    """Prepare any directory of instrumental music for augmentation.

    Example: svkit prepare music /data/music
    """
    from svkit.corpora.layouts.noise import run_tree

    material.prepare(lambda request, progress: run_tree(request, progress, "music"), root)


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
