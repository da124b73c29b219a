"""LoRA: attached, saved, loaded and merged without changing what the encoder computes."""

import copy

import pytest
import torch
from peft.tuners.lora import LoraLayer

from svkit.config.architecture import EncoderArchitecture
from svkit.config.schema import LoraConfig
from svkit.errors import ConfigError
from svkit.nn import lora
from svkit.nn.encoder import Encoder
from tests.random_models import random_encoder, relative_error

ARCHITECTURE = EncoderArchitecture.uniform(
    num_layers=2, hidden_size=12, num_heads=3, ffn_dim=20, feature_dim=8
)
CONFIG = LoraConfig(rank=3, alpha=5.0)


def with_lora(seed: int = 1) -> Encoder:
    """Build an encoder whose LoRA has moved away from its start (where B is 0)."""
    encoder = random_encoder(ARCHITECTURE, seed)
    lora.attach(encoder, CONFIG)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in encoder.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return encoder.eval()


@torch.inference_mode()
def states(encoder: Encoder) -> torch.Tensor:
    return torch.stack(encoder(torch.randn((2, 9, 8), generator=torch.Generator().manual_seed(5))))


def test_attached_lora_starts_as_nothing_and_trains_alone():
    encoder = random_encoder(ARCHITECTURE, 1)
    before = states(encoder)
    lora.attach(encoder, CONFIG)
    assert torch.equal(states(encoder), before)
    names = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    assert len(names) == 2 * 2 * 2 and all("lora_" in name for name in names)
    assert {name.split(".self_attn.")[1].split(".")[0] for name in names} == {"linear_q", "linear_v"}
    assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) == 2 * 2 * CONFIG.rank * (12 + 12)


def test_merged_equals_unmerged():
    encoder = with_lora()
    unmerged = states(encoder)
    assert relative_error(states(random_encoder(ARCHITECTURE, 1)), unmerged) > 1e-2
    by_hand = copy.deepcopy(encoder).encoder.layers[0].self_attn.linear_q
    expected = by_hand.base_layer.weight + CONFIG.alpha / CONFIG.rank * (
        by_hand.lora_B["default"].weight @ by_hand.lora_A["default"].weight
    )
    lora.merge(encoder)
    assert relative_error(states(encoder), unmerged) <= 1e-5
    assert not any(isinstance(module, LoraLayer) for module in encoder.modules())
    assert set(encoder.state_dict()) == set(Encoder(ARCHITECTURE).state_dict())
    assert torch.allclose(encoder.encoder.layers[0].self_attn.linear_q.weight, expected, atol=1e-6)


def test_detached_equals_the_encoder_before():
    encoder = with_lora()
    lora.detach(encoder)
    assert torch.equal(states(encoder), states(random_encoder(ARCHITECTURE, 1)))


def test_saved_lora_loads_into_another_encoder():
    trained = with_lora()
    saved = {name: tensor.clone() for name, tensor in lora.adapter_state(trained).items()}
    fresh = random_encoder(ARCHITECTURE, 1)
    lora.attach(fresh, CONFIG)
    assert lora.load_adapter(fresh, saved) == []
    assert torch.equal(states(fresh), states(trained))


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_lora_that_does_not_fit_is_named(change):
    saved = lora.adapter_state(with_lora())
    name = sorted(saved)[0]
    if change == "missing":
        del saved[name]
    else:
        saved[name.replace("linear_q", "linear_k")] = saved[name]
    fresh = random_encoder(ARCHITECTURE, 1)
    lora.attach(fresh, CONFIG)
    misfits = lora.load_adapter(fresh, saved)
    assert len(misfits) == 1 and ("linear_k" in misfits[0]) == (change == "unexpected")


def test_the_configuration_is_plain_json():
    import json

    record = json.loads(json.dumps(lora.adapter_config(CONFIG)))
    assert (record["r"], record["lora_alpha"], record["target_modules"]) == (3, 5.0, ["linear_q", "linear_v"])
    assert record["peft_type"] == "LORA"


def test_an_encoder_without_attention_is_refused() -> None:
    pruned = ARCHITECTURE.with_widths({**ARCHITECTURE.widths(), "num_heads": [0, 0]})
    with pytest.raises(ConfigError, match=r"no module linear_q or linear_v .* use --stage head"):
        lora.attach(random_encoder(pruned, 1), CONFIG)
