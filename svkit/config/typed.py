"""Check values against annotated types with pydantic, and report its findings in svkit's words.

A configuration is a frozen dataclass whose numbers have a `Range`. Nothing is coerced, except a whole number where any
number is expected, and a list where a tuple is.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import NotRequired, Required, dataclass_transform, is_typeddict

from svkit.config.ranges import Range, shown
from svkit.errors import ConfigError

Kind = TypeVar("Kind")
Value = TypeVar("Value")
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_TOML_WORDS = _WORDS | {None: "a table"}
_JSON_WORDS = _WORDS | {None: "an object", NoneType: "null"}
_NONE = BeforeValidator(lambda value: None if value == "none" else value)
Optional = Annotated[Value | None, _NONE]
"""A value of a recipe that may be absent: "none", because TOML has no null."""
_ORDER = {"unexpected_keyword_argument": 0, "missing": 2}
"""Order of findings, of which the first is reported: a key with a typo explains one that is missing."""


class Misfit(ValueError):
    """Values that do not fit their type, or each other."""

    def __init__(self, names: Sequence[str], reason: str) -> None:
        """Note the dotted names of the values, and what was expected and found."""
        super().__init__(f"{', '.join(names)}: {reason}" if any(names) else reason)
        self.names, self.reason = names, reason


@dataclass_transform(kw_only_default=True, frozen_default=True)
def configuration(kind: type[Kind]) -> type[Kind]:
    """Make a class a frozen dataclass that checks its fields against their annotations.

    A rule between fields is a `__post_init__` that raises a Misfit with their names. For values that do not fit, `fit`
    raises a Misfit and the constructor a ConfigError.
    """
    made: Any = pydantic_dataclass(frozen=True, kw_only=True, slots=True, config={"extra": "forbid"})(kind)
    initialize = made.__init__

    @functools.wraps(initialize)
    def checked(self: Any, **values: Any) -> None:
        try:
            initialize(self, **values)
        except ValidationError as error:
            raise ConfigError(str(_misfit(error, made))) from None

    made.__init__ = checked
    typed: type[Kind] = made
    return typed


_adapter: Callable[[Any], TypeAdapter[Any]] = functools.cache(TypeAdapter)


def fit(kind: type[Kind], content: object) -> Kind:
    """Build a configuration from nested plain values (Misfit if one does not fit)."""
    return _built(kind, _TOML_WORDS, lambda made: made.validate_python(content))


def fit_json(kind: type[Kind], text: str) -> Kind:
    """Build a value of any type from JSON text (Misfit if one does not fit)."""
    return _built(kind, _JSON_WORDS, lambda made: made.validate_json(text, strict=True))


def _built(kind: type[Kind], words: Mapping[Any, str], build: Callable[[TypeAdapter[Kind]], Kind]) -> Kind:
    try:
        return build(_adapter(kind))
    except ValidationError as error:
        raise _misfit(error, kind, words) from None


def _misfit(error: ValidationError, kind: Any, words: Mapping[Any, str] = _TOML_WORDS) -> Misfit:
    """Put the first of pydantic's findings into words."""
    first = min(error.errors(include_url=False), key=lambda found: _ORDER.get(found["type"], 1))
    problem, place, value = first["type"], list(first["loc"]), first["input"]
    found = functools.reduce(member, place, kind)
    known: Sequence[str] = list(members(functools.reduce(member, place[:-1], kind)))
    if place[-1:] == ["[key]"]:  # a key of a table whose keys are free, or from a list
        problem, place = "unexpected_keyword_argument", place[:-1]
        known = get_args(get_args(_bare(functools.reduce(member, place[:-1], kind)))[0])
    if problem == "missing" and isinstance(place[-1], int):  # an item of a list that is too short
        problem, found, place = "length", functools.reduce(member, place[:-1], kind), place[:-1]
    name, cause = dotted(place), first.get("ctx", {}).get("error")
    if isinstance(cause, Misfit):
        return Misfit([".".join(filter(None, (name, inner))) for inner in cause.names], cause.reason)
    if problem == "missing":
        return Misfit([name], "missing")
    if problem == "unexpected_keyword_argument":
        hint = did_you_mean(str(place[-1]), known) or f"; expected some of {', '.join(known)}"
        return Misfit([name], f"unknown key{hint}")
    if found is None:
        return Misfit([name], f"{first['msg']}, found {shown(value)}")
    for limits in get_args(found)[1:]:
        if isinstance(limits, Range) and isinstance(value, int | float) and not isinstance(value, bool):
            return Misfit([name], limits.misfit(value, is_whole=get_args(found)[0] is int))
    return Misfit([name], f"expected {_expected(found, words)}, found {shown(value)}")


def dotted(place: Sequence[str | int]) -> str:
    """Return the name of a value within others: `optim.lr`, `speeds[1]`."""
    keys = [
        str(part) if str(part).isprintable() and len(str(part)) < 80 else f"{part!r:.80}" for part in place
    ]
    parts = [
        f"[{key}]" if isinstance(part, int) else f".{key}" for key, part in zip(keys, place, strict=True)
    ]
    return "".join(parts).removeprefix(".")


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return the end of a message about an unknown name: a known one that is similar, if there is any."""
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _bare(kind: Any) -> Any:
    """Return a type without `Annotated`, `NotRequired`, `Required` and `| None`."""
    while get_origin(kind) in (Annotated, NotRequired, Required, Union, UnionType):
        kind = next(option for option in get_args(kind) if option is not NoneType)
    return kind


@functools.cache
def members(kind: Any) -> dict[str, Any]:
    """Return the annotated types of a dataclass or TypedDict by field; empty for any other type."""
    kind = _bare(kind)
    return get_type_hints(kind, include_extras=True) if is_dataclass(kind) or is_typeddict(kind) else {}


def member(kind: Any, part: str | int) -> Any:
    """Return the annotated type of a field, item or value of a table; None: there is no such name."""
    origin, args = get_origin(_bare(kind)), get_args(_bare(kind))
    if origin is dict:
        return args[1]
    if origin in (tuple, list) and isinstance(part, int):
        return args[0] if origin is list or args[-1] is Ellipsis else args[part]
    return members(kind).get(str(part))


def names(kind: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all fields, including those of inner tables."""
    for name, inner in members(kind).items():
        yield f"{prefix}{name}"
        yield from names(inner, f"{prefix}{name}.")


def _expected(kind: Any, words: Mapping[Any, str]) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        limits = [f" {limits}" for limits in args[1:] if isinstance(limits, Range)]
        return "".join([_expected(args[0], words), *limits, ' or "none"' if _NONE in args else ""])
    if origin is Literal:
        return " or ".join(map(shown, args))
    if origin in (Union, UnionType):
        return " or ".join(
            _expected(option, words) for option in args if option is not NoneType or option in words
        )
    if origin in (tuple, list):
        count = f"{len(args)} values, each " if origin is tuple and args[-1] is not Ellipsis else ""
        return f"a list of {count}{_expected(args[0], words)}"
    return words.get(kind, words[None])
