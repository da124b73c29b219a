"""What a training step computes: classification, distillation, pruning. A task is a module that returns losses.

Each task names its parameter groups (with the learning rate and weight decay of each) and the modules whose gradients
are clipped separately, as published: speaker model, classifier, multipliers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from svkit.audio.features import FeatureExtractor, spec_augment
from svkit.config.schema import AugmentConfig, DistillConfig, MarginConfig, OptimConfig, PruneConfig
from svkit.nn import inference
from svkit.nn.encoder import Encoder, LayerGates
from svkit.nn.margin import ArcFaceClassifier, arcface_logits
from svkit.nn.speaker import SpeakerNetwork
from svkit.pruning.counting import encoder_parameters, expected_parameters, unit_costs
from svkit.pruning.gates import EncoderGates
from svkit.pruning.lagrangian import SparsityConstraint, target_sparsity
from svkit.pruning.projection import Projection

Losses = dict[str, Tensor]
"""`loss` (to be differentiated) and detached scalars to log."""


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that receive gradients."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def draw_apart(part: int) -> None:
    """Make the draws from here on differ between the parts of a batch; up to here, all parts draw the same."""
    if part:
        torch.manual_seed(torch.initial_seed() + part)


class Task(nn.Module):
    """What the loop trains: the losses of a batch, and how the parameters are treated."""

    def forward(self, waveforms_BN: Tensor, labels_B: Tensor, step: int, part: int = 0) -> Losses:
        """Losses of a part of a step's batch; `choose` has mapped the labels, for the whole batch."""
        raise NotImplementedError

    def choose(self, labels_B: Tensor, step: int) -> Tensor:
        """Choose the classes that the parts of a batch with these labels share; returns the labels' places in them."""
        return labels_B

    def parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """Groups for AdamW; `lr_factor` multiplies the scheduled rate."""
        raise NotImplementedError

    def clip_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Parameters whose gradient norm is limited together, by the name their norm is logged under."""
        raise NotImplementedError

    def attach(self, optimizer: torch.optim.AdamW) -> None:
        """Register hooks that run before or after the steps of the optimiser of these groups."""

    def trained_state(self) -> dict[str, Tensor]:
        """Return the state without frozen parameters; a resumed run reads those from their source again."""
        frozen = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        return {name: tensor for name, tensor in self.state_dict().items() if name not in frozen}


class ClassificationTask(Task):
    """ArcFace over the training speakers."""

    def __init__(
        self,
        network: SpeakerNetwork,
        classifier: ArcFaceClassifier,
        margin: MarginConfig,
        augment: AugmentConfig | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.classifier = classifier
        self.margin = margin
        self.augment = augment

    def choose(self, labels_B: Tensor, step: int) -> Tensor:
        """Choose the classes of a step; returns the labels' places in them."""
        return self.classifier.choose(labels_B, step)

    def forward(self, waveforms_BN: Tensor, labels_B: Tensor, step: int, part: int = 0) -> Losses:
        """Cross-entropy of the margin logits over the step's classes; accuracy is measured without the margin."""
        draw_apart(part)
        features, _ = self.network.features(waveforms_BN)
        augment = self.augment
        if augment is not None and (augment.spec_time_masks or augment.spec_frequency_masks):
            features = spec_augment(
                features,
                time_masks=augment.spec_time_masks,
                time_frames=augment.spec_time_frames,
                frequency_masks=augment.spec_frequency_masks,
                frequency_bins=augment.spec_frequency_bins,
            )
        cosine = self.classifier(self.network.embed_features(features))
        logits = arcface_logits(cosine, labels_B, self.margin.scale, self.margin.margin)
        accuracy = (cosine.argmax(1) == labels_B).float().mean()
        return {"loss": functional.cross_entropy(logits, labels_B), "accuracy": accuracy.detach()}

    def parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """Encoder, and head with classifier; weight decay is the same for all parameters, as published."""
        encoder, head = trainable(self.network.encoder), trainable(self.network.head)
        groups = [
            {"params": encoder, "lr_factor": optim.encoder_lr_factor},
            {"params": head + trainable(self.classifier), "lr_factor": 1.0},
        ]
        return [group | {"weight_decay": optim.weight_decay} for group in groups if group["params"]]

    def attach(self, optimizer: torch.optim.AdamW) -> None:
        """Let a classifier that draws its classes update the drawn ones."""
        self.classifier.attach(optimizer)

    def clip_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Speaker model, and classifier."""
        return {"model": trainable(self.network), "classifier": trainable(self.classifier)}


def distillation_losses(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Distance between hidden states [B, T, D], over the projection output and every layer (arXiv 2510.04213).

    Returns:
        mean |h_s - h_t| and mean cos(h_s, h_t), float32 scalars.
    """
    l1, cosine = [], []
    for state, target in zip(student, teacher, strict=True):
        state, target = state.float(), target.float()
        l1.append(functional.l1_loss(state, target))
        cosine.append(functional.cosine_similarity(state, target, dim=-1).mean())
    return torch.stack(l1).mean(), torch.stack(cosine).mean()


class DistillationTask(Task):
    """The student's hidden states follow the frozen teacher's."""

    def __init__(self, student: Encoder, teacher: Encoder, config: DistillConfig) -> None:
        super().__init__()
        self.features = FeatureExtractor()
        self.student = student
        self.config = config
        # In a tuple: not a submodule, so it is neither wrapped, saved nor set to training mode.
        self._teacher = (teacher.eval().requires_grad_(False),)

    def _apply(self, fn: Any, recurse: bool = True) -> "DistillationTask":
        # Moving the task has to move the teacher too; torch does not know about it.
        self._teacher[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def prepare_teacher(self, dtype: torch.dtype) -> None:
        """Cast the teacher's linear layers once, on the device where the teacher stays."""
        inference.prepare(self._teacher[0], dtype)

    def draw_gates(self) -> Sequence[LayerGates] | None:
        """Draw the gates of the student; None if it has none."""
        return None

    def distance(self, waveforms_BN: Tensor, part: int = 0) -> Losses:
        """Distillation losses; in evaluation mode, gates have their deterministic values."""
        features, _ = self.features(waveforms_BN)
        with torch.no_grad():
            targets = self._teacher[0](features)
        # Gates before `draw_apart`: a step has one draw of them, whatever the number of its parts.
        gates = self.draw_gates()
        draw_apart(part)
        l1, cosine = distillation_losses(self.student(features, gates=gates), targets)
        loss = self.config.l1_weight * l1 - self.config.cosine_weight * cosine
        return {"loss": loss, "l1": l1.detach(), "cosine": cosine.detach()}

    def forward(self, waveforms_BN: Tensor, labels_B: Tensor, step: int, part: int = 0) -> Losses:
        """Distillation losses; labels are not used."""
        return self.distance(waveforms_BN, part)

    def parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """One group: the student."""
        return [{"params": trainable(self.student), "lr_factor": 1.0, "weight_decay": optim.weight_decay}]

    def clip_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """The student."""
        return {"model": trainable(self.student)}


class PruningTask(DistillationTask):
    """Distillation of a gated student under the sparsity constraint."""

    config: PruneConfig

    def __init__(
        self, student: Encoder, teacher: Encoder, gates: EncoderGates, config: PruneConfig, warmup_steps: int
    ) -> None:
        super().__init__(student, teacher, config)
        self.gates = gates
        self.projection, self.constraint = None, None
        if config.constraint == "projection":
            self.projection = Projection(gates, student.architecture)
        else:
            self.constraint = SparsityConstraint()
        self.warmup_steps = warmup_steps
        self.step = 0
        self.teacher_parameters = encoder_parameters(teacher.architecture)

    def draw_gates(self) -> Sequence[LayerGates]:
        """Draw every gate once."""
        offset = self.projection.offset() if self.training and self.projection else 0.0
        drawn: Sequence[LayerGates] = self.gates(offset)
        return drawn

    def expected_sparsity(self) -> Tensor:
        """1 - expected parameters / the teacher's."""
        expected = expected_parameters(self.student.architecture, self.gates.expected_widths())
        return 1 - expected / self.teacher_parameters

    def counted_sparsity(self) -> Tensor:
        """The same for the deterministic mask, in which branches without an open unit are absent."""
        architecture, costs = self.student.architecture, unit_costs(self.student.architecture)
        counts = [
            {kind: width.detach().round() for kind, width in layer.items()}
            for layer in self.gates.expected_widths()
        ]
        absent = sum((count == 0) * costs[kind].fixed for layer in counts for kind, count in layer.items())
        return 1 - (expected_parameters(architecture, counts) - absent) / self.teacher_parameters

    def target(self, step: int) -> float:
        """Target sparsity at a step; the Lagrangian takes that of the next step, as published."""
        step += self.constraint is not None
        return target_sparsity(step, self.config.sparsity, self.warmup_steps)

    def forward(self, waveforms_BN: Tensor, labels_B: Tensor, step: int, part: int = 0) -> Losses:
        """Distillation losses, plus the Lagrangian if that is the constraint."""
        self.step = step  # for the projection, which runs after the step of the optimiser (`attach`)
        losses = self.distance(waveforms_BN, part)
        # The constraint sees expectations, not this step's draw: its gradient has no sampling noise.
        target = self.target(step)
        expected = self.expected_sparsity()
        losses["sparsity"] = expected.detach()
        losses["counted_sparsity"] = self.counted_sparsity()
        losses["target_sparsity"] = torch.full_like(losses["sparsity"], target)
        if self.constraint is not None:
            losses["loss"] = losses["loss"] + self.constraint(expected, target)
            losses["lambda1"] = self.constraint.lambda1.detach().clone()
            losses["lambda2"] = self.constraint.lambda2.detach().clone()
        return losses

    def attach(self, optimizer: torch.optim.AdamW) -> None:
        """After every step of the optimiser, make the gates meet the target of the next step."""
        if (projection := self.projection) is not None:
            optimizer.register_step_post_hook(lambda *_: projection.project(self.target(self.step + 1)))

    def parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """Weights, gates at their own rate, and multipliers, which ascend at the rate of the gates."""
        # Weight decay would pull the gates to an even chance and the multipliers to 0, whatever the target.
        no_decay = {"weight_decay": 0.0, "lr_factor": self.config.gate_lr / optim.lr}
        groups = [*super().parameter_groups(optim), {"params": list(self.gates.parameters()), **no_decay}]
        if self.constraint is not None:
            groups.append({"params": list(self.constraint.parameters()), "maximize": True, **no_decay})
        return groups

    def clip_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Student with gates, and multipliers."""
        multipliers = [] if self.constraint is None else list(self.constraint.parameters())
        return {"model": trainable(self.student) + list(self.gates.parameters()), "multipliers": multipliers}
