"""From learned gates to the structure that is kept: the target is met exactly, whatever the gates' soft state.

The rule of the deterministic mask (keep the L0 expectation of a group) gives a structure whose count only comes near
the target. So one offset is added to every log_alpha, found by bisection on the exact count, and the best units that
still fit are then added one by one.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from svkit.config.architecture import EncoderArchitecture
from svkit.errors import TrainingError
from svkit.nn.encoder import LayerGates
from svkit.pruning.gates import KINDS, EncoderGates, HardConcrete

TOLERANCE = 0.005
"""The final count lies below its limit by at most this part of the dense count, where widths are fine enough."""
_SATURATION = 40.0
"""A gate whose log_alpha is this far from an even chance is open or closed for good."""
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
    shifted = group.gates.log_alpha.detach().double() + offset
    shift = group.gates.expected_shift
    count = round(float(torch.sigmoid(shifted - shift).sum()))
    if group.step > 1 and count < size:
        count = min(size, round(count / group.step) * group.step)
    return count


def _architecture(
    dense: EncoderArchitecture, groups: list[_Group], counts: Mapping[int, int]
) -> EncoderArchitecture:
    widths = dense.widths()
    for position, group in enumerate(groups):
        widths[KINDS[group.kind]][group.layer] = counts[position]
    return dense.with_widths(widths)


def select(
    gates: EncoderGates,
    dense: EncoderArchitecture,
    cost: Callable[[EncoderArchitecture], int],
    limit: float,
    round_to: int = 1,
) -> list[LayerGates]:
    """Choose the final gate values.

    Args:
        gates: after training.
        dense: the architecture they gate.
        cost: exact count of an architecture (parameters or MACs).
        limit: largest allowed cost.
        round_to: FFN and convolution widths become multiples of this.

    Returns:
        Gate values per layer on the CPU: soft values of the units that are kept, 0 elsewhere. The cost is within
        `limit` and no further unit (or block of `round_to` units) fits. Where blocks are so coarse that this leaves
        more than `TOLERANCE` unused, blocks are exchanged for dearer ones.

    Raises:
        TrainingError: even the empty structure costs more than `limit`.
    """
    groups = [
        _Group(
            index,
            kind,
            group,
            torch.argsort(group.log_alpha.detach().cpu(), descending=True, stable=True),
            1 if kind == "heads" else round_to,
        )
        for index, layer in enumerate(gates.groups())
        for kind, group in layer.items()
    ]
    empty = _architecture(dense, groups, dict.fromkeys(range(len(groups)), 0))
    if cost(empty) > limit:
        raise TrainingError(
            f"the target cannot be met: what no gate can remove costs {cost(empty):,}, the target allows {int(limit):,}"
        )

    def counts_at(offset: float) -> dict[int, int]:
        return {position: _count_open(group, offset) for position, group in enumerate(groups)}

    reach = (
        max((float(group.gates.log_alpha.detach().abs().max()) for group in groups), default=0.0)
        + _SATURATION
    )
    low, high = -reach, reach
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if cost(_architecture(dense, groups, counts_at(middle))) <= limit:
            low = middle
        else:
            high = middle
    counts = counts_at(low)
    _top_up(groups, counts, lambda trial: cost(_architecture(dense, groups, trial)) <= limit)
    _exchange(
        groups,
        counts,
        lambda trial: limit - cost(_architecture(dense, groups, trial)),
        TOLERANCE * cost(dense),
    )
    values: list[dict[str, Tensor]] = [{} for _ in gates.layers]
    for position, group in enumerate(groups):
        soft = group.gates.soft_values().detach().cpu().float()
        mask = torch.zeros_like(soft)
        kept = group.order[: counts[position]]
        mask[kept] = soft[kept].clamp(min=_SMALLEST_VALUE)
        values[group.layer][group.kind] = mask
    return [LayerGates(**layer) for layer in values]


def _top_up(groups: list[_Group], counts: dict[int, int], fits: Callable[[dict[int, int]], bool]) -> None:
    """Add the unit (or block) with the largest log_alpha that fits, until none does; changes `counts`."""
    closed: set[int] = set()
    while True:
        best, best_value = -1, -float("inf")
        for position, group in enumerate(groups):
            if position in closed or counts[position] >= len(group.order):
                continue
            value = float(group.gates.log_alpha.detach()[group.order[counts[position]]])
            if value > best_value:
                best, best_value = position, value
        if best < 0:
            return
        trial = {**counts, best: _one_more(groups[best], counts[best])}
        if fits(trial):
            counts[best] = trial[best]
        else:
            closed.add(best)


def _one_more(group: _Group, count: int) -> int:
    return min(len(group.order), count + group.step)


def _exchange(
    groups: list[_Group], counts: dict[int, int], unused: Callable[[dict[int, int]], float], tolerance: float
) -> None:
    """While more than `tolerance` is unused, exchange the two blocks that leave least of it; changes `counts`.

    No single block fits any more, so this moves a block from one group to a dearer one (a few steps at most).
    """
    left = unused(counts)
    while left > tolerance:
        best = left, counts
        for giver, group in enumerate(groups):
            if not counts[giver]:
                continue
            fewer = (counts[giver] - 1) // group.step * group.step
            for taker, other in enumerate(groups):
                if taker != giver and counts[taker] < len(other.order):
                    trial = {**counts, giver: fewer, taker: _one_more(other, counts[taker])}
                    rest = unused(trial)
                    if 0 <= rest < best[0]:
                        best = rest, trial
        if best[0] == left:
            return
        left = best[0]
        counts.update(best[1])
