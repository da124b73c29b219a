"""Groups of options that several commands share: a dataclass named once in a signature.

Typer reads a command's options from its signature. Without groups, every command would repeat the whole list.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar, get_type_hints

Asked = TypeVar("Asked")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class OptionGroup:
    """Options that fill the fields of the same names in a command's request."""

    def request(self, kind: Callable[..., Asked], **own: Any) -> Asked:
        """Build a request, a dataclass `kind`, from these options and the command's own.

        An option that was not given (None) keeps the request's default; lists become tuples, enum members their values.
        """
        wanted: Any = kind
        names = [field.name for field in fields(wanted)]
        given = {name: getattr(self, name) for name in names if hasattr(self, name)} | own
        return kind(**{name: _value(option) for name, option in given.items() if option is not None})


def _value(option: Any) -> Any:
    if isinstance(option, list):
        return tuple(_value(item) for item in option)
    return option.value if isinstance(option, Enum) else option


def takes_groups(command: Callable[..., Result]) -> Callable[..., Result]:
    """Return the command with each of its dataclass parameters replaced by one option per field.

    The fields are annotated like parameters of commands, and all have defaults. A class's own fields come before
    inherited ones, so that what is special to a command comes first in its help. An instance given as the default of
    such a parameter sets the defaults of its options.

    Raises:
        ValueError: two parameters declare the same option.
    """
    # Not get_type_hints: Python 3.10 would make Optional[Annotated[...]] of an option whose default is None.
    signature = inspect.signature(command, eval_str=True)
    defaults: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        kind = parameter.annotation
        if not (isinstance(kind, type) and is_dataclass(kind)):
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY))
            continue
        defaults[name] = kind() if parameter.default is parameter.empty else parameter.default
        parameters += _options(defaults[name])

    @functools.wraps(command)
    def expanded(**values: Any) -> Result:
        for name, group in defaults.items():
            values[name] = type(group)(**{option.name: values.pop(option.name) for option in _options(group)})
        return command(**values)

    expanded.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def _options(group: Any) -> list[inspect.Parameter]:
    """Return a parameter for each field of a group, whose value in the group is the default."""
    hints = get_type_hints(type(group), include_extras=True)
    own_first = dict.fromkeys(name for kind in type(group).__mro__ for name in inspect.get_annotations(kind))
    return [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=getattr(group, name), annotation=hints[name]
        )
        for name in own_first
    ]
