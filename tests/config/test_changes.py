"""What a recorded stage changed of its preset, and what counts as no change."""

import json
from dataclasses import asdict

import pytest

from svkit.config.changes import Change, changes
from svkit.config.load import load_recipe, preset_names


def recorded(preset, *overrides):
    """Every table of a recipe as provenance has it."""
    recipe = load_recipe(preset, overrides=overrides)
    plain = json.loads(json.dumps(asdict(recipe)))
    stages = {
        f"{kind}.{stage}": plain[kind][stage] for kind in ("dense", "pruned") for stage in plain["dense"]
    }
    return stages | {name: plain[name] for name in ("head", "lora", "prune", "distill", "encoder_overrides")}


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_as_it_is_has_no_changes(preset):
    assert [*changes(preset, recorded(preset))] == []


@pytest.mark.parametrize(
    ("override", "value", "before", "is_shorter"),
    [
        ("dense.joint.epochs=5", "5", "10", True),
        ("distill.epochs=0.5", "0.5", "2", True),
        ("prune.epochs=9", "9", "8", False),
        ("prune.optim.lr=1e-4", "0.0001", "0.0005", False),
        ('dense.lmft.optim.schedule="constant"', "constant", "cosine", False),
        ("dense.joint.optim.final_lr=none", "none", "1e-05", False),
        ("pruned.lmft.augment=none", "none", "on", False),
        ("dense.lora.data.speeds=[1.0]", "[1.0]", "[1.0, 0.85, 0.92, 1.08, 1.17]", False),
        ("head.embedding_dim=64", "64", "256", False),
        ("dense.joint.keep=best", "best", "last", False),
    ],
)
def test_a_change_has_its_name_and_both_values(override, value, before, is_shorter):
    setting = override.partition("=")[0]
    found = [*changes("tiny", recorded("tiny", override))]
    assert found == [Change(setting=setting, value=value, preset=before)]
    assert found[0].is_shorter is is_shorter


def test_the_machine_the_sparsity_and_the_moments_of_validation_are_no_changes():
    overrides = [
        "prune.sparsity=0.5", "prune.data.num_workers=4", "dense.joint.data.micro_batch=8", "lora.data.cache_gb=1",
        "distill.data.cache_dir=cache", "dense.joint.validations=2",
    ]  # fmt: skip
    assert [*changes("tiny", recorded("tiny", *overrides))] == []
    # What is kept is the best of the validated states, so it matters when they are validated.
    stages = recorded("tiny", "dense.joint.keep=best", "dense.joint.validations=2")
    assert [one.setting for one in changes("tiny", stages)] == ["dense.joint.validations", "dense.joint.keep"]


@pytest.mark.parametrize("preset", ["mine", None, ["tiny"], 3])
def test_of_a_recipe_that_is_no_preset_nothing_is_said(preset):
    assert [*changes(preset, recorded("tiny", "prune.epochs=1"))] == []


def test_settings_of_other_versions_and_damaged_records_are_passed_over():
    stage = {"epochs": 10, "of_an_earlier_svkit": 1, "optim": {"lr": 7e-4}}
    assert [
        *changes("tiny", {"dense.joint": stage, "dense.other": stage, "head": None, "prune.epochs.x": {}})
    ] == []
    (found,) = changes("tiny", {"prune": {"epochs": "a few"}})
    assert found.value == "a few" and not found.is_shorter
