"""What is measured of scores: rates are fractions, thresholds are on the scale of the scores (or LLRs) they decide."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Interval between percentiles of resampled values, expanded for few speakers."""

    low: float
    high: float
    num_speakers: int
    """Drawn in each resample."""
    num_resamples: int
    level: float = 0.95
    speakers_from: str | None = None
    """`manifest` or `trials`, where it is recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatingPoint:
    """A threshold (accept at or above it) with the two error rates it gives on the trials at hand."""

    threshold: float
    miss_rate: float
    false_accept_rate: float
    miss_rate_interval: Interval | None = None
    """Of the rates at this threshold as if it had been fixed before; None: not resampled, or equal in all resamples."""
    false_accept_rate_interval: Interval | None = None
    is_resolved: bool | None = None
    """There are enough nontargets for the false-accept rate it is chosen for; None: it is chosen otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionCost(OperatingPoint):
    """A normalised detection cost and the operating point that has it."""

    p_target: float
    """Prior probability of a target."""
    value: float
    c_miss: float = 1.0
    c_fa: float = 1.0
    interval: Interval | None = None


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
    """Bits; this and what follows: None where there are no log-likelihood ratios."""
    cllr_interval: Interval | None = None
    min_cllr_llr: float | None = None
    act_dcf: tuple[DetectionCost, ...] | None = None
    min_dcf_llr: tuple[DetectionCost, ...] | None = None
    bayes_thresholds: dict[str, OperatingPoint] | None = None
    """`p_target_PRIOR`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Metrics of a part of the trials."""

    value: str
    """What these trials have in common."""
    num_targets: int
    num_nontargets: int
    eer: float | None = None
    """None: one class only."""
    eer_interval: Interval | None = None
    min_dcf: tuple[DetectionCost, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """Interval of the miss rate at each false-accept rate."""

    false_accept_rate: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
