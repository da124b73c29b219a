"""Parity with the published implementation, on numbers that it made (tolerances as they came with them)."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from numpy.lib.npyio import NpzFile
from torch.nn import functional

from svkit.config.architecture import EncoderArchitecture, ModelArchitecture
from svkit.config.schema import HeadConfig, MarginConfig, OptimConfig, PruneConfig
from svkit.nn import encoder as encoder_module
from svkit.nn.encoder import Encoder, LayerGates
from svkit.nn.margin import ArcFaceClassifier, arcface_logits
from svkit.nn.speaker import SpeakerNetwork
from svkit.pruning.counting import encoder_parameters
from svkit.pruning.cut import cut_encoder
from svkit.pruning.gates import EncoderGates, HardConcrete
from svkit.store.upstream import encoder_architecture, encoder_tensors, read_published
from svkit.training.loop import LoopPlan, Record, make_optimizer, run_loop
from svkit.training.tasks import ClassificationTask, distillation_losses
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
    def __init__(self) -> None:
        self.records: list[Record] = []

    def on_log(self, record: Record) -> None:
        self.records.append(record)

    def on_validate(self, num_done: int) -> None:
        raise AssertionError("nothing to validate")

    def on_save(self, num_done: int) -> None:
        pass

    def should_stop(self) -> bool:
        return False


def test_optimisation_trajectory():
    AcceleratorState._reset_state(True)  # whatever precision another test has asked for
    trajectory = vectors("trajectory")
    network = published_network("plain").train()
    network.encoder.set_conv_dropout(0.0)
    classifier = ArcFaceClassifier(32, 15)
    classifier.weight.data = torch.from_numpy(trajectory["head_weight"])
    task = ClassificationTask(network, classifier, MarginConfig())
    optim = OptimConfig(lr=1e-3, schedule="constant", weight_decay=1e-4, clip_norm=1.0)
    num_steps = len(trajectory["losses"])
    plan = LoopPlan(
        num_steps=num_steps, steps_per_epoch=num_steps, seed=0, optim=optim, validate_after=(), save_every=100,
        log_every=1,
    )  # fmt: skip
    batches = zip(
        torch.from_numpy(trajectory["batches"]), torch.from_numpy(trajectory["labels"]), strict=True
    )
    recorder = _Recorder()
    assert (
        run_loop(
            task,
            make_optimizer(task, optim),
            batches,
            plan,
            Accelerator(cpu=True, mixed_precision="no"),
            recorder,
        )
        == 0
    )
    found = [
        [record[name] for record in recorder.records]
        for name in ("loss", "grad_norm_model", "grad_norm_classifier")
    ]
    np.testing.assert_allclose(found[0], trajectory["losses"], rtol=TRAJECTORY_TOLERANCE)
    np.testing.assert_allclose(np.array(found[1:]).T, trajectory["grad_norms"], rtol=TRAJECTORY_TOLERANCE)


_GATE_NAMES = {
    "ffn1": "ffn1.hard_concrete_for_intermediate",
    "heads": "self_attn.hard_concrete_for_heads",
    "conv": "conv_module.hard_concrete_pointwise_conv1",
    "ffn2": "ffn2.hard_concrete_for_intermediate",
}


def gated_student() -> tuple[Encoder, list[LayerGates]]:
    """Build the published gated student: encoder and deterministic gate values."""
    architecture = encoder_architecture(
        json.loads(golden("plain_config.json").read_text()), "plain_config.json"
    )
    record = torch.load(golden("gated_student.pth"), weights_only=True)["encoder"]  # noqa: TID251
    state = {name.removeprefix("encoder."): tensor for name, tensor in record.items()}
    gates = EncoderGates(architecture, PruneConfig(), 0).eval()
    for index, layer in enumerate(gates.layers):
        for kind, group in layer.items():
            group.log_alpha.data = state.pop(f"encoder.layers.{index}.{_GATE_NAMES[kind]}.log_alpha")
    encoder = Encoder(architecture).eval()
    encoder.load_state_dict(encoder_tensors(state), strict=True)
    with torch.no_grad():
        return encoder, gates()


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
