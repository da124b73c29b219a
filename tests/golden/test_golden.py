"""Parity with the published implementation, on numbers that it made (tolerances as they came with them)."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from numpy.lib.npyio import NpzFile
from torch.nn import functional

from svkit.config.architecture import EncoderArchitecture, ModelArchitecture
from svkit.config.load import load_recipe
from svkit.config.schema import HeadConfig, LoraConfig, MarginConfig, OptimConfig, PruneConfig
from svkit.nn import encoder as encoder_module
from svkit.nn import lora
from svkit.nn.encoder import Encoder, LayerGates
from svkit.nn.margin import ArcFaceClassifier, arcface_logits
from svkit.nn.speaker import SpeakerNetwork
from svkit.pruning.counting import encoder_parameters
from svkit.pruning.cut import cut_encoder
from svkit.pruning.gates import EncoderGates, HardConcrete
from svkit.store.upstream import encoder_tensors, model_architecture, read_published
from svkit.training.loop import LoopPlan, Record, make_optimizer, run_loop
from svkit.training.tasks import ClassificationTask, PruningTask, Task, distillation_losses
from tests.random_models import relative_error

SMALL_COPY = Path(__file__).parent
FULL_SET = SMALL_COPY.parents[2] / "shared" / "golden"
STATE_TOLERANCE, LOSS_TOLERANCE, TRAJECTORY_TOLERANCE = 1e-4, 1e-5, 1e-3


def golden(name: str) -> Path:
    """Path of a golden file; skips the test where there is none."""
    for folder in (FULL_SET, SMALL_COPY):
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"{name} is neither in ../shared/golden nor in tests/golden")


def vectors(name: str) -> NpzFile:
    return np.load(golden(f"{name}.npz"), allow_pickle=False)


def waveforms() -> Iterator[tuple[str, torch.Tensor]]:
    plain = vectors("plain")
    for name in sorted(plain.files):
        if name.startswith("wav_"):
            yield name.removeprefix("wav_"), torch.from_numpy(plain[name])


def published_network(name: str) -> SpeakerNetwork:
    config = golden("pruned_config.json" if name == "pruned" else "plain_config.json")
    published = read_published(golden(f"{name}.pth"), config)
    assert published.architecture.is_pruned == (name == "pruned")
    network = SpeakerNetwork(published.architecture).eval()
    network.load_state_dict(published.tensors, strict=True)
    return network


def assert_embeddings(found: torch.Tensor, expected: np.ndarray) -> None:
    target = torch.from_numpy(expected)
    assert relative_error(found, target) <= STATE_TOLERANCE
    assert float(functional.cosine_similarity(found, target, dim=0)) >= 0.999999


@torch.inference_mode()
def test_features_and_hidden_states():
    plain, network = vectors("plain"), published_network("plain")
    names = [name for name, _ in waveforms()]
    assert len(names) >= 2
    for name, wave in waveforms():
        features, _ = network.features(wave[None])
        assert float(np.abs(features[0].numpy() - plain[f"feat_{name}"]).max()) <= 1e-3
        states = torch.stack(network.encoder(features))[:, 0]
        expected = torch.from_numpy(plain[f"hid_{name}"])
        for found, target in zip(states, expected, strict=True):
            assert relative_error(found, target) <= STATE_TOLERANCE


@pytest.mark.parametrize("name", ["plain", "lora", "pruned"])
@torch.inference_mode()
def test_embeddings_alone_and_in_a_padded_batch(name):
    expected, network = vectors(name), published_network(name)
    waves = dict(waveforms())
    lengths = torch.tensor([len(wave) for wave in waves.values()])
    batch = torch.nn.utils.rnn.pad_sequence(list(waves.values()), batch_first=True)
    together = network(batch, lengths)
    for row, (key, wave) in enumerate(waves.items()):
        assert_embeddings(network(wave[None])[0], expected[f"emb_{key}"])
        assert_embeddings(together[row], expected[f"emb_{key}"])


@pytest.mark.parametrize(("key", "margin"), [("m02", 0.2), ("m05", 0.5)])
def test_arcface(key, margin):
    losses = vectors("losses")
    classifier = ArcFaceClassifier(32, 15)
    classifier.weight.data = torch.from_numpy(losses["weight"])
    labels = torch.from_numpy(losses["y"])
    logits = arcface_logits(classifier(torch.from_numpy(losses["x"])), labels, 32.0, margin)
    assert relative_error(logits, torch.from_numpy(losses[f"logits_{key}"])) <= LOSS_TOLERANCE
    loss = functional.cross_entropy(logits, labels).item()
    assert loss == pytest.approx(float(losses[f"ce_{key}"]), rel=LOSS_TOLERANCE)


def test_distillation_losses():
    losses = vectors("losses")
    student, teacher = (list(torch.from_numpy(losses[f"kd_{who}"])) for who in ("student", "teacher"))
    l1, cosine = distillation_losses(student, teacher)
    assert l1.item() == pytest.approx(float(losses["kd_l1"]), rel=LOSS_TOLERANCE)
    # The published term is a loss: the cosine with its sign turned.
    assert -cosine.item() == pytest.approx(float(losses["kd_cos"]), rel=LOSS_TOLERANCE)


def test_hard_concrete_mask_and_l0():
    losses = vectors("losses")
    group = HardConcrete(40, 0.5, 2 / 3, torch.Generator()).eval()
    group.log_alpha.data = torch.from_numpy(losses["hc_log_alpha"])
    assert group.expected().sum().item() == pytest.approx(float(losses["hc_l0"]), rel=LOSS_TOLERANCE)
    mask, expected = group().detach().numpy(), losses["hc_eval_mask"]
    assert ((mask == 0) == (expected == 0)).all()
    np.testing.assert_allclose(mask, expected, rtol=LOSS_TOLERANCE)


class _Recorder:
    """Hooks that keep the records of a run, and what `look` sees after each step."""

    def __init__(self, look: Callable[[], Any]) -> None:
        self.records: list[Record] = []
        self.seen: list[Any] = []
        self._look = look

    def on_log(self, record: Record) -> None:
        self.records.append(record)
        self.seen.append(self._look())

    def on_validate(self, num_done: int) -> None:
        raise AssertionError("nothing to validate")

    def on_save(self, num_done: int) -> None:
        pass

    def should_stop(self) -> bool:
        return False


def trained(
    task: Task, optim: OptimConfig, trajectory: NpzFile, steps_per_epoch: int, look: Callable[[], Any]
) -> _Recorder:
    """Run the project's loop over the batches of a trajectory; all steps count, none is skipped."""
    AcceleratorState._reset_state(True)  # whatever precision another test has asked for
    batches = torch.from_numpy(trajectory["batches"])
    is_labelled = "labels" in trajectory.files
    labels = torch.from_numpy(trajectory["labels"]) if is_labelled else torch.zeros(batches.shape[:2])
    plan = LoopPlan(
        num_steps=len(batches), steps_per_epoch=steps_per_epoch, seed=0, optim=optim, validate_after=(),
        save_every=100, log_every=1,
    )  # fmt: skip
    recorder = _Recorder(look)
    accelerator, optimizer = Accelerator(cpu=True, mixed_precision="no"), make_optimizer(task, optim)
    assert run_loop(task, optimizer, zip(batches, labels, strict=True), plan, accelerator, recorder) == 0
    return recorder


def columns(recorder: _Recorder, *names: str) -> np.ndarray:
    """Metrics of every step, `[steps, names]`."""
    return np.array([[record[name] for name in names] for record in recorder.records])


def test_optimisation_trajectory():
    trajectory = vectors("trajectory")
    network = published_network("plain")
    network.encoder.set_conv_dropout(0.0)
    classifier = ArcFaceClassifier(32, 15)
    classifier.weight.data = torch.from_numpy(trajectory["head_weight"])
    task = ClassificationTask(network, classifier, MarginConfig())
    optim = OptimConfig(lr=1e-3, schedule="constant", weight_decay=1e-4, clip_norm=1.0)
    found = trained(task, optim, trajectory, len(trajectory["losses"]), lambda: None)
    norms = columns(found, "grad_norm_model", "grad_norm_classifier")
    np.testing.assert_allclose(columns(found, "loss")[:, 0], trajectory["losses"], rtol=TRAJECTORY_TOLERANCE)
    np.testing.assert_allclose(norms, trajectory["grad_norms"], rtol=TRAJECTORY_TOLERANCE)


def test_lora_trajectory():
    """Stage 1 as published: loss, rate of the warm-up, gradient norms, LoRA and classifier after each step."""
    trajectory, start = vectors("lora_trajectory"), "front.encoder.base_model.model."
    network = published_network("lora_start")
    lora.attach(network.encoder, LoraConfig(rank=4, alpha=8.0))
    names = [name.removeprefix("init/") for name in trajectory.files if name.startswith("init/")]
    matrices = {name: network.encoder.get_parameter(name.removeprefix(start)) for name in names}
    for name, matrix in matrices.items():
        matrix.data = torch.from_numpy(trajectory[f"init/{name}"])
    network.encoder.set_conv_dropout(0.0)
    classifier = ArcFaceClassifier(32, len(trajectory["classifier"]))
    classifier.weight.data = torch.from_numpy(trajectory["classifier"])
    stage = load_recipe("w2v-bert-2.0").dense.lora
    task = ClassificationTask(network, classifier, stage.margin)

    def look() -> dict[str, np.ndarray]:
        weights = {f"lora/{{}}/{name}": matrix for name, matrix in matrices.items()}
        weights["classifier/{}"] = classifier.weight
        return {name: weight.detach().numpy().copy() for name, weight in weights.items()}

    found = trained(task, stage.optim, trajectory, 2, look)
    np.testing.assert_allclose(columns(found, "loss")[:, 0], trajectory["loss"], rtol=1e-6)
    np.testing.assert_allclose(columns(found, "lr")[:, 0], trajectory["lr"], rtol=1e-12)
    norms = columns(found, "grad_norm_model", "grad_norm_classifier")
    np.testing.assert_allclose(norms, trajectory["grad_norms"], rtol=TRAJECTORY_TOLERANCE)
    for step in {0, len(found.seen) - 1} & {0, 7}:  # those there are numbers of
        for name, weight in found.seen[step].items():
            np.testing.assert_allclose(weight, trajectory[name.format(step)], rtol=0, atol=2e-8)


_GATE_NAMES = {
    "ffn1": "ffn1.hard_concrete_for_intermediate",
    "heads": "self_attn.hard_concrete_for_heads",
    "conv": "conv_module.hard_concrete_pointwise_conv1",
    "ffn2": "ffn2.hard_concrete_for_intermediate",
}


def named_groups(gates: EncoderGates) -> dict[str, HardConcrete]:
    """Groups of gates by their published names."""
    return {
        f"encoder.layers.{index}.{_GATE_NAMES[kind]}": group
        for index, layer in enumerate(gates.groups())
        for kind, group in layer.items()
    }


def gated_encoder(state: dict[str, torch.Tensor]) -> tuple[Encoder, EncoderGates]:
    """Build encoder and gates from a published state, which loses its `log_alpha`s."""
    architecture = model_architecture(
        json.loads(golden("plain_config.json").read_text()), "plain_config.json"
    ).encoder
    gates = EncoderGates(architecture, PruneConfig(), 0)
    for name, group in named_groups(gates).items():
        group.log_alpha.data = state.pop(f"{name}.log_alpha")
    encoder = Encoder(architecture)
    encoder.load_state_dict(encoder_tensors(state), strict=True)
    return encoder, gates


def test_prune_trajectory(monkeypatch):
    """The first pruning stage as published, with its layer norm and its random numbers."""
    monkeypatch.setattr(encoder_module, "gate_aware_layer_norm", _over_all_channels)
    trajectory = vectors("prune_trajectory")
    state = {
        name.removeprefix("init/encoder."): torch.from_numpy(trajectory[name])
        for name in trajectory.files
        if name.startswith("init/")
    }
    config = load_recipe("w2v-bert-2.0").prune
    student, gates = gated_encoder(state)
    groups = {f"encoder.{name}": group for name, group in named_groups(gates).items()}
    student.set_conv_dropout(0.0)
    warmup, num_steps = int(trajectory["warmup_steps"]), len(trajectory["loss"])
    task = PruningTask(student, copy.deepcopy(student), gates, config, warmup)
    noise = {
        id(group.log_alpha): iter(
            [torch.from_numpy(trajectory[f"noise/{step}/{name}"]) for step in range(num_steps)]
        )
        for name, group in groups.items()
    }
    monkeypatch.setattr(torch, "rand_like", lambda log_alpha: next(noise[id(log_alpha)]))

    def look() -> dict[str, np.ndarray]:
        return {name: group.log_alpha.detach().numpy().copy() for name, group in groups.items()} | {
            "lambdas": np.array([parameter.item() for parameter in task.constraint.parameters()])
        }

    found = trained(task, config.optim, trajectory, num_steps, look)
    for name, expected, tolerance in (
        ("l1", "l1", LOSS_TOLERANCE),
        ("cosine", "cos", LOSS_TOLERANCE),
        ("loss", "loss", 2e-6),
        ("sparsity", "sparsity", 1e-6),
        ("target_sparsity", "target", 1e-7),
    ):
        np.testing.assert_allclose(columns(found, name)[:, 0], trajectory[expected], rtol=tolerance)
    norms = columns(found, "grad_norm_model", "grad_norm_multipliers")
    np.testing.assert_allclose(norms, trajectory["grad_norms"], rtol=TRAJECTORY_TOLERANCE)
    # Where a gradient is near 0, AdamW makes more of its rounding: 4e-4 is a fiftieth of one step of the gates.
    for number, seen in enumerate(found.seen):
        np.testing.assert_allclose(seen.pop("lambdas"), trajectory["lambdas_after"][number], atol=2e-8)
        for name, log_alpha in seen.items():
            np.testing.assert_allclose(log_alpha, trajectory[f"log_alpha/{number}/{name}"], rtol=0, atol=4e-4)


def gated_student() -> tuple[Encoder, list[LayerGates]]:
    """Build the published gated student: encoder and deterministic gate values."""
    record = torch.load(golden("gated_student.pth"), weights_only=True)["encoder"]  # noqa: TID251
    encoder, gates = gated_encoder({name.removeprefix("encoder."): tensor for name, tensor in record.items()})
    with torch.no_grad():
        return encoder.eval(), gates.eval()()


def _over_all_channels(hidden: torch.Tensor, norm: torch.nn.LayerNorm, gate: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(hidden, hidden.shape[-1:], norm.weight, norm.bias, norm.eps)


@torch.inference_mode()
def test_gates_act_where_the_published_gates_act(monkeypatch):
    """With the published norm over all channels our masked states are the published ones."""
    (encoder, values), expected = gated_student(), vectors("gated_student")
    monkeypatch.setattr(encoder_module, "gate_aware_layer_norm", _over_all_channels)
    features = SpeakerNetwork(
        ModelArchitecture(
            encoder=EncoderArchitecture.uniform(num_layers=1, hidden_size=4, num_heads=1, ffn_dim=1),
            head=HeadConfig(),
        )
    ).features
    for name, wave in waveforms():
        states = torch.stack(encoder(features(wave[None])[0], gates=values))[:, 0]
        assert relative_error(states, torch.from_numpy(expected[f"masked_hid_{name}"])) <= STATE_TOLERANCE


@torch.inference_mode()
def test_our_cut_keeps_what_the_published_cut_loses():
    (encoder, values), expected = gated_student(), vectors("gated_student")
    cut = cut_encoder(encoder, values).eval()
    count = sum(parameter.numel() for parameter in cut.parameters())
    assert count == encoder_parameters(cut.architecture) == int(expected["actual_params"])
    assert count != pytest.approx(
        float(expected["official_expected_params"]), rel=0.02
    )  # the published miscount
    features = torch.from_numpy(vectors("plain")["feat_w0"])[None]
    masked, found = torch.stack(encoder(features, gates=values)), torch.stack(cut(features))
    assert relative_error(found, masked) <= 1e-5
    published = [torch.from_numpy(expected[f"{which}_hid_w0"]) for which in ("pruned", "masked")]
    assert relative_error(*published) > 0.4
