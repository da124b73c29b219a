"""`svkit doctor --plan`: memory of a step from shapes alone, and how a recipe's batches fit."""

import json

import pytest
from typer.testing import CliRunner

from svkit.cli.app import app
from svkit.config.load import load_recipe
from svkit.errors import ConfigError
from svkit.nn import encoder
from svkit.progress import SilentProgress
from svkit.training.planning import RESERVE, StagePlan, plan, plan_stage

CEILINGS = {
    "dense.lora": 533,
    "dense.head": 322,
    "dense.joint": 661,
    "dense.lmft": 703,
    "prune": 431,
    "distill": 392,
}
"""KiB that the backward pass keeps of an example, in the preset `smoke`: what was found, and a twentieth."""


@pytest.fixture(scope="module")
def whole() -> dict[str, StagePlan]:
    return {stage.stage: stage for stage in plan(load_recipe("smoke"), 24, SilentProgress())}


def test_what_is_trained_takes_gradients_and_moments(whole: dict[str, StagePlan]) -> None:
    assert all(stage.micro_batch is None and not stage.is_checkpointed for stage in whole.values())
    assert whole["dense.lora"].fixed < whole["dense.joint"].fixed
    assert whole["dense.head"].per_example < whole["dense.joint"].per_example
    for stage in whole.values():
        assert stage.peak == pytest.approx(stage.fixed + stage.batch_size * stage.per_example)


def test_a_smaller_gpu_takes_smaller_parts_and_then_checkpoints(whole: dict[str, StagePlan]) -> None:
    joint = whole["dense.joint"]
    sizes = []
    for share in (1.0, 0.5, 0.15):
        memory = (joint.fixed + share * joint.batch_size * joint.per_example) / (1 - RESERVE) * 1.001
        found = plan_stage(load_recipe("smoke"), "dense.joint", memory)
        assert found.peak <= (1 - RESERVE) * memory
        assert joint.batch_size % (found.micro_batch or joint.batch_size) == 0
        sizes.append((found.micro_batch or joint.batch_size, found.is_checkpointed))
    assert sizes[:2] == [(joint.batch_size, False), (joint.batch_size // 2, False)] and sizes[2][1]


def test_torchs_kernel_keeps_no_scores(whole: dict[str, StagePlan], monkeypatch: pytest.MonkeyPatch) -> None:
    """Written out, attention keeps the softmax in float32 and in bfloat16; the kernel keeps its bias alone."""
    monkeypatch.setattr(encoder, "FUSED_ON", ())
    written_out = plan_stage(load_recipe("smoke"), "dense.joint", 24)
    frames = (int(16_000 * whole["dense.joint"].crop_seconds) // 160 - 1) // 2
    layers_times_heads, bytes_saved = 2 * 4, 4 + 2 - 2
    saved = (written_out.per_example - whole["dense.joint"].per_example) * 2**30
    assert saved == pytest.approx(layers_times_heads * frames**2 * bytes_saved, rel=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("stage", CEILINGS)
def test_an_example_takes_no_more_memory_than_it_did(whole: dict[str, StagePlan], stage: str) -> None:
    """Whoever keeps more for the backward pass says so here."""
    assert whole[stage].per_example * 2**20 <= CEILINGS[stage]


def test_what_never_fits_is_said() -> None:
    with pytest.raises(ConfigError, match=r"dense\.lora: one example takes .* take a larger GPU"):
        plan(load_recipe("smoke"), 0.001, SilentProgress())


def test_longer_crops_take_more_in_proportion(whole: dict[str, StagePlan]) -> None:
    seconds = whole["distill"].crop_seconds
    longer = load_recipe("smoke", overrides=[f"distill.data.crop_seconds=[{seconds}, {2 * seconds}]"])
    twice = plan_stage(longer, "distill", 24)
    assert twice.per_example / whole["distill"].per_example == pytest.approx(2, rel=0.3)
    assert twice.fixed == pytest.approx(whole["distill"].fixed, rel=0.01)


@pytest.mark.slow
def test_the_command_says_what_to_set(whole: dict[str, StagePlan]) -> None:
    joint = whole["dense.joint"]
    memory = (joint.fixed + 0.5 * joint.batch_size * joint.per_example) / (1 - RESERVE) * 1.001
    words = ["doctor", "--plan", "smoke", "--gpu-memory", f"{memory:.6f}"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert f"--set dense.joint.data.micro_batch={joint.batch_size // 2}" in " ".join(result.stdout.split())
    facts = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert {stage["stage"] for stage in facts["stages"]} == set(whole)
    assert CliRunner().invoke(app, ["doctor", "--plan", "smoke"]).exit_code == 2  # no GPU here
    assert CliRunner().invoke(app, ["doctor", "--gpu-memory", "24"]).exit_code == 2
    assert CliRunner().invoke(app, ["doctor", "--plan", "none", "--gpu-memory", "24"]).exit_code == 2
