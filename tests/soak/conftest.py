"""One small experiment for the whole session, and what its stages give undisturbed."""

from collections.abc import Callable

import pytest

from tests.soak.commands import Reference, Stage, measure, prepare_stages


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    """Every stage by its name."""
    return prepare_stages(tmp_path_factory.mktemp("soak"))


@pytest.fixture(scope="session")
def reference(stages: dict[str, Stage]) -> Callable[[str], Reference]:
    """What an uninterrupted run of a stage gives, by the stage's name."""
    known: dict[str, Reference] = {}

    def find(name: str) -> Reference:
        if name not in known:
            known[name] = measure(stages[name])
        return known[name]

    return find
