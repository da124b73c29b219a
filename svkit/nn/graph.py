"""The speaker model as `svkit export` writes it: padded waveforms and their lengths in, embeddings out."""

import torch
from torch import Tensor, nn

from svkit.audio.graph_features import GraphFeatures
from svkit.nn.speaker import SpeakerNetwork


class GraphNetwork(nn.Module):
    """A `SpeakerNetwork` that computes its features by operations ONNX has; shares (and may convert) its modules.

    In float16, features, batch norm, softmax and statistics stay in float32, as under autocast.
    """

    def __init__(self, network: SpeakerNetwork, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.features = GraphFeatures()
        self.network = network.eval().to(dtype)
        for module in network.head.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.float()
        self.dtype = dtype

    def forward(self, waveforms: Tensor, num_samples: Tensor) -> Tensor:
        """Embed a batch.

        Args:
            waveforms: [B, N] float32, 16 kHz, in [-1, 1], padded on the right.
            num_samples: [B] int64, real samples of each, at least 560.

        Returns:
            [B, embedding_dim] float32, not length-normalised.
        """
        features, num_frames_B = self.features(waveforms, num_samples)
        return self.network.embed_features(features.to(self.dtype), num_frames_B)
