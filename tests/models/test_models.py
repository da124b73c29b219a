"""Loading: strict, in one line when it fails; arrays of any length, rate and number."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import svkit
from svkit.config.architecture import EncoderArchitecture, ModelArchitecture, tiny_architecture
from svkit.config.load import load_recipe
from svkit.config.schema import HeadConfig, LoraConfig
from svkit.errors import ArtifactError, ConfigError, DataError
from svkit.models.load import load_encoder, load_model, new_network
from svkit.nn import inference, lora
from svkit.nn.speaker import SpeakerNetwork
from svkit.store import checkpoint as store
from tests.random_models import draw_weights, relative_error

MODEL = ModelArchitecture(
    encoder=EncoderArchitecture.uniform(num_layers=2, hidden_size=12, num_heads=3, ffn_dim=20),
    head=HeadConfig(adapter_dim=6, attention_dim=5, embedding_dim=7),
)


@pytest.fixture
def network(tmp_path) -> SpeakerNetwork:
    network = SpeakerNetwork(MODEL).eval()
    draw_weights(network, 1)
    store.write_model(tmp_path, MODEL, network.state_dict())
    return network


def noise(seed: int, num_samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def test_a_loaded_model_embeds_as_before(tmp_path, network):
    model = svkit.SpeakerModel.from_pretrained(tmp_path)
    waves = [noise(row, length) for row, length in enumerate((4000, 9001, 560))]
    embeddings = model.embed(waves)
    assert embeddings.shape == (3, 7) and embeddings.dtype == np.float32
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    for wave, embedding in zip(waves, embeddings, strict=True):
        expected = network(torch.from_numpy(wave)[None])[0]
        assert relative_error(torch.from_numpy(embedding), expected) <= 1e-4
    assert model.embed([]).shape == (0, 7)
    assert np.allclose(model.embed([waves[0].astype(np.float64)]), embeddings[:1], atol=1e-5)


@pytest.mark.parametrize(("int8", "tolerance"), [(False, 1e-4), (True, 0.2)])
def test_a_packed_model_embeds_as_the_plain_one(tmp_path, network, int8, tolerance):
    if not inference.can_pack(torch.device("cpu"), torch.int8 if int8 else torch.float32):
        pytest.skip("this processor packs nothing")
    waves = [noise(row, length) for row, length in enumerate((4000, 9001))]
    expected = svkit.load(tmp_path).embed(waves)
    packed = svkit.load(tmp_path).pack(int8=int8)
    assert not any(isinstance(module, torch.nn.Linear) for module in packed.encoder.modules())
    assert relative_error(*map(torch.from_numpy, (packed.embed(waves), expected))) <= tolerance


def test_loading_draws_no_weights(tmp_path, network):
    before = torch.get_rng_state()
    model = load_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in network.state_dict().items())


def mapped_files(network: torch.nn.Module) -> set[str]:
    """The files that parameters are pages of."""
    found = set()
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [(*(int(end, 16) for end in line.split()[0].split("-")), line.split()[-1]) for line in lines]
    for parameter in network.parameters():
        found.update(
            name for first, last, name in spans if first <= parameter.data_ptr() < last and "/" in name
        )
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_loaded_model_is_pages_of_its_file_unless_a_copy_is_asked_for(tmp_path, network):
    store.write_model(tmp_path, network.architecture, network.state_dict())
    file = tmp_path / store.MODEL_NAME
    before = file.read_bytes()
    mapped, copied = load_model(tmp_path), load_model(tmp_path, mapped=False)
    assert mapped_files(mapped) == {str(file)} and mapped_files(copied) == set()
    for parameter in mapped.parameters():
        parameter.zero_()
    assert file.read_bytes() == before and any(bool(parameter.any()) for parameter in copied.parameters())


def test_half_precision_weights_are_loaded_as_float32(tmp_path, network):
    halves = {name: t.half() if t.is_floating_point() else t for name, t in network.state_dict().items()}
    store.write_model(tmp_path, network.architecture, halves)
    for mapped in (True, False):
        state = load_model(tmp_path, mapped=mapped).state_dict()
        assert {name: t.dtype for name, t in state.items()} == {
            n: t.dtype for n, t in network.state_dict().items()
        }


def test_one_line_loads_and_files_are_heard_as_extraction_hears_them(tmp_path, network):
    wave = noise(3, 8000)
    stereo = np.stack([wave, noise(4, 8000)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", noise(5, 5000), 8_000, subtype="FLOAT")
    model = svkit.load(tmp_path)
    assert isinstance(model, svkit.SpeakerModel)
    single = model.embed(wave)
    assert single.shape == (7,) and np.array_equal(single, model.embed([wave])[0])
    assert np.allclose(model.embed(tmp_path / "a.wav"), single, atol=1e-6)
    both = model.embed([str(tmp_path / "a.wav"), tmp_path / "b.wav"])
    narrow = model.embed([noise(5, 5000)], sample_rate=8_000)
    assert np.allclose(both, [single, narrow[0]], atol=1e-4)
    soundfile.write(tmp_path / "long.flac", np.tile(noise(6, 16_000), 61), 16_000)
    long = np.tile(soundfile.read(tmp_path / "long.flac", frames=16_000, dtype="float32")[0], 60)
    assert np.allclose(model.embed(tmp_path / "long.flac"), model.embed(long), atol=1e-4)
    with pytest.raises(DataError, match="nowhere.wav: does not exist"):
        model.embed(tmp_path / "nowhere.wav")


def test_other_rates_are_resampled(tmp_path, network):
    time = np.arange(8000) / 16_000
    tone = sum(np.sin(2 * np.pi * f * time) for f in (200, 500, 1500)) * 0.1
    model = load_model(tmp_path)
    direct, from_8_khz = model.embed([tone]), model.embed([tone[::2]], sample_rate=8000)
    cosine = np.sum(direct * from_8_khz) / np.linalg.norm(direct) / np.linalg.norm(from_8_khz)
    assert cosine > 0.5 and not np.allclose(direct, from_8_khz)
    with pytest.raises(DataError, match="35 ms"):
        model.embed([tone[:300]], sample_rate=16_000)
    assert model.embed([tone[:300]], sample_rate=8000).shape == (1, 7)


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (np.zeros((2, 4000)), r"waveform 1: expected one dimension \(mono\), found shape \(2, 4000\)"),
        (np.full(4000, np.nan), "waveform 1: has samples that are not finite"),
        (np.zeros(100), "waveform 1: expected at least 35 ms of audio, found 6 ms"),
    ],
)
def test_arrays_that_cannot_be_embedded_are_named(tmp_path, network, wave, message):
    with pytest.raises(DataError, match=message):
        load_model(tmp_path).embed([noise(0, 4000), wave])


def test_tensors_that_do_not_fit_are_named(tmp_path, network):
    state = network.state_dict()
    missing = {name: tensor for name, tensor in state.items() if name != "head.embedding.bias"}
    store.write_tensors(tmp_path / "model.safetensors", missing)
    with pytest.raises(ArtifactError, match=r"missing head.embedding.bias \(1\)"):
        load_model(tmp_path)
    store.write_tensors(tmp_path / "model.safetensors", {**state, "head.embedding.bias": torch.zeros(8)})
    with pytest.raises(ArtifactError, match=r"head.embedding.bias is \[8\], expected \[7\]"):
        load_model(tmp_path)


def test_lora_that_is_not_merged_yet_is_merged(tmp_path, network):
    config = LoraConfig(rank=2, alpha=3.0)
    lora.attach(network.encoder, config)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    wave = noise(0, 4000)
    with torch.inference_mode():
        expected = network(torch.from_numpy(wave)[None])
    store.write_adapter(tmp_path, lora.adapter_config(config), lora.adapter_state(network.encoder))
    assert relative_error(torch.from_numpy(load_model(tmp_path).embed([wave])), expected) <= 1e-4
    path = tmp_path / "adapter" / "adapter_config.json"
    record = json.loads(path.read_text())
    for change, message in [({"r": 3}, "does not fit"), ({"target_modules": ["linear_k"]}, "does not fit"),
                            ({"use_rslora": True}, "use_rslora")]:  # fmt: skip
        path.write_text(json.dumps({**record, **change}))
        with pytest.raises(ArtifactError, match=message):
            load_model(tmp_path)


def test_the_tiny_encoder_follows_recipe_and_seed():
    recipe = load_recipe("smoke")
    architecture, state = load_encoder("tiny", recipe)
    assert architecture == tiny_architecture(recipe.encoder_overrides) and architecture.hidden_size == 32
    again = load_encoder("tiny", recipe)[1]
    other = load_encoder("tiny", load_recipe("smoke", overrides=["seed=25"]))[1]
    name = "encoder.layers.0.ffn1.output_dense.weight"
    assert torch.equal(state[name], again[name]) and not torch.equal(state[name], other[name])
    with pytest.raises(ConfigError, match="encoder_overrides.depth: unknown"):
        load_encoder("tiny", load_recipe("smoke", overrides=["encoder_overrides.depth=3"]))


@pytest.mark.parametrize("name", ["./none", "/none/none", "a/b/c"])
def test_an_encoder_that_is_not_there(name):
    with pytest.raises(ArtifactError, match="no such encoder directory"):
        load_encoder(name, load_recipe("smoke"))


def test_a_hub_id_without_a_connection_says_what_to_do():
    with pytest.raises(
        ArtifactError,
        match="hf download nobody/nothing --local-dir DIR` on a machine where it can, then use --encoder DIR here",
    ):
        load_encoder("nobody/nothing", load_recipe("smoke"))


def test_a_new_head_does_not_touch_the_global_generator():
    encoder = SpeakerNetwork(MODEL).encoder.state_dict()
    before = torch.get_rng_state()
    first, second, other = (new_network(MODEL, encoder, seed).head.state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])
