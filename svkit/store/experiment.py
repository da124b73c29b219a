"""`exp/config.toml`: what `prepare` decided for the verbs after it (preset, encoder, noise and RIR lists)."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from svkit.config.load import read_toml
from svkit.errors import ConfigError
from svkit.store.atomic import write_text
from svkit.store.files import TOML_BYTES, read_file
from svkit.store.places import recorded_path

FILE_NAME = "config.toml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """Defaults of an experiment directory; flags win over them."""

    preset: str = "w2v-bert-2.0"
    encoder: str | None = None
    """Hub id, `tiny`, or a directory: absolute, or below the experiment after `./`; None: what the preset says."""
    noise: str | None = None
    """List of noise and music, relative to the experiment directory or absolute; None: none prepared."""
    rirs: str | None = None
    """List of room impulse responses, likewise."""


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
        ConfigError: not TOML, an unknown key, or a value that is not text.
    """
    path = exp / FILE_NAME
    if not path.exists():
        return Experiment()
    try:
        content = read_toml(read_file(path, ConfigError, TOML_BYTES).decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error
    known = [item.name for item in fields(Experiment)]
    for key, value in content.items():
        if key not in known:
            shown = key if key.isprintable() else repr(key)
            raise ConfigError(f"{path}: {shown}: unknown key; expected {', '.join(known)}")
        if not isinstance(value, str):
            raise ConfigError(f"{path}: {key}: expected text, found {value!r}")
    return Experiment(**content)


def update_experiment(exp: Path, **changes: str | None) -> Experiment:
    """Change some keys of `exp/config.toml` and keep the others; None removes a key."""
    experiment = Experiment(**{**asdict(read_experiment(exp)), **changes})
    lines = ["# Written by `svkit prepare`; every later command reads it, its flags win."]
    for key, value in asdict(experiment).items():
        if value is not None:
            # A JSON string is a TOML basic string, but for DEL.
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f"))
    write_text(exp / FILE_NAME, "\n".join(lines) + "\n")
    return experiment
