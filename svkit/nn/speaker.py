"""The speaker model: waveform -> features -> encoder -> layer adapters -> MFA -> ASP -> embedding.

Paper: arXiv 2510.04213. In a padded batch, every utterance gets the embedding it would get alone: the features are
normalised over its real samples, padded keys are masked, the convolution is causal, and ASP gives padded frames no
weight.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from svkit.audio.features import FeatureExtractor
from svkit.config.architecture import ModelArchitecture
from svkit.nn.encoder import Encoder
from svkit.nn.head import SpeakerHead


class SpeakerNetwork(nn.Module):
    """The whole model; `svkit.SpeakerModel` adds loading and embedding of arrays."""

    def __init__(self, architecture: ModelArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.features = FeatureExtractor()
        self.encoder = Encoder(architecture.encoder)
        self.head = SpeakerHead(architecture)

    def embed_features(self, features_BTF: Tensor, num_frames_B: Tensor | None = None) -> Tensor:
        """Embed features; hidden states are consumed one by one, so that inference need not hold all of them."""
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
