"""A recorder of what the loop tells its stage, and one plain process."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from svkit.training.loop import Record


@dataclass
class Recorder:
    """Hooks that keep every record and do nothing else, unless told to."""

    records: list[Record] = field(default_factory=list)
    saved: list[int] = field(default_factory=list)
    validated: list[int] = field(default_factory=list)
    validate: Callable[[], None] = lambda: None
    save: Callable[[int], None] = lambda num_done: None
    stop_after: int = 10**9

    def on_log(self, record: Record) -> None:
        self.records.append(record)

    def on_validate(self, num_done: int) -> None:
        self.validated.append(num_done)
        self.validate()

    def on_save(self, num_done: int) -> None:
        self.saved.append(num_done)
        self.save(num_done)

    def should_stop(self) -> bool:
        return bool(self.records) and self.records[-1]["step"] >= self.stop_after

    def column(self, name: str) -> list[float]:
        """Values of one metric, step by step."""
        return [record[name] for record in self.records]


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    """One process on the CPU in float32."""
    AcceleratorState._reset_state(True)
    yield Accelerator(cpu=True, mixed_precision="no")
    AcceleratorState._reset_state(True)
