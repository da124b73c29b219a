"""Recording conditions that svkit can simulate: the names for `svkit extract --condition` and `augment.conditions`."""

from typing import Literal, get_args

from svkit.errors import ConfigError

Channel = Literal[
    "alaw", "ulaw", "gsm", "amr-nb", "amr-wb", "opus6k", "opus16k", "mp3-16k", "mp3-32k", "aac-24k",
    "loss10", "loss10-repeat", "narrowband", "clip", "far",
]  # fmt: skip
CHANNELS: tuple[Channel, ...] = get_args(Channel)
"""All keep a recording's length and the position of its sounds; docs/conditions.md describes each."""
CUTS = {"cut1s": 1.0, "cut2s": 2.0, "cut3s": 3.0, "cut5s": 5.0}
"""Seconds from the beginning of a recording that are kept."""
NAMES = (*CHANNELS, *CUTS)
_MARK = "@"


def check_condition(name: str) -> None:
    """Raise ConfigError for an unknown condition."""
    if name not in NAMES:
        from svkit.config.typed import did_you_mean

        hint = did_you_mean(name, NAMES) or f"; expected one of {', '.join(NAMES)}"
        raise ConfigError(f"--condition {name}: unknown{hint}")


def under(name: str, condition: str | None) -> str:
    """Return the name of a system, or of its embeddings, under a condition: `dense@gsm`."""
    return name if condition is None else f"{name}{_MARK}{condition}"


def plain_name(name: str) -> str:
    """Return the name of a system, or of embeddings, without the condition."""
    plain, _, condition = name.rpartition(_MARK)
    return plain if condition in NAMES else name
