import hashlib
import time

import numpy as np
import pytest

from svkit.demo.synthesis import DEMO_SPEAKERS, UtterancePlan, draw_voice, plan_corpus, render

PLANS = plan_corpus()


def pitch_hz(signal: np.ndarray) -> float:
    """Median over voiced frames of the lag of the largest autocorrelation."""
    found = []
    for start in range(0, len(signal) - 1024, 512):
        frame = signal[start : start + 1024] * np.hanning(1024)
        correlation = np.fft.irfft(np.abs(np.fft.rfft(frame, 2048)) ** 2)[:1024]
        lags = correlation[45:270]  # 59 to 355 Hz
        best = int(np.argmax(lags))
        if lags[best] > 0.5 * correlation[0]:
            found.append(16_000 / (best + 45))
    assert len(found) > 10
    return float(np.median(found))


def test_corpus_has_the_promised_shape() -> None:
    assert len(DEMO_SPEAKERS) >= 40
    ids = [plan.utterance_id for plan in PLANS]
    assert ids == sorted(set(ids))
    assert PLANS[0] == UtterancePlan(
        utterance_id="spk01/s1/01.flac", speaker_id="spk01", session_id="spk01-s1", split="train"
    )
    by_split = {
        split: {plan.speaker_id for plan in PLANS if plan.split == split} for split in ("train", "eval")
    }
    assert len(by_split["train"]) == 36
    assert len(by_split["eval"]) == 12
    assert not by_split["train"] & by_split["eval"]
    assert {plan.speaker_id for plan in PLANS} == set(DEMO_SPEAKERS)
    assert len({plan.session_id for plan in PLANS}) == 3 * len(DEMO_SPEAKERS)


@pytest.mark.parametrize("index", [0, 200, len(PLANS) - 1])
def test_an_utterance_is_sound_and_the_same_each_time(index: int) -> None:
    signal = render(PLANS[index])
    assert signal.dtype == np.float32
    assert signal.ndim == 1
    assert 2.5 * 16_000 * 0.98 <= len(signal) <= 4.05 * 16_000
    assert 0.02 < np.abs(signal).max() < 1
    np.testing.assert_array_equal(signal * 32768, np.rint(signal * 32768))
    digest = hashlib.sha256(signal.tobytes()).hexdigest()
    assert digest == hashlib.sha256(render(PLANS[index]).tobytes()).hexdigest()
    assert digest != hashlib.sha256(render(PLANS[index - 1]).tobytes()).hexdigest()


def test_pitch_is_the_speakers() -> None:
    for speaker in (0, 5, 21):
        measured = [pitch_hz(render(plan)) for plan in PLANS if plan.speaker_id == DEMO_SPEAKERS[speaker]][
            ::4
        ]
        assert float(np.median(measured)) == pytest.approx(draw_voice(speaker).f0_hz, rel=0.2)


def test_sessions_differ_in_level_and_spectrum_more_than_their_utterances() -> None:
    def long_term(plan: UtterancePlan) -> np.ndarray:
        signal = render(plan)
        frames = np.lib.stride_tricks.sliding_window_view(signal, 512)[::256] * np.hanning(512)
        return 10 * np.log10(
            np.mean(np.abs(np.fft.rfft(frames)) ** 2, axis=0).reshape(-1)[:256].reshape(32, 8).mean(1)
        )

    within, between = [], []
    for first in range(0, 72, 18):
        spectra = np.array([long_term(plan) for plan in PLANS[first : first + 9]]).reshape(3, 3, 32)
        within.append(np.var(spectra, axis=1).mean())
        between.append(np.var(spectra.mean(axis=1), axis=0).mean())
    assert np.mean(between) > 2 * np.mean(within)


def test_whole_corpus_renders_in_seconds() -> None:
    start = time.process_time()
    for plan in PLANS[::54]:
        render(plan)
    # 432 utterances in at most 20 s of two cores.
    assert (time.process_time() - start) / 8 * len(PLANS) < 40
