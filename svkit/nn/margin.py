"""ArcFace: additive angular margin softmax (Deng et al. 2019), easy margin off."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_SINE_SQUARED_FLOOR = 1e-12
"""The derivative of sqrt(1 - cos^2) is infinite at cos = 1; below this floor it is cut off."""


def arcface_logits(cosine_BS: Tensor, labels_B: Tensor, scale: float, margin: float) -> Tensor:
    """Add the margin to the angle of the true class and scale.

    Past theta = pi - margin, where cos(theta + margin) would rise again, the target's cosine continues as
    cos(theta) - sin(margin) * margin.

    Args:
        cosine_BS: cosines between embeddings and class weights, float32.
        labels_B: class indices.
        scale: s.
        margin: m in radians.

    Returns:
        Logits [B, S] for a cross-entropy.
    """
    target = cosine_BS.gather(1, labels_B[:, None])
    sine = (1 - target.square()).clamp(min=_SINE_SQUARED_FLOOR).sqrt()
    shifted = target * math.cos(margin) - sine * math.sin(margin)
    shifted = torch.where(target > math.cos(math.pi - margin), shifted, target - math.sin(margin) * margin)
    return scale * cosine_BS.scatter(1, labels_B[:, None], shifted)


class ArcFaceClassifier(nn.Module):
    """Class weights of the margin softmax, one row a class."""

    def __init__(self, embedding_dim: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_dim))
        nn.init.xavier_normal_(self.weight)

    def forward(self, embeddings_BE: Tensor) -> Tensor:
        """Cosine of every embedding with every class, [B, S] float32."""
        with torch.autocast(device_type=embeddings_BE.device.type, enabled=False):
            return functional.linear(
                functional.normalize(embeddings_BE.float()), functional.normalize(self.weight.float())
            )
