"""Shared by all tests: one thread (two cores are shared), no network, no terminal, nothing of the place they run in.

No test sees the user's `exp/` or `SVKIT_EXP`: the working directory is an empty one, which every test leaves empty.
"""

import functools
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch is imported anywhere: a test of a small model is faster on one thread, and stays deterministic.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "agg"
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(Path(__file__).parents[1] / ".hypothesis")
_OF_A_LAUNCHER_OR_TERMINAL = {
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    "MAKELEVEL", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS",
}  # fmt: skip
_soak = os.environ.get("SVKIT_SOAK", "")
_is_soak = _soak.isdecimal() and int(_soak) > 0  # how many examples: tests.hostile.mutations
for _name in set(os.environ):
    if _name in _OF_A_LAUNCHER_OR_TERMINAL or (
        _name.startswith(("SVKIT_", "_SVKIT_")) and not (_name == "SVKIT_SOAK" and _is_soak)
    ):
        del os.environ[_name]

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import typer.testing  # noqa: E402

# typer makes all commands anew for each call of a test, which takes longer than most of what is called.
typer.testing._get_command = functools.cache(typer.testing._get_command)
# No test cuts the power, and to wait for the disk takes longer than to write what the tests write.
os.fsync = lambda _: None

# A busy machine is no mistake in the code: the time limit is pytest's. CI draws the same examples every time, so that
# it judges the change; at a desk every run draws others.
hypothesis.settings.register_profile("svkit", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("svkit")


@pytest.fixture(scope="session", autouse=True)
def empty_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Work in a directory without anything in it, fixtures of whole modules included."""
    before, directory = Path.cwd(), tmp_path_factory.mktemp("empty")
    os.chdir(directory)
    yield directory
    os.chdir(before)


@pytest.fixture(autouse=True)
def _working_directory_stays_empty(empty_directory: Path) -> Iterator[None]:
    """Fail a test that leaves something in the working directory, or leaves the directory (monkeypatch comes back).

    Signals are handled as before: a command that runs in the tests' process installs handlers of its own.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    found, left = Path.cwd(), sorted(path.name for path in empty_directory.iterdir())
    os.chdir(empty_directory)
    for name in left:
        path = empty_directory / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    assert found == empty_directory and not left, (
        f"left in the working directory {found}: {left}; use tmp_path"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long forms out unless `SVKIT_SOAK` asks for them, and what needs a GPU where there is none.

    The long tests come first, so that two processes (`pytest -n 2 --dist worksteal`) end together.
    """
    if not _is_soak:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("soak")])
        items[:] = [item for item in items if not item.get_closest_marker("soak")]
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch  # only where such a test was collected

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="no GPU"))


_damaged_files: Counter[str] = Counter()
"""What became of the damaged files of tests/hostile, in all processes of this run."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Collect the counts of this process; with pytest-xdist, hand them to the one that prints."""
    mutations = sys.modules.get("tests.hostile.mutations")
    if mutations is not None:
        _damaged_files.update(mutations.outcomes)
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["damaged_files"] = dict(_damaged_files)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the counts of one of several processes."""
    _damaged_files.update(getattr(node, "workeroutput", {}).get("damaged_files", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts that docs/reliability.md states, and the order of the tests (`-q` hides pytest-randomly's)."""
    if _damaged_files:
        counts = ", ".join(f"{count:,} {name}" for name, count in sorted(_damaged_files.items()))
        terminalreporter.write_line(f"damaged files: {sum(_damaged_files.values()):,} ({counts})")
    seed = getattr(terminalreporter.config.option, "randomly_seed", None)
    if isinstance(seed, int):
        terminalreporter.write_line(f"the same order again: --randomly-seed={seed}")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists and audio of an experiment, read by every test of a module."""
    from tests.training_experiment import prepare

    return prepare(tmp_path_factory.mktemp("prepared") / "exp")


@pytest.fixture
def fresh_process() -> Iterator[None]:
    """Forget the processes and the precision of other tests, before and after this one."""
    from tests.training_experiment import one_process

    with one_process():
        yield


@pytest.fixture
def plain_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write reports without drawing figures and timing models: a second each, and not the point of most tests."""
    from tests.fake_experiment import draw_and_time_nothing

    draw_and_time_nothing(monkeypatch)
