"""What is installed is what is in the tree."""

import ast
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import resources
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from svkit.torch_pair import BAD_TORCHAUDIO
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


def test_every_template_is_matched_by_the_package_data() -> None:
    root = REPOSITORY / "svkit" / "reports"
    (pattern,) = _pyproject()["tool"]["setuptools"]["package-data"]["svkit.reports"]
    templates = {path for path in root.iterdir() if path.suffix not in (".py", "") and path.is_file()}
    assert templates == set(root.glob(pattern)) and {"page.html.j2"} <= {path.name for path in templates}


def test_every_data_list_is_matched_by_the_package_data() -> None:
    patterns = _pyproject()["tool"]["setuptools"]["package-data"]["svkit.data_lists"]
    root = REPOSITORY / "data_lists"
    packed = {path for pattern in patterns for path in root.glob(pattern)}
    files = {path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in files if path.suffix != ".py"} == packed


def test_torch_and_torchaudio_are_pairs_that_load() -> None:
    requirements = map(Requirement, _pyproject()["project"]["dependencies"])
    ranges = {item.name: item.specifier for item in requirements if item.name.startswith("torch")}
    assert set(ranges) == {"torch", "torchaudio"}
    for allowed in ranges.values():
        assert (
            "2.7.1" not in allowed and "2.8.0" in allowed and "2.11.0" in allowed and "2.12.0" not in allowed
        )
    assert BAD_TORCHAUDIO not in ranges["torchaudio"]


def test_files_stay_readable_in_one_sitting() -> None:
    long = {
        path.relative_to(REPOSITORY).as_posix(): count
        for folder in ("svkit", "tests", "benchmarks")
        for path in (REPOSITORY / folder).rglob("*.py")
        if (count := len(path.read_text().splitlines())) > (600 if folder == "tests" else 450)
    }
    assert long == {}


def test_makefile_and_ci_name_no_place_of_one_machine() -> None:
    for name in ("Makefile", ".ci/run", "README.md", "pyproject.toml"):
        text = (REPOSITORY / name).read_text()
        assert "/home/" not in text and "/root/" not in text and str(Path.home()) + "/" not in text, name


def _tracked_files() -> list[str]:
    command = ["git", "-C", str(REPOSITORY), "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.splitlines() if (REPOSITORY / name).is_file()]


@pytest.mark.e2e
@pytest.mark.slow
def test_wheel_and_sdist_hold_the_package_and_nothing_else(tmp_path: Path) -> None:
    """The wheel is built from the sdist, so that both are known to be whole; setuptools is fetched, as by any user."""
    source = tmp_path / "source"
    for name in _tracked_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, source / name)
    command = [sys.executable, "-m", "build", "--outdir", str(tmp_path / "dist"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    assert wheel.name.endswith("-py3-none-any.whl")
    files = set(zipfile.ZipFile(wheel).namelist())
    packed = {name for name in files if ".dist-info/" not in name}
    expected = {name for name in _tracked_files() if name.startswith("svkit/")}
    expected |= {f"svkit/{name}" for name in _tracked_files() if name.startswith("data_lists/")}
    assert packed == expected
    about = {name.partition(".dist-info/")[2] for name in files - packed}
    assert {"METADATA", "entry_points.txt", "licenses/LICENSE"} <= about
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "svkit/__init__.py", "data_lists/lists.toml"} <= inside
    assert not [name for name in inside if name.startswith(("exp", "shared", ".ci"))]


def test_the_code_is_of_the_oldest_python_that_is_stated() -> None:
    """Syntax only: what the machine's Python accepts may be newer than 3.10."""
    stated = _pyproject()["project"]["requires-python"]
    assert stated == ">=3.10,<3.14"
    for name in _tracked_files():
        if name.endswith(".py"):
            ast.parse((REPOSITORY / name).read_text(), name, feature_version=(3, 10))


def test_what_the_tests_of_export_need_is_part_of_dev() -> None:
    extras = _pyproject()["project"]["optional-dependencies"]
    assert set(extras["export"]) <= set(extras["dev"])
