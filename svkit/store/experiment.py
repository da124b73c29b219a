"""`exp/config.toml`: what an experiment was made with, for the commands after it: preset, encoder, seed, augmentation.

`svkit prepare` writes it; a later command whose flags choose something else notes that here and reports it.
"""

from pathlib import Path
from typing import Any, Literal

from svkit.config.load import read_toml, toml_value
from svkit.config.schema import Seed
from svkit.config.typed import Misfit, configuration, fit
from svkit.errors import ConfigError
from svkit.store.atomic import write_text
from svkit.store.files import TOML_BYTES, read_file
from svkit.store.places import recorded_path

FILE_NAME = "config.toml"


@configuration
class Experiment:
    """Defaults of an experiment directory; flags win over them."""

    preset: str = "w2v-bert-2.0"
    encoder: str | None = None
    """Hub id, `tiny`, or a directory: absolute, or below the experiment after `./`; None: what the preset says."""
    noise: str | None = None
    """List of noise and music, relative to the experiment directory or absolute; None: none prepared."""
    rirs: str | None = None
    """List of room impulse responses, relative to the experiment directory or absolute; None: none prepared."""
    seed: Seed | None = None
    """Of training; None: the preset's."""
    augment: Literal["none", "all"] | None = None
    """`none`: training without noise and reverberation, `all` or None: with what there is."""


def resolve(exp: Path, value: str | None) -> Path | None:
    """Return the path that a list of `Experiment` means: below `exp` unless absolute."""
    return None if value is None else exp / value


def encoder_to_note(exp: Path, encoder: str) -> str:
    """Return what `Experiment.encoder` says of an encoder that was given, so that it is found from anywhere."""
    if not Path(encoder).is_dir():
        return encoder
    path = recorded_path(Path(encoder), exp)
    return path if Path(path).is_absolute() else f"./{path}"


def noted_encoder(exp: Path, encoder: str | None) -> str | None:
    """Return the encoder that `Experiment.encoder` means."""
    return str(exp / encoder) if encoder is not None and encoder.startswith("./") else encoder


def read_experiment(exp: Path) -> Experiment:
    """Read `exp/config.toml`; without one, the defaults hold.

    Raises:
        ConfigError: not TOML, an unknown key, or a value of another type.
    """
    return Experiment(**read_noted(exp))


def read_noted(exp: Path) -> dict[str, Any]:
    """Return what the file says, without defaults."""
    path = exp / FILE_NAME
    if not path.exists():
        return {}
    try:
        content = read_toml(read_file(path, ConfigError, TOML_BYTES).decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error
    try:
        fit(Experiment, content)
    except Misfit as misfit:
        raise ConfigError(f"{path}: {misfit}") from None
    return content


def update_experiment(exp: Path, **changes: str | int | None) -> list[str]:
    """Change some keys of `exp/config.toml` and keep the others; None removes a key.

    An encoder goes with its preset: where another preset comes without one, it is forgotten.

    Returns:
        A sentence for each value that was there and is another one now.
    """
    before = read_noted(exp)
    if changes.get("preset", before.get("preset")) != before.get("preset") is not None:
        changes = {"encoder": None, **changes}
    after = {**before, **changes}
    after = {key: value for key, value in after.items() if value is not None}
    if after != before or not before:
        lines = ["# Written by svkit: the settings of this experiment. Every command reads them; flags win."]
        lines += [f"{key} = {toml_value(value)}" for key, value in after.items()]
        write_text(exp / FILE_NAME, "\n".join(lines) + "\n")
    names = [key for key in dict.fromkeys((*before, *after)) if before and before.get(key) != after.get(key)]
    return [
        f"{exp / FILE_NAME}: {key} is {after.get(key, 'not set')} from now on (was {before.get(key, 'not set')})"
        for key in names
    ]
