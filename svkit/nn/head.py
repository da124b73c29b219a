"""The speaker head: hidden states -> layer adapters -> MFA -> pooling over time -> embedding.

As published (arXiv 2510.04213, section 3.1) unless `HeadConfig` says otherwise; the other forms exist for comparison.
"""

from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional

from svkit.config.architecture import ModelArchitecture
from svkit.nn.pooling import AttentiveStatisticsPooling, StatisticsPooling


class LayerAdapter(nn.Module):
    """[B, T, D] -> [B, T, A]: Linear - LayerNorm - ReLU - Linear."""

    def __init__(self, hidden_size: int, adapter_dim: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, adapter_dim)
        self.norm = nn.LayerNorm(adapter_dim)
        self.out = nn.Linear(adapter_dim, adapter_dim)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Adapt one hidden state."""
        return self.out(functional.relu(self.norm(self.down(hidden_BTD))))


class SpeakerHead(nn.Module):
    """Hidden states -> embedding. MFA concatenates the outputs of the layer adapters, one per hidden state."""

    def __init__(self, architecture: ModelArchitecture) -> None:
        super().__init__()
        head, hidden_size = architecture.head, architecture.encoder.hidden_size
        self.states, channels = architecture.states, architecture.channels
        self.layer_adapters = nn.ModuleList(
            LayerAdapter(hidden_size, head.adapter_dim) if head.layer_adapters else nn.Identity()
            for _ in self.states
        )
        self.state_weights = (
            nn.Parameter(torch.zeros(len(self.states))) if head.aggregation == "sum" else None
        )
        self.pooling: nn.Module = StatisticsPooling()
        if num_weights := architecture.attention_weights:
            self.pooling = AttentiveStatisticsPooling(channels, head.attention_dim, num_weights)
        self.embedding = nn.Linear(2 * channels, head.embedding_dim)

    def forward(self, states: Iterable[Tensor], num_frames_B: Tensor | None) -> Tensor:
        """Adapt each hidden state as it appears, pool over time (MFA, ASP) and project: [B, embedding_dim]."""
        adapters = dict(zip(self.states, self.layer_adapters, strict=True))
        # States are computed when they are asked for: a head without the upper states saves their layers.
        wanted = enumerate(islice(states, self.states[-1] + 1))
        adapted = [adapters[index](state) for index, state in wanted if index in adapters]
        if self.state_weights is None:
            pooled = self.pooling(torch.cat(adapted, dim=-1), num_frames_B)
        else:
            shares = torch.softmax(self.state_weights.float(), dim=0).to(adapted[0].dtype)
            total = sum(share * state for share, state in zip(shares, adapted, strict=True))
            pooled = self.pooling(total, num_frames_B)
        return self.embedding(pooled.to(adapted[0].dtype)).float()
