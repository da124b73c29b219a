"""`svkit extract`."""

from pathlib import Path
from typing import Annotated, Literal

from svkit.cli import options
from svkit.cli.option_groups import takes_groups
from svkit.errors import ConfigError

Models = Annotated[
    list[Path] | None,
    options.option(
        "--model", "Or a name on the hub; repeatable [default: final dense and final pruned].", "CKPT"
    ),
]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16", "int8"],
    options.option(
        "--dtype",
        "auto: bfloat16 where the device is fast at it, float32 otherwise; int8: x86 processors only.",
    ),
]


@takes_groups
def extract(
    *,
    models: Models = None,
    file: options.HubFile = None,
    dtype: Precision = "auto",
    common: options.RunOptions,
) -> None:
    """Compute the embedding of every utterance of a manifest.

    Example: svkit extract --model exp/finetune/lmft --manifest mine.tsv --out exp/embeddings/mine
    """
    if dtype != "auto" and common.is_set("precision"):
        raise ConfigError("--dtype and --set precision say the same; give one of them")
    recipe = common.open_recipe(["extract"])
    from svkit.models.extract import ExtractRequest, run

    places = [options.on_disk(model, file) for model in models or ()]
    request = common.request(ExtractRequest, recipe=recipe, models=places, dtype=dtype)
    embeddings = common.run(run, request)
    common.show({"embeddings": embeddings}, embeddings)
