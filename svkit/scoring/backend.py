"""How two embeddings become a score: the settings, and their names in tables, directories and records."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from svkit.config.conditions import plain_name
from svkit.errors import ConfigError
from svkit.store.metrics import BackendRecord

TOP_N = 300
_BY_ROLE = ("train", "training", "cohort", "mean")
"""Directory names that only repeat what the material is for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """How two embeddings become a score."""

    method: Literal["cosine", "plda"] = "cosine"
    """Cosine, or the log-likelihood ratio of a two-covariance PLDA model."""
    norm: Literal["none", "snorm", "asnorm"] = "none"
    top_n: int = TOP_N
    """Number of closest cohort members that adaptive S-norm uses."""
    center: bool = False
    """Subtract the mean of the cohort, or of the tests if there is no cohort."""
    cohort_speakers: bool = False
    """One cohort member per speaker (mean of the length-normalised embeddings) instead of one per utterance."""
    length_norm: bool = True
    """Length-normalise embeddings for PLDA; cosine always does."""
    adapt_weight: float | None = None
    """Weight, in the covariances, of the recordings that PLDA is adapted to; None: there are none, or their number
    decides (`Material.weighed`)."""

    def __post_init__(self) -> None:
        if self.method == "plda" and self.center:
            raise ConfigError("--center: PLDA centres on its own training data; leave it out")
        if self.method != "plda" and not self.length_norm:
            raise ConfigError("--no-length-norm is only for --backend plda: cosine always ignores length")

    def changed(self) -> dict[str, Any]:
        """Return the settings by name, without those that earlier versions lacked if they have their default."""
        same = {"length_norm": True, "adapt_weight": None}
        return {name: value for name, value in asdict(self).items() if same.get(name, ...) != value}

    def name(self, inputs: Mapping[str, Path]) -> str:
        """Return the back-end's name for tables and directories: everything that is not the default and changes scores.

        `inputs` has the system's `embeddings` and the directories of its material. These are part of the name, without
        the system's name in theirs, unless their name only repeats their role.
        """
        has_norm = self.norm != "none"
        system = plain_name(inputs["embeddings"].name) if "embeddings" in inputs else ""

        def material(name: str) -> str:
            place = inputs.get(name, Path())
            own = place.name.removeprefix(system).removesuffix(system).strip("-_.")
            return "" if own in _BY_ROLE else own

        parts = ["plda", material("plda_training")] if self.method == "plda" else []
        parts += ["no-length-norm"] * (not self.length_norm)
        if "plda_adaptation" in inputs:
            parts += ["adapt", material("plda_adaptation")]
            parts += [] if self.adapt_weight is None else [f"w{self.adapt_weight:g}"]
        parts += ["mean", material("mean")] if "mean" in inputs else ["center"] * self.center
        parts += [self.norm] * has_norm
        if self.norm == "asnorm" and self.top_n != TOP_N:
            parts.append(f"top{self.top_n}")
        parts += ["speakers"] * (self.cohort_speakers and has_norm)
        if "cohort" in inputs and (has_norm or self.center):
            parts.append(material("cohort"))
        return "-".join(filter(None, parts)) or "cosine"


def describe_backend(
    backend: Backend, name: str | None = None, material: Mapping[str, str] | None = None
) -> BackendRecord:
    """Return the record of a back-end, with the sha256 of the material it used."""
    return BackendRecord(**backend.changed(), name=name or backend.name({}), material=dict(material or {}))
