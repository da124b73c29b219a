"""Ranges of numbers, declared where the number is: `Annotated[float, Range(gt=0, le=1)]`.

pydantic checks the fields of configurations and of JSON formats against them, and `svkit.cli.options.number` does so
for options of the command line. This file does not import pydantic, so that the command line stays fast.
"""

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Bounds of a number: included (`ge`, `le`) or not (`gt`, `lt`); a value that is not finite is always outside."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            isfinite(value)
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        bounds = {">=": self.ge, ">": self.gt, "<=": self.le, "<": self.lt}
        return " and ".join(f"{sign} {bound:,}" for sign, bound in bounds.items() if bound is not None)

    def __get_pydantic_core_schema__(self, kind: Any, handler: Any) -> Any:
        schema = handler(kind) | {"strict": True}
        if kind is float:
            schema["allow_inf_nan"] = False
        return schema | {name: bound for name, bound in asdict(self).items() if bound is not None}

    def misfit(self, value: float, *, is_whole: bool) -> str:
        """Return the message for a value outside the range; if it may be a percentage, suggest the fraction."""
        is_percent = not is_whole and 1 < value <= 100 and value / 100 in self
        meant = f"; did you mean {value / 100:g}?" if is_percent else ""
        return f"expected a {'whole ' if is_whole else ''}number {self}, found {shown(value)}{meant}"


def shown(value: object) -> str:
    """Return a value for a message, as TOML and JSON write it, at most 80 characters."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number beyond 64 bits"
    text = f"{value!r}".removesuffix(".0")
    return text if len(text) <= 80 else f"{text[:77]}..."
