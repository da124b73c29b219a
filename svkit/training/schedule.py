"""Schedules as functions of the step: learning rate, pace of pruning, validation. They have no state to save."""

import math
from dataclasses import replace

from svkit.config.schema import OptimConfig, PruneConfig


def learning_rate(config: OptimConfig, step: int, steps_per_epoch: int, num_steps: int) -> float:
    """Learning rate of the 0-based `step`.

    `step` schedule (stage 1 as published): constant within an epoch, (e + 1) / (w + 1) in warm-up epoch e of w, then
    times `decay_factor` every `decay_every_epochs` epochs after the warm-up. `cosine` (stages 2 and 3): from `lr` to
    `final_lr` over `cosine_epochs`, then constant.
    """
    if config.schedule == "step":
        epoch = step // steps_per_epoch
        if epoch < config.warmup_epochs:
            return config.lr * (epoch + 1) / (config.warmup_epochs + 1)
        decays = int((epoch - config.warmup_epochs) // config.decay_every_epochs)
        return config.lr * config.decay_factor**decays
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        # + 1 in both: the first step is not wasted on a rate of 0, and `lr` is reached just after the warm-up.
        return config.lr * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return config.lr
    final = config.final_lr or 0.0
    span = config.cosine_epochs * steps_per_epoch if config.cosine_epochs else num_steps - warmup
    progress = min(1.0, (step - warmup) / max(span, 1))
    return final + (config.lr - final) * 0.5 * (1 + math.cos(math.pi * progress))


def paced(config: PruneConfig, num_steps: int) -> PruneConfig:
    """Return the settings of pruning, with those relative to the length of the run turned into steps and a rate."""
    warmup, rate = config.sparsity_warmup_steps, config.gate_lr
    if config.sparsity_warmup_fraction is not None:
        warmup = max(1, round(config.sparsity_warmup_fraction * num_steps))
    if config.gate_travel is not None:
        rate = min(1.0, config.gate_travel / num_steps)
    return replace(config, sparsity_warmup_steps=warmup, gate_lr=rate)


def validation_steps(
    num_steps: int, steps_per_epoch: int, count: int | None, every: int | None
) -> tuple[int, ...]:
    """Numbers of done steps after which to validate, always including the last.

    Validates after each of `count` even spans (None: after every epoch) and, unless it is None, after every `every`
    steps within an epoch.
    """
    epochs = range(0, num_steps, steps_per_epoch)
    if count is None:
        moments = set(epochs[1:])
    else:
        # With more spans than steps, the first ones would end before any step is done.
        moments = {max(1, round(num_steps * (index + 1) / count)) for index in range(count)}
    if every is not None:
        for first in epochs:
            moments.update(range(first + every, min(first + steps_per_epoch, num_steps), every))
    return tuple(sorted({*moments, num_steps}))
