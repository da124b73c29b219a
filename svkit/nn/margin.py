"""ArcFace: additive angular margin softmax (Deng et al. 2019), easy margin off, over all or a sample of the classes.

Shapes: B batch, E embedding, S classes (speakers times speeds), A classes of one step.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from svkit.config.schema import MarginConfig
from svkit.nn.pooling import world_size

_SINE_SQUARED_FLOOR = 1e-12
"""Smallest 1 - cos^2: the derivative of its square root is infinite at cos = 1."""


def arcface_logits(cosine_BS: Tensor, labels_B: Tensor, scale: float, margin: float) -> Tensor:
    """Add the margin to the angle of the true class and scale.

    Past theta = pi - margin, where cos(theta + margin) would rise again, the target's cosine continues as
    cos(theta) - sin(margin) * margin.

    Returns:
        Logits [B, S] for a cross-entropy, from float32 cosines and a margin in radians.
    """
    target = cosine_BS.gather(1, labels_B[:, None])
    sine = (1 - target.square()).clamp(min=_SINE_SQUARED_FLOOR).sqrt()
    shifted = target * math.cos(margin) - sine * math.sin(margin)
    shifted = torch.where(target > math.cos(math.pi - margin), shifted, target - math.sin(margin) * margin)
    return scale * cosine_BS.scatter(1, labels_B[:, None], shifted)


class ArcFaceClassifier(nn.Module):
    """Class weights of the margin softmax, one row per class."""

    def __init__(self, embedding_dim: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_dim))
        nn.init.xavier_normal_(self.weight)

    def choose(self, labels_B: Tensor, step: int) -> Tensor:
        """Choose the classes of a training step, here all of them; returns the labels' places in them, [B]."""
        return labels_B

    def attach(self, optimizer: torch.optim.AdamW) -> None:
        """Register hooks around the steps of an optimiser; none are needed here."""

    def rows(self) -> Tensor:
        """Weights of the chosen classes."""
        return self.weight

    def forward(self, embeddings_BE: Tensor) -> Tensor:
        """Cosine of every embedding with every chosen class, [B, A] float32."""
        with torch.autocast(device_type=embeddings_BE.device.type, enabled=False):
            return functional.linear(
                functional.normalize(embeddings_BE.float()), functional.normalize(self.rows().float())
            )


class SampledClassifier(ArcFaceClassifier):
    """A step's softmax over the batch's own classes and a uniform draw of the others (An et al. 2021, 2022).

    `weight` holds all classes and gets no gradient. `active` holds the step's classes: `choose` copies them in, the
    optimiser updates them, and they are written back with their AdamW moments (`attach`). So logits, gradients and
    the exchange between processes have the size of the draw, and a class that was not drawn keeps weight and moments
    as they are: neither momentum nor weight decay moves it. The draw depends on (seed, step) and on the labels of
    all processes, so every process has the same one, and a resumed run repeats it.

    AdamW's bias correction counts the steps of the run, not those in which a class was drawn.
    """

    def __init__(self, embedding_dim: int, num_classes: int, num_sampled: int, seed: int) -> None:
        """Draw the weights of all classes; `num_sampled` is at least the number of different ones in a global batch."""
        assert 0 < num_sampled <= num_classes
        super().__init__(embedding_dim, num_classes)
        # A buffer: it changes although no gradient reaches it, so it is saved with what is trained.
        weight = self.weight.detach()
        del self.weight
        self.register_buffer("weight", weight)
        self.active = nn.Parameter(self.weight[:num_sampled].clone())
        self.seed = seed
        self._chosen = torch.arange(num_sampled)

    def choose(self, labels_B: Tensor, step: int) -> Tensor:
        """Draw the classes of a training step; in evaluation mode, all of them."""
        if not self.training:
            return labels_B
        priority = np.random.default_rng([self.seed, step]).random(len(self.weight))
        priority[_labels_of_all(labels_B).cpu().numpy()] = -1.0
        num_sampled = len(self.active)
        # Sorted, because `searchsorted` has to find the labels in it.
        drawn = np.sort(np.argpartition(priority, num_sampled - 1)[:num_sampled])
        self._chosen = torch.from_numpy(drawn).to(labels_B.device)
        with torch.no_grad():
            # Into the same parameter, because the optimiser refers to this object.
            torch.index_select(self.weight, 0, self._chosen, out=self.active)
        return torch.searchsorted(self._chosen, labels_B)

    def rows(self) -> Tensor:
        """Weights of the drawn classes; of all in evaluation mode."""
        return self.active if self.training else self.weight

    def attach(self, optimizer: torch.optim.AdamW) -> None:
        """Let an optimiser over `active` update the drawn classes, each with its own moments.

        The moments of all classes are in the optimiser's state, so they are saved and resumed with it.
        """
        optimizer.register_step_pre_hook(self._load_moments)
        optimizer.register_step_post_hook(self._write_back)

    def _load_moments(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        state = optimizer.state[self.active]
        for name in _MOMENTS if state else ():  # AdamW has none before its first step
            torch.index_select(state[_ALL + name], 0, self._chosen, out=state[name])

    @torch.no_grad()
    def _write_back(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        state = optimizer.state[self.active]
        self.weight[self._chosen] = self.active
        for name in _MOMENTS:
            if _ALL + name not in state:
                state[_ALL + name] = torch.zeros_like(self.weight)
            state[_ALL + name][self._chosen] = state[name]


_MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter, except for its step."""
_ALL = "all_classes_"
"""Prefix of a moment's name for the moments of all classes, [S, E]."""


def _labels_of_all(labels_B: Tensor) -> Tensor:
    """Labels of the batches of all processes; the batches have equal sizes."""
    if world_size() == 1:
        return labels_B
    parts = [torch.empty_like(labels_B) for _ in range(world_size())]
    distributed.all_gather(parts, labels_B)
    return torch.cat(parts)


def make_classifier(
    embedding_dim: int, num_classes: int, config: MarginConfig, *, batch_size: int, seed: int
) -> ArcFaceClassifier:
    """Make the classifier of a recipe.

    A step's softmax runs over `config.class_fraction` of the classes (1: all of them, exactly), but at least as many
    as `batch_size`, the examples of a step over all processes.
    """
    num_sampled = max(math.ceil(config.class_fraction * num_classes), min(batch_size, num_classes))
    classifier = (
        ArcFaceClassifier(embedding_dim, num_classes)
        if num_sampled >= num_classes
        else SampledClassifier(embedding_dim, num_classes, num_sampled, seed)
    )
    if config.uniform_start:
        # A class then has a norm near sqrt(E / S), 0.7 of Xavier's: AdamW turns a shorter vector farther in a step.
        nn.init.uniform_(classifier.weight, -1, 1)
        classifier.weight.data = functional.normalize(classifier.weight.data, dim=0)
    return classifier
