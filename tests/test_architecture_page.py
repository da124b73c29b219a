"""docs/architecture.md: the rooms are those of the import contract, and the steps of a walk exist and are reached."""

import ast
import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
WALKS = dict(re.findall(r"^## (From .*)\n\n((?:.+\n)+)", PAGE, re.MULTILINE))


def contract() -> list[list[str]]:
    """Return the layers of pyproject.toml, top first, as lists of rooms; single modules lie below all rooms."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(entry["layers"] for entry in settings["contracts"] if entry["type"] == "layers")
    rooms = [[name.strip().removeprefix("svkit.") for name in layer.split("|")] for layer in layers]
    return [layer for layer in rooms if (ROOT / "svkit" / layer[0]).is_dir()]


def test_the_figure_shows_the_rooms_of_the_contract_in_its_order() -> None:
    figure = PAGE.split("```")[1]
    drawn = [
        line[:40].replace("(pure)", "").split()
        for line in figure.splitlines()
        if line.strip() not in ("", "|")
    ]
    assert drawn == contract()


def test_every_room_is_in_the_contract() -> None:
    packages = {path.parent.name for path in (ROOT / "svkit").glob("*/__init__.py")}
    assert packages == {room for layer in contract() for room in layer}


@pytest.mark.parametrize("walk", WALKS)
def test_each_step_exists_and_is_named_by_the_code_of_an_earlier_one(walk: str) -> None:
    steps = re.findall(r"^\d+\. `(svkit[\w.]+)`", WALKS[walk], re.MULTILINE)
    assert len(steps) >= 8

    walked = ""
    for number, step in enumerate(steps):
        module, _, name = step.rpartition(".")
        source = ROOT / f"{module.replace('.', '/')}.py"
        tree = ast.parse(source.read_text(encoding="utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert name in defined, step
        assert number == 0 or re.search(rf"\b{name}\b", walked), f"no step before names {step}"
        walked += re.sub(
            rf"^(def|class) {name}\b", "", source.read_text(encoding="utf-8"), flags=re.MULTILINE
        )


def calls_of(function: ast.AST) -> dict[str, tuple[int, int]]:
    """Return the names that a function calls, each with the place where its last call there is complete."""
    calls = (
        node for node in ast.walk(function) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    )
    places = sorted((node.end_lineno or 0, node.end_col_offset or 0, node.func.id) for node in calls)  # type: ignore[attr-defined]
    return {name: (line, column) for line, column, name in places}


@pytest.mark.parametrize("walk", WALKS)
def test_steps_that_one_function_calls_stand_in_the_order_of_its_calls(walk: str) -> None:
    steps = re.findall(r"^\d+\. `(svkit[\w.]+)`", WALKS[walk], re.MULTILINE)
    order = {step.rpartition(".")[2]: number for number, step in enumerate(steps)}

    compared = 0
    for module in {step.rpartition(".")[0] for step in steps}:
        source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        for function in ast.walk(ast.parse(source)):
            if isinstance(function, ast.FunctionDef):
                called = calls_of(function)
                reached = [name for name in sorted(called, key=called.__getitem__) if name in order]
                assert reached == sorted(reached, key=order.__getitem__), f"{module}.{function.name}"
                compared += len(reached) > 1
    assert compared
