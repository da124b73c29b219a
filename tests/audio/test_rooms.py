import time

import numpy as np
import pytest

from svkit.audio.rooms import MAX_SECONDS, RoomBank, draw_room, impulse_response, reverberation_seconds


def image_sum(
    size: np.ndarray, source: np.ndarray, receiver: np.ndarray, absorption: float, num: int
) -> np.ndarray:
    """All images by a plain loop, each with its delay split over two samples."""
    response = np.zeros(num + 2)
    cells = range(-6, 7)
    for x, y, z in ((x, y, z) for x in cells for y in cells for z in cells):
        for signs in np.ndindex(2, 2, 2):
            cell, sign = np.array([x, y, z]), 1 - 2 * np.array(signs)
            image = 2 * cell * size + sign * source
            hits = np.abs(2 * cell - np.array(signs)).sum()
            distance = np.linalg.norm(image - receiver)
            position = distance * 16_000 / 343.0
            if position <= num:
                gain = np.sqrt(1 - absorption) ** hits / distance
                index = int(position)
                response[index] += gain * (1 - position + index)
                response[index + 1] += gain * (position - index)
    return response[:num]


def test_images_are_those_of_the_plain_sum() -> None:
    size, source, receiver = np.array([2.0, 3.0, 2.5]), np.array([0.5, 1.0, 1.2]), np.array([1.5, 2.2, 0.7])
    num = 480  # 10.3 m: inside six cells on every axis.
    found = impulse_response(size, source, receiver, 0.4, num / 16_000)
    plain = image_sum(size, source, receiver, 0.4, num)
    pole = 1 - 2 * np.pi * 80 / 16_000
    expected, last = np.zeros(num), 0.0
    for n in range(num):
        last = expected[n] = plain[n] - (plain[n - 1] if n else 0.0) + pole * last
    assert found.dtype == np.float32
    assert len(found) == num
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("absorption", [0.25, 0.6])
def test_energy_decays_with_the_reverberation_time(absorption: float) -> None:
    size = np.array([6.0, 5.0, 3.0])
    seconds = reverberation_seconds(size, absorption)
    response = impulse_response(
        size, np.array([1.0, 2.0, 1.5]), np.array([4.0, 3.5, 1.2]), absorption, seconds
    )
    energy = np.cumsum(response[::-1].astype(np.float64) ** 2)[::-1]
    decay_db = 10 * np.log10(energy / energy[0])
    measured = np.searchsorted(-decay_db, [5.0, 25.0]) / 16_000
    assert 3 * (measured[1] - measured[0]) == pytest.approx(seconds, rel=0.45)


def test_bank_depends_on_seed_and_index_only() -> None:
    forward, backward = RoomBank(1), RoomBank(1)
    first = [forward[index] for index in range(4)]
    second = [backward[index] for index in range(3, -1, -1)][::-1]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0][:200], RoomBank(2)[0][:200])


def test_two_hundred_rooms_in_two_seconds_of_cpu() -> None:
    rng, start = np.random.default_rng(5), time.process_time()
    responses = [draw_room(rng) for _ in range(200)]
    assert time.process_time() - start < 2.0
    lengths = np.array([len(response) for response in responses]) / 16_000
    assert lengths.min() >= 0.05
    assert lengths.max() <= MAX_SECONDS
    assert np.std(lengths) > 0.1
    assert all(np.isfinite(response).all() and np.abs(response).max() > 0 for response in responses)
