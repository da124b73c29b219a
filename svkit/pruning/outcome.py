"""How pruning ended: what the gates reached, what the cut changed, and what a user should know about it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from svkit.config.architecture import EncoderArchitecture

MAX_SHORTFALL = 0.02
"""The gates' expected sparsity may end this far below its target; more is an error."""
MAX_MISS = 0.01
"""It may end this far from the target, on either side, without a caution."""
MAX_MOVED = 0.02
"""The cut may change the student's distance to the teacher by this fraction without a caution."""
_NAMES = {
    "heads": "attention head",
    "ffn1": "unit of the first FFN",
    "ffn2": "unit of the second FFN",
    "conv": "channel of the convolution",
}


def vanished_kinds(architecture: EncoderArchitecture, dense: EncoderArchitecture) -> list[str]:
    """Return the kinds of units that the dense encoder has and `architecture` has in no layer."""
    from svkit.nn.encoder import KINDS  # imports torch, which tables of scores do without

    widths, before = architecture.widths(), dense.widths()
    return [kind for kind, name in KINDS.items() if any(before[name]) and not any(widths[name])]


def vanished_sentence(kinds: Sequence[str]) -> str:
    """Say which kinds of units have vanished."""
    return f"no {' and no '.join(_NAMES[kind] for kind in kinds)} is left in any layer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Figures of a pruning that has been cut."""

    constraint: str
    target: float
    expected: float
    """Sparsity by the gates' expectation when training ended."""
    counted: float
    """Sparsity of the encoder that was cut."""
    before_cut: Mapping[str, float]
    """L1 and cosine to the teacher under the deterministic mask."""
    after_cut: Mapping[str, float]
    vanished: list[str]

    @property
    def moved(self) -> float:
        """How much the cut changed the student's distance to the teacher, as a fraction of that before the cut."""
        before, after = self.before_cut["l1"], self.after_cut["l1"]
        return abs(after - before) / max(before, 1e-12)

    @property
    def cautions(self) -> list[str]:
        """What did not go as it should, one sentence each."""
        cautions = []
        if abs(self.target - self.expected) > MAX_MISS:
            cautions.append(
                f"the gates ended at an expected sparsity of {100 * self.expected:.1f} %, but the target is"
                f" {100 * self.target:.1f} %; training had not prepared the student for the cut that met it"
            )
        if self.moved > MAX_MOVED:
            why = "the gates had not settled; prune for longer, or with --set prune.constraint=projection"
            if self.constraint == "projection":
                why = "the gates had not settled (prune for longer), or round_to or a budget of MACs gave other widths"
            cautions.append(
                f"the cut moved the student's L1 distance to the teacher from {self.before_cut['l1']:.3f} to"
                f" {self.after_cut['l1']:.3f}, by {100 * self.moved:.0f} % (expected: at most {100 * MAX_MOVED:.0f} %):"
                f" {why}"
            )
        if self.vanished:
            other = (
                "a larger --set prune.gate_travel"
                if self.constraint == "projection"
                else "--set prune.constraint=projection"
            )
            cautions.append(
                f"{vanished_sentence(self.vanished)}; prune for longer, with {other}, or to a lower sparsity"
            )
        return cautions

    def record(self) -> dict[str, object]:
        """Return the figures as JSON."""
        return asdict(self) | {"moved": self.moved, "cautions": self.cautions}
