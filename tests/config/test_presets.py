"""Every preset parses, and the two published recipes hold the published numbers."""

import pytest

from svkit.config.load import STAGES, load_recipe, preset_names
from svkit.config.schema import AugmentConfig, DistillConfig, StageConfig

OTHER_CORPORA = ("w2v-bert-2.0-voxblink2", "w2v-bert-2.0-cnceleb")
"""Of which results are published, and no numbers of their own."""
PUBLISHED = ("w2v-bert-2.0", "w2v-bert-2.0-no-lora", *OTHER_CORPORA)


def test_the_presets_of_the_contract_are_there() -> None:
    assert {*PUBLISHED, "tiny", "smoke"} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_parses_and_says_its_name(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    # A pruned model has no LoRA stage; LMFT ends every chain.
    assert recipe.pruned.first == "head"
    assert recipe.dense.lmft.margin.margin > recipe.dense.joint.margin.margin
    if name != "tiny":  # which says why it keeps speeds and augmentation
        assert recipe.dense.lmft.augment is None and recipe.dense.lmft.data.speeds == (1.0,)
    assert recipe.prune.data.speeds == recipe.distill.data.speeds == (1.0,)
    assert recipe.prune.sparsity == 0.8


def _rates(stage: StageConfig | DistillConfig) -> tuple[object, ...]:
    optim = stage.optim
    if optim.schedule == "step":
        return ("step", optim.lr, optim.warmup_epochs, optim.decay_every_epochs, optim.decay_factor)
    return ("cosine", optim.lr, optim.final_lr, optim.cosine_epochs, optim.warmup_epochs)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_fine_tuning(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.encoder == "facebook/w2v-bert-2.0" and recipe.seed == 24
    assert (recipe.head.adapter_dim, recipe.head.attention_dim, recipe.head.embedding_dim) == (128, 128, 256)
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.lora.dropout) == (64, 128.0, 0.0)
    assert recipe.lora.target_modules == ("linear_q", "linear_v")
    assert recipe.dense.first == ("head" if name.endswith("no-lora") else "lora")
    lora, head, joint, lmft = recipe.dense.lora, recipe.dense.head, recipe.dense.joint, recipe.dense.lmft
    assert [stage.epochs for stage in (lora, head, joint, lmft)] == [15, 10, 4, 2]
    assert _rates(lora) == ("step", 1e-4, 5, 5, 0.1)
    assert _rates(head) == ("step", 1e-4, 0, 5, 0.1)
    assert _rates(joint) == ("cosine", 1e-5, 5e-6, 2, 0)
    assert _rates(lmft) == ("cosine", 1e-5, 5e-6, 1, 0)
    for stage in (lora, head, joint):
        assert stage.data.batch_size == 64 and stage.data.crop_seconds == (2.0, 3.0)
        assert stage.data.speeds == (1.0, 0.9, 1.1)
        assert (stage.margin.scale, stage.margin.margin, stage.margin.class_fraction) == (32.0, 0.2, 1.0)
        _assert_published_augmentation(stage.augment)
    assert lmft.data.batch_size == 32 and lmft.data.crop_seconds == (5.0, 6.0)
    assert lmft.data.speeds == (1.0,) and lmft.augment is None
    assert (lmft.margin.scale, lmft.margin.margin) == (32.0, 0.5)
    for stage in (lora, head, joint, lmft):
        assert stage.optim.weight_decay == 1e-4 and stage.optim.clip_norm == 1.0
        assert stage.optim.encoder_lr_factor == 1.0 and stage.conv_dropout == 0.1
        assert stage.data.crops_per_utterance == 1 and stage.data.random_seam
        assert stage.margin.uniform_start and stage.validations is None and stage.keep == "best"
    cadence = [stage.validate_every_steps for stage in (lora, head, joint, lmft)]
    assert cadence == [None, None, 1000, 500]
    assert recipe.pruned.head == head and recipe.pruned.joint == joint and recipe.pruned.lmft == lmft


def _assert_published_augmentation(augment: AugmentConfig | None) -> None:
    assert augment is not None
    assert augment.noise_probability == augment.reverb_probability == 1 / 3
    assert augment.noise_types == ("noise", "music", "speech_music", "babble")
    assert augment.snr_db == (5.0, 20.0) and augment.speech_snr_db == (15.0, 25.0)
    assert augment.babble_speakers == (3, 8) and augment.published_mix
    assert not augment.allow_simulated_rooms and not augment.allow_missing_noise
    assert augment.spec_time_masks == augment.spec_frequency_masks == 0
    assert augment.condition_probability is augment.conditions is None


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_pruning(name: str) -> None:
    recipe = load_recipe(name)
    for part in (recipe.prune, recipe.distill):
        assert part.epochs == 20 and part.augment is None and part.conv_dropout == 0.1
        assert (part.l1_weight, part.cosine_weight) == (1.0, 1.0)
        assert part.optim.lr == 2e-4 and part.optim.weight_decay == 0.0 and part.optim.clip_norm == 1.0
        assert part.data.batch_size == 16 and part.data.crop_seconds == (4.0, 4.0) and part.data.random_seam
    prune = recipe.prune
    assert prune.gate_lr == 2e-2 and prune.temperature == 2 / 3 and prune.round_to == 1
    assert prune.constraint == "lagrangian" and prune.gate_travel is None
    assert prune.sparsity_warmup_steps == 10_000 and prune.sparsity_warmup_fraction is None
    assert (prune.initial_drop_ffn, prune.initial_drop_heads, prune.initial_drop_conv) == (0.5, 0.01, 0.01)
    assert recipe.extract.max_seconds == 60.0


@pytest.mark.parametrize("name", ["tiny", "smoke"])
def test_the_own_presets_keep_what_their_results_were_made_with(name: str) -> None:
    recipe = load_recipe(name)
    stages = [getattr(part, stage) for part in (recipe.dense, recipe.pruned) for stage in STAGES]
    for stage in stages:
        assert not stage.data.random_seam and not stage.margin.uniform_start
        assert stage.augment is None or not stage.augment.published_mix
        assert stage.validations is not None and stage.validate_every_steps is None
    assert not recipe.prune.data.random_seam and not recipe.distill.data.random_seam


def test_the_published_distillation_rate_is_constant() -> None:
    """lr 2e-4 throughout the 20 epochs (the authors' gamma is 1)."""
    for part in (load_recipe("w2v-bert-2.0").prune, load_recipe("w2v-bert-2.0").distill):
        assert _rates(part) == ("step", 2e-4, 0, 5, 1.0)
