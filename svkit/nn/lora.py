"""LoRA on the encoder's attention, by peft: attach, save, load, merge (Hu et al. 2021).

peft is imported only where it is used, because the import takes three seconds and most stages have no LoRA.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from svkit.config.schema import LoraConfig
from svkit.errors import ConfigError
from svkit.nn.encoder import Encoder, replace_children


def _peft_config(config: LoraConfig) -> Any:
    import peft

    return peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules),
        bias="none",
    )


def attach(encoder: Encoder, config: LoraConfig) -> None:
    """Add LoRA to the target modules (in place; ConfigError: there are none) and freeze all else in the encoder."""
    import peft

    names = {name.rpartition(".")[2] for name, _ in encoder.named_modules()}
    if not names & set(config.target_modules):
        raise ConfigError(
            f"lora.target_modules: the encoder has no module {' or '.join(config.target_modules)} (its attention may"
            " have been pruned); use --stage head instead of lora"
        )
    peft.inject_adapter_in_model(_peft_config(config), encoder)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_("lora_" in name)


def adapter_state(encoder: Encoder) -> dict[str, Tensor]:
    """LoRA tensors in peft's names, on the CPU."""
    import peft

    state = peft.get_peft_model_state_dict(encoder)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def adapter_config(config: LoraConfig) -> dict[str, Any]:
    """Content of peft's `adapter_config.json`."""
    record = _peft_config(config).to_dict()
    # Sorted, because a set of text has another order in each process, and equal runs shall write equal bytes.
    return {
        name: sorted(value) if isinstance(value, set) else getattr(value, "value", value)
        for name, value in record.items()
    }


def base_state(module: nn.Module) -> dict[str, Tensor]:
    """State of a module under the names it has without LoRA, and without LoRA's tensors."""
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in module.state_dict().items()
        if ".lora_" not in name
    }


def load_adapter(encoder: Encoder, state: Mapping[str, Tensor]) -> list[str]:
    """Load LoRA tensors into an encoder with LoRA attached; returns the names that did not fit."""
    import peft

    result = peft.set_peft_model_state_dict(encoder, dict(state))
    missing = [name for name in result.missing_keys if "lora_" in name]
    return sorted([*missing, *result.unexpected_keys])


def merge(encoder: Encoder) -> None:
    """Fold LoRA into the base weights, W + alpha / r * B A, and remove it (in place)."""
    from peft.tuners.lora import LoraLayer

    for module in encoder.modules():
        if isinstance(module, LoraLayer):
            module.merge()
    detach(encoder)


def detach(encoder: Encoder) -> None:
    """Remove LoRA, if there is any, and leave the base weights as they are (in place)."""
    if not hasattr(encoder, "peft_config"):
        return
    from peft.tuners.lora import LoraLayer

    replace_children(encoder, LoraLayer, LoraLayer.get_base_layer)
    del encoder.peft_config
