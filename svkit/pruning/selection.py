"""From learned gates to the structure that is kept, which meets the target whatever the gates' soft state.

The rule of the deterministic mask (keep the L0 expectation of a group) gives a structure whose count only comes near
the target. So one offset, found by bisection on the exact count, is added to every log_alpha. Then the best units that
still fit are added one by one.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from svkit.config.architecture import EncoderArchitecture
from svkit.errors import TrainingError
from svkit.nn.encoder import LayerGates
from svkit.pruning.gates import KINDS, SATURATION, EncoderGates, HardConcrete

TOLERANCE = 0.005
"""The final count lies below its limit by at most this fraction of the dense count, if widths are fine enough."""
_BISECTIONS = 80
_SMALLEST_VALUE = 1e-6
"""A unit that is kept keeps at least this value: a sigmoid that underflows to 0 would remove it after all."""


class _Group(NamedTuple):
    layer: int
    kind: str
    gates: HardConcrete
    order: Tensor
    """Units, best first."""
    step: int
    """Widths are multiples of this (or the full width)."""


def _count_open(group: _Group, offset: float) -> int:
    size = len(group.order)
    # In double precision: bisection moves the offset by less than a float32 log_alpha can show.
    log_alpha = group.gates.log_alpha.detach().double() + offset
    count = round(float(torch.sigmoid(log_alpha - group.gates.expected_shift).sum()))
    if group.step > 1 and count < size:
        count = min(size, round(count / group.step) * group.step)
    return count


def select(
    gates: EncoderGates,
    dense: EncoderArchitecture,
    cost: Callable[[EncoderArchitecture], int],
    limit: float,
    round_to: int = 1,
) -> list[LayerGates]:
    """Choose the final gate values of trained gates.

    `cost` counts an architecture exactly (parameters or MACs), `limit` is the largest cost allowed; FFN and convolution
    widths become multiples of `round_to`.

    Returns:
        Gate values per layer on the CPU: soft values of the units that are kept, 0 elsewhere. The cost is within
        `limit` and no further unit (or block of `round_to` units) fits. If blocks are so coarse that this leaves more
        than `TOLERANCE` unused, blocks are exchanged for costlier ones.

    Raises:
        TrainingError: even the empty structure costs more than `limit`.
    """
    groups = []
    for index, layer in enumerate(gates.groups()):
        for kind, gate in layer.items():
            order = torch.argsort(gate.log_alpha.detach().cpu(), descending=True, stable=True)
            groups.append(_Group(index, kind, gate, order, 1 if kind == "heads" else round_to))

    def unused(counts: Sequence[int]) -> float:
        widths = dense.widths()
        for group, count in zip(groups, counts, strict=True):
            widths[KINDS[group.kind]][group.layer] = count
        return limit - cost(dense.with_widths(widths))

    # Checked first, because the bisection assumes that closing everything is enough.
    left = unused([0] * len(groups))
    if left < 0:
        raise TrainingError(
            "the target cannot be met: the parts without gates cost "
            f"{round(limit - left):,}, but the target allows {int(limit):,}; remove less"
        )
    # The offset with the most open units within the limit: costs rise with it, so bisection finds it.
    farthest = max((float(group.gates.log_alpha.detach().abs().max()) for group in groups), default=0.0)
    low, high = -farthest - SATURATION, farthest + SATURATION
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if unused([_count_open(group, middle) for group in groups]) >= 0:
            low = middle
        else:
            high = middle
    counts = [_count_open(group, low) for group in groups]
    _top_up(groups, counts, unused)
    _exchange(groups, counts, unused, TOLERANCE * cost(dense))
    values: list[dict[str, Tensor]] = [{} for _ in gates.layers]
    for group, count in zip(groups, counts, strict=True):
        soft = group.gates.soft_values().detach().cpu().float()
        mask = torch.zeros_like(soft)
        kept = group.order[:count]
        mask[kept] = soft[kept].clamp(min=_SMALLEST_VALUE)
        values[group.layer][group.kind] = mask
    return [LayerGates(**layer) for layer in values]


def _one_more(group: _Group, count: int) -> int:
    return min(len(group.order), count + group.step)


def _top_up(groups: list[_Group], counts: list[int], unused: Callable[[Sequence[int]], float]) -> None:
    """Add the unit (or block) with the largest log_alpha that fits, until none does; changes `counts`."""
    open_groups = set(range(len(groups)))
    while True:
        candidates = [
            # -place: of equal ones, that of the first group.
            (float(group.gates.log_alpha.detach()[group.order[counts[place]]]), -place)
            for place, group in enumerate(groups)
            if place in open_groups and counts[place] < len(group.order)
        ]
        if not candidates:
            return
        best = -max(candidates)[1]
        before, counts[best] = counts[best], _one_more(groups[best], counts[best])
        if unused(counts) < 0:
            # It will not fit later either, with less left: this group is done, but others may have cheaper units.
            counts[best] = before
            open_groups.remove(best)


def _exchange(
    groups: list[_Group],
    counts: list[int],
    unused: Callable[[Sequence[int]], float],
    tolerance: float,
) -> None:
    """While more than `tolerance` is unused, exchange the two blocks that leave the least unused; changes `counts`.

    No single block fits any more, so this moves a block from one group to a costlier one (a few steps at most).
    """
    left = unused(counts)
    while left > tolerance:
        best, best_counts = left, list(counts)
        for giver, taker in itertools.permutations(range(len(groups)), 2):
            if counts[giver] and counts[taker] < len(groups[taker].order):
                trial = list(counts)
                # A full width may end in a block smaller than a step.
                trial[giver] = (counts[giver] - 1) // groups[giver].step * groups[giver].step
                trial[taker] = _one_more(groups[taker], counts[taker])
                if 0 <= (rest := unused(trial)) < best:
                    best, best_counts = rest, trial
        if best == left:
            return
        left, counts[:] = best, best_counts
