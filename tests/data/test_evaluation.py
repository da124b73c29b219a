from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svkit.audio.resample import resample
from svkit.data.audio_source import read_whole
from svkit.data.evaluation import BATCHES_AHEAD, length_sorted_batches, read_batches
from svkit.errors import DataError
from svkit.store.manifest import COLUMNS, Manifest
from tests.data.conftest import Row, tone

Make = Callable[[Sequence[Row]], Manifest]


def listed(seconds: Sequence[float]) -> Manifest:
    rows = [(f"u{k}", "s", "none", "100", str(round(100 * value)), "") for k, value in enumerate(seconds)]
    return Manifest(Path("list.tsv"), Path(), pd.DataFrame(rows, columns=list(COLUMNS)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.1, 90), min_size=1, max_size=60), st.integers(1, 4))
def test_ranks_share_all_rows_and_no_batch_is_too_large(seconds: list[float], processes: int) -> None:
    manifest = listed(seconds)
    plans = [
        list(
            length_sorted_batches(
                manifest, max_seconds=60, batch_seconds=130, rank=rank, num_processes=processes
            )
        )
        for rank in range(processes)
    ]
    rows = np.concatenate([batch for plan in plans for batch in plan])
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(seconds)))
    cut = np.minimum(manifest.durations_seconds, 60)
    alone = list(length_sorted_batches(manifest, max_seconds=60, batch_seconds=130))
    assert (np.diff(cut[np.concatenate(alone)]) <= 0).all()
    for batch in alone:
        assert len(batch) == 1 or len(batch) * cut[batch].max() <= 130.001
    # Packed: a batch and the first of the next would not have fitted.
    for batch in alone[:-1]:
        assert (len(batch) + 1) * cut[batch].max() > 129.999


def test_batches_that_are_done_are_left_out_and_the_others_stay_as_they_are() -> None:
    lengths, rows = listed([1, 5, 3, 2, 3, 1]), [1, 3]
    whole = [batch.tolist() for batch in length_sorted_batches(lengths, batch_seconds=6)]
    assert whole == [[1], [2, 4], [3, 0, 5]]
    rest = [batch.tolist() for batch in length_sorted_batches(lengths, done_rows=rows, batch_seconds=6)]
    assert rest == [[2, 4], [3, 0, 5]]
    assert not len(length_sorted_batches(lengths, done_rows=range(6), batch_seconds=6))


@pytest.mark.parametrize("rate", [8000, 16_000])
def test_waveform_is_channel_zero_from_the_beginning_cut_and_resampled(
    make_manifest: Make, rate: int
) -> None:
    left = tone(300, 1.5, rate)
    manifest = make_manifest([("a.wav", "a", np.stack([left, -left], axis=1), rate, "")])
    np.testing.assert_array_equal(read_whole(manifest, 0), resample(left, rate))
    np.testing.assert_array_equal(read_whole(manifest, 0, 0.5), resample(left[: rate // 2], rate))


def test_batches_are_read_in_order_and_ahead_within_bounds(speakers: Manifest) -> None:
    plan = [np.array(rows) for rows in ([3, 1], [0], [5, 2, 4], [6], [7], [8])]
    taken = 0

    def watch() -> "Sequence[np.ndarray]":
        nonlocal taken
        for rows in plan:
            taken += 1
            yield rows

    for number, (rows, waveforms) in enumerate(read_batches(speakers, watch())):
        assert taken <= number + 1 + BATCHES_AHEAD + 1
        np.testing.assert_array_equal(rows, plan[number])
        for row, waveform in zip(rows, waveforms, strict=True):
            np.testing.assert_array_equal(waveform, read_whole(speakers, row))
    assert number == 5


def test_a_missing_file_stops_reading_with_its_error(speakers: Manifest, tmp_path: Path) -> None:
    (tmp_path / "s0" / "1.wav").unlink()
    with pytest.raises(DataError, match="s0/1.wav"):
        list(read_batches(speakers, length_sorted_batches(speakers, batch_seconds=1.2)))
