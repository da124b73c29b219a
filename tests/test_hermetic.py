"""The tests do not depend on where they run, nor leave anything there: tests/conftest.py holds them to it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

CASES = """
import os
import pytest
from pathlib import Path

@pytest.fixture(scope="module")
def early():
    return list(Path.cwd().iterdir())

def test_sees_nothing(early):
    assert not early and not list(Path.cwd().iterdir()) and not Path("exp").exists()
    assert not {name for name in os.environ if name.startswith("SVKIT_")} and "RANK" not in os.environ

def test_leaves_a_directory():
    Path("exp").mkdir()

def test_leaves_a_link():
    Path("exp").symlink_to("/")

def test_goes_away(tmp_path):
    os.chdir(tmp_path)

def test_goes_away_and_comes_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("exp").mkdir()
"""


def test_a_test_that_leaves_something_in_the_working_directory_fails_and_no_other(tmp_path: Path) -> None:
    """Run beside a populated `exp/`, with nonsense in the environment."""
    shutil.copy(Path(__file__).parent / "conftest.py", tmp_path)
    (tmp_path / "test_cases.py").write_text(CASES)
    (tmp_path / "exp" / "finetune").mkdir(parents=True)
    nonsense = dict.fromkeys(["SVKIT_EXP", "SVKIT_VOXCELEB", "SVKIT_SOAK", "SVKIT_NEW", "RANK"], "nonsense")
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(
        [*command, "--basetemp", str(tmp_path / "temporary"), "-c", os.devnull],
        cwd=tmp_path,
        env={**os.environ, **nonsense},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "5 passed, 3 errors" in done.stdout, done.stdout + done.stderr
    failed = {
        line.split("::")[1].split(" ")[0] for line in done.stdout.splitlines() if line.startswith("ERROR ")
    }
    assert failed == {"test_leaves_a_directory", "test_leaves_a_link", "test_goes_away"}
    assert (tmp_path / "exp" / "finetune").is_dir()
