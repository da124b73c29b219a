"""Ranges of numbers: declared where the number is (`Annotated[float, Range(gt=0, le=1)]`), checked here and only here.

Fields of configurations are checked by `Checked`, options of the command line by `svkit.cli.options.number`.
"""

from dataclasses import dataclass
from functools import cache
from math import inf
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from svkit.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Bounds of a number: included (`ge`, `le`) or not (`gt`, `lt`); not finite is always outside."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        bounds = {">=": self.ge, ">": self.gt, "<=": self.le, "<": self.lt}
        return " and ".join(f"{sign} {bound:,}" for sign, bound in bounds.items() if bound is not None)

    def problem(self, value: object, *, is_whole: bool) -> str | None:
        """Say what is wrong with a value, None if nothing: expected, found, and what a percentage may have meant."""
        kinds = int if is_whole else int | float
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        if is_number and abs(value) != inf and value in self:  # type: ignore[arg-type, operator]
            return None
        is_percent = is_number and not is_whole and 1 < value <= 100 and value / 100 in self  # type: ignore[operator]
        meant = f"; {value / 100:g}?" if is_percent else ""  # type: ignore[operator]
        return f"expected a {'whole ' if is_whole else ''}number {self}, found {shown(value)}{meant}"


def shown(value: object) -> str:
    """Return a value for a message, as TOML writes it and not without end."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number beyond 64 bits"
    text = f"{value!r}".removesuffix(".0")
    return text if len(text) <= 80 else f"{text[:77]}..."


class Checked:
    """Base of the dataclasses of the configuration: numbers outside of their range are refused when one is made."""

    __slots__ = ()

    def __post_init__(self) -> None:
        """Check every field; a subclass adds the rules between fields.

        Raises:
            ConfigError: "field: expected ..., found ...".
        """
        for name, hint in _hints(type(self)).items():  # type: ignore[arg-type]
            _check(hint, getattr(self, name), name)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _check(hint: Any, value: Any, name: str) -> None:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        for limits in args[1:]:
            problem = limits.problem(value, is_whole=args[0] is int)
            if problem:
                raise ConfigError(f"{name}: {problem}")
    elif origin in (Union, UnionType) and value is not None:
        for option in args:
            if option is not NoneType:
                _check(option, value, name)
    elif origin is tuple:
        for index, item in enumerate(value):
            _check(args[0], item, f"{name}[{index}]")
    elif origin is dict:
        for key, item in value.items():
            _check(args[1], item, f"{name}.{key}")
