"""Checks the versions of torch and torchaudio: compiled against each other, they need equal minor versions."""

from importlib.metadata import version

from svkit.errors import ConfigError


def check_torch_pair() -> str:
    """Return the installed pair, such as `torch 2.11.0, torchaudio 2.11.0`, without importing either.

    Raises:
        ConfigError: the minor versions differ; the message says what to install.
    """
    versions = {name: version(name) for name in ("torch", "torchaudio")}
    pair = ", ".join(f"{name} {found}" for name, found in versions.items())
    minors = {name: ".".join(found.split("+")[0].split(".")[:2]) for name, found in versions.items()}
    if minors["torch"] != minors["torchaudio"]:
        raise ConfigError(
            f"expected torch and torchaudio of one minor version, found {pair}; install a pair from one index: "
            "pip install --force-reinstall 'torch==2.11.*' 'torchaudio==2.11.*'"
        )
    return pair
