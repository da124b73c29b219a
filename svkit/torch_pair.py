"""Checks the versions of torch and torchaudio: compiled against each other, they need equal minor versions."""

from importlib.metadata import version

from svkit.errors import ConfigError

BAD_TORCHAUDIO = "2.11.1"
"""Allows torch 2.11, but does not load with it: a symbol of a later torch is missing (seen on 2026-11-28)."""
PAIR = "'torch==2.11.0' 'torchaudio==2.11.0'"
"""The newest pair, as pip takes it."""


def check_torch_pair() -> str:
    """Return the installed pair, such as `torch 2.11.0, torchaudio 2.11.0`, without importing either.

    Raises:
        ConfigError: the minor versions differ, or torchaudio does not load; the message says what to install.
    """
    versions = {name: version(name) for name in ("torch", "torchaudio")}
    pair = ", ".join(f"{name} {found}" for name, found in versions.items())
    plain = {name: found.split("+")[0] for name, found in versions.items()}
    minors = {name: found.split(".")[:2] for name, found in plain.items()}
    if minors["torch"] != minors["torchaudio"] or plain["torchaudio"] == BAD_TORCHAUDIO:
        also = f", and not torchaudio {BAD_TORCHAUDIO}, which torch 2.11 cannot load"
        raise ConfigError(
            f"expected torch and torchaudio of one minor version{also}, found {pair}; install a pair from one index: "
            f"pip install --force-reinstall {PAIR}"
        )
    return pair
