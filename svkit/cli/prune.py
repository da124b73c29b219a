"""`svkit prune`."""

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

from svkit.cli import console, options
from svkit.cli.option_groups import takes_groups
from svkit.config.ranges import Range
from svkit.errors import ConfigError

Teacher = Annotated[
    Path | None, options.option("--teacher", "Dense model [default: exp/finetune/joint].", "CKPT")
]
Sparsity = Annotated[
    float | None,
    options.number(
        "--sparsity", Range(ge=0.01, le=0.99), "Share of the encoder's parameters to remove [recipe: 0.8]."
    ),
]
Budget = Annotated[
    str | None, options.option("--budget", "Limit instead of --sparsity, such as macs=6.3G for 1 s of audio.")
]
RoundTo = Annotated[
    int | None,
    options.number(
        "--round-to", Range(ge=1, le=65_536), "Round widths to multiples of this within the same budget."
    ),
]
Allow = Annotated[
    list[str] | None,
    options.allow(
        "Continue and record the exception: unconverged (gates far short of the target).", "unconverged"
    ),
]


@takes_groups
def prune(
    *,
    teacher: Teacher = None,
    sparsity: Sparsity = None,
    budget: Budget = None,
    round_to: RoundTo = None,
    allow: Allow = None,
    common: options.RunOptions,
) -> None:
    """Prune the encoder's structure while distilling from the teacher, then cut it.

    Example: svkit prune --sparsity 0.8
    """
    targets = {
        "--sparsity": sparsity is not None,
        "--budget": budget is not None,
        "--set prune.sparsity": common.is_set("prune.sparsity") or common.is_set("sparsity"),
    }
    given = [name for name, is_given in targets.items() if is_given]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)}: expected one target, found {len(given)}; give one of them")
    if round_to is not None and (common.is_set("prune.round_to") or common.is_set("round_to")):
        raise ConfigError("--round-to and --set prune.round_to set the same thing; give one of them")
    values = {"sparsity": sparsity, "round_to": round_to}
    flags = [f"prune.{key}={value!r}" for key, value in values.items() if value is not None]
    common = replace(common, overrides=[*(common.overrides or ()), *flags])
    recipe = common.open_recipe(["prune"], upstream=teacher or common.exp / "finetune" / "joint")
    from svkit.reports.results import pruning
    from svkit.store.report import read_pruning
    from svkit.training.prune import PruneRequest, run

    request = common.request(
        PruneRequest, recipe=recipe, teacher=teacher, budget=budget, allow=frozenset(allow or ())
    )

    def following(checkpoint: Path) -> str:
        if common.out is not None:
            return f"svkit distill --student {shlex.quote(str(checkpoint))}"
        return common.following(checkpoint)

    done = common.run(run, request, following)
    if not common.json:
        console.table(pruning({done.checkpoint.name: read_pruning(done.checkpoint)}, "Pruning"))
    common.show(asdict(done), done.checkpoint)
    common.show_next(lambda: following(done.checkpoint))
