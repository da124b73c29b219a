"""Write docs/commands.md from the signatures of the commands; `--check` only says whether it is current.

Run `python benchmarks/commands_page.py` after you change a command or an option; a test compares page and code.
"""

import argparse
import inspect
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import typer
from typer.models import ArgumentInfo

from svkit.cli.app import app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
_HEAD = """# Commands

`benchmarks/commands_page.py` writes this page from the code; do not edit it. Results go to stdout (as JSON with
`--json`), progress and notes to stderr. `svkit COMMAND --help` shows the same text; there are also `svkit --version`
and `svkit --install-completion`.

The exit code is 0 for success, 1 for a bug, 2 for an error in configuration or usage, 3 in data, 4 in an artifact, 5 in
training, 130 after Ctrl-C, and 143 after SIGTERM or SIGHUP. With `--exit-code`, that of `verify` and `identify` is 0
for accepted, 10 for rejected and 11 for undecided. If several files are identified, it is that of the least certain
decision: undecided before rejected before accepted.
"""
_TYPES = {bool: "", int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}

Command = Callable[..., object]


def find_commands(group: typer.Typer, prefix: str = "svkit") -> Iterator[tuple[str, Command]]:
    """Yield the function of every command with its full name, subcommands first, in the order of registration."""
    for item in group.registered_groups:
        assert item.typer_instance is not None
        yield from find_commands(item.typer_instance, f"{prefix} {item.name}")
    for info in group.registered_commands:
        assert info.callback is not None
        yield f"{prefix} {info.name or info.callback.__name__.replace('_', '-')}", info.callback


def render() -> str:
    """Return the page."""
    commands = list(find_commands(app))
    lines = [_HEAD, "| command | does |", "|---|---|"]
    for name, command in commands:
        summary = (inspect.getdoc(command) or "").splitlines()[0]
        lines.append(f"| [`{name}`](#{name.replace(' ', '-')}) | {summary} |")
    return "\n".join([*lines, "", *(_section(name, command) for name, command in commands)]).rstrip() + "\n"


def _section(name: str, command: Command) -> str:
    hints = get_type_hints(command, include_extras=True)
    parameters = inspect.signature(command).parameters
    arguments, options = [], []
    usage = name
    for key, parameter in parameters.items():
        kind, info = get_args(hints[key])[:2]
        if isinstance(info, ArgumentInfo):
            is_required = parameter.default is inspect.Parameter.empty
            shown = _value(kind, info.metavar)
            usage += f" {shown}" if is_required or "[" in shown else f" [{shown}]"
            arguments.append(_row(shown, info, parameter.default))
        else:
            # Inside Annotated, typer keeps the first name of an option where a default would stand.
            names = [info.default, *(info.param_decls or ())]
            flags = [text for name in names if isinstance(name, str) for text in name.split("/")]
            value = _value(kind, info.metavar)
            options.append(_row(", ".join(flags) + (f" {value}" if value else ""), info, parameter.default))
    head = [f"## {name}", "", f"`{usage} [OPTIONS]`", "", _with_code(inspect.getdoc(command) or ""), ""]
    return "\n".join([*head, "| | | default |", "|---|---|---|", *arguments, *options]) + "\n"


def _value(kind: Any, metavar: str | None) -> str:
    """Name what an argument or option takes: its metavar, its choices, or its type."""
    if metavar:
        return metavar
    inner = [item for item in get_args(kind) or (kind,) if item is not NoneType]
    if get_args(inner[0]):  # list[X] | None
        inner = list(get_args(inner[0]))
    if all(isinstance(item, str) for item in inner):  # Literal
        return "|".join(inner)
    if isinstance(inner[0], type) and issubclass(inner[0], Enum):
        return "|".join(str(choice.value) for choice in inner[0])
    return _TYPES[inner[0]]


def _with_code(text: str) -> str:
    """Set the examples in the help as code: whatever follows `: svkit ` in a line."""
    lines = []
    for line in text.splitlines():
        before, marker, example = line.partition(": svkit ")
        lines.append(f"{before}: `svkit {example}`" if marker else line)
    return "\n".join(lines)


def _row(name: str, info: Any, default: Any) -> str:
    help_text = f"{info.help or ''}" + (f" Also `{info.envvar}`." if info.envvar else "")
    shown = (
        "" if default in (inspect.Parameter.empty, None, False) else str(getattr(default, "value", default))
    )
    if default is True:
        shown = name.split(",")[0]
    cells = [f"`{name}`", help_text, f"`{shown}`" if shown else ""]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 unless the page is current")
    text = render()
    if parser.parse_args().check:
        is_current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        if not is_current:
            print(f"{PAGE.name} is not current: run python benchmarks/commands_page.py", file=sys.stderr)
        return 0 if is_current else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
