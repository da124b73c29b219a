"""`svkit prune`: gates under a sparsity constraint, guided by distillation, then the cut (arXiv 2510.04213).

The checkpoint that is written is already cut: its widths are in `config.json`, its sparsity is counted on it, and the
teacher's head and classifier are in place.
"""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from accelerate import Accelerator

from svkit.config.architecture import EncoderArchitecture, ModelArchitecture
from svkit.config.schema import PruneConfig
from svkit.data.dataset import CropDataset
from svkit.errors import ConfigError, TrainingError
from svkit.nn.encoder import LayerGates
from svkit.progress import Progress
from svkit.pruning.counting import encoder_parameters, expected_parameters, macs, sparsity
from svkit.pruning.cut import cut_architecture, cut_encoder
from svkit.pruning.gates import EncoderGates
from svkit.pruning.outcome import MAX_SHORTFALL, Outcome, vanished_kinds
from svkit.pruning.selection import TOLERANCE, select
from svkit.store import checkpoint
from svkit.store.provenance import read_provenance
from svkit.store.request import RunRequest
from svkit.training.schedule import paced
from svkit.training.stage import decisive, run_stages, training_inputs
from svkit.training.tasks import DistillationTask, PruningTask
from svkit.training.teacher import TeacherStage, checked, write_pruned
from svkit.training.validation import DistanceMeter


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneRequest(RunRequest):
    """A teacher, and how much of it to keep."""

    teacher: Path | None = None
    budget: str | None = None
    """`macs=6.3G`: MACs for 1 s of the whole model, instead of a sparsity."""
    allow: frozenset[str] = frozenset()
    """`unconverged`: cut even if the gates have not come near their target."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneResult:
    """The cut checkpoint and its exact counts."""

    checkpoint: Path
    sparsity: float
    encoder_parameters: int
    pruning: object
    """How the gates ended and what the cut changed, as in `provenance.json`."""


def run(request: PruneRequest, progress: Progress) -> PruneResult:
    """Prune and cut. Raises what `svkit.training.stage.run_stages` raises."""
    config = request.recipe.prune
    if unknown := sorted(request.allow - {"unconverged"}):
        raise ConfigError(f"--allow: expected unconverged, found {unknown[0]!r}")
    teacher = checked(request.teacher or request.exp / "finetune" / "joint", "teacher", "finetune")
    output = request.output(
        request.out or request.exp / "prune",
        "prune",
        decisive(request, prune=config, budget=request.budget),
        {**training_inputs(request), "teacher": teacher},
    )
    run_stages([PruneStage(request=request, output=output, config=config)], progress)
    architecture = checkpoint.read_architecture(output.path)
    return PruneResult(
        checkpoint=output.path,
        sparsity=sparsity(architecture.encoder, architecture.dense_encoder()),
        encoder_parameters=encoder_parameters(architecture.encoder),
        pruning=read_provenance(output.path).get("pruning", {}),
    )


class _Target(NamedTuple):
    """Upper limit on an exact count of the final structure."""

    cost: Callable[[EncoderArchitecture], int]
    limit: float


def parse_budget(budget: str) -> int:
    """Read `macs=6.3G` (also M, or a plain number); ConfigError otherwise."""
    match = re.fullmatch(r"macs=([0-9.]+)([GM]?)", budget)
    try:
        # The pattern lets 1.2.3 through, which float refuses.
        value = float(match[1]) * {"G": 1e9, "M": 1e6, "": 1.0}[match[2]] if match else 0.0
    except ValueError:
        value = 0.0
    if not 1 <= value <= 1e18:
        raise ConfigError(
            f"--budget: expected macs=NUMBER with G or M, such as macs=6.3G, found {budget[:80]!r}"
        )
    return int(value)


def _target(teacher: ModelArchitecture, config: PruneConfig, budget: str | None) -> _Target:
    if budget is None:
        limit = (1 - config.sparsity) * encoder_parameters(teacher.encoder)
        return _Target(cost=encoder_parameters, limit=limit)
    allowed, counts = parse_budget(budget), macs(teacher)
    total = f"{counts.total / 1e9:.3f} G"
    if allowed >= counts.total:
        raise TrainingError(
            f"--budget {budget}: the dense model takes only {total}, so nothing has to be removed; give less"
        )
    if allowed <= counts.head:
        raise TrainingError(
            f"--budget {budget}: pruning the encoder cannot meet it, because the speaker head alone takes"
            f" {counts.head / 1e9:.3f} G of the model's {total}; give more"
        )

    def cost(architecture: EncoderArchitecture) -> int:
        return macs(replace(teacher, encoder=architecture)).total

    return _Target(cost=cost, limit=allowed)


@dataclass(kw_only=True)
class PruneStage(TeacherStage):
    """Distillation of a gated copy of the teacher, and its cut."""

    request: PruneRequest
    config: PruneConfig
    task: PruningTask = field(init=False)

    def read(self, dataset: CropDataset, progress: Progress) -> None:
        """Read the teacher; TrainingError when no gates can meet the target."""
        super().read(dataset, progress)
        self.progress = progress
        dense = self.teacher.architecture.encoder
        self.target = _target(self.teacher.architecture, self.config, self.request.budget)
        self.gates = EncoderGates(dense, self.config, self.request.recipe.seed)
        # Untrained gates show already whether the target can be met with these blocks: fail before training.
        kept = cut_architecture(dense, self._select())
        if self.request.budget is not None:
            # Gates count parameters, the final choice MACs: aim at the parameters of a structure within the budget.
            self.config = replace(self.config, sparsity=sparsity(kept, dense))
        elif self.config.round_to > 1:
            self._check_sparsity(kept)
        # In the exact count a branch loses its norms with its last unit; the gates' expectation always has them.
        reachable = 1 - expected_parameters(dense, self.gates.no_widths()) / encoder_parameters(dense)
        self._check_converged(reachable, "closing all gates gives", "remove less")

    def make_task(self, accelerator: Accelerator, batch_size: int, num_steps: int) -> DistillationTask:
        """Make the task; the student starts as the teacher, gates open."""
        config = paced(self.config, num_steps)
        # Copied before the teacher's layers are packed: packed layers cannot be trained.
        student = copy.deepcopy(self.teacher.encoder)
        self.task = PruningTask(
            student, self.teacher.encoder, self.gates, config, config.sparsity_warmup_steps
        )
        return self.prepare(self.task, accelerator)

    def write(self, accelerator: Accelerator) -> dict[str, object]:
        """Cut by the learned gates, write what is left, and measure how far the cut moved its hidden states."""
        expected = float(self.task.expected_sparsity().detach())
        advice = "or keep the gates at the target (--set prune.constraint=projection)"
        if self.config.constraint == "projection":
            advice = "or let the target rise faster (--set prune.sparsity_warmup_fraction=0.4)"
        advice = f"train longer (--set prune.epochs=...), {advice}, each with --overwrite"
        self._check_converged(expected, "the gates ended at", advice)
        cut = cut_encoder(self.task.student, self._select())
        # Counted on the module that is written: the gates' expectation is not what a user gets.
        counted = self._check_sparsity(cut.architecture)
        dense = self.teacher.architecture.dense_encoder()
        write_pruned(self.output.path, self.output.inputs["teacher"], self.teacher, cut, dense)
        # Without held-out speakers, training crops do: this only has to show whether the cut changed anything.
        meter = self.meter or DistanceMeter(
            self.output.inputs["train"], self.config.data, self.request.recipe.seed
        )
        # Validation used the deterministic mask. If the cut does not equal the masked network, the distances differ.
        before = meter.measure(self.task, accelerator)
        after = meter.measure(
            DistillationTask(cut, self.teacher.encoder, self.config).to(accelerator.device), accelerator
        )
        outcome = Outcome(
            constraint=self.config.constraint,
            target=self.config.sparsity,
            expected=expected,
            counted=counted,
            before_cut=before,
            after_cut=after,
            vanished=vanished_kinds(cut.architecture, self.teacher.architecture.encoder),
        )
        for caution in outcome.cautions:
            self.progress.note(f"prune: caution: {caution}")
        return {
            "sparsity": counted,
            "encoder_parameters": encoder_parameters(cut.architecture),
            "distance_after_cut": after,
            "pruning": outcome.record(),
        }

    def _check_converged(self, reached: float, found: str, advice: str) -> None:
        """Raise TrainingError when the gates' expectation is far short of the target, unless that is allowed."""
        target = self.config.sparsity
        if target - reached > MAX_SHORTFALL and "unconverged" not in self.request.allow:
            raise TrainingError(
                f"prune: expected sparsity {target:.3f}, {found} {reached:.3f}, so the cut would remove "
                "units that training has not prepared for it;"
                f" {advice}; `--allow unconverged` cuts anyway and records the exception"
            )

    def _select(self) -> list[LayerGates]:
        """Choose what is kept, so that the exact count meets the target; the gates' expectation only comes near it."""
        dense, target = self.teacher.architecture.encoder, self.target
        return select(self.gates, dense, target.cost, target.limit, self.config.round_to)

    def _check_sparsity(self, kept: EncoderArchitecture) -> float:
        """Return the counted sparsity; TrainingError when it lies outside the promised range."""
        reached, wanted = sparsity(kept, self.teacher.architecture.encoder), self.config.sparsity
        if self.request.budget is None and not wanted <= reached <= wanted + TOLERANCE:
            units = "the units of this encoder are too coarse for it; choose another sparsity"
            if (block := self.config.round_to) > 1:
                units = f"blocks of --round-to {block} are too coarse for this encoder; use a smaller number"
            raise TrainingError(
                f"sparsity target missed: expected {wanted:.3f} to {wanted + TOLERANCE:.3f}, counted {reached:.4f};"
                f" {units}"
            )
        return reached
