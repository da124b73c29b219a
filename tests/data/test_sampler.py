from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svkit.config.schema import DataConfig
from svkit.data.dataset import CropKey
from svkit.data.sampler import EpochBatches


def config(batch_size: int = 4, **changes: object) -> DataConfig:
    return DataConfig(
        **{"batch_size": batch_size, "speeds": (1.0, 0.9, 1.1), "crops_per_utterance": 2} | changes
    )  # type: ignore[arg-type]


def epoch_of(batches: EpochBatches, epoch: int) -> list[list[CropKey]]:
    first = epoch * batches.steps_per_epoch
    return [batches.batch(step) for step in range(first, first + batches.steps_per_epoch)]


def test_every_row_speed_and_visit_once_an_epoch() -> None:
    batches = EpochBatches(8, config(), seed=1)
    assert batches.steps_per_epoch == 12
    for epoch in (0, 3):
        keys = [key for batch in epoch_of(batches, epoch) for key in batch]
        visited = Counter((key.row, key.speed_index, key.visit) for key in keys)
        assert visited == Counter(
            (row, speed, visit) for row in range(8) for speed in range(3) for visit in range(2)
        )
        assert {key.epoch for key in keys} == {epoch}


def test_epochs_and_seeds_have_their_own_order() -> None:
    batches = EpochBatches(8, config(), seed=1)
    orders = [[key[1:4] for batch in epoch_of(batches, epoch) for key in batch] for epoch in (0, 1)]
    other = [key[1:4] for batch in epoch_of(EpochBatches(8, config(), seed=2), 0) for key in batch]
    assert orders[0] != orders[1] != other != orders[0]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(2, 4), st.integers(0, 40))
def test_processes_share_the_batches_of_one(
    num_rows: int, batch_size: int, processes: int, step: int
) -> None:
    alone = EpochBatches(num_rows, config(batch_size * processes), seed=7)
    parts = [
        EpochBatches(num_rows, config(batch_size), seed=7, rank=rank, num_processes=processes)
        for rank in range(processes)
    ]
    assert {part.steps_per_epoch for part in parts} == {alone.steps_per_epoch}
    assert [key for part in parts for key in part.batch(step)] == alone.batch(step)


def test_incomplete_batch_is_dropped_and_a_tiny_epoch_repeated() -> None:
    batches = EpochBatches(7, config(4, speeds=(1.0,), crops_per_utterance=1), seed=1)
    assert batches.steps_per_epoch == 1
    assert len({key.row for key in batches.batch(0)}) == 4
    tiny = EpochBatches(3, config(7, speeds=(1.0,), crops_per_utterance=1), seed=1)
    assert tiny.steps_per_epoch == 1
    counts = Counter(key.row for key in tiny.batch(0))
    assert sorted(counts.values()) == [2, 2, 3]


def test_any_step_can_be_resumed() -> None:
    data = config()
    straight = list(map(EpochBatches(9, data, seed=3).batch, range(40)))
    for start in (1, 12, 13, 39):
        resumed = EpochBatches(9, data, seed=3)
        assert [resumed.batch(step) for step in range(start, 40)] == straight[start:]


def test_one_length_a_batch_uniform_over_the_range() -> None:
    batches = EpochBatches(1000, config(crop_seconds=(2.0, 3.0)), seed=5)
    lengths = np.array([[key.num_samples for key in batches.batch(step)] for step in range(600)])
    assert (lengths == lengths[:, :1]).all()
    assert lengths.min() == 32_000
    assert lengths.max() == 48_000
    assert lengths.mean() == pytest.approx(40_000, rel=0.02)
    assert len(np.unique(lengths)) == 51
    fixed = EpochBatches(10, config(crop_seconds=(4.0, 4.0)), seed=5)
    assert {fixed.num_samples(step) for step in range(20)} == {64_000}
