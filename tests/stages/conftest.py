"""Fixtures of the tests that train."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stages.training_experiment import one_process, prepare


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists and audio of an experiment, read by every test of a module."""
    return prepare(tmp_path_factory.mktemp("prepared") / "exp")


@pytest.fixture
def fresh_process() -> Iterator[None]:
    """Forget the processes and the precision of other tests, before and after this one."""
    with one_process():
        yield
