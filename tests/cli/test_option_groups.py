"""Options that a dataclass stands for: their order, their defaults, and what reaches the command."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from svkit.cli.option_groups import OptionGroup, takes_groups

Exp = Annotated[Path, typer.Option("--exp")]


@dataclass(frozen=True, kw_only=True)
class Output(OptionGroup):
    exp: Exp = Path("exp")
    overwrite: Annotated[bool, typer.Option("--overwrite")] = False


@dataclass(frozen=True, kw_only=True)
class Reading(Output):
    read: Annotated[bool, typer.Option("--read/--headers")] = False
    trials: Annotated[list[Path] | None, typer.Option("--trials")] = None


READS = Reading(read=True)


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer(rich_markup_mode=None)

    @made.command()
    @takes_groups
    def published(root: Annotated[Path, typer.Argument()], reading: Reading) -> None:
        """Read headers."""
        typer.echo(f"{root} {reading}")

    @made.command()
    @takes_groups
    def own(root: Annotated[Path, typer.Argument()], reading: Reading = READS) -> None:
        """Read everything."""
        typer.echo(f"{root} {reading}")

    return made


def test_options_become_the_group_and_its_default_is_the_parameters(app):
    run = CliRunner().invoke
    assert run(app, ["published", "a"]).stdout == f"a {Reading()}\n"
    assert run(app, ["own", "a"]).stdout == f"a {READS}\n"
    given = ["own", "a", "--headers", "--trials", "x", "--trials", "y", "--exp", "e", "--overwrite"]
    wanted = Reading(read=False, trials=[Path("x"), Path("y")], exp=Path("e"), overwrite=True)
    assert run(app, given).stdout == f"a {wanted}\n"
    assert run(app, ["own", "a", "--reading", "b"]).exit_code == 2


def test_help_has_own_options_before_inherited_ones_and_the_docstring(app):
    shown = CliRunner().invoke(app, ["own", "--help"]).stdout
    places = [shown.index(name) for name in ("Read everything", "--read", "--trials", "--exp", "--overwrite")]
    assert places == sorted(places) and "[default: read]" in shown


def test_an_option_twice_is_refused():
    with pytest.raises(ValueError, match="duplicate parameter name: 'exp'"):

        @takes_groups
        def command(exp: Exp, output: Output) -> None: ...


class Kind(str, Enum):
    FAST = "fast"


@dataclass(frozen=True, kw_only=True)
class Asked:
    exp: Path
    trials: tuple[Path, ...] = ()
    kinds: tuple[str, ...] = ()
    seed: int = 24


def test_a_request_is_filled_from_options_of_the_same_name():
    given = Reading(trials=[Path("x")], exp=Path("e"), read=True)
    assert given.request(Asked, kinds=[Kind.FAST]) == Asked(
        exp=Path("e"), trials=(Path("x"),), kinds=("fast",), seed=24
    )
    assert Reading().request(Asked, seed=None, kinds=None) == Asked(exp=Path("exp"))
