"""What a recorded stage of training changed of its preset."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from svkit.config.load import load_recipe, preset_names, resolved, toml_value
from svkit.config.schema import TINY_SIZES

_ELSEWHERE = frozenset({"num_workers", "cache_dir", "cache_gb", "micro_batch", "sparsity"})
"""No changes of the recipe: what suits a machine, and the sparsity, which is what one asks `svkit prune` for."""
_MOMENTS = frozenset({"validations", "validate_every_steps"})
"""When a stage is validated. This decides its result only if it keeps the best state."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A setting with another value than the preset's, as this svkit has the preset."""

    setting: str
    """Dotted name in the recipe, as `--set` takes it."""
    value: str
    """In TOML, text without quotes; `on`: a table, where the other is `none`."""
    preset: str

    @property
    def is_shorter(self) -> bool:
        """Whether a stage was trained for fewer epochs than the preset says."""
        try:
            return self.setting.endswith(".epochs") and float(self.value) < float(self.preset)
        except ValueError:  # a damaged record
            return False


def changes(preset: object, recorded: Mapping[str, object]) -> Iterator[Change]:
    """Yield what recorded parts of a recipe change of a preset; nothing if this svkit has no such preset.

    Args:
        preset: its name.
        recorded: plain values by the dotted name of their table; other values than tables are left out, and so are
            settings that an earlier svkit did not have, or this one no longer has.
    """
    if preset not in preset_names():
        return
    whole = _preset(str(preset))
    for name, table in recorded.items():
        own: Any = whole
        for part in name.split("."):
            own = own.get(part) if isinstance(own, dict) else None
        if isinstance(table, Mapping) and isinstance(own, dict):
            left_out = _MOMENTS if table.get("keep") == "last" else frozenset()
            yield from _differences(table, own, f"{name}.", _ELSEWHERE | left_out)


@functools.cache
def _preset(name: str) -> dict[str, Any]:
    table = resolved(load_recipe(name))
    return table | {"encoder_overrides": TINY_SIZES | table["encoder_overrides"]}


def _differences(
    found: Mapping[str, object], own: Mapping[str, object], prefix: str, left_out: frozenset[str]
) -> Iterator[Change]:
    for key in (key for key in own if key in found and key not in left_out):
        value, preset = ("none" if table[key] is None else table[key] for table in (found, own))
        if isinstance(value, Mapping) and isinstance(preset, Mapping):
            yield from _differences(value, preset, f"{prefix}{key}.", left_out)
        elif value != preset:
            yield Change(setting=f"{prefix}{key}", value=_text(value), preset=_text(preset))


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return "on"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else toml_value(value)
