"""The speaker model: waveform -> features -> encoder -> layer adapters -> MFA -> ASP -> embedding.

Paper: arXiv 2510.04213. A padded batch gives every utterance the embedding it has alone: the features
are normalised over its real samples, padded keys are masked, the convolution is causal, and ASP gives padded frames no
weight.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from svkit.audio.features import FeatureExtractor
from svkit.config.architecture import ModelArchitecture
from svkit.nn.encoder import Encoder
from svkit.nn.pooling import AttentiveStatisticsPooling


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
    """Hidden states -> embedding. MFA is the concatenation of one layer adapter's output a state."""

    def __init__(self, architecture: ModelArchitecture) -> None:
        super().__init__()
        head, encoder = architecture.head, architecture.encoder
        num_states = encoder.num_layers + 1
        self.layer_adapters = nn.ModuleList(
            LayerAdapter(encoder.hidden_size, head.adapter_dim) for _ in range(num_states)
        )
        self.pooling = AttentiveStatisticsPooling(num_states * head.adapter_dim, head.attention_dim)
        self.embedding = nn.Linear(2 * num_states * head.adapter_dim, head.embedding_dim)

    def forward(self, states: Iterable[Tensor], num_frames_B: Tensor | None) -> Tensor:
        """Adapt each hidden state as it appears, pool over time (MFA, ASP) and project: [B, embedding_dim]."""
        adapted = [adapter(state) for adapter, state in zip(self.layer_adapters, states, strict=True)]
        pooled = self.pooling(torch.cat(adapted, dim=-1), num_frames_B)
        return self.embedding(pooled.to(adapted[0].dtype)).float()


class SpeakerNetwork(nn.Module):
    """The whole model; `svkit.SpeakerModel` adds loading and embedding of arrays."""

    def __init__(self, architecture: ModelArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.features = FeatureExtractor()
        self.encoder = Encoder(architecture.encoder)
        self.head = SpeakerHead(architecture)

    def embed_features(self, features_BTF: Tensor, num_frames_B: Tensor | None = None) -> Tensor:
        """Embed features; no list of states is held at inference."""
        return self.head(self.encoder.states(features_BTF, num_frames_B), num_frames_B)

    def embed_padded(self, waveforms: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Embed 16 kHz waveforms `[N]` as one padded batch on the model's device: float32 `[B, embedding_dim]`."""
        device = next(self.parameters()).device
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        batch = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(w) for w in waveforms], batch_first=True)
        is_padded = bool((lengths != lengths[0]).any())
        embeddings: Tensor = self(batch.to(device), lengths.to(device) if is_padded else None)
        return embeddings.float().cpu().numpy()

    def forward(self, waveforms_BN: Tensor, num_samples_B: Tensor | None = None) -> Tensor:
        """Embed a batch of waveforms.

        Args:
            waveforms_BN: 16 kHz audio in [-1, 1], padded on the right.
            num_samples_B: real samples of each; None when there is no padding.

        Returns:
            Embeddings [B, embedding_dim] float32, not length-normalised.
        """
        features, num_frames_B = self.features(waveforms_BN, num_samples_B)
        return self.embed_features(features, num_frames_B)
