"""From a preset, a configuration file and `--set` options to one checked `Recipe`.

Precedence: dataclass default < preset < `--config FILE` < `--set KEY=VALUE`. Everything is TOML. Two keys are
not part of the recipe and only save repetition: `extends = "PRESET"` at the top of a file starts from that
preset, and `like = "dense.joint"` in a table starts from that table (as it stands after `--config`) instead
of what is below. Where a field may be absent, the word "none" says so, because TOML has no null.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from importlib import resources
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from svkit.config.ranges import shown
from svkit.config.schema import Recipe
from svkit.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

STAGES = ("lora", "head", "joint", "lmft")
"""Short names: `joint.` in `--set joint.epochs=2` means dense.joint and pruned.joint."""
NONE = "none"
"""How TOML says that an optional field is absent."""
_PRESETS = resources.files("svkit.config") / "presets"
_MAX_CHARACTERS, _MAX_DOTS = 2**16, 500
"""Of a file (a whole recipe has about 6,000), and of a line of it."""


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
        preset: name of a preset in the package.
        config_file_text: content of the user's `--config` file; it may have `extends` of its own, which then
            replaces `preset`.
        overrides: `KEY=VALUE` texts of `--set`, VALUE in TOML (a bare word is text).
        sections: dotted names of the sections the command runs, such as `dense.joint` or `prune`; a KEY that
            is no full name is looked up in each of them.
        defaults: values laid over the preset and under the user's file (what the experiment notes).
        preset_from: where the preset was named, for errors.
        config_name: of the user's file, for errors.

    Raises:
        ConfigError: unknown preset, key or value; the message begins with what the user typed (`--set KEY`, the file),
            names the key and what was expected or meant.
    """
    try:
        user = {} if config_file_text is None else _parse(config_file_text, config_name)
        if "extends" in user:
            preset, preset_from = user.pop("extends"), f"{config_name}: extends"
        return _load(preset, preset_from, user, overrides, sections, defaults or {})
    except _Misfit as misfit:
        where = f"preset {preset}" if config_file_text is None else config_name
        raise ConfigError(misfit.message(where, overrides, sections)) from None
    except RecursionError:
        raise ConfigError(
            "--config or --set: tables within tables within tables; expected two or three levels"
        ) from None


class _Misfit(Exception):
    """A value that a recipe cannot have, or values that do not go together."""

    def __init__(self, paths: Sequence[str], reason: str) -> None:
        """Note the full names of the values, and what was expected and found."""
        super().__init__(reason)
        self._paths = paths

    def message(self, where: str, overrides: Sequence[str], sections: Sequence[str]) -> str:
        """Begin with the `--set KEY` that gave one of the values (the last that did), else with `where`."""
        paths = ", ".join(self._paths)
        fields = [f"{path.partition('[')[0]}." for path in self._paths]
        for key in (override.partition("=")[0].strip() for override in reversed(overrides)):
            targets = tuple(f"{target}." for target in _targets(key, sections))
            if any(field.startswith(targets) for field in fields):
                return f"--set {key}: {self}" if key == paths else f"--set {key}: {self} ({paths})"
        return f"{where}: {paths}: {self}"


def _load(
    preset: object,
    preset_from: str,
    user: Mapping[str, Any],
    overrides: Sequence[str],
    sections: Sequence[str],
    defaults: Mapping[str, Any],
) -> Recipe:
    data = _merged(_merged(_preset(preset, preset_from), defaults), user)
    if "encoder_overrides" in user:
        # Free keys: laid over the preset's they could never be taken away, so the user's table replaces them.
        data["encoder_overrides"] = user["encoder_overrides"]
    _copy_like(data, data, "")
    for override in overrides:
        _apply(data, override, sections)
    recipe = _build(Recipe, data, "")
    assert isinstance(recipe, Recipe)
    return recipe


def resolved(config: object) -> dict[str, Any]:
    """Return a configuration as nested plain values, for provenance and `to_toml`; None becomes "none"."""
    assert is_dataclass(config)
    return {item.name: _plain(getattr(config, item.name)) for item in fields(config)}


def to_toml(table: Mapping[str, Any], prefix: str = "") -> str:
    """Write nested plain values as TOML that `load_recipe` reads back."""
    values = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"{key} = {_toml_value(value)}" for key, value in values.items()]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{prefix}{key}]", to_toml(value, f"{prefix}{key}.")]
    return "\n".join(lines)


def _plain(value: object) -> Any:
    if is_dataclass(value):
        return resolved(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return NONE if value is None else dict(value) if isinstance(value, dict) else value


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    return repr(value)


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        return read_toml(text)
    except ValueError as error:
        raise ConfigError(f"{where}: not valid TOML: {error}") from None


def read_toml(text: str) -> dict[str, Any]:
    """Read TOML.

    Raises:
        ValueError: it is none, or one that takes time without end: keys of thousands of parts.
        RecursionError: tables or lists a thousand deep.
    """
    if len(text) > _MAX_CHARACTERS or any(line.count(".") > _MAX_DOTS for line in text.split("\n")):
        raise ValueError(f"expected at most {_MAX_CHARACTERS:,} characters, and {_MAX_DOTS} dots in a line")
    return tomllib.loads(text)


def check_preset(name: object, named_by: str) -> None:
    """Raise ConfigError for a preset that the package has not; `named_by` is the option or file that names it."""
    names = preset_names()
    if name not in names:
        hint = _did_you_mean(str(name), names)
        raise ConfigError(f"{named_by}: unknown preset {shown(name)}{hint}; there are {', '.join(names)}")


def _preset(name: object, named_by: str, children: tuple[str, ...] = ()) -> dict[str, Any]:
    check_preset(name, named_by)
    assert isinstance(name, str) and name not in children, "presets extend each other in a circle"
    text = (_PRESETS / f"{name}.toml").read_text(encoding="utf-8")
    data = _parse(text, f"preset {name}")
    parent = data.pop("extends", None)
    return data if parent is None else _merged(_preset(parent, f"preset {name}", (*children, name)), data)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested table over another; a table with a `like` of its own replaces what is below."""
    data = dict(under)
    for key, value in over.items():
        below = data.get(key)
        if isinstance(value, dict) and isinstance(below, dict) and "like" not in value:
            data[key] = _merged(below, value)
        else:
            data[key] = value
    return data


def _copy_like(table: dict[str, Any], root: Mapping[str, Any], path: str) -> None:
    """Resolve `like` in place; it is resolved late, so that what extends a preset changes the copies too."""
    source = table.pop("like", None)
    if source is not None:
        found: Any = root
        for part in str(source).split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if not isinstance(found, dict) or path.startswith(f"{source}."):
            raise _Misfit([f"{path}like"], f"expected the name of another table, found {shown(source)}")
        _copy_like(found, root, f"{source}.")
        table.update(_merged(found, table))
    for key, value in table.items():
        if isinstance(value, dict):
            table[key] = dict(value)
            _copy_like(table[key], root, f"{path}{key}.")


def _apply(data: dict[str, Any], override: str, sections: Sequence[str]) -> None:
    """Carry out one `--set KEY=VALUE`."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"--set: expected KEY=VALUE, found {override!r}")
    try:
        value = read_toml(f"value = {text}")["value"]
    except ValueError:
        value = text.strip()
    for target in _targets(key, sections):
        *parents, last = target.split(".")
        table = data
        for part in parents:
            below = table.get(part)
            table[part] = below if isinstance(below, dict) else {}
            table = table[part]
        table[last] = value


def _targets(key: str, sections: Sequence[str]) -> list[str]:
    """Return the full names that a key of `--set` stands for."""
    if _exists(key):
        return [key]
    first, _, rest = key.partition(".")
    both = [f"dense.{key}", f"pruned.{key}"] if first in STAGES and rest else []
    for candidates in (both, [f"{section}.{key}" for section in sections]):
        found = [name for name in candidates if _exists(name)]
        if found:
            return found
    known = list(_leaves(Recipe, ""))
    for stage in STAGES:
        known += _leaves(_type_at(f"dense.{stage}"), f"{stage}.")
    for section in sections:
        known += _leaves(_type_at(section), "")
    raise ConfigError(f"--set: unknown key {key!r}{_did_you_mean(key, known)}")


def _exists(name: str) -> bool:
    return _type_at(name) is not None


def _type_at(name: str) -> Any:
    """Return the annotated type of a dotted name below `Recipe`, None if there is no such name."""
    kind: Any = Recipe
    for part in name.split("."):
        table = _table_type(kind)
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        elif table is None or part not in (hints := get_type_hints(table)):
            return None
        else:
            kind = hints[part]
    return kind


def _table_type(kind: Any) -> Any:
    """Return the dataclass in `X` or `X | None`, else None."""
    return next((option for option in _options(kind) if is_dataclass(option)), None)


def _options(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _leaves(kind: Any, prefix: str) -> Iterator[str]:
    for name, hint in get_type_hints(_table_type(kind)).items():
        yield f"{prefix}{name}"
        if _table_type(hint) is not None:
            yield from _leaves(hint, f"{prefix}{name}.")


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _build(kind: Any, data: Any, path: str) -> Any:
    """Build a dataclass from a table; `path` is its dotted name."""
    dot = f"{path}." if path else ""
    if not isinstance(data, dict):
        raise _Misfit([path], f"expected a table, found {shown(data)}")
    hints = get_type_hints(kind)
    unknown = next((key for key in data if key not in hints), None)
    if unknown is not None:
        raise _Misfit([f"{dot}{_shown(unknown)}"], f"unknown key{_did_you_mean(unknown, list(hints))}")
    values = {key: _convert(hints[key], value, f"{dot}{key}") for key, value in data.items()}
    for item in fields(kind):
        if item.name not in values and item.default is MISSING and item.default_factory is MISSING:
            raise _Misfit([f"{dot}{item.name}"], "missing; this recipe must state it")
    try:
        return kind(**values)
    except ConfigError as error:
        names, _, reason = str(error).partition(": ")
        raise _Misfit([f"{dot}{name}" for name in names.split(", ")], reason) from None


def _convert(kind: Any, value: Any, path: str) -> Any:
    """Convert one TOML value to an annotated type, naming what does not fit."""
    options = _options(kind)
    if NoneType in options:
        if value == NONE:
            return None
        options = tuple(option for option in options if option is not NoneType)
    for option in options:
        if is_dataclass(option):
            return _build(option, value, path)
        origin = get_origin(option)
        if origin is tuple and isinstance(value, list):
            return _convert_list(option, value, path)
        if origin is dict and isinstance(value, dict):
            return {
                key: _convert(get_args(option)[1], item, f"{path}.{_shown(key)}")
                for key, item in value.items()
            }
        if origin is Literal and value in get_args(option):
            return value
        if isinstance(option, type) and type(value) is option:
            return value
        if option is float and type(value) is int:
            return float(value) if abs(value) < 2**63 else value  # which is in no range
    raise _Misfit([path], f"expected {_expected(kind)}, found {shown(value)}")


def _convert_list(kind: Any, value: Sequence[Any], path: str) -> tuple[Any, ...]:
    items = get_args(kind)
    if items[-1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(items) != len(value):
        raise _Misfit([path], f"expected {_expected(kind)}, found {shown(value)}")
    pairs = zip(items, value, strict=True)
    return tuple(_convert(item, part, f"{path}[{index}]") for index, (item, part) in enumerate(pairs))


def _expected(kind: Any) -> str:
    names = {
        str: "text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        NoneType: f'"{NONE}"',
    }
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(repr(choice) for choice in args)
    if origin in (Union, UnionType):
        return " or ".join(_expected(option) for option in args)
    if origin is tuple:
        count = "" if args[-1] is Ellipsis else f"{len(args)} times "
        return f"a list of {count}{_expected(args[0])}"
    return "a table" if origin is dict or is_dataclass(kind) else names[kind]


def _shown(key: str) -> str:
    """A key as it is where it is plain."""
    return key if key.isprintable() and len(key) < 80 else f"{key[:80]!r}"
