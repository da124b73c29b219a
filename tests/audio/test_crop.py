import numpy as np
import pytest

from svkit.audio.crop import draw_start, random_crop, repeat_to


@pytest.mark.parametrize(("length", "wanted"), [(3, 8), (4, 8), (8, 8), (9, 8)])
def test_repeat_to_is_the_signal_modulo_its_length(length: int, wanted: int) -> None:
    signal = np.arange(length, dtype=np.float32)
    np.testing.assert_array_equal(repeat_to(signal, wanted), np.arange(wanted) % length)


@pytest.mark.parametrize("length", [1, 3, 5, 7, 29_091])
def test_a_random_seam_lies_anywhere_in_the_doubled_signal(length: int) -> None:
    """29,091 samples are what speed 1.1 leaves of a crop of 2 s; measured on the published code: 2,912 to 29,080."""
    wanted, rng = (32_000, np.random.default_rng(0)) if length > 8 else (8, np.random.default_rng(0))
    doubled = length
    while doubled < wanted:
        doubled *= 2
    starts = set()
    for _ in range(500):
        found = repeat_to(np.arange(length, dtype=np.float32), wanted, rng)
        np.testing.assert_array_equal(found, (found[0] + np.arange(wanted)) % length)
        starts.add(int(found[0]))
    possible = {start % length for start in range(doubled - wanted + 1)}
    assert starts <= possible
    if length < 8:
        assert starts == possible
    else:
        seams = sorted(length - start for start in starts)
        assert 2909 <= seams[0] < 3100 and 28_900 < seams[-1] <= 29_091


def test_empty_signal_repeats_to_silence() -> None:
    np.testing.assert_array_equal(repeat_to(np.zeros(0, np.float32), 3), [0, 0, 0])
    np.testing.assert_array_equal(repeat_to(np.zeros(0, np.float32), 3, np.random.default_rng(0)), [0, 0, 0])


def test_crops_are_uniform_over_every_place() -> None:
    rng = np.random.default_rng(0)
    counts = np.bincount([draw_start(12, 8, rng) for _ in range(5000)])
    assert len(counts) == 5  # starts 0..4
    assert counts.min() > 850
    assert draw_start(8, 8, rng) == draw_start(5, 8, rng) == 0


def test_random_crop_is_a_part_of_the_signal() -> None:
    crop = random_crop(np.arange(100, dtype=np.float32), 8, np.random.default_rng(1))
    np.testing.assert_array_equal(crop, np.arange(8) + crop[0])
