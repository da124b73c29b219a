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
