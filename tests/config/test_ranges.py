"""Every number of a configuration has a range; what lies outside is refused by the name that the user typed."""

from dataclasses import is_dataclass
from types import NoneType
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svkit.config.architecture import ModelArchitecture
from svkit.config.load import load_recipe, preset_names
from svkit.config.ranges import Range
from svkit.config.schema import HeadConfig, PruneConfig, Recipe
from svkit.errors import ConfigError


def _numbers(kind, name=""):
    """Yield (dotted name, type, Range or None) of every number in an annotation."""
    if get_origin(kind) is Annotated and get_args(kind)[0] in (int, float):
        yield name, *get_args(kind)
    elif get_origin(kind) is Annotated:
        yield from _numbers(get_args(kind)[0], name)
    elif is_dataclass(kind):
        for field, hint in get_type_hints(kind, include_extras=True).items():
            yield from _numbers(hint, f"{name}.{field}".strip("."))
    elif kind in (int, float):
        yield name, kind, None
    else:
        for index, option in enumerate(get_args(kind)):
            is_key = get_origin(kind) is dict and index == 0
            if option not in (NoneType, Ellipsis) and not is_key:
                yield from _numbers(option, name)


NUMBERS = list(_numbers(Recipe))


@pytest.mark.parametrize("kind", [Recipe, ModelArchitecture])
def test_no_number_lacks_a_range_with_both_ends(kind):
    numbers = list(_numbers(kind))
    assert len(numbers) >= 10 and (kind is ModelArchitecture or len(numbers) > 250)
    for name, _, limits in numbers:
        assert isinstance(limits, Range), name
        assert (limits.ge, limits.gt) != (None, None) and (limits.le, limits.lt) != (None, None), name


SCALARS = [
    number
    for number in NUMBERS
    if not number[0].endswith(("crop_seconds", "snr_db", "babble_speakers", "speeds", "encoder_overrides"))
]


@st.composite
def _outside(draw):
    """Return (name, range, TOML value outside of it)."""
    name, kind, limits = draw(st.sampled_from(SCALARS))
    low = limits.ge if limits.gt is None else limits.gt
    high = limits.le if limits.lt is None else limits.lt
    number = st.integers if kind is int else st.floats
    finite = {} if kind is int else {"allow_nan": False, "allow_infinity": False}
    strange = st.sampled_from(["true", "10" * 30] if kind is int else ["nan", "inf", "-inf", "true", "1e999"])
    value = draw(
        number(max_value=low, **finite).filter(lambda value: value not in limits)
        | number(min_value=high, **finite).filter(lambda value: value not in limits)
        | strange
    )
    return name, limits, str(value)


@given(_outside())
def test_a_number_outside_is_refused_by_name_with_value_and_range(case):
    name, limits, value = case
    with pytest.raises(ConfigError) as caught:
        load_recipe("w2v-bert-2.0", None, [f"{name}={value}"])
    message = str(caught.value)
    assert message.startswith(f"--set {name}: expected a "), message
    assert "found " in message and (value == "true" or str(limits) in message), message


NONSENSE = [
    "prune.temperature=0", "prune.gate_lr=-1", "seed=-1", "seed=4294967296", "extract.max_seconds=-5",
    "extract.batch_seconds=0", "dense.joint.conv_dropout=2", "prune.conv_dropout=-0.1", "prune.l1_weight=-1",
    "prune.sparsity_warmup_steps=-1", "prune.sparsity=1", "joint.optim.decay_factor=0",
    "joint.optim.cosine_epochs=-1", "joint.optim.encoder_lr_factor=-1", "joint.augment.snr_db=[-1e9, 5]",
    "joint.augment.babble_speakers=[0, 8]", "joint.augment.spec_time_masks=-1", "lora.alpha=0",
    "joint.data.num_workers=100000", "encoder_overrides.hidden_size=0", "joint.data.speeds=[1.0, 0]",
]  # fmt: skip


@pytest.mark.parametrize("override", NONSENSE)
def test_nonsense_is_refused(override):
    with pytest.raises(ConfigError, match=f"^--set {override.partition('=')[0]}: expected a .*number"):
        load_recipe("tiny", None, [override])


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("joint.data.crop_seconds=[3.0, 2.0]", "crop_seconds"),
        ("joint.augment.snr_db=[20, 5]", "snr_db"),
        ("joint.augment.speech_snr_db=[20, 5]", "speech_snr_db"),
        ("joint.augment.babble_speakers=[8, 3]", "babble_speakers"),
        ("joint.augment.noise_probability=0.95", "noise_probability, dense.joint.augment.reverb_probability"),
        ("joint.augment.condition_probability=0.3", "expected both or neither, found one"),
        ("joint.augment.conditions=['gms']", "'gsm'"),
        ("joint.optim.lr=1e-6", "final_lr, dense.joint.optim.lr"),
        ("joint.epochs=0.1", "dense.joint.optim.warmup_epochs, dense.joint.epochs"),
        ("joint.data.speeds=[0.9, 1.0]", "speeds"),
        ("encoder_overrides.hidden_size=130", "encoder_overrides.num_attention_heads"),
        ("encoder_overrides.depth=3", "encoder_overrides.depth"),
        ("encoder_overrides.num_hidden_layers=2000", "at most 1000"),
    ],
)
def test_rules_between_fields(override, names):
    with pytest.raises(ConfigError) as caught:
        load_recipe("tiny", None, [override])
    message = str(caught.value)
    assert message.startswith(f"--set {override.partition('=')[0]}: ") and names in message, message


def test_both_weights_of_the_distillation_cannot_be_zero():
    with pytest.raises(ConfigError, match="^--set distill.cosine_weight: expected at least one above 0"):
        load_recipe("tiny", None, ["distill.l1_weight=0", "distill.cosine_weight=0"])


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_passes(preset):
    assert load_recipe(preset).name == preset


def test_a_message_repeats_what_was_typed():
    def message(text=None, *overrides, preset="tiny", **sources):
        with pytest.raises(ConfigError) as caught:
            load_recipe(preset, text, overrides, ["dense.joint", "prune"], **sources)
        return str(caught.value)

    assert message(None, "optim.lr=-1") == (
        "--set optim.lr: expected a number > 0 and <= 1, found -1 (dense.joint.optim.lr)"
    )
    assert message("[prune]\ntemperature = 0", config_name="my.toml").startswith(
        "my.toml: prune.temperature: expected a number > 0 and <= 10, found 0"
    )
    both = message("[prune]\ntemperature = 0", "prune.temperature=-1", config_name="my.toml")
    assert both.startswith("--set prune.temperature: ")
    assert message("[dense.head]\nepochs = 0", "seed=1", config_name="my.toml").startswith(
        "my.toml: dense.head.epochs: "
    )
    assert message(preset="smol", preset_from="exp/config.toml: preset").startswith(
        "exp/config.toml: preset: unknown preset 'smol'; did you mean"
    )
    assert message(None, "prune.sparsity=80").endswith(
        "expected a number > 0 and < 1, found 80; did you mean 0.8?"
    )


def test_configurations_made_in_python_are_checked_too():
    with pytest.raises(ConfigError, match="^adapter_dim: expected a whole number >= 1 .* found true"):
        HeadConfig(adapter_dim=True)
    with pytest.raises(ConfigError, match="^epochs: expected a number > 0 and <= 10,000, found nan"):
        PruneConfig(epochs=float("nan"))
