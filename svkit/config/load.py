"""Build one checked `Recipe` from a preset, a configuration file and `--set` options.

Precedence: dataclass default < preset < `--config FILE` < `--set KEY=VALUE`. Everything is TOML. Two keys are
not part of the recipe and only save repetition: `extends = "PRESET"` at the top of a file starts from that
preset, and `like = "dense.joint"` in a table starts from that table (as it stands after `--config`) instead
of the table it would otherwise extend. A field that may be absent is set to "none", because TOML has no null.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from importlib import resources
from typing import Any

from svkit.config.ranges import shown
from svkit.config.schema import Recipe
from svkit.config.typed import Misfit, did_you_mean, fit, member, names
from svkit.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

STAGES = ("lora", "head", "joint", "lmft")
"""Short names: `joint.` in `--set joint.epochs=2` means dense.joint and pruned.joint."""
_PRESETS = resources.files("svkit.config") / "presets"
_MAX_CHARACTERS, _MAX_DOTS = 2**16, 500
"""Limits of a file (a whole recipe has about 6,000 characters), and of one of its lines."""


def preset_names() -> list[str]:
    """Return the names of the presets in the package, sorted."""
    return sorted(entry.name[: -len(".toml")] for entry in _PRESETS.iterdir() if entry.name.endswith(".toml"))


def load_recipe(
    preset: str,
    config_file_text: str | None = None,
    overrides: Sequence[str] = (),
    sections: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
    preset_from: str = "--preset",
    config_name: str = "--config",
) -> Recipe:
    """Build the recipe a command runs with.

    Args:
        preset: its name in the package; `extends` in the user's file wins.
        config_file_text: content of the user's file.
        overrides: `KEY=VALUE` texts of `--set`, VALUE in TOML (a bare word is text).
        sections: dotted names of the sections the command runs, such as `dense.joint` or `prune`; a KEY that
            is not a full name is looked up in each of them.
        defaults: values between the preset and the user's file in precedence (what the experiment notes).
        preset_from: where the preset was named, for errors.
        config_name: name of the user's file, for errors.

    Raises:
        ConfigError: unknown preset, key or value; the message begins with what the user typed (`--set KEY`, the file),
            names the key and what was expected or meant.
    """
    targets: list[tuple[str, list[str]]] = []
    try:
        user = {} if config_file_text is None else _parse(config_file_text, config_name)
        if "extends" in user:
            preset, preset_from = user.pop("extends"), f"{config_name}: extends"
        data = _merged(_merged(_preset(preset, preset_from), defaults or {}), user)
        if "encoder_overrides" in user:
            # Its keys are free. Merged, those of the preset could never be removed, so the user's table replaces them.
            data["encoder_overrides"] = user["encoder_overrides"]
        _copy_like(data, data, "")
        for override in overrides:
            targets.append(_set(data, override, sections))
        return fit(Recipe, data)
    except Misfit as misfit:
        where = f"preset {preset}" if config_file_text is None else config_name
        raise ConfigError(_message(misfit, where, targets)) from None
    except RecursionError:
        raise ConfigError(
            "--config or --set: tables are nested too deeply; expected two or three levels"
        ) from None


def _message(misfit: Misfit, where: str, overrides: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Begin with the `--set KEY` that gave one of the values (the last that did), else with `where`."""
    fields = [f"{name.partition('[')[0]}." for name in misfit.names]
    for key, targets in reversed(overrides):
        if any(field.startswith(f"{target}.") for field in fields for target in targets):
            full = ", ".join(misfit.names)
            return f"--set {key}: {misfit.reason}" + (f" ({full})" if full != key else "")
    return f"{where}: {misfit}"


def resolved(config: Any) -> dict[str, Any]:
    """Return a configuration as nested plain values, for provenance and `to_toml`; None becomes "none"."""
    table: dict[str, Any] = json.loads(json.dumps(asdict(config)), object_pairs_hook=_plain)
    return table


def _plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: "none" if value is None else value for key, value in pairs}


def to_toml(table: Mapping[str, Any], prefix: str = "") -> str:
    """Write nested plain values as TOML that `load_recipe` reads back."""
    values = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"{key} = {toml_value(value)}" for key, value in values.items()]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{prefix}{key}]", to_toml(value, f"{prefix}{key}.")]
    return "\n".join(lines)


def toml_value(value: object) -> str:
    """Write text, a number, a truth value or a list of them as TOML, which differs from JSON only for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        return read_toml(text)
    except ValueError as error:
        raise ConfigError(f"{where}: not valid TOML: {error}") from None


def read_toml(text: str) -> dict[str, Any]:
    """Read TOML.

    Raises:
        ValueError: the text is not TOML, or so large (or its keys have so many parts) that parsing would take too long.
        RecursionError: tables or lists are nested a thousand deep.
    """
    if len(text) > _MAX_CHARACTERS or any(line.count(".") > _MAX_DOTS for line in text.split("\n")):
        raise ValueError(f"expected at most {_MAX_CHARACTERS:,} characters, and {_MAX_DOTS} dots in a line")
    return tomllib.loads(text)


def check_preset(name: object, named_by: str) -> None:
    """Raise ConfigError for an unknown preset; `named_by` is the option or file that names it."""
    known = preset_names()
    if name not in known:
        hint = did_you_mean(str(name), known)
        raise ConfigError(
            f"{named_by}: unknown preset {shown(name)}{hint}; expected one of {', '.join(known)}"
        )


def _preset(name: object, named_by: str) -> dict[str, Any]:
    check_preset(name, named_by)
    data = _parse((_PRESETS / f"{name}.toml").read_text(encoding="utf-8"), f"preset {name}")
    parent = data.pop("extends", None)
    return data if parent is None else _merged(_preset(parent, f"preset {name}"), data)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two nested tables, in which `over` wins; a table with a `like` of its own replaces the other whole."""
    data = dict(under)
    for key, value in over.items():
        below = data.get(key)
        if isinstance(value, dict) and isinstance(below, dict) and "like" not in value:
            value = _merged(below, value)
        data[key] = value
    return data


def _copy_like(table: dict[str, Any], root: Mapping[str, Any], path: str) -> None:
    """Resolve `like` in place; this comes after all merging, so that a change to the source reaches the copies too."""
    source = table.pop("like", None)
    if source is not None:
        found: Any = root
        for part in str(source).split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if not isinstance(found, dict) or path.startswith(f"{source}."):
            raise Misfit([f"{path}like"], f"expected the name of another table, found {shown(source)}")
        _copy_like(found, root, f"{source}.")
        table.update(_merged(found, table))
    for key, value in table.items():
        if isinstance(value, dict):
            table[key] = dict(value)
            _copy_like(table[key], root, f"{path}{key}.")


def _set(data: dict[str, Any], override: str, sections: Sequence[str]) -> tuple[str, list[str]]:
    """Apply one `--set KEY=VALUE`; return the key, and the full names that it stands for."""
    key, equals, text = (part.strip() for part in override.partition("="))
    if not equals or not key:
        raise ConfigError(f"--set: expected KEY=VALUE, found {override!r}")
    try:
        value = read_toml(f"value = {text}")["value"]
    except ValueError:
        value = text
    targets = _targets(key, sections)
    for target in targets:
        *parents, last = target.split(".")
        table = data
        for part in parents:
            below = table.get(part)
            table[part] = below if isinstance(below, dict) else {}
            table = table[part]
        table[last] = value
    return key, targets


def _targets(key: str, sections: Sequence[str]) -> list[str]:
    if _type_at(key) is not None:
        return [key]
    is_stage = key.partition(".")[0] in STAGES
    for homes in (("dense", "pruned") if is_stage else (), sections):
        found = [f"{home}.{key}" for home in homes if _type_at(f"{home}.{key}") is not None]
        if found:
            return found
    known = list(names(Recipe))
    for stage in STAGES:
        known += names(_type_at(f"dense.{stage}"), f"{stage}.")
    for section in sections:
        known += names(_type_at(section))
    raise ConfigError(f"--set: unknown key {key!r}{did_you_mean(key, known)}")


def _type_at(name: str) -> Any:
    """Return the annotated type of a dotted name below `Recipe`, None if there is no such name."""
    return reduce(member, name.split("."), Recipe)
