"""Every knob of the recipes, on the dataclass of its owner.

The defaults are the published recipe (arXiv 2510.04213, section 4, and the authors' code); presets in `presets/*.toml`
state what they change. All times are in seconds, all ratios in decibels, all lengths in the unit of the name's suffix.
"""

from dataclasses import dataclass, field
from math import isfinite
from typing import Literal

from svkit.errors import ConfigError


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{name}: expected {expected}, found {value!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """Speaker head on top of the encoder: layer adapters, MFA, ASP and the embedding (section 3.1)."""

    adapter_dim: int = 128
    """Channels of one layer adapter; MFA concatenates one adapter a hidden state."""
    attention_dim: int = 128
    """Bottleneck channels of the attentive statistics pooling."""
    embedding_dim: int = 256
    """Size of the speaker embedding."""

    def __post_init__(self) -> None:
        for name in ("adapter_dim", "attention_dim", "embedding_dim"):
            size = getattr(self, name)
            is_size = isinstance(size, int) and not isinstance(size, bool) and 0 < size < 2**24
            _require(is_size, f"head.{name}", size, "a positive whole number")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Low-rank adaptation of the encoder's attention (peft)."""

    rank: int = 64
    alpha: float = 128.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ("linear_q", "linear_v")

    def __post_init__(self) -> None:
        _require(self.rank > 0, "lora.rank", self.rank, "a positive number")
        _require(isfinite(self.alpha), "lora.alpha", self.alpha, "a finite number")
        _require(0 <= self.dropout < 1, "lora.dropout", self.dropout, "0 <= dropout < 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class MarginConfig:
    """ArcFace: scale * cos(theta + margin) for the true class (easy margin off)."""

    scale: float = 32.0
    margin: float = 0.2
    """Additive angular margin in radians; 0.5 in LMFT."""
    class_fraction: float = 1.0
    """Classes in the softmax of a step: the batch's own and a random draw of the others, up to this fraction of all
    (partial FC, An et al. 2021, 2022; for hundreds of thousands of classes). 1: all of them, as published."""

    def __post_init__(self) -> None:
        _require(
            0 < self.class_fraction <= 1, "margin.class_fraction", self.class_fraction, "0 < fraction <= 1"
        )
        _require(self.scale > 0, "margin.scale", self.scale, "a positive number")
        _require(0 <= self.margin < 1.6, "margin.margin", self.margin, "radians in [0, 1.6)")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW and its learning-rate schedule, a pure function of the step."""

    lr: float = 1e-4
    final_lr: float | None = None
    """Where the cosine ends (None: 0)."""
    schedule: Literal["step", "cosine", "constant"] = "step"
    """`step`: epochs of warm-up, then a factor every few epochs, constant within an epoch. `cosine`: per step, from
    `lr` to `final_lr`. `constant`: `lr`, after the warm-up of `cosine`."""
    warmup_epochs: float = 0
    """`step`: epoch e < warmup_epochs has the factor (e + 1) / (warmup_epochs + 1). Otherwise linear per step."""
    decay_every_epochs: int = 5
    """`step`: epochs between two multiplications with `decay_factor`, counted from the end of the warm-up."""
    decay_factor: float = 0.1
    cosine_epochs: float = 0
    """`cosine`: epochs over which lr falls to final_lr, constant afterwards (0: the whole stage)."""
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    """Gradient norm limit of each module on its own (speaker model, classifier, multipliers)."""
    encoder_lr_factor: float = 1.0
    """Learning rate of the encoder relative to `lr` (published: 1)."""

    def __post_init__(self) -> None:
        _require(self.lr > 0, "optim.lr", self.lr, "a positive number")
        _require(
            self.final_lr is None or self.final_lr >= 0, "optim.final_lr", self.final_lr, "a number >= 0"
        )
        _require(
            self.schedule in ("step", "cosine", "constant"),
            "optim.schedule",
            self.schedule,
            "step, cosine or constant",
        )
        _require(self.warmup_epochs >= 0, "optim.warmup_epochs", self.warmup_epochs, "a number >= 0")
        _require(
            self.decay_every_epochs > 0,
            "optim.decay_every_epochs",
            self.decay_every_epochs,
            "a positive number",
        )
        _require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "a number >= 0")
        _require(self.clip_norm > 0, "optim.clip_norm", self.clip_norm, "a positive number")


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """On-the-fly augmentation of a crop: one of noise, reverberation, nothing (a third each as published)."""

    noise_probability: float = 1 / 3
    reverb_probability: float = 1 / 3
    """Noise and reverberation exclude each other; what is left of 1 stays clean."""
    noise_types: tuple[str, ...] = ("noise", "music", "speech_music", "babble")
    """Drawn with equal chances; those without material are an error in a published recipe."""
    snr_db: tuple[float, float] = (5.0, 20.0)
    """Signal-to-noise ratio of noise and music, uniform."""
    speech_snr_db: tuple[float, float] = (15.0, 25.0)
    """The same whenever speech is in the mix (speech_music, babble)."""
    babble_speakers: tuple[int, int] = (3, 8)
    """Number of babble speakers, inclusive."""
    allow_simulated_rooms: bool = False
    """Simulate room impulse responses where no RIR files are given (off in the published recipes)."""
    allow_missing_noise: bool = False
    """Draw babble from the training speakers and leave out types without files (off in the published recipes)."""
    spec_time_masks: int = 0
    """SpecAugment on features: number of time masks (published: none)."""
    spec_time_frames: int = 10
    """Longest time mask, in 20 ms frames."""
    spec_frequency_masks: int = 0
    """SpecAugment: number of frequency masks (published: none)."""
    spec_frequency_bins: int = 12
    """Widest frequency mask, in mel bins of 80."""

    def __post_init__(self) -> None:
        total = self.noise_probability + self.reverb_probability
        _require(
            min(self.noise_probability, self.reverb_probability) >= 0 and total <= 1 + 1e-9,
            "augment.noise_probability + augment.reverb_probability",
            total,
            "probabilities with a sum <= 1",
        )
        known = {"noise", "music", "speech_music", "babble"}
        _require(
            set(self.noise_types) <= known,
            "augment.noise_types",
            self.noise_types,
            f"some of {sorted(known)}",
        )
        for name in ("snr_db", "speech_snr_db", "babble_speakers"):
            low, high = getattr(self, name)
            _require(low <= high, f"augment.{name}", getattr(self, name), "[low, high]")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which crops make an epoch and a batch."""

    batch_size: int = 64
    """Utterances a batch and a process (GPU)."""
    crop_seconds: tuple[float, float] = (2.0, 3.0)
    """One crop length a batch, uniform in this range."""
    speeds: tuple[float, ...] = (1.0, 0.9, 1.1)
    """Each utterance is visited once an epoch at each speed; a speed other than 1 makes a new speaker
    (class = speaker + index in this list x number of speakers). The first must be 1."""
    crops_per_utterance: int = 1
    """Visits an utterance gets in one epoch at each speed (more for small corpora)."""
    num_workers: int = 8
    """Loader processes; 0 loads in the training process."""

    def __post_init__(self) -> None:
        _require(self.batch_size > 0, "data.batch_size", self.batch_size, "a positive number")
        low, high = self.crop_seconds
        _require(0.1 <= low <= high, "data.crop_seconds", self.crop_seconds, "[shortest >= 0.1, longest]")
        _require(
            len(self.speeds) > 0
            and self.speeds[0] == 1.0
            and len(set(self.speeds)) == len(self.speeds)
            and all(0.5 <= speed <= 2 for speed in self.speeds),
            "data.speeds",
            self.speeds,
            "different speeds in [0.5, 2], the first 1.0",
        )
        _require(
            self.crops_per_utterance > 0,
            "data.crops_per_utterance",
            self.crops_per_utterance,
            "a positive number",
        )
        _require(self.num_workers >= 0, "data.num_workers", self.num_workers, "a number >= 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """One stage of fine-tuning."""

    epochs: float
    """Passes over the training set (a fraction is allowed)."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig | None = field(default_factory=AugmentConfig)
    """None: no augmentation."""
    margin: MarginConfig = field(default_factory=MarginConfig)
    conv_dropout: float = 0.1
    """Dropout after the convolution module while the encoder is trained; a frozen encoder runs without."""
    validations: int = 4
    """How many times in the stage the validation EER is measured and a checkpoint kept, the last step included."""
    keep: Literal["best", "last"] = "best"
    """Which state becomes the stage's result, by the EER on held-out training speakers."""

    def __post_init__(self) -> None:
        _require(self.epochs > 0, "epochs", self.epochs, "a positive number")
        _require(0 <= self.conv_dropout < 1, "conv_dropout", self.conv_dropout, "0 <= dropout < 1")
        _require(self.validations > 0, "validations", self.validations, "a positive number")


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """Distillation of the hidden states from the frozen teacher (section 3.2)."""

    epochs: float = 20
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=2e-4, decay_factor=1.0, weight_decay=0.0)
    )
    data: DataConfig = field(
        default_factory=lambda: DataConfig(batch_size=16, crop_seconds=(4.0, 4.0), speeds=(1.0,))
    )
    augment: AugmentConfig | None = None
    l1_weight: float = 1.0
    """Weight of mean |h_s - h_t| over all hidden states."""
    cosine_weight: float = 1.0
    """Weight of - mean cos(h_s, h_t)."""
    conv_dropout: float = 0.1

    def __post_init__(self) -> None:
        _require(self.epochs > 0, "epochs", self.epochs, "a positive number")


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneConfig(DistillConfig):
    """Structured pruning with hard-concrete gates under a Lagrangian, guided by distillation (section 3.2)."""

    sparsity: float = 0.8
    """Target: 1 - parameters of the student's encoder / of the teacher's."""
    gate_lr: float = 2e-2
    """Learning rate of the gates' log_alpha and of the multipliers."""
    sparsity_warmup_steps: int = 10_000
    """Steps over which the target rises linearly from 0."""
    sparsity_warmup_fraction: float | None = None
    """The same as a fraction of all steps (wins where given; for short runs)."""
    initial_drop_ffn: float = 0.5
    initial_drop_heads: float = 0.01
    initial_drop_conv: float = 0.01
    """Initial drop rates of the gates of each kind."""
    temperature: float = 2 / 3
    """beta of the hard-concrete distribution."""
    round_to: int = 1
    """Widths of FFN and convolution are rounded to multiples of this within the same budget."""

    def __post_init__(self) -> None:
        DistillConfig.__post_init__(self)
        _require(0 < self.sparsity < 1, "prune.sparsity", self.sparsity, "0 < sparsity < 1")
        _require(self.round_to >= 1, "prune.round_to", self.round_to, "a positive number")
        for name in ("initial_drop_ffn", "initial_drop_heads", "initial_drop_conv"):
            _require(0 < getattr(self, name) < 1, f"prune.{name}", getattr(self, name), "0 < rate < 1")
        fraction = self.sparsity_warmup_fraction
        _require(
            fraction is None or 0 < fraction <= 1,
            "prune.sparsity_warmup_fraction",
            fraction,
            "0 < fraction <= 1",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """The stages of fine-tuning; `first` opens the chain of a dense model, a pruned one always starts at head."""

    first: Literal["lora", "head"]
    lora: StageConfig
    head: StageConfig
    joint: StageConfig
    lmft: StageConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractConfig:
    """How evaluation audio is read and batched."""

    max_seconds: float = 60.0
    """Longer files are cut (channel 0 is used), as published."""
    batch_seconds: float = 160.0
    """Padded audio in one batch at most; batches are sorted by length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveConfig:
    """How often a command saves the state it resumes from; changes no result, so a resumed run may change it."""

    every_steps: int = 500
    every_minutes: float = 10.0
    """Since the last save, whichever comes first. Validations, the end and a stop save too."""
    keep_last: int = 1
    """States kept, the newest; an older one is taken when a newer one cannot be read."""
    extraction_seconds: float = 10.0
    """Between two saves of what is extracted."""

    def __post_init__(self) -> None:
        for name in ("every_steps", "every_minutes", "keep_last", "extraction_seconds"):
            _require(getattr(self, name) > 0, f"save.{name}", getattr(self, name), "a positive number")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything a preset decides; commands pick their sections."""

    name: str
    encoder: str
    """Hub id, local transformers directory, or `tiny`."""
    seed: int = 24
    encoder_overrides: dict[str, int | float | str] = field(default_factory=dict)
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
