"""`svkit finetune`."""

from pathlib import Path
from typing import Annotated, Literal, get_args

from svkit.cli import options
from svkit.cli.option_groups import takes_groups
from svkit.errors import ConfigError

Stage = Literal["lora", "head", "joint", "lmft"]
Source = Annotated[
    Path | None,
    options.option("--from", "Checkpoint to start from, such as exp/distill, or a name on the hub.", "CKPT"),
]
OneStage = Annotated[
    Stage | None,
    options.option(
        "--stage",
        "Run one stage only, of a pruned model --from the one before it [default: the recipe's three in order].",
    ),
]


@takes_groups
def finetune(
    *,
    source: Source = None,
    file: options.HubFile = None,
    stage: OneStage = None,
    encoder: options.Encoder = None,
    noise: options.Noise = None,
    rirs: options.Rirs = None,
    augment: options.Augment = None,
    common: options.RunOptions,
) -> None:
    """Fine-tune encoder and speaker head: the stages lora (or head), joint, lmft.

    Example: svkit finetune --stage joint --set joint.optim.lr=2e-5
    """
    names = [stage] if stage else get_args(Stage)
    sections = [f"{model}.{name}" for model in ("dense", "pruned") for name in names]
    if source is not None and encoder is not None:
        raise ConfigError("--from starts from a checkpoint, --encoder from an encoder; give one of them")
    if augment is False and (noise is not None or rirs is not None):
        raise ConfigError("--no-augment excludes --noise and --rirs; leave them out")
    source = options.on_disk(source, file)
    recipe = common.open_recipe(sections, encoder, source)
    from svkit.store.experiment import encoder_to_note
    from svkit.store.places import recorded_path
    from svkit.training.finetune import FinetuneRequest, run

    chosen = {
        "encoder": None if encoder is None else encoder_to_note(common.exp, encoder),
        "noise": None if noise is None else recorded_path(noise, common.exp),
        "rirs": None if rirs is None else recorded_path(rirs, common.exp),
        "augment": None if augment is None else "all" if augment else "none",
    }
    request = common.request(
        FinetuneRequest,
        recipe=recipe,
        encoder=encoder,
        stage=stage,
        source=source,
        **options.augmentation(common.exp, noise, rirs, augment),
    )
    checkpoints = common.run(run, request, common.following if common.out is None else None, **chosen)
    common.show({"checkpoints": checkpoints}, checkpoints)
    if common.out is None:
        common.show_next(lambda: common.following(checkpoints[-1]))
