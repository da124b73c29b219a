"""Recipes from presets, files and overrides: precedence, names, and errors that say what was meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svkit.config.load import load_recipe, preset_names, resolved, to_toml
from svkit.errors import ConfigError

BASE = "w2v-bert-2.0"
FINETUNE = [
    f"{model}.{stage}" for model in ("dense", "pruned") for stage in ("lora", "head", "joint", "lmft")
]


def _error(
    *overrides: str, text: str | None = None, sections: list[str] | None = None, preset: str = BASE
) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(preset, text, overrides, FINETUNE if sections is None else sections)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_precedence_default_preset_experiment_file_set() -> None:
    text = "seed = 5\n[dense.joint.optim]\nlr = 3e-5"
    recipe = load_recipe(BASE, text, ["dense.joint.optim.lr=4e-5"], defaults={"seed": 4, "encoder": "tiny"})
    assert recipe.dense.joint.optim.encoder_lr_factor == 1.0  # dataclass default
    assert recipe.dense.joint.optim.final_lr == 5e-6  # preset
    assert recipe.encoder == "tiny"  # experiment over preset
    assert recipe.seed == 5  # file over experiment
    assert recipe.dense.joint.optim.lr == 4e-5  # --set over file


def test_later_set_wins() -> None:
    assert load_recipe(BASE, None, ["seed=1", "seed=2"]).seed == 2


def test_unprefixed_key_reaches_every_section_that_runs_and_no_other() -> None:
    recipe = load_recipe(BASE, None, ["optim.lr=0.5"], ["dense.lora", "dense.joint"])
    assert recipe.dense.lora.optim.lr == recipe.dense.joint.optim.lr == 0.5
    assert recipe.dense.lmft.optim.lr == recipe.pruned.joint.optim.lr == 1e-5
    assert recipe.prune.optim.lr == 2e-4
    assert load_recipe(BASE, None, ["optim.lr=0.5"], ["prune"]).prune.optim.lr == 0.5


def test_short_stage_name_means_dense_and_pruned() -> None:
    recipe = load_recipe(BASE, None, ["joint.optim.lr=0.5", "lora.epochs=3"], [])
    assert recipe.dense.joint.optim.lr == recipe.pruned.joint.optim.lr == 0.5
    assert recipe.dense.lora.epochs == 3.0 and recipe.dense.head.epochs == 10.0
    one = load_recipe(BASE, None, ["pruned.joint.optim.lr=0.25"], [])
    assert (one.dense.joint.optim.lr, one.pruned.joint.optim.lr) == (1e-5, 0.25)


def test_names_shared_by_a_section_and_a_stage() -> None:
    """`lora.rank` and `head.adapter_dim` are configurations of the model, `lora.epochs` of a stage."""
    recipe = load_recipe(BASE, None, ["lora.rank=8", "head.adapter_dim=16", "head.epochs=1"], FINETUNE)
    assert recipe.lora.rank == 8 and recipe.head.adapter_dim == 16
    assert recipe.dense.head.epochs == recipe.pruned.head.epochs == 1.0


def test_value_types() -> None:
    recipe = load_recipe(
        BASE,
        None,
        [
            "data.speeds=[1, 0.8]",
            "dense.joint.epochs=2",
            "encoder=some/where",
            "encoder_overrides.hidden_size=48",
        ],
        ["dense.joint"],
    )
    assert recipe.dense.joint.data.speeds == (1.0, 0.8)
    assert isinstance(recipe.dense.joint.epochs, float)
    assert recipe.encoder == "some/where"
    assert recipe.encoder_overrides == {"hidden_size": 48}
    assert isinstance(recipe.encoder_overrides["hidden_size"], int)


def test_none_switches_off_and_a_table_switches_on() -> None:
    assert load_recipe(BASE, None, ["dense.joint.augment=none"]).dense.joint.augment is None
    augment = load_recipe(BASE, None, ["dense.lmft.augment.spec_time_masks=2"]).dense.lmft.augment
    assert augment is not None and augment.spec_time_masks == 2 and augment.snr_db == (5.0, 20.0)
    assert load_recipe(BASE, None, ["dense.joint.optim.final_lr=none"]).dense.joint.optim.final_lr is None


@pytest.mark.parametrize("preset", preset_names())
def test_printed_recipe_reads_back_equal_whatever_the_preset_below(preset: str) -> None:
    recipe = load_recipe(preset)
    text = to_toml(resolved(recipe))
    for below in preset_names():
        assert load_recipe(below, text) == recipe


@given(st.text(), st.text(alphabet=st.characters(codec="utf-8", categories=["Cc", "Zl", "Po"])))
def test_any_text_survives_toml(name: str, encoder: str) -> None:
    try:
        (name + encoder).encode()
    except UnicodeEncodeError:
        return
    table = {**resolved(load_recipe("tiny")), "name": name, "encoder": encoder}
    recipe = load_recipe("tiny", to_toml(table))
    assert (recipe.name, recipe.encoder) == (name, encoder)


def test_extends_and_like_in_a_users_file() -> None:
    text = 'extends = "tiny"\n[dense.head]\nlike = "dense.joint"\nvalidations = 7'
    recipe, tiny = load_recipe(BASE, text), load_recipe("tiny")
    assert recipe.name == "tiny" and recipe.dense.head.validations == 7
    assert recipe.dense.head.optim == tiny.dense.joint.optim
    assert recipe.dense.joint == tiny.dense.joint


def test_copies_are_apart() -> None:
    """`pruned` is like `dense`, but an override of one stays there."""
    recipe = load_recipe(BASE, None, ["pruned.lmft.margin.margin=0.4"])
    assert (recipe.dense.lmft.margin.margin, recipe.pruned.lmft.margin.margin) == (0.5, 0.4)


def test_unknown_names_are_answered_with_what_was_meant() -> None:
    assert "did you mean 'optim.lr'" in _error("optim.lrr=1")
    assert "did you mean 'joint.optim.lr'" in _error("joint.optm.lr=1")
    assert "did you mean 'prune.sparsity'" in _error("prune.sparsty=0.5")
    assert "did you mean 'w2v-bert-2.0'" in _error(preset="w2vbert-2.0")
    message = _error(text="[dense.joint.optim]\nlearning_rate = 1")
    assert message.startswith("--config: dense.joint.optim.learning_rate: unknown key")
    assert "'crop_seconds'" in _error(text="[prune.data]\ncrop_second = [1, 2]")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("dense.joint.epochs=many", "dense.joint.epochs: expected a number > 0 and <= 10,000, found 'many'"),
        ("seed=1.5", "seed: expected a whole number >= 0 and < 4,294,967,296, found 1.5"),
        ("seed=true", "seed: expected a whole number >= 0 and < 4,294,967,296, found true"),
        ("encoder=3", "encoder: expected text, found 3"),
        ("dense.joint.optim.schedule=linear", "dense.joint.optim.schedule: expected 'step' or 'cosine'"),
        (
            "prune.data.crop_seconds=[1.0]",
            "prune.data.crop_seconds: expected a list of 2 values, each a number",
        ),
        (
            "prune.data.speeds=[1.0,'x']",
            "--set prune.data.speeds: expected a number >= 0.5 and <= 2, found 'x' (prune.data.speeds[1])",
        ),
        ("dense.joint.augment=3", 'dense.joint.augment: expected a table or "none", found 3'),
        (
            "dense.joint.optim.final_lr=abc",
            'dense.joint.optim.final_lr: expected a number >= 0 and <= 1 or "none"',
        ),
        ("dense.joint.epochs.x=3", "--set: unknown key 'dense.joint.epochs.x'"),
        ("seed", "--set: expected KEY=VALUE, found 'seed'"),
        ("=3", "--set: expected KEY=VALUE"),
    ],
)
def test_wrong_values_name_the_key(override: str, expected: str) -> None:
    assert expected in _error(override)


def test_broken_files() -> None:
    assert _error(text="[dense\n").startswith("--config: not valid TOML")
    assert "--config: extends: unknown preset 'nothing'" in _error(text='extends = "nothing"')
    assert "like: expected the name of another table, found 'dense.none'" in _error(
        text='[dense.head]\nlike = "dense.none"'
    )
    assert "found 'dense'" in _error(text='[dense.head]\nlike = "dense"')
    assert _error(text="prune = 3") == "--config: prune: expected a table, found 3"


def test_like_is_followed_through_another_like_in_any_order() -> None:
    first = '[pruned.lora]\nlike = "dense.head"\n'
    second = '[dense.head]\nlike = "dense.lmft"\nepochs = 9\n'
    for text in (first + second, second + first):
        recipe = load_recipe(BASE, text)
        assert recipe.dense.head.epochs == 9 and recipe.dense.head.margin.margin == 0.5
        assert recipe.pruned.lora == recipe.dense.head
        assert recipe.dense.lora.margin.margin == 0.2


def test_a_circle_of_likes_ends() -> None:
    text = '[dense.lora]\nlike = "dense.joint"\n[dense.joint]\nlike = "dense.lora"'
    assert "missing" in _error(text=text)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
def test_infinite_and_nan_values_are_refused(value: str) -> None:
    """JSON cannot record them, so no run could be resumed or reported with them."""
    assert "joint.optim.lr" in _error(f"joint.optim.lr={value}")
    assert "extract.max_seconds: expected a number >= 0.1 and" in _error(f"extract.max_seconds={value}")
