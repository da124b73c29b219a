"""Small random models for exactness tests: at default initialisation most mistakes would stay below any tolerance."""

import math
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from svkit.config.architecture import EncoderArchitecture
from svkit.nn.encoder import Encoder, LayerGates
from svkit.pruning.gates import HardConcrete

SEEDS = st.integers(0, 2**31 - 1)


def draw_weights(module: nn.Module, seed: int) -> None:
    """Draw weights with std 1 / sqrt(fan_in), embeddings with std 1, and perturb norms, biases and statistics."""
    generator = torch.Generator().manual_seed(seed)
    norms = (nn.LayerNorm, nn.BatchNorm1d)
    owners = {id(p): owner for owner in module.modules() for p in owner.parameters(recurse=False)}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            owner = owners[id(parameter)]
            if isinstance(owner, nn.Embedding):
                parameter.copy_(noise)
            elif parameter.ndim >= 2:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            else:
                parameter.copy_(
                    (1.0 if isinstance(owner, norms) and name.endswith("weight") else 0.0) + 0.3 * noise
                )
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what was expected."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


@st.composite
def architectures(draw: Any, *, max_width: int = 24, with_absent: bool = False) -> EncoderArchitecture:
    """Encoders of 1 to 3 layers with a width of its own in every layer; 0 is an absent branch."""
    num_layers = draw(st.integers(1, 3))
    head_size = draw(st.integers(1, 6))
    smallest = 0 if with_absent else 1

    def widths(largest: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(smallest, largest)) for _ in range(num_layers))

    return EncoderArchitecture(
        hidden_size=draw(st.integers(6, 20)),
        head_size=head_size,
        num_heads=widths(4),
        ffn1_dim=widths(max_width),
        ffn2_dim=widths(max_width),
        conv_dim=widths(max_width),
        feature_dim=draw(st.integers(2, 12)),
        conv_kernel_size=draw(st.integers(1, 7)),
        left_positions=draw(st.integers(0, 9)),
        right_positions=draw(st.integers(0, 4)),
    )


def random_encoder(architecture: EncoderArchitecture, seed: int) -> Encoder:
    """Build an encoder in evaluation mode."""
    encoder = Encoder(architecture).eval()
    draw_weights(encoder, seed)
    return encoder


def random_gates(
    architecture: EncoderArchitecture, kinds: set[str], drop: float, seed: int
) -> list[LayerGates]:
    """Draw soft gate values in [0.05, 1] for some kinds, of which about `drop` are 0 (of 1: all)."""
    generator = torch.Generator().manual_seed(seed)

    def values(size: int) -> Tensor:
        soft = 0.05 + 0.95 * torch.rand(size, generator=generator)
        return soft * (torch.rand(size, generator=generator) >= drop)

    sizes = {
        "heads": architecture.num_heads,
        "ffn1": architecture.ffn1_dim,
        "ffn2": architecture.ffn2_dim,
        "conv": architecture.conv_dim,
    }
    return [
        LayerGates(**{kind: values(sizes[kind][index]) for kind in sorted(kinds) if sizes[kind][index]})
        for index in range(architecture.num_layers)
    ]


def watch_draws(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the identity of a group of gates whenever it is drawn."""
    drawn: list[int] = []
    original = HardConcrete.sample

    def watched(self: HardConcrete, offset: Tensor | float = 0.0) -> Tensor:
        drawn.append(id(self))
        return original(self, offset)

    monkeypatch.setattr(HardConcrete, "sample", watched)
    return drawn
