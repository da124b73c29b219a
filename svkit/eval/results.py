"""Results of measuring scores: rates are fractions, thresholds are on the scale of the scores or LLRs they decide."""

from dataclasses import dataclass

from svkit.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Confidence interval of a rate or cost, from resampled speakers (`bootstrap.rate_interval`)."""

    low: float
    high: float
    num_speakers: int
    """Drawn in each resample."""
    num_resamples: int
    level: float = 0.95
    speakers_from: str | None = None
    """`manifest` or `trials` if it is recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference:
    """A statistic of one system minus that of another on the same trials and the same resamples."""

    difference: float
    interval: Interval
    p_value: float
    """Two-sided: twice the share of resamples whose difference has the other sign, corrected for few speakers as the
    interval is; 1 for equal systems."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Application:
    """What decisions are for: how likely a target is before listening, and what each kind of error costs.

    Raises:
        ConfigError: not 0 < p_target < 1, a cost is not positive, or the costs make the effective prior 0 or 1.
    """

    p_target: float
    c_miss: float = 1.0
    c_fa: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.p_target < 1 or min(self.c_miss, self.c_fa) <= 0 or not 0 < self.effective_prior < 1:
            raise ConfigError(
                "decision costs: expected 0 < p_target < 1 and positive costs, found"
                f" p_target={self.p_target}, c_miss={self.c_miss}, c_fa={self.c_fa}"
            )

    @property
    def effective_prior(self) -> float:
        """The prior that, at unit costs, gives the same decisions and the same normalised costs.

        Source: N. Brummer and J. du Preez, "Application-independent evaluation of speaker detection", 2006.
        """
        missed = self.p_target * self.c_miss
        return missed / (missed + (1 - self.p_target) * self.c_fa)

    @property
    def name(self) -> str:
        """Name in tables: the prior, and the costs of a miss and of a false accept unless both are 1."""
        costs = "" if self.c_miss == self.c_fa == 1 else f", costs {self.c_miss:g}:{self.c_fa:g}"
        return f"{self.p_target:g}{costs}"


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatingPoint:
    """A threshold (accept at or above it) with the two error rates it gives on the trials at hand."""

    threshold: float
    miss_rate: float
    false_accept_rate: float
    miss_rate_interval: Interval | None = None
    """Holds for a threshold that was fixed beforehand; None: not resampled."""
    false_accept_rate_interval: Interval | None = None
    is_resolved: bool | None = None
    """Whether there are enough nontargets for the false-accept rate it was chosen by; None: chosen otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionCost(OperatingPoint):
    """A normalised detection cost and its operating point."""

    p_target: float
    """Prior probability of a target."""
    value: float
    c_miss: float = 1.0
    c_fa: float = 1.0
    interval: Interval | None = None

    @property
    def application(self) -> Application:
        """The application that the cost is for."""
        return Application(p_target=self.p_target, c_miss=self.c_miss, c_fa=self.c_fa)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Every metric of one system on trials of both classes."""

    num_targets: int
    num_nontargets: int
    eer: float
    eer_convex_hull: float
    min_dcf: tuple[DetectionCost, ...]
    min_cllr: float
    """Bits."""
    thresholds: dict[str, OperatingPoint]
    """`eer`, and `far_RATE` for each of `summary.FALSE_ACCEPT_RATES`."""
    eer_interval: Interval | None = None
    cllr: float | None = None
    """Bits. This and the following fields are None if there are no log-likelihood ratios."""
    cllr_interval: Interval | None = None
    min_cllr_llr: float | None = None
    act_dcf: tuple[DetectionCost, ...] | None = None
    min_dcf_llr: tuple[DetectionCost, ...] | None = None
    bayes_thresholds: dict[str, OperatingPoint] | None = None
    """By `p_target_NAME`, where NAME is that of an `Application` (its prior, if costs are 1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Metrics of a part of the trials."""

    value: str
    """What these trials have in common."""
    num_targets: int
    num_nontargets: int
    eer: float | None = None
    """None: the trials are of one class only."""
    eer_interval: Interval | None = None
    min_dcf: tuple[DetectionCost, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """Interval of the miss rate at each false-accept rate."""

    false_accept_rate: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
