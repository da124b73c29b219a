"""What is installed is what is in the tree."""

import sys
from importlib import resources
from pathlib import Path

from tests.e2e.conftest import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def _pyproject() -> dict:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def test_every_package_of_the_tree_is_listed() -> None:
    folders = {path.parent.relative_to(REPOSITORY) for path in (REPOSITORY / "svkit").rglob("__init__.py")}
    listed = _pyproject()["tool"]["setuptools"]["packages"]
    assert {".".join(folder.parts) for folder in folders} | {"svkit.data_lists"} == set(listed)


def test_data_files_are_found_through_the_installed_package() -> None:
    presets = {item.name for item in (resources.files("svkit.config") / "presets").iterdir()}
    assert {path.name for path in (REPOSITORY / "svkit/config/presets").glob("*.toml")} <= presets
    lists = {item.name for item in resources.files("svkit.data_lists").iterdir()}
    assert "lists.toml" in lists


def test_every_data_list_is_matched_by_the_package_data() -> None:
    patterns = _pyproject()["tool"]["setuptools"]["package-data"]["svkit.data_lists"]
    root = REPOSITORY / "data_lists"
    packed = {path for pattern in patterns for path in root.glob(pattern)}
    files = {path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in files if path.suffix != ".py"} == packed


def test_torch_and_torchaudio_are_pinned_as_a_pair() -> None:
    pins = {
        item.split("==")[0]: item.split("==")[1]
        for item in _pyproject()["project"]["dependencies"]
        if "==" in item
    }
    assert pins["torch"] == pins["torchaudio"]


def test_files_stay_under_400_lines() -> None:
    long = {
        path.relative_to(REPOSITORY).as_posix(): count
        for folder in ("svkit", "tests", "benchmarks")
        for path in (REPOSITORY / folder).rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 400
    }
    assert long == {}


def test_makefile_and_ci_name_no_place_of_one_machine() -> None:
    for name in ("Makefile", ".ci/run", "README.md", "pyproject.toml"):
        text = (REPOSITORY / name).read_text()
        assert "/home/" not in text and "/root/" not in text and str(Path.home()) + "/" not in text, name
