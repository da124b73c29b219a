"""Other heads and other LoRA than the published ones, by options alone, through the whole chain."""

import json

import pytest
import torch
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.models.load import load_model
from svkit.store import checkpoint as store
from tests.training_experiment import set_options

pytestmark = pytest.mark.usefixtures("fresh_process")


def svkit(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("overrides", "targets"),
    [
        (("head.states=[-1]", "head.pooling=multi-head", "head.pooling_heads=3"), ("linear_k", "linear_out")),
        (
            (
                "head.states=[0, 1]",
                "head.aggregation=sum",
                "head.layer_adapters=false",
                "head.pooling=mean-std",
            ),
            ("intermediate_dense",),
        ),
    ],
)
def test_a_form_is_trained_pruned_fine_tuned_and_described(prepared, tmp_path, overrides, targets):
    wide = "encoder_overrides.intermediate_size=200"
    options = set_options(*overrides, wide, "lora.rank=3", f"lora.target_modules={list(targets)}")
    options += ["--exp", str(prepared)]
    svkit("finetune", *options, "--no-augment", "--out", tmp_path / "dense")
    lora, joint = tmp_path / "dense/lora", tmp_path / "dense/joint"
    before = store.read_tensors(lora / "model.safetensors")
    merged = load_model(lora).state_dict()
    changed = {
        name for name, tensor in merged.items() if name in before and not torch.equal(tensor, before[name])
    }
    assert changed and all(name.endswith(tuple(f"{target}.weight" for target in targets)) for name in changed)
    svkit("prune", *options, "--teacher", joint, "--out", tmp_path / "prune", "--allow", "unconverged")
    svkit(
        *("finetune", *options, "--no-augment", "--from", tmp_path / "prune"),
        *("--stage", "head", "--out", tmp_path / "pruned"),
    )
    dense, cut = (store.read_architecture(tmp_path / place) for place in ("dense/lmft", "pruned"))
    assert cut.is_pruned and cut.head == dense.head and dense.states in ((2,), (0, 1))
    shares = json.loads(svkit("info", tmp_path / "pruned", "--json"))["state_weights"]
    assert list(shares) == [str(state) for state in dense.states] and sum(shares.values()) == pytest.approx(1)
