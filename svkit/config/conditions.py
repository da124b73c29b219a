"""Conditions that speech is heard under: names of `svkit extract --condition` and of `augment.conditions`."""

from typing import Literal, get_args

from svkit.errors import ConfigError

Channel = Literal[
    "alaw", "ulaw", "gsm", "amr-nb", "amr-wb", "opus6k", "opus16k", "mp3-16k", "mp3-32k", "aac-24k",
    "loss10", "loss10-repeat", "narrowband", "clip", "far",
]  # fmt: skip
CHANNELS: tuple[Channel, ...] = get_args(Channel)
"""All keep the length of a recording and the place of its sounds; what each is: docs/conditions.md."""
CUTS = {"cut1s": 1.0, "cut2s": 2.0, "cut3s": 3.0, "cut5s": 5.0}
"""Seconds from the beginning of a recording that are kept."""
NAMES = (*CHANNELS, *CUTS)
_MARK = "@"


def check_condition(name: str) -> None:
    """Raise ConfigError for a condition that there is not."""
    if name not in NAMES:
        from svkit.config.typed import did_you_mean

        hint = did_you_mean(name, NAMES) or f"; expected one of {', '.join(NAMES)}"
        raise ConfigError(f"--condition {name}: unknown{hint}")


def under(name: str, condition: str | None) -> str:
    """Name what a system, or its embeddings, is called under a condition: `dense@gsm`."""
    return name if condition is None else f"{name}{_MARK}{condition}"


def plain_name(name: str) -> str:
    """Return the name of a system, or of embeddings, without the condition."""
    plain, _, condition = name.rpartition(_MARK)
    return plain if condition in NAMES else name
