"""Silent, clipped, constant, denormal and loud audio, and a single sample: embedded, or refused with a reason."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from svkit.audio.features import MIN_SAMPLES, FeatureExtractor
from svkit.cli.app import app
from svkit.config.schema import DistillConfig, MarginConfig
from svkit.errors import DataError
from svkit.models.load import load_model
from svkit.nn.margin import ArcFaceClassifier
from svkit.store.audio_file import LOUDEST_SAMPLE
from svkit.store.embeddings import read_embeddings
from svkit.store.manifest import COLUMNS, write_manifest
from svkit.training.tasks import ClassificationTask, DistillationTask
from tests.training_experiment import TEACHER, log, make_teacher, prepare, set_options

pytestmark = pytest.mark.usefixtures("fresh_process")

RATE_HZ = 16_000
NUM_SAMPLES = 8_000
_RNG = np.random.default_rng(0)


def _alternating(level: float) -> np.ndarray:
    return level * np.where(np.arange(NUM_SAMPLES) % 2, -1.0, 1.0)


def _impulse() -> np.ndarray:
    samples = np.zeros(NUM_SAMPLES)
    samples[4_000] = 1.0
    return samples


AUDIO = {
    "silent": np.zeros(NUM_SAMPLES),
    "negative zero": np.full(NUM_SAMPLES, -0.0),
    "constant": np.full(NUM_SAMPLES, 0.5),
    "constant at full scale": np.full(NUM_SAMPLES, -1.0),
    "denormal": 1e-41 * _RNG.standard_normal(NUM_SAMPLES),
    "smallest": np.full(NUM_SAMPLES, np.finfo(np.float32).smallest_subnormal),
    "clipped": np.clip(40 * _RNG.standard_normal(NUM_SAMPLES), -1, 1),
    "alternating": _alternating(1.0),
    "impulse": _impulse(),
    "raw counts": 32_767 * _RNG.standard_normal(NUM_SAMPLES),
    "loudest": _alternating(LOUDEST_SAMPLE),
    "silent but for its end": np.concatenate([np.zeros(NUM_SAMPLES - 10), np.ones(10)]),
    "shortest, silent": np.zeros(MIN_SAMPLES),
    "shortest, constant": np.full(MIN_SAMPLES, 0.5),
}
WAVES = {name: samples.astype(np.float32) for name, samples in AUDIO.items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher(tmp_path_factory.mktemp("extreme") / "model")


@pytest.mark.parametrize("name", WAVES)
def test_features_and_embedding_are_finite(checkpoint: Path, name: str) -> None:
    features, _ = FeatureExtractor()(torch.from_numpy(WAVES[name])[None])
    assert bool(features.isfinite().all()) and float(features.abs().max()) < 100
    (embedding,) = load_model(checkpoint).embed([WAVES[name]])
    assert np.isfinite(embedding).all() and embedding.any()


def test_a_batch_of_all_of_them_spoils_no_neighbour(checkpoint: Path) -> None:
    model = load_model(checkpoint)
    voice = 0.1 * np.random.default_rng(1).standard_normal(12_000).astype(np.float32)
    batch = model.embed([*WAVES.values(), voice])
    np.testing.assert_allclose(batch[-1], model.embed([voice])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [2 * LOUDEST_SAMPLE, 1e30, 3e38, -1e30])
def test_absurd_levels_are_refused_by_name(checkpoint: Path, tmp_path: Path, value: float) -> None:
    wave = WAVES["clipped"].copy()
    wave[1234] = value
    with pytest.raises(DataError, match="waveform 1: has samples beyond 1e\\+06 times full scale"):
        load_model(checkpoint).embed([WAVES["silent"], wave])
    soundfile.write(tmp_path / "a.wav", wave, RATE_HZ, subtype="FLOAT")
    result = CliRunner().invoke(app, ["verify", *[str(tmp_path / "a.wav")] * 2, "--model", str(checkpoint)])
    assert result.exit_code == 3 and "a.wav: sample 1234 is beyond 1e+06 times full scale" in result.stderr


@pytest.mark.parametrize("kind", ["classification", "distillation"])
def test_gradients_are_finite(checkpoint: Path, kind: str) -> None:
    """A batch of nothing but such audio, batch norm in training mode."""
    network = load_model(checkpoint).requires_grad_(True)
    waves = torch.from_numpy(np.stack([wave for wave in WAVES.values() if len(wave) == NUM_SAMPLES]))
    labels = torch.arange(len(waves))
    task: ClassificationTask | DistillationTask
    if kind == "classification":
        classifier = ArcFaceClassifier(TEACHER.head.embedding_dim, len(waves))
        task = ClassificationTask(network, classifier, MarginConfig())
    else:
        task = DistillationTask(network.encoder, load_model(checkpoint).encoder, DistillConfig())
    for batch in (waves, waves[:1].repeat(2, 1)):
        task.train().zero_grad(set_to_none=True)
        losses = task(batch, labels[: len(batch)], 0)
        losses["loss"].backward()
        gradients = [parameter.grad for parameter in task.parameters() if parameter.grad is not None]
        assert math.isfinite(float(losses["loss"].detach())) and len(gradients) > 20
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def write_list(path: Path, waves: dict[str, np.ndarray], speakers: int = 3) -> Path:
    """Write float files and their manifest, the speakers in turn."""
    rows = []
    for number, wave in enumerate(waves.values()):
        audio = path.parent / f"{number}.wav"
        soundfile.write(audio, wave, RATE_HZ, subtype="FLOAT")
        name = f"speaker-{number % speakers}"
        rows.append((audio.name, name, audio.as_posix(), str(RATE_HZ), str(len(wave)), ""))
    write_manifest(path, pd.DataFrame(rows, columns=list(COLUMNS)))
    return path


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_extract_and_verify(checkpoint: Path, tmp_path: Path) -> None:
    listed = write_list(tmp_path / "list.tsv", WAVES)
    command = ["extract", "--model", checkpoint, "--manifest", listed, "--dtype", "float32"]
    done = run(*command, "--out", tmp_path / "out", "--exp", tmp_path)
    assert done.exit_code == 0, done.stderr
    found = read_embeddings(tmp_path / "out")
    assert len(found.ids) == len(WAVES) and np.isfinite(found.matrix).all()
    names = list(WAVES)
    for name in ("silent", "constant", "denormal", "shortest, silent"):
        path = tmp_path / f"{names.index(name)}.wav"
        done = run("verify", path, tmp_path / f"{names.index('clipped')}.wav", "--model", checkpoint)
        assert done.exit_code == 0 and "silent" in done.stderr + done.stdout, done.stderr
    # What gives no frame is refused, by the list as by the file.
    short = write_list(tmp_path / "short.tsv", {"one": np.ones(1, np.float32)})
    done = run(*command[:4], short, *command[5:], "--out", tmp_path / "short", "--exp", tmp_path)
    assert done.exit_code == 3 and "at least 35 ms" in done.stderr, done.stderr
    one = tmp_path / "0.wav"
    done = run("verify", one, one, "--model", checkpoint)
    assert done.exit_code == 3 and "at least 35 ms" in done.stderr


def test_training_on_nothing_else_stays_finite(tmp_path: Path) -> None:
    """Every crop extreme, a file of a single sample among them."""
    exp = prepare(tmp_path / "exp", ("a",), valid=False)
    waves = {name: wave for name, wave in WAVES.items() if name != "loudest"}
    write_list(exp / "data" / "train.tsv", {**waves, "one sample": np.ones(1, np.float32)})
    command = ["finetune", "--exp", exp, "--stage", "lora", *set_options("lora.epochs=2")]
    done = run(*command, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    records = log(tmp_path / "out")
    assert records and all(math.isfinite(record["loss"]) and not record["skipped"] for record in records)


def test_training_that_diverges_ends_with_exit_5_and_keeps_the_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exp = prepare(tmp_path / "exp", valid=False)
    out = tmp_path / "out"
    command = ["finetune", "--exp", exp, "--stage", "head", "--out", out, *set_options("head.epochs=3")]
    original = ClassificationTask.forward

    def broken(self, waveforms, labels, step, part):
        losses = original(self, waveforms, labels, step, part)
        return {**losses, "loss": losses["loss"] * (math.inf if step >= 6 else 1.0)}

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "forward", broken)
        done = run(*command)
    assert done.exit_code == 5 and "step 25: " in done.stderr and "not finite in 20 steps" in done.stderr
    assert not (out / "provenance.json").exists() and (out / "resume" / "step-000000006").is_dir()
    # The cause mended, the same command goes on as if nothing had been tried.
    mended = run(*command)
    assert mended.exit_code == 0 and "resuming after step 6" in mended.stderr
    whole = run(*command[:6], tmp_path / "whole", *command[7:])
    assert whole.exit_code == 0
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
