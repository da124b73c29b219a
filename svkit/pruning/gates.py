"""Hard-concrete gates on the prunable structures of the encoder (Louizos et al. 2018, L0 regularisation).

A gate is a stretched and clipped concrete variable: with u uniform in (0, 1),
z = clip(sigmoid((log u - log(1 - u) + log_alpha) / beta) * (r - l) + l, 0, 1), l = -0.1, r = 1.1. It is open with
probability P(z > 0) = sigmoid(log_alpha - beta * log(-l / r)), so the expected number of open gates (the L0 norm) has a
gradient. In evaluation a gate is deterministic: sigmoid(0.8 log_alpha / beta), with the round(n - L0) smallest of its
group at exactly 0 (the published rule, which goes back to CoFi and DPHuBERT).
"""

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from svkit.config.architecture import EncoderArchitecture
from svkit.config.schema import PruneConfig
from svkit.nn.encoder import KINDS, LayerGates

LIMIT_LEFT, LIMIT_RIGHT = -0.1, 1.1
SOFT_MASK_SLOPE = 0.8
INITIAL_STD = 0.01
SATURATION = 40.0
"""A gate whose log_alpha is this far from an even chance is open or closed for good."""


class HardConcrete(nn.Module):
    """A group of n gates."""

    def __init__(
        self, size: int, initial_drop: float, temperature: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.temperature = temperature
        # The usual start leaves out `expected_shift`: gates begin open somewhat more often than 1 - initial_drop.
        mean = math.log(1 - initial_drop) - math.log(initial_drop)
        self.log_alpha = nn.Parameter(mean + INITIAL_STD * torch.randn(size, generator=generator))

    @property
    def expected_shift(self) -> float:
        """The shift beta * log(-l / r): at this log_alpha, a gate is open with probability 1/2."""
        return self.temperature * math.log(-LIMIT_LEFT / LIMIT_RIGHT)

    def expected(self) -> Tensor:
        """Probability of each gate being open, [n]."""
        return torch.sigmoid(self.log_alpha - self.expected_shift)

    def sample(self, offset: Tensor | float = 0.0) -> Tensor:
        """Draw gate values [n], from torch's generator, which the loop seeds per step; `offset` adds to log_alpha."""
        noise = torch.rand_like(self.log_alpha).clamp_(1e-6, 1 - 1e-6)
        concrete = torch.sigmoid((torch.logit(noise) + self.log_alpha + offset) / self.temperature)
        return (concrete * (LIMIT_RIGHT - LIMIT_LEFT) + LIMIT_LEFT).clamp(0, 1)

    def soft_values(self) -> Tensor:
        """Deterministic values, before the smallest are set to 0, [n]."""
        return torch.sigmoid(self.log_alpha * (SOFT_MASK_SLOPE / self.temperature))

    def deterministic(self) -> Tensor:
        """Deterministic mask: soft values with the round(n - L0) smallest at 0, [n]."""
        soft = self.soft_values()
        # Kept as a tensor: reading the number would wait for a GPU, and break a compiled graph.
        num_zeros = (len(soft) - self.expected().detach().sum().double()).round()
        ranks = soft.argsort(stable=True).argsort()
        return soft.masked_fill(ranks < num_zeros, 0.0)

    def forward(self, offset: Tensor | float = 0.0) -> Tensor:
        """Sample while training (`offset` as in `sample`), else the deterministic mask."""
        return self.sample(offset) if self.training else self.deterministic()


class EncoderGates(nn.Module):
    """All gates of an encoder, one group per layer and kind."""

    def __init__(self, architecture: EncoderArchitecture, config: PruneConfig, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        drops = {
            "heads": config.initial_drop_heads,
            "ffn1": config.initial_drop_ffn,
            "ffn2": config.initial_drop_ffn,
            "conv": config.initial_drop_conv,
        }
        self.layers = nn.ModuleList()
        for index in range(architecture.num_layers):
            groups = nn.ModuleDict()
            for kind, width in KINDS.items():
                size = getattr(architecture, width)[index]
                if size:
                    groups[kind] = HardConcrete(size, drops[kind], config.temperature, generator)
            self.layers.append(groups)

    def groups(self) -> list[dict[str, HardConcrete]]:
        """Gate groups by kind, one dictionary per layer."""
        return [
            {kind: cast(HardConcrete, group) for kind, group in layer.items()}
            for layer in cast(Iterable[nn.ModuleDict], self.layers)
        ]

    def forward(self, offset: Tensor | float = 0.0) -> list[LayerGates]:
        """Gate values of every layer; call once per forward pass of the encoder."""
        return [
            LayerGates(**{kind: group(offset) for kind, group in layer.items()}) for layer in self.groups()
        ]

    def no_widths(self) -> list[dict[str, int]]:
        """Number of open gates per layer and kind if all were closed."""
        return [dict.fromkeys(layer, 0) for layer in self.groups()]

    def expected_widths(self) -> list[dict[str, Tensor]]:
        """Expected number of open gates per layer and kind (scalars with gradient)."""
        return [{kind: group.expected().sum() for kind, group in layer.items()} for layer in self.groups()]
