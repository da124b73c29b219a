"""All settings of the recipes, one dataclass for each part.

The defaults are the published recipe (arXiv 2510.04213, section 4, and the authors' code); presets in `presets/*.toml`
state what they change. All times are in seconds, all ratios in decibels, all lengths in the unit of the name's suffix.
Every number has its range in its annotation; the rules between fields are in `__post_init__`.
"""

from dataclasses import field
from typing import Annotated, Literal, TypeVar, get_args

from pydantic import AfterValidator, Strict

from svkit.config.conditions import Channel
from svkit.config.ranges import Range
from svkit.config.typed import Misfit, Optional, configuration

Size = Annotated[int, Range(ge=1, le=2**24)]
"""The limit is far above any encoder; it keeps a broken configuration from taking time and memory."""
Count = Annotated[int, Range(ge=1, le=65_536)]
Probability = Annotated[float, Range(ge=0, le=1)]
Fraction = Annotated[float, Range(gt=0, le=1)]
Rate = Annotated[float, Range(gt=0, lt=1)]
Dropout = Annotated[float, Range(ge=0, lt=1)]
Epochs = Annotated[float, Range(gt=0, le=10_000)]
EpochsOrNone = Annotated[float, Range(ge=0, le=10_000)]
"""Epochs of a part of a stage; 0: the part is absent."""
Decibels = Annotated[float, Range(ge=-50, le=100)]
Weight = Annotated[float, Range(ge=0, le=1e6)]
Seconds = Annotated[float, Range(ge=0.1, le=86_400)]
Positive = Annotated[float, Range(gt=0, le=1e9)]
BabbleSpeakers = Annotated[int, Range(ge=1, le=100)]
Speed = Annotated[float, Range(ge=0.5, le=2)]
NoiseType = Literal["noise", "music", "speech_music", "babble"]
Seed = Annotated[int, Range(ge=0, lt=2**32)]
Masks = Annotated[int, Range(ge=0, le=100)]

TinySize = Literal["num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"]
TINY_ENCODER = "tiny"
"""Name of an encoder of random weights."""
TINY_SIZES: dict[TinySize, int] = dict(zip(get_args(TinySize), (4, 128, 4, 512), strict=True))
"""Sizes of `--encoder tiny`, under transformers' names; `encoder_overrides` changes them."""
MAX_LAYERS = 1000
State = Annotated[int, Range(ge=-MAX_LAYERS - 1, le=MAX_LAYERS)]
Value = TypeVar("Value")


def _ordered(pair: tuple[Value, Value]) -> tuple[Value, Value]:
    low, high = pair
    if low > high:  # type: ignore[operator]
        raise Misfit([""], f"expected [lowest, highest], found {[low, high]}")
    return pair


Flag = Annotated[bool, Strict()]
Interval = Annotated[tuple[Value, Value], AfterValidator(_ordered)]
"""Lowest and highest value, both included."""


@configuration
class HeadConfig:
    """Speaker head on top of the encoder: layer adapters, MFA, ASP and the embedding (section 3.1)."""

    adapter_dim: Size = 128
    """Channels of one layer adapter; MFA concatenates one adapter per hidden state."""
    attention_dim: Size = 128
    """Bottleneck channels of the attentive statistics pooling."""
    embedding_dim: Size = 256
    """Size of the speaker embedding."""
    states: tuple[State, ...] = ()
    """Hidden states that the head uses; empty: all. 0 is the encoder's input, 1 the first layer's output, -1 the last
    layer's. Layers above the highest one used are not computed."""
    layer_adapters: Flag = True
    """False: use the hidden states as they are, without adapters."""
    aggregation: Literal["mfa", "sum"] = "mfa"
    """`mfa` concatenates the states; `sum` adds them with learned softmax weights (Yang et al. 2021, SUPERB)."""
    pooling: Literal["asp", "multi-head", "mean-std"] = "asp"
    """`asp`: attention weights for every channel. `multi-head`: the channels of each of `pooling_heads` groups share
    theirs (India et al. 2019, here with standard deviations). `mean-std`: no attention."""
    pooling_heads: Count = 8
    """Groups of channels of `multi-head`."""


@configuration
class LoraConfig:
    """Low-rank adaptation of the encoder's attention (peft)."""

    rank: Count = 64
    alpha: Positive = 128.0
    dropout: Dropout = 0.0
    target_modules: tuple[str, ...] = ("linear_q", "linear_v")


@configuration
class MarginConfig:
    """ArcFace: scale * cos(theta + margin) for the true class (easy margin off)."""

    scale: Annotated[float, Range(gt=0, le=1000)] = 32.0
    margin: Annotated[float, Range(ge=0, lt=1.6)] = 0.2
    """Additive angular margin in radians; 0.5 in LMFT."""
    class_fraction: Fraction = 1.0
    """Fraction of the classes in the softmax of a step: the batch's own and a random draw of the others (partial FC, An
    et al. 2021, 2022; for hundreds of thousands of classes). 1: all of them, as published."""
    uniform_start: Flag = True
    """New class weights are drawn uniformly, then every dimension is scaled to norm 1 over the classes, as published.
    False: Xavier initialisation."""


@configuration
class OptimConfig:
    """AdamW and its learning-rate schedule, a pure function of the step."""

    lr: Fraction = 1e-4
    final_lr: Optional[Probability] = None
    """Learning rate at the end of the cosine (None: 0)."""
    schedule: Literal["step", "cosine", "constant"] = "step"
    """`step`: a warm-up, then a factor every few epochs; constant within an epoch. `cosine`: falls with every step from
    `lr` to `final_lr`, after a warm-up. `constant`: `lr`, after the same warm-up."""
    warmup_epochs: EpochsOrNone = 0
    """`step`: epoch e < warmup_epochs has the factor (e + 1) / (warmup_epochs + 1). Otherwise linear per step."""
    decay_every_epochs: Count = 5
    """`step`: epochs between two multiplications by `decay_factor`, counted from the end of the warm-up."""
    decay_factor: Fraction = 0.1
    cosine_epochs: EpochsOrNone = 0
    """`cosine`: epochs over which lr falls to final_lr, constant afterwards (0: the whole stage)."""
    weight_decay: Annotated[float, Range(ge=0, le=10)] = 1e-4
    clip_norm: Positive = 1.0
    """Limit of the gradient norm, applied to each module separately (speaker model, classifier, multipliers)."""
    encoder_lr_factor: Annotated[float, Range(ge=0, le=10)] = 1.0
    """Learning rate of the encoder relative to `lr` (published: 1)."""

    def __post_init__(self) -> None:
        final = self.final_lr or 0.0
        if self.schedule == "cosine" and final > self.lr:
            raise Misfit(
                ["final_lr", "lr"],
                f"expected a rate that falls from lr to final_lr, found {final} and {self.lr}",
            )


@configuration
class AugmentConfig:
    """On-the-fly augmentation of a crop: noise, reverberation, or none (a third each, as published)."""

    noise_probability: Probability = 1 / 3
    reverb_probability: Probability = 1 / 3
    """Noise and reverberation exclude each other; what is left of 1 stays clean."""
    noise_types: tuple[NoiseType, ...] = ("noise", "music", "speech_music", "babble")
    """Drawn with equal probability. In a published recipe, a type without files is an error."""
    snr_db: Interval[Decibels] = (5.0, 20.0)
    """Signal-to-noise ratio of noise and music, uniform in this range."""
    speech_snr_db: Interval[Decibels] = (15.0, 25.0)
    """The same whenever speech is in the mix (speech_music, babble)."""
    babble_speakers: Interval[BabbleSpeakers] = (3, 8)
    """Number of babble speakers, uniform in this range."""
    published_mix: Flag = True
    """Add the parts of speech_music and babble at the levels of their files, and draw babble with replacement, as
    published. False: add them at equal power, all voices different."""
    condition_probability: Optional[Probability] = None
    """Probability that a crop, after noise or reverberation, is put under one of `conditions` (published: none)."""
    conditions: Optional[tuple[Channel, ...]] = None
    """Telephones, codecs and bad lines, drawn with equal probability; docs/conditions.md has their costs."""
    allow_simulated_rooms: Flag = False
    """Simulate room impulse responses where no RIR files are given (off in the published recipes)."""
    allow_missing_noise: Flag = False
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
        total = self.noise_probability + self.reverb_probability
        if total > 1 + 1e-9:
            raise Misfit(
                ["noise_probability", "reverb_probability"], f"expected a sum of at most 1, found {total}"
            )
        if (self.condition_probability is None) != (self.conditions is None):
            raise Misfit(
                ["condition_probability", "conditions"], "expected both or neither, found one of them"
            )


@configuration
class DataConfig:
    """How crops make up an epoch and a batch."""

    batch_size: Count = 64
    """Utterances per batch and process (GPU)."""
    micro_batch: Optional[Count] = None
    """Utterances of a batch that a process computes at once; their gradients are added up. This takes less memory for
    the same step, except for dropout and the batch norm of the pooling, which sees only these utterances. None: the
    whole batch."""
    crop_seconds: Interval[Seconds] = (2.0, 3.0)
    """One crop length per batch, uniform in this range."""
    speeds: tuple[Speed, ...] = (1.0, 0.9, 1.1)
    """Each utterance is visited once per epoch at each speed; a speed other than 1 makes a new speaker
    (class = speaker + index in this list x number of speakers). The first must be 1."""
    crops_per_utterance: Count = 1
    """Visits to an utterance per epoch at each speed (more for small corpora)."""
    random_seam: Flag = True
    """Audio that is too short is doubled until long enough and cropped at random, as published, so that the seam lies
    anywhere. False: the crop starts at the beginning of the audio."""
    num_workers: Annotated[int, Range(ge=0, le=1024)] = 8
    """Loader processes; 0 loads in the training process."""
    cache_dir: Optional[str] = None
    """Directory on a fast local disk in which pieces of tar shards are kept that have been read: for shards at URLs and
    on slow shared disks (docs/manifests.md). None: nothing is kept."""
    cache_gb: Annotated[float, Range(ge=0.01, le=1e6)] = 100.0
    """Size of its file at most, in 10^9 bytes."""

    def __post_init__(self) -> None:
        if len(set(self.speeds)) < len(self.speeds) or self.speeds[:1] != (1.0,):
            raise Misfit(
                ["speeds"], f"expected different speeds, the first of them 1.0, found {list(self.speeds)}"
            )


def _check_warmup(optim: OptimConfig, epochs: float) -> None:
    """Raise a Misfit if a warm-up is longer than its stage; with `step`, which is then never complete, it may be."""
    if optim.schedule != "step" and optim.warmup_epochs > epochs:
        raise Misfit(
            ["optim.warmup_epochs", "epochs"],
            f"expected a warm-up no longer than the stage, found {optim.warmup_epochs:g} and {epochs:g}",
        )


@configuration
class StageConfig:
    """One stage of fine-tuning."""

    epochs: Epochs
    """Passes over the training set (a fraction is allowed)."""
    optim: OptimConfig = OptimConfig()
    data: DataConfig = DataConfig()
    augment: Optional[AugmentConfig] = AugmentConfig()
    """None: no augmentation."""
    margin: MarginConfig = MarginConfig()
    conv_dropout: Dropout = 0.1
    """Dropout after the convolution module while the encoder is trained; a frozen encoder runs without it."""
    validations: Optional[Count] = None
    """Number of validations, evenly spaced and the last after the last step; each measures the validation EER and keeps
    a checkpoint. None: after every epoch, as published."""
    validate_every_steps: Optional[Count] = None
    """Validate also after every so many steps of an epoch (published: 1,000 in `joint`, 500 in `lmft`)."""
    keep: Literal["best", "last"] = "best"
    """Which state becomes the stage's result; `best` by the EER on held-out training speakers."""

    def __post_init__(self) -> None:
        _check_warmup(self.optim, self.epochs)


@configuration
class DistillConfig:
    """Distillation of the hidden states from the frozen teacher (section 3.2)."""

    epochs: Epochs = 20
    optim: OptimConfig = OptimConfig(lr=2e-4, decay_factor=1.0, weight_decay=0.0)
    data: DataConfig = DataConfig(batch_size=16, crop_seconds=(4.0, 4.0), speeds=(1.0,))
    augment: Optional[AugmentConfig] = None
    l1_weight: Weight = 1.0
    """Weight of mean |h_s - h_t| over all hidden states."""
    cosine_weight: Weight = 1.0
    """Weight of - mean cos(h_s, h_t)."""
    conv_dropout: Dropout = 0.1

    def __post_init__(self) -> None:
        _check_warmup(self.optim, self.epochs)
        if self.l1_weight + self.cosine_weight == 0:
            raise Misfit(["l1_weight", "cosine_weight"], "expected at least one above 0, found 0 and 0")


@configuration
class PruneConfig(DistillConfig):
    """Structured pruning with hard-concrete gates under a constraint, guided by distillation (section 3.2)."""

    sparsity: Rate = 0.8
    """Target: 1 - parameters of the student's encoder / of the teacher's."""
    constraint: Literal["lagrangian", "projection"] = "lagrangian"
    """How the gates are held to the target. `lagrangian`: by multipliers, which need many steps, as published.
    `projection`: exactly, after every step (`svkit.pruning.projection`)."""
    gate_lr: Fraction = 2e-2
    """Learning rate of the gates' log_alpha and of the multipliers."""
    gate_travel: Optional[Positive] = None
    """How far log_alpha can move in the whole run; if given, it replaces gate_lr by this over the number of steps, at
    most 1 (for short runs, whose gates would not have time to decide)."""
    sparsity_warmup_steps: Annotated[int, Range(ge=0, le=10**9)] = 10_000
    """Steps over which the target rises linearly from 0."""
    sparsity_warmup_fraction: Optional[Fraction] = None
    """The same as a fraction of all steps (overrides the number if given; for short runs)."""
    initial_drop_ffn: Rate = 0.5
    initial_drop_heads: Rate = 0.01
    initial_drop_conv: Rate = 0.01
    """Initial drop rates of the gates of each kind."""
    temperature: Annotated[float, Range(gt=0, le=10)] = 2 / 3
    """beta of the hard-concrete distribution."""
    round_to: Count = 1
    """Widths of FFN and convolution are rounded to multiples of this within the same budget."""


@configuration
class FinetuneConfig:
    """The stages of fine-tuning; `first` is the first stage of a dense model. A pruned one always starts at head."""

    first: Literal["lora", "head"]
    lora: StageConfig
    head: StageConfig
    joint: StageConfig
    lmft: StageConfig


@configuration
class ExtractConfig:
    """How evaluation audio is read and batched."""

    max_seconds: Seconds = 60.0
    """Longer files are cut, as published."""
    batch_seconds: Seconds = 160.0
    """Limit of the padded audio in one batch; utterances are sorted by length."""


@configuration
class SaveConfig:
    """How often a command saves the state it resumes from. No result depends on it, so a resumed run may change it."""

    every_steps: Annotated[int, Range(ge=1, le=10**9)] = 500
    every_minutes: Positive = 10.0
    """Since the last save; the limit that is reached first counts. Validations, the end and a stop save too."""
    keep_last: Count = 1
    """Number of newest states to keep; an older one is used if a newer one cannot be read."""
    extraction_seconds: Positive = 10.0
    """Time between two saves of extracted embeddings."""


@configuration
class Recipe:
    """Everything a preset decides; each command uses its own sections."""

    name: str
    encoder: str
    """Hub id, local transformers directory, or `tiny`."""
    seed: Seed = 24
    encoder_overrides: dict[TinySize, Count] = field(default_factory=dict)
    """Changes to the randomly initialised `tiny` encoder's configuration."""
    head: HeadConfig = HeadConfig()
    lora: LoraConfig = LoraConfig()
    dense: FinetuneConfig
    pruned: FinetuneConfig
    prune: PruneConfig = PruneConfig()
    distill: DistillConfig = DistillConfig()
    extract: ExtractConfig = ExtractConfig()
    save: SaveConfig = SaveConfig()
    precision: Literal["auto", "bf16", "fp32", "fp32-precise"] = "auto"
    """Arithmetic of products in training and extraction. bf16: autocast over fp32 weights; auto: bf16 where the device
    is fast at it, else fp32; fp32: TF32 on GPUs since Ampere, which rounds inputs to 10 bits; fp32-precise: no TF32."""
    gradient_checkpointing: Flag = False
    """Compute each encoder layer again in the backward pass instead of keeping its activations: less memory, about a
    third more computation, the same gradients."""
    compile_layers: Flag = False
    """Have torch compile each encoder layer for training, which takes a while at the start. Off, because its gain on a
    GPU has not been measured."""

    def __post_init__(self) -> None:
        layers, hidden, heads, _ = (TINY_SIZES | self.encoder_overrides).values()
        if layers > MAX_LAYERS:
            names = ["encoder_overrides.num_hidden_layers"]
            raise Misfit(names, f"expected at most {MAX_LAYERS}, found {layers}")
        if hidden % heads:
            raise Misfit(
                ["encoder_overrides.hidden_size", "encoder_overrides.num_attention_heads"],
                f"expected a multiple of the number of heads, found {hidden} and {heads}",
            )
