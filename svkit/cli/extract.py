"""`svkit extract`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from svkit.cli import options
from svkit.cli.option_groups import takes_groups
from svkit.cli.prepare_options import bad_files_shown, show_bad_files
from svkit.config.conditions import NAMES, check_condition, under
from svkit.config.ranges import Range
from svkit.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from svkit.corpora.scan import BadFile
    from svkit.progress import Progress

Sources = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[FOLDER|FILE|TSV]...",
        help="Recordings and folders of them, or one manifest [default: the experiment's evaluation list].",
    ),
]
Models = Annotated[
    list[Path] | None,
    options.option(
        "--model",
        "Checkpoint, or a name on the hub; repeatable [default: final dense and final pruned].",
        "CKPT",
    ),
]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16", "int8"],
    options.option(
        "--dtype",
        "auto: bfloat16 if the device is fast at it, else float32; int8: x86 processors only.",
    ),
]
Conditions = Annotated[
    list[str] | None,
    options.option(
        "--condition",
        f"Simulate a telephone, a codec or a shorter recording; repeatable; output MODEL{under('', 'CONDITION')}:"
        f" {', '.join(NAMES)}.",
        "NAME",
    ),
]
_SHORTEST = Range(ge=0.04, le=3600)
"""Seconds; anything shorter gives no frame."""
MinSeconds = Annotated[float, options.number("--min-seconds", _SHORTEST, "Shorter recordings are bad.")]


@takes_groups
def extract(
    sources: Sources = None,
    *,
    models: Models = None,
    file: options.HubFile = None,
    dtype: Precision = "auto",
    channel: options.Channel = "0",
    skip_bad: options.SkipBad = False,
    allow_cut: options.AllowCut = False,
    min_seconds: MinSeconds = 0.5,
    conditions: Conditions = None,
    common: options.RunOptions,
) -> None:
    """Compute embeddings: of all recordings in a folder, or of all utterances in a manifest.

    Ids are paths below the folder. The output is exp/embeddings/MODEL-LIST, or exp/embeddings/MODEL for the
    experiment's own list. With --condition, recordings are embedded as heard on a telephone or through a codec,
    or only their beginning is. `svkit score` uses such embeddings on the test side of the trials.

    Under two conditions: svkit extract --condition gsm --condition cut2s

    Example: svkit extract recordings --model exp/finetune/lmft
    """
    if dtype != "auto" and common.is_set("precision"):
        raise ConfigError("--dtype and --set precision set the same thing; give one of them")
    manifest = _manifest_of(sources or [], common.manifest)
    is_scan = bool(sources) and manifest is None
    if is_scan and common.audio_root is not None:
        raise ConfigError("--audio-root is only for the paths in a manifest")
    if not is_scan and (channel, skip_bad, allow_cut, min_seconds) != ("0", False, False, 0.5):
        raise ConfigError(
            "--channel, --skip-bad, --allow-cut and --min-seconds are only for recordings and folders, "
            "not for a manifest"
        )
    for condition in conditions or ():
        check_condition(condition)
    recipe = common.open_recipe(["extract"])
    from svkit.corpora.layouts.folder import absolute, list_name, list_recordings
    from svkit.corpora.scan import ScanOptions
    from svkit.models.extract import ExtractRequest, Recordings, run

    left_out: list[BadFile] = []

    def read(journal: Path, progress: "Progress") -> "pd.DataFrame":
        scan = ScanOptions(
            channel=options.parse_channel(channel), skip_bad=skip_bad, allow_cut=allow_cut,
            min_seconds=min_seconds, journal=journal,
        )  # fmt: skip
        table, bad = list_recordings(sources or [], scan, progress, needs_speakers=False)
        left_out.extend(bad)
        return table

    request = common.request(
        ExtractRequest,
        recipe=recipe,
        models=[options.on_disk(model, file) for model in models or ()],
        dtype=dtype,
        conditions=conditions,
        manifest=manifest,
        recordings=Recordings(
            name=list_name(sources), sources=tuple(path.as_posix() for path in absolute(sources)), read=read
        )
        if sources and is_scan
        else None,
    )
    with bad_files_shown():
        embeddings = common.run(run, request)
    show_bad_files(left_out)
    common.show({"embeddings": embeddings, "bad_files": [asdict(one) for one in left_out]}, embeddings)
    has_trials = any((common.exp / "data" / "trials").glob("*.txt"))
    if has_trials and not sources and common.manifest is None and common.out is None:
        common.show_next(lambda: common.following("embeddings", embeddings))


def _manifest_of(sources: Sequence[Path], given: Path | None) -> Path | None:
    """Return the manifest to extract; None for recordings, or where the experiment's own list is the default."""
    lists = [path for path in sources if path.suffix in (".tsv", ".parquet") and not path.is_dir()]
    if sources and given is not None:
        raise ConfigError(f"--manifest {given} and {sources[0]}: give only one of them")
    if lists and len(sources) > 1:
        raise ConfigError(f"{lists[0]}: expected recordings and folders, or a single manifest")
    return lists[0] if lists else given
