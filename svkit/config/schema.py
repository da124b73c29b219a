"""Every knob of the recipes, on the dataclass of its owner.

The defaults are the published recipe (arXiv 2510.04213, section 4, and the authors' code); presets in `presets/*.toml`
state what they change. All times are in seconds, all ratios in decibels, all lengths in the unit of the name's suffix.
Every number has its range in its annotation; the rules between fields are in `__post_init__`.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from svkit.config.ranges import Checked, Range
from svkit.errors import ConfigError

Size = Annotated[int, Range(ge=1, le=2**24)]
"""Far above any encoder: a broken configuration takes no time or memory."""
Count = Annotated[int, Range(ge=1, le=65_536)]
Probability = Annotated[float, Range(ge=0, le=1)]
Rate = Annotated[float, Range(gt=0, lt=1)]
Dropout = Annotated[float, Range(ge=0, lt=1)]
Epochs = Annotated[float, Range(gt=0, le=10_000)]
EpochsOrNone = Annotated[float, Range(ge=0, le=10_000)]
"""Epochs of a part of a stage that may be absent: 0."""
LearningRate = Annotated[float, Range(gt=0, le=1)]
Decibels = Annotated[float, Range(ge=-50, le=100)]
Weight = Annotated[float, Range(ge=0, le=1e6)]
Seconds = Annotated[float, Range(ge=0.1, le=86_400)]
Interval = Annotated[float, Range(gt=0, le=1e9)]
BabbleSpeakers = Annotated[int, Range(ge=1, le=100)]
Speed = Annotated[float, Range(ge=0.5, le=2)]
Seed = Annotated[int, Range(ge=0, lt=2**32)]
Masks = Annotated[int, Range(ge=0, le=100)]

TINY_SIZES = {
    "num_hidden_layers": 4,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "intermediate_size": 512,
}
"""Of `--encoder tiny`, under transformers' names; `encoder_overrides` changes them."""
MAX_LAYERS = 1000


def _require(condition: bool, names: str, found: object, expected: str) -> None:
    """Hold a rule between fields, named first to last with commas."""
    if not condition:
        raise ConfigError(f"{names}: expected {expected}, found {found}")


def _require_order(config: object, name: str) -> None:
    low, high = getattr(config, name)
    _require(low <= high, name, [low, high], "[lowest, highest]")


def _require_warmup(optim: "OptimConfig", epochs: float) -> None:
    """A warm-up counted in steps ends within the stage; the one of `step` is as many small steps as there are."""
    _require(
        optim.schedule == "step" or optim.warmup_epochs <= epochs,
        "optim.warmup_epochs, epochs",
        f"{optim.warmup_epochs:g} and {epochs:g}",
        "a warm-up no longer than the stage",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig(Checked):
    """Speaker head on top of the encoder: layer adapters, MFA, ASP and the embedding (section 3.1)."""

    adapter_dim: Size = 128
    """Channels of one layer adapter; MFA concatenates one adapter a hidden state."""
    attention_dim: Size = 128
    """Bottleneck channels of the attentive statistics pooling."""
    embedding_dim: Size = 256
    """Size of the speaker embedding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig(Checked):
    """Low-rank adaptation of the encoder's attention (peft)."""

    rank: Count = 64
    alpha: Interval = 128.0
    dropout: Dropout = 0.0
    target_modules: tuple[str, ...] = ("linear_q", "linear_v")


@dataclass(frozen=True, kw_only=True, slots=True)
class MarginConfig(Checked):
    """ArcFace: scale * cos(theta + margin) for the true class (easy margin off)."""

    scale: Annotated[float, Range(gt=0, le=1000)] = 32.0
    margin: Annotated[float, Range(ge=0, lt=1.6)] = 0.2
    """Additive angular margin in radians; 0.5 in LMFT."""
    class_fraction: Annotated[float, Range(gt=0, le=1)] = 1.0
    """Classes in the softmax of a step: the batch's own and a random draw of the others, up to this fraction of all
    (partial FC, An et al. 2021, 2022; for hundreds of thousands of classes). 1: all of them, as published."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig(Checked):
    """AdamW and its learning-rate schedule, a pure function of the step."""

    lr: LearningRate = 1e-4
    final_lr: Probability | None = None
    """Where the cosine ends (None: 0)."""
    schedule: Literal["step", "cosine", "constant"] = "step"
    """`step`: epochs of warm-up, then a factor every few epochs, constant within an epoch. `cosine`: per step, from
    `lr` to `final_lr`. `constant`: `lr`, after the warm-up of `cosine`."""
    warmup_epochs: EpochsOrNone = 0
    """`step`: epoch e < warmup_epochs has the factor (e + 1) / (warmup_epochs + 1). Otherwise linear per step."""
    decay_every_epochs: Count = 5
    """`step`: epochs between two multiplications with `decay_factor`, counted from the end of the warm-up."""
    decay_factor: Annotated[float, Range(gt=0, le=1)] = 0.1
    cosine_epochs: EpochsOrNone = 0
    """`cosine`: epochs over which lr falls to final_lr, constant afterwards (0: the whole stage)."""
    weight_decay: Annotated[float, Range(ge=0, le=10)] = 1e-4
    clip_norm: Interval = 1.0
    """Gradient norm limit of each module on its own (speaker model, classifier, multipliers)."""
    encoder_lr_factor: Annotated[float, Range(ge=0, le=10)] = 1.0
    """Learning rate of the encoder relative to `lr` (published: 1)."""

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        final = self.final_lr or 0.0
        _require(
            self.schedule != "cosine" or final <= self.lr,
            "final_lr, lr",
            f"{final} and {self.lr}",
            "a cosine that falls, from lr to final_lr",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig(Checked):
    """On-the-fly augmentation of a crop: one of noise, reverberation, nothing (a third each as published)."""

    noise_probability: Probability = 1 / 3
    reverb_probability: Probability = 1 / 3
    """Noise and reverberation exclude each other; what is left of 1 stays clean."""
    noise_types: tuple[str, ...] = ("noise", "music", "speech_music", "babble")
    """Drawn with equal chances; those without material are an error in a published recipe."""
    snr_db: tuple[Decibels, Decibels] = (5.0, 20.0)
    """Signal-to-noise ratio of noise and music, uniform."""
    speech_snr_db: tuple[Decibels, Decibels] = (15.0, 25.0)
    """The same whenever speech is in the mix (speech_music, babble)."""
    babble_speakers: tuple[BabbleSpeakers, BabbleSpeakers] = (3, 8)
    """Number of babble speakers, inclusive."""
    allow_simulated_rooms: bool = False
    """Simulate room impulse responses where no RIR files are given (off in the published recipes)."""
    allow_missing_noise: bool = False
    """Draw babble from the training speakers and leave out types without files (off in the published recipes)."""
    spec_time_masks: Masks = 0
    """SpecAugment on features: number of time masks (published: none)."""
    spec_time_frames: Count = 10
    """Longest time mask, in 20 ms frames."""
    spec_frequency_masks: Masks = 0
    """SpecAugment: number of frequency masks (published: none)."""
    spec_frequency_bins: Annotated[int, Range(ge=1, le=80)] = 12
    """Widest frequency mask, in mel bins of 80."""

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        total = self.noise_probability + self.reverb_probability
        _require(total <= 1 + 1e-9, "noise_probability, reverb_probability", total, "a sum <= 1")
        known = {"noise", "music", "speech_music", "babble"}
        _require(
            set(self.noise_types) <= known, "noise_types", list(self.noise_types), f"some of {sorted(known)}"
        )
        for name in ("snr_db", "speech_snr_db", "babble_speakers"):
            _require_order(self, name)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(Checked):
    """Which crops make an epoch and a batch."""

    batch_size: Count = 64
    """Utterances a batch and a process (GPU)."""
    crop_seconds: tuple[Seconds, Seconds] = (2.0, 3.0)
    """One crop length a batch, uniform in this range."""
    speeds: tuple[Speed, ...] = (1.0, 0.9, 1.1)
    """Each utterance is visited once an epoch at each speed; a speed other than 1 makes a new speaker
    (class = speaker + index in this list x number of speakers). The first must be 1."""
    crops_per_utterance: Count = 1
    """Visits an utterance gets in one epoch at each speed (more for small corpora)."""
    num_workers: Annotated[int, Range(ge=0, le=1024)] = 8
    """Loader processes; 0 loads in the training process."""

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        _require_order(self, "crop_seconds")
        is_distinct = len(set(self.speeds)) == len(self.speeds) > 0 and self.speeds[0] == 1.0
        _require(is_distinct, "speeds", list(self.speeds), "different speeds, the first 1.0")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig(Checked):
    """One stage of fine-tuning."""

    epochs: Epochs
    """Passes over the training set (a fraction is allowed)."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig | None = field(default_factory=AugmentConfig)
    """None: no augmentation."""
    margin: MarginConfig = field(default_factory=MarginConfig)
    conv_dropout: Dropout = 0.1
    """Dropout after the convolution module while the encoder is trained; a frozen encoder runs without."""
    validations: Count = 4
    """How many times in the stage the validation EER is measured and a checkpoint kept, the last step included."""
    keep: Literal["best", "last"] = "best"
    """Which state becomes the stage's result, by the EER on held-out training speakers."""

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        _require_warmup(self.optim, self.epochs)


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig(Checked):
    """Distillation of the hidden states from the frozen teacher (section 3.2)."""

    epochs: Epochs = 20
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=2e-4, decay_factor=1.0, weight_decay=0.0)
    )
    data: DataConfig = field(
        default_factory=lambda: DataConfig(batch_size=16, crop_seconds=(4.0, 4.0), speeds=(1.0,))
    )
    augment: AugmentConfig | None = None
    l1_weight: Weight = 1.0
    """Weight of mean |h_s - h_t| over all hidden states."""
    cosine_weight: Weight = 1.0
    """Weight of - mean cos(h_s, h_t)."""
    conv_dropout: Dropout = 0.1

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        _require_warmup(self.optim, self.epochs)
        _require(
            self.l1_weight + self.cosine_weight > 0, "l1_weight, cosine_weight", "0 and 0", "one above 0"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneConfig(DistillConfig):
    """Structured pruning with hard-concrete gates under a Lagrangian, guided by distillation (section 3.2)."""

    sparsity: Rate = 0.8
    """Target: 1 - parameters of the student's encoder / of the teacher's."""
    gate_lr: LearningRate = 2e-2
    """Learning rate of the gates' log_alpha and of the multipliers."""
    sparsity_warmup_steps: Annotated[int, Range(ge=0, le=10**9)] = 10_000
    """Steps over which the target rises linearly from 0."""
    sparsity_warmup_fraction: Annotated[float, Range(gt=0, le=1)] | None = None
    """The same as a fraction of all steps (wins where given; for short runs)."""
    initial_drop_ffn: Rate = 0.5
    initial_drop_heads: Rate = 0.01
    initial_drop_conv: Rate = 0.01
    """Initial drop rates of the gates of each kind."""
    temperature: Annotated[float, Range(gt=0, le=10)] = 2 / 3
    """beta of the hard-concrete distribution."""
    round_to: Count = 1
    """Widths of FFN and convolution are rounded to multiples of this within the same budget."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig(Checked):
    """The stages of fine-tuning; `first` opens the chain of a dense model, a pruned one always starts at head."""

    first: Literal["lora", "head"]
    lora: StageConfig
    head: StageConfig
    joint: StageConfig
    lmft: StageConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractConfig(Checked):
    """How evaluation audio is read and batched."""

    max_seconds: Seconds = 60.0
    """Longer files are cut (channel 0 is used), as published."""
    batch_seconds: Seconds = 160.0
    """Padded audio in one batch at most; batches are sorted by length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveConfig(Checked):
    """How often a command saves the state it resumes from; changes no result, so a resumed run may change it."""

    every_steps: Annotated[int, Range(ge=1, le=10**9)] = 500
    every_minutes: Interval = 10.0
    """Since the last save, whichever comes first. Validations, the end and a stop save too."""
    keep_last: Count = 1
    """States kept, the newest; an older one is taken when a newer one cannot be read."""
    extraction_seconds: Interval = 10.0
    """Between two saves of what is extracted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe(Checked):
    """Everything a preset decides; commands pick their sections."""

    name: str
    encoder: str
    """Hub id, local transformers directory, or `tiny`."""
    seed: Seed = 24
    encoder_overrides: dict[str, Count] = field(default_factory=dict)
    """Changes to the randomly initialised `tiny` encoder's configuration."""
    head: HeadConfig = field(default_factory=HeadConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    dense: FinetuneConfig
    pruned: FinetuneConfig
    prune: PruneConfig = field(default_factory=PruneConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    extract: ExtractConfig = field(default_factory=ExtractConfig)
    save: SaveConfig = field(default_factory=SaveConfig)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of products in training and extraction; bf16: autocast over fp32 weights; auto: where the device is fast."""
    gradient_checkpointing: bool = False
    """Compute each encoder layer again in the backward pass instead of keeping its activations: less memory, about a
    third more computation, the same gradients."""

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        name = next((name for name in self.encoder_overrides if name not in TINY_SIZES), None)
        if name is not None:
            raise ConfigError(f"encoder_overrides.{name}: unknown; expected some of {', '.join(TINY_SIZES)}")
        sizes = TINY_SIZES | self.encoder_overrides
        layers, hidden, heads = (sizes[name] for name in list(TINY_SIZES)[:3])
        _require(layers <= MAX_LAYERS, "encoder_overrides.num_hidden_layers", layers, f"at most {MAX_LAYERS}")
        names = "encoder_overrides.hidden_size, encoder_overrides.num_attention_heads"
        _require(hidden % heads == 0, names, f"{hidden} and {heads}", "a multiple of the number of heads")
