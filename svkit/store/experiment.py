"""`exp/config.toml`: preset, encoder, seed and augmentation of an experiment, which every later command reads.

`svkit prepare` writes it. A later command whose flags choose something else changes it and reports the change.
"""

import os
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
    """Hub id, `tiny`, or a directory, absolute or relative to the experiment after `./`; None: the preset's."""
    noise: str | None = None
    """List of noise and music, relative to the experiment directory or absolute; None: none prepared."""
    rirs: str | None = None
    """List of room impulse responses, relative to the experiment directory or absolute; None: none prepared."""
    seed: Seed | None = None
    """Seed of training; None: the preset's."""
    augment: Literal["none", "all"] | None = None
    """`none`: train without noise and reverberation; `all` or None: train with whatever was prepared."""


def resolve(exp: Path, value: str | None) -> Path | None:
    """Return the path of a list that `Experiment` names: relative to `exp` unless absolute."""
    return None if value is None else exp / value


def encoder_to_note(exp: Path, encoder: str) -> str:
    """Return the value of `Experiment.encoder` for an encoder given by the user, valid in any working directory."""
    if not Path(encoder).is_dir():
        return encoder
    path = recorded_path(Path(encoder), exp)
    return path if Path(path).is_absolute() else f"./{path}"


def noted_encoder(exp: Path, encoder: str | None) -> str | None:
    """Return the encoder that a value of `Experiment.encoder` stands for."""
    return str(exp / encoder) if encoder is not None and encoder.startswith("./") else encoder


def read_experiment(exp: Path) -> Experiment:
    """Read `exp/config.toml`, or defaults without it (ConfigError: not TOML, an unknown key, or an unfit value)."""
    return Experiment(**read_noted(exp))


def read_noted(exp: Path) -> dict[str, Any]:
    """Return the settings that are in the file, without defaults (errors as `read_experiment`)."""
    path = exp / FILE_NAME
    if not os.path.lexists(path):  # a link to a place that is gone is an error, not a choice of the defaults
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

    An encoder belongs to its preset: a new preset that is given without an encoder removes the old encoder.

    Returns:
        A sentence for each value that has changed; none if the file is new.
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
