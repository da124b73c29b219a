"""What a step computes: classification, distillation, pruning."""

import copy
import json

import pytest
import torch

from svkit.config.architecture import EncoderArchitecture, ModelArchitecture
from svkit.config.schema import (
    AugmentConfig,
    DistillConfig,
    HeadConfig,
    LoraConfig,
    MarginConfig,
    OptimConfig,
    PruneConfig,
)
from svkit.nn import lora
from svkit.nn.encoder import Encoder
from svkit.nn.margin import ArcFaceClassifier
from svkit.nn.speaker import SpeakerNetwork
from svkit.pruning.counting import encoder_parameters
from svkit.pruning.gates import EncoderGates
from svkit.training.loop import LoopPlan, make_optimizer, run_loop
from svkit.training.tasks import (
    ClassificationTask,
    DistillationTask,
    PruningTask,
    distillation_losses,
    trainable,
)
from tests.random_models import draw_weights, random_encoder, relative_error, watch_draws
from tests.training.conftest import Recorder

ENCODER = EncoderArchitecture.uniform(num_layers=2, hidden_size=12, num_heads=3, ffn_dim=20)
MODEL = ModelArchitecture(encoder=ENCODER, head=HeadConfig(adapter_dim=6, attention_dim=5, embedding_dim=7))
LABELS = torch.tensor([0, 1, 2, 0])


def waves(seed: int = 0, num_samples: int = 3200) -> torch.Tensor:
    return 0.1 * torch.randn((4, num_samples), generator=torch.Generator().manual_seed(seed))


def classification(augment: AugmentConfig | None = None) -> ClassificationTask:
    network = SpeakerNetwork(MODEL)
    draw_weights(network, 1)
    classifier = ArcFaceClassifier(7, 3)
    draw_weights(classifier, 2)
    return ClassificationTask(network, classifier, MarginConfig(), augment)


def pruning(config: PruneConfig | None = None, warmup_steps: int = 10) -> PruningTask:
    teacher = random_encoder(ENCODER, 3)
    config = config or PruneConfig()
    return PruningTask(
        copy.deepcopy(teacher), teacher, EncoderGates(ENCODER, config, 0), config, warmup_steps
    )


def train(task, accelerator, num_steps: int, optim: OptimConfig, **changes) -> Recorder:
    recorder = changes.pop("recorder", Recorder())
    batches = ((waves(step), LABELS) for step in range(num_steps))
    plan = LoopPlan(
        num_steps=num_steps, steps_per_epoch=num_steps, seed=5, optim=optim, validate_after=(), save_every=10**6,
        log_every=1,
    )  # fmt: skip
    if changes:
        plan = LoopPlan(**{**{name: getattr(plan, name) for name in plan.__slots__}, **changes})
    run_loop(task, make_optimizer(task, optim), batches, plan, accelerator, recorder)
    return recorder


def test_loss_falls_when_overfitting_a_few_utterances(accelerator):
    task, recorder = classification(), Recorder()
    plan = LoopPlan(
        num_steps=40, steps_per_epoch=40, seed=5, optim=OptimConfig(lr=3e-3, schedule="constant"), validate_after=(),
        save_every=10**6, log_every=1,
    )  # fmt: skip
    run_loop(task, make_optimizer(task, plan.optim), [(waves(), LABELS)] * 40, plan, accelerator, recorder)
    losses = recorder.column("loss")
    assert losses[-1] < 0.1 * losses[0] and recorder.column("accuracy")[-1] == 1.0


@pytest.mark.parametrize("kind", ["classification", "pruning"])
def test_two_runs_with_a_seed_give_identical_losses(accelerator, kind):
    def run() -> list[float]:
        task = classification(AugmentConfig(spec_time_masks=1)) if kind == "classification" else pruning()
        (task.network.encoder if kind == "classification" else task.student).set_conv_dropout(0.1)
        return train(task, accelerator, 4, OptimConfig(lr=1e-3, schedule="constant")).column("loss")

    first, second = run(), run()
    assert first == second and len(set(first)) == 4


def test_accuracy_is_measured_without_the_margin():
    task = classification().eval()
    with torch.no_grad():
        cosine = task.classifier(task.network(waves()))
        losses = task(waves(), cosine.argmax(1), 0)
        wrong = task(waves(), (cosine.argmax(1) + 1) % 3, 0)
    assert float(losses["accuracy"]) == 1.0 and float(wrong["accuracy"]) == 0.0


def test_spec_augment_acts_in_training_data_only_where_it_is_asked_for():
    plain, masked = classification(), classification(AugmentConfig(spec_time_masks=2, spec_time_frames=5))
    torch.manual_seed(0)
    a = plain(waves(), LABELS, 0)["loss"]
    torch.manual_seed(0)
    b = masked(waves(), LABELS, 0)["loss"]
    assert a.item() != b.item()
    assert classification(AugmentConfig())(waves(), LABELS, 0)["loss"].item() == a.item()


def test_parameter_groups_of_classification_cover_what_is_trained():
    task = classification()
    optim = OptimConfig(encoder_lr_factor=0.25, weight_decay=1e-4)
    groups = task.parameter_groups(optim)
    assert [group["lr_factor"] for group in groups] == [0.25, 1.0]
    # The published AdamW decays every parameter alike: biases and norms too.
    assert [group["weight_decay"] for group in groups] == [1e-4, 1e-4]
    clips = task.clip_groups()
    assert list(clips) == ["model", "classifier"] and len(clips["classifier"]) == 1
    assert len(clips["model"]) == len(list(task.network.parameters()))
    task.network.encoder.requires_grad_(False)
    assert len(task.parameter_groups(optim)) == 1
    make_optimizer(task, optim)


def test_lora_trains_lora_head_and_classifier():
    task = classification()
    lora.attach(task.network.encoder, LoraConfig(rank=2))
    groups = task.parameter_groups(OptimConfig())
    assert len(groups[0]["params"]) == 2 * 2 * 2
    make_optimizer(task, OptimConfig())


def test_distillation_losses_are_means_over_states():
    generator = torch.Generator().manual_seed(0)
    student, teacher = ([torch.randn((2, 5, 4), generator=generator) for _ in range(3)] for _ in range(2))
    l1, cosine = distillation_losses(student, teacher)
    both, target = torch.stack(student), torch.stack(teacher)
    assert l1.item() == pytest.approx((both - target).abs().mean().item(), rel=1e-6)
    dots = (both * target).sum(-1) / (both.norm(dim=-1) * target.norm(dim=-1))
    assert cosine.item() == pytest.approx(dots.mean().item(), rel=1e-5)


def test_distillation_of_a_copy_is_perfect_and_the_teacher_is_no_part_of_the_task():
    teacher = random_encoder(ENCODER, 3)
    task = DistillationTask(copy.deepcopy(teacher), teacher, DistillConfig(l1_weight=2.0, cosine_weight=3.0))
    losses = task(waves(), LABELS, 0)
    assert losses["l1"].item() == pytest.approx(0, abs=1e-6) and losses["cosine"].item() == pytest.approx(
        1, abs=1e-6
    )
    assert losses["loss"].item() == pytest.approx(-3, abs=1e-5)
    assert not trainable(teacher) and all(name.startswith("student.") for name in task.state_dict())
    task.train()
    assert not teacher.training
    task.to(torch.float64)
    assert next(teacher.parameters()).dtype == torch.float64  # moves with the task all the same
    other = DistillationTask(random_encoder(ENCODER, 4), teacher.float(), DistillConfig(l1_weight=2.0))
    losses = other(waves(), LABELS, 0)
    assert losses["loss"].item() == pytest.approx(2 * losses["l1"].item() - losses["cosine"].item(), rel=1e-6)


def test_every_gate_is_drawn_once_in_a_forward_pass(monkeypatch):
    calls = watch_draws(monkeypatch)
    task = pruning().train()
    task(waves(), LABELS, 0)
    assert len(calls) == len(set(calls)) == 2 * 4
    task.eval().distance(waves())
    assert len(calls) == 2 * 4  # a validation draws nothing


def test_validation_moves_neither_target_nor_gates_nor_weights(accelerator):
    optim = OptimConfig(lr=1e-3, schedule="constant", weight_decay=0.0)
    plain_task = pruning()
    plain = train(plain_task, accelerator, 6, optim)
    task = pruning()
    watched = Recorder(validate=lambda: [task.distance(waves()) for _ in range(3)] and None)
    train(task, accelerator, 6, optim, recorder=watched, validate_after=(1, 2, 4, 6))
    assert watched.validated == [1, 2, 4, 6]
    assert watched.column("target_sparsity") == plain.column("target_sparsity")
    assert plain.column("target_sparsity") == pytest.approx([0.8 * step / 10 for step in range(1, 7)])
    assert watched.column("loss") == plain.column("loss")
    after = plain_task.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in task.state_dict().items())


def test_gates_and_multipliers_have_their_own_rate_and_the_multipliers_ascend(accelerator):
    config = PruneConfig(
        sparsity=0.5, gate_lr=0.1, optim=OptimConfig(lr=1e-3, schedule="constant", weight_decay=0.0)
    )
    task = pruning(config, warmup_steps=40)
    groups = task.parameter_groups(config.optim)
    assert [group["lr_factor"] for group in groups] == pytest.approx([1.0, 100.0, 100.0])
    assert [group["weight_decay"] for group in groups] == [0.0, 0.0, 0.0]
    assert [group.get("maximize", False) for group in groups] == [False, False, True]
    assert list(task.clip_groups()) == ["model", "multipliers"]
    recorder = train(task, accelerator, 3, config.optim)
    excess = recorder.column("sparsity")[0] - recorder.column("target_sparsity")[0]
    # The first step of Adam moves by the rate, in the direction of the miss.
    assert excess > 0.03 and recorder.column("lambda1")[:2] == pytest.approx([0.0, 0.1], rel=1e-3)
    assert json.dumps(recorder.records[-1])


def test_expected_sparsity_counts_against_the_teacher():
    task = pruning()
    with torch.no_grad():
        for parameter in task.gates.parameters():
            parameter.fill_(100.0)
    assert task.expected_sparsity().item() == pytest.approx(0.0, abs=1e-6)
    assert task.teacher_parameters == encoder_parameters(ENCODER)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_a_prepared_teacher_gives_the_same_losses_and_gradients(dtype, tolerance):
    losses, gradients = [], []
    for is_prepared in (False, True):
        teacher = random_encoder(ENCODER, 3)
        task = DistillationTask(random_encoder(ENCODER, 4), teacher, DistillConfig())
        if is_prepared:
            task.prepare_teacher(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            taken = task(waves(), LABELS, 0)
        taken["loss"].backward()
        losses.append(taken["loss"].item())
        gradients.append(task.student.feature_projection.projection.weight.grad)
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)
    assert relative_error(gradients[1], gradients[0]) < 10 * tolerance


def test_dropout_is_the_students_alone():
    teacher = random_encoder(ENCODER, 3)
    student: Encoder = copy.deepcopy(teacher)
    student.set_conv_dropout(0.1)
    task = DistillationTask(student, teacher, DistillConfig()).train()
    a, b = (task(waves(), LABELS, 0)["l1"].item() for _ in range(2))
    assert a > 1e-3 and a != b  # dropout is on in the student
    assert torch.equal(teacher(torch.ones(1, 4, 160))[-1], teacher(torch.ones(1, 4, 160))[-1])
