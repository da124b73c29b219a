import numpy as np
import pytest

from svkit.audio.quality import QualityMeter, measure

RATE = 16000


def voice(seconds=2.0, peak=0.5, rate=RATE):
    rng = np.random.default_rng(3)
    signal = rng.normal(size=round(seconds * rate))
    return (peak * signal / np.abs(signal).max()).astype(np.float32)


def test_a_good_recording_has_no_warning():
    found = measure(voice(), RATE)
    assert found.warnings() == [] and found.clipped_share == 0
    assert found.seconds == 2.0 and found.sound_seconds == pytest.approx(2.0, abs=0.03)
    assert found.level_db == pytest.approx(20 * np.log10(voice().std()), abs=1)


def test_a_slow_sine_is_not_clipped():
    time = np.arange(2 * RATE) / RATE
    sine = np.round(0.9 * np.sin(2 * np.pi * 100 * time) * 32768) / 32768
    assert measure(sine.astype(np.float32), RATE).clipped_share == 0


@pytest.mark.parametrize("ceiling", [1.0, 0.4])
def test_clipping_is_seen_at_full_scale_and_below(ceiling):
    time = np.arange(2 * RATE) / RATE
    loud = np.sin(2 * np.pi * 200 * time)
    signal = (ceiling * np.clip(2 * loud, -1, 1)).astype(np.float32)
    found = measure(signal, RATE)
    assert found.clipped_share == pytest.approx(2 / 3, abs=0.02)  # |sin| > 1/2
    assert any(text.startswith("clipped") for text in found.warnings())
    assert measure((0.4 * loud).astype(np.float32), RATE).warnings() == []


def test_short_silent_and_mostly_silent():
    assert measure(voice(0.9), RATE).warnings() == ["short: 0.90 s, at least 1 s can be trusted"]
    for quiet in (np.zeros(RATE * 2, np.float32), np.full(RATE * 2, 0.3, np.float32), voice(peak=1e-3)):
        (warning,) = measure(quiet, RATE).warnings()
        assert warning.startswith("silent")
    padded = np.concatenate((voice(0.5), np.zeros(2 * RATE, np.float32)))
    (warning,) = measure(padded, RATE).warnings()
    assert warning.startswith("mostly silent: 0.5")


def test_the_rate_counts_and_one_sample_is_enough():
    assert measure(voice(2.0, rate=8000), 8000).seconds == 2.0
    assert measure(np.array([0.5], np.float32), RATE).warnings()[0].startswith("silent")


def test_a_recording_in_blocks_is_as_loud_and_as_clipped_as_its_parts():
    rng = np.random.default_rng(0)
    quiet = (0.01 * rng.standard_normal(16_000)).astype(np.float32)
    cut = np.clip(rng.standard_normal(48_000), -0.5, 0.5).astype(np.float32)
    meter = QualityMeter()
    meter.add(cut, 16_000)
    alone = measure(cut, 16_000)
    assert (meter.level_db, meter.clipped_share) == (alone.level_db, pytest.approx(alone.clipped_share))
    meter.add(quiet, 16_000)
    assert meter.level_db == alone.level_db
    assert meter.clipped_share == pytest.approx(alone.clipped_share * 3 / 4) and alone.clipped_share > 0.1
