"""The demo corpus: synthetic speakers, rendered from random numbers alone.

The voice is a source-filter model (Fant 1960; Klatt 1980). The source is a train of glottal pulses (Rosenberg's pulse,
1971, with a one-pole spectral tilt) with declination, accents, jitter and shimmer, mixed with aspiration. It drives a
cascade of seven resonances that follow random syllables, with bursts, fricatives and nasals between the vowels.

Speakers differ in pitch, in the length and shape of the vocal tract, in their vowels, voice quality and speaking rate.
Sessions differ in channel, noise and level, and in the speaker's pitch, rate and vocal tract on that day. Speakers
overlap, so that verification is hard.

All arithmetic is float64 without BLAS, and the output is quantised to 16 bits, so that equal plans give equal files.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import log, pi

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

from svkit.audio.resample import SAMPLE_RATE_HZ

NUM_SPEAKERS = 48
NUM_SESSIONS = 3
UTTERANCES_PER_SESSION = 3
DEMO_SPEAKERS: tuple[str, ...] = tuple(f"spk{index + 1:02d}" for index in range(NUM_SPEAKERS))
"""Every fourth one is an evaluation speaker."""

_ROOT_SEED = 20251004
_HOP = 128
"""Samples between two updates of the filter (8 ms)."""
_WINDOW = 3 * _HOP
_FFT_SIZE = 1024
_SOURCE_OVERSAMPLING = 2
"""The pulses have a corner; rendering them at twice the rate keeps aliasing weak."""

# Approximate F1, F2 and F3 of an adult male in Hz; each speaker scales and bends them.
_VOWELS = np.array([
    (290, 2250, 2950), (400, 2000, 2600), (540, 1800, 2500), (720, 1250, 2500),
    (640, 1050, 2450), (460, 880, 2400), (320, 850, 2300), (500, 1450, 2500),
], dtype=np.float64)  # fmt: skip
_UPPER_FORMANTS = np.array([3400.0, 4350.0, 5400.0, 6450.0])
_BANDWIDTHS = np.array([60.0, 80.0, 120.0, 180.0, 250.0, 350.0, 450.0])
_NASAL = np.array([270.0, 1150.0, 2300.0])
# Places of articulation: target of F2 while the mouth is closed, and centre of the noise, in Hz.
_PLACES = np.array([(900.0, 1200.0), (1750.0, 5200.0), (1950.0, 3300.0), (1300.0, 2100.0)])

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class UtterancePlan:
    """An utterance to render."""

    utterance_id: str
    """Also its path below the corpus root: `spk03/s1/02.flac`."""
    speaker_id: str
    session_id: str
    """Unique over the corpus, such as `spk03-s1`."""
    split: str
    """`train` or `eval`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Voice:
    """What is the same in all utterances of a speaker."""

    f0_hz: float
    f0_range: float
    """Standard deviation of the accents, in log Hz."""
    formant_factors: Array
    """Vocal-tract length and shape, `[7]`, relative to `_VOWELS` and `_UPPER_FORMANTS`."""
    vowel_factors: Array
    """The speaker's own F1, F2, F3 of each vowel, `[8, 3]`."""
    bandwidth_factor: float
    open_quotient: float
    tilt_hz: float
    """Corner of the source's spectral tilt."""
    breath: float
    """Level of aspiration relative to the pulses."""
    jitter: float
    shimmer: float
    syllable_seconds: float
    noise_factor: float
    """Place of the fricatives' noise, relative to `_PLACES`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tracks:
    """Control tracks of the synthesiser, one row every 8 ms."""

    f0_hz: Array
    formants_hz: Array
    voicing: Array
    frication: Array
    frication_hz: Array


def _generator(*path: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([_ROOT_SEED, len(path), *path]))


def plan_corpus() -> list[UtterancePlan]:
    """List the utterances sorted by id: 48 speakers x 3 sessions x 3, every fourth speaker `eval`."""
    return [
        UtterancePlan(
            utterance_id=f"{speaker}/s{session + 1}/{number + 1:02d}.flac",
            speaker_id=speaker,
            session_id=f"{speaker}-s{session + 1}",
            split="eval" if index % 4 == 3 else "train",
        )
        for index, speaker in enumerate(DEMO_SPEAKERS)
        for session in range(NUM_SESSIONS)
        for number in range(UTTERANCES_PER_SESSION)
    ]


@lru_cache(maxsize=NUM_SPEAKERS)
def draw_voice(speaker: int) -> Voice:
    """Draw the voice of speaker 0..47; lower and higher voices alternate in fours and overlap."""
    rng = _generator(speaker)
    is_high = speaker // 4 % 2 == 1
    length = rng.normal(1.13 if is_high else 1.0, 0.05)
    return Voice(
        f0_hz=float(np.exp(rng.normal(log(190.0 if is_high else 118.0), 0.14))),
        f0_range=float(rng.uniform(0.04, 0.14)),
        formant_factors=length * np.exp(rng.normal(0.0, 0.045, 7)),
        vowel_factors=np.exp(rng.normal(0.0, (0.08, 0.06, 0.03), (len(_VOWELS), 3))),
        bandwidth_factor=float(np.exp(rng.normal(0.0, 0.25))),
        open_quotient=float(rng.uniform(0.45, 0.8)),
        tilt_hz=float(np.exp(rng.normal(log(1800.0), 0.5))),
        breath=float(np.exp(rng.normal(log(0.06), 0.6))),
        jitter=float(rng.uniform(0.003, 0.02)),
        shimmer=float(rng.uniform(0.02, 0.12)),
        syllable_seconds=float(rng.uniform(0.17, 0.26)),
        noise_factor=float(np.exp(rng.normal(0.0, 0.1))),
    )


def render(plan: UtterancePlan) -> NDArray[np.float32]:
    """Render an utterance: float32 `[N]` at 16 kHz, 2.5 to 4 s, multiples of 1/32768, peak below 1."""
    speaker = DEMO_SPEAKERS.index(plan.speaker_id)
    session = int(plan.session_id.rpartition("-s")[2])
    number = int(plan.utterance_id.rpartition("/")[2].removesuffix(".flac"))
    # Each speaker, session and utterance has its own seed, so that none depends on which others are rendered.
    voice, rng = draw_voice(speaker), _generator(speaker, session, number)
    tracks = _draw_tracks(voice, _generator(speaker, session), rng)
    speech = _filter_source(voice, tracks, rng)
    return _record(speech, _generator(speaker, session, 0), rng)


def _smooth(track: Array, width: int) -> Array:
    """Apply two moving averages of `width` frames along axis 0, which turn steps between targets into movements."""
    for _ in range(2):
        before = width // 2 + 1
        padded = np.pad(track, [(before, width - before), *[(0, 0)] * (track.ndim - 1)], mode="edge")
        sums = np.cumsum(padded, axis=0)
        track = (sums[width:] - sums[:-width]) / width
    return track


def _draw_tracks(voice: Voice, session_rng: np.random.Generator, rng: np.random.Generator) -> _Tracks:
    """Draw syllables until the utterance is full and turn them into smooth tracks."""
    # Whole-signal transforms are several times slower for lengths with large prime factors.
    num_frames = next_fast_len(int(rng.uniform(2.5, 3.9) * SAMPLE_RATE_HZ / _HOP), real=True)
    # Columns: F1, F2, F3, voicing, frication, centre of the frication, accent.
    targets: list[tuple[int, tuple[float, ...]]] = []
    used = 0
    rate = voice.syllable_seconds * np.exp(session_rng.normal(0.0, 0.08)) * SAMPLE_RATE_HZ / _HOP
    while used < num_frames:
        syllable = _draw_syllable(voice, rate, rng)
        if rng.random() < 0.1:
            length = int(rng.uniform(0.1, 0.3) * SAMPLE_RATE_HZ / _HOP)
            syllable.append((length, (500.0, 1450.0, 2500.0, 0.0, 0.0, 3000.0, 0.0)))
        targets += syllable
        used += sum(length for length, _ in syllable)
    lengths = np.array([length for length, _ in targets])
    steps = np.repeat(np.array([values for _, values in targets]), lengths, axis=0)[:num_frames]
    formants = np.empty((num_frames, 7))
    formants[:, :3] = _smooth(steps[:, :3], 7)
    formants[:, 3:] = _UPPER_FORMANTS
    formants *= voice.formant_factors * np.exp(session_rng.normal(0.0, 0.012))
    declination = np.linspace(0.08, -0.12, num_frames) * rng.uniform(0.5, 1.5)
    drift = session_rng.normal(0.0, 0.06) + rng.normal(0.0, 0.05)
    wander = _smooth(rng.normal(0.0, 0.08, num_frames), 12)
    f0 = voice.f0_hz * np.exp(declination + drift + wander + _smooth(steps[:, 6], 12))
    return _Tracks(
        f0_hz=f0,
        formants_hz=np.minimum(formants, 7600.0),
        voicing=_smooth(steps[:, 3], 4),
        frication=_smooth(steps[:, 4], 3),
        frication_hz=np.minimum(steps[:, 5] * voice.noise_factor, 7000.0),
    )


def _draw_syllable(
    voice: Voice, rate: float, rng: np.random.Generator
) -> list[tuple[int, tuple[float, ...]]]:
    """Draw consonant and vowel as (frames, targets): F1 F2 F3, voicing, frication, its centre, accent."""
    vowel = int(rng.integers(len(_VOWELS)))
    f1, f2, f3 = _VOWELS[vowel] * voice.vowel_factors[vowel]
    accent = float(rng.normal(0.0, voice.f0_range))
    locus, centre = _PLACES[rng.integers(len(_PLACES))]
    kind = rng.integers(6)
    frames = max(4, round(rate * rng.uniform(0.25, 0.45)))
    vowel_frames = max(6, round(rate * rng.uniform(0.5, 1.0)))
    loudness = float(rng.uniform(0.7, 1.0))
    nucleus = (vowel_frames, (f1, f2, f3, loudness, 0.0, centre, accent))
    match kind:
        case 0:  # Voiceless stop: closure, burst.
            consonant = [(frames, (300.0, locus, f3, 0.0, 0.0)), (3, (350.0, locus, f3, 0.0, 0.9))]
        case 1:  # Voiced stop.
            consonant = [(frames, (250.0, locus, f3, 0.2, 0.0)), (2, (300.0, locus, f3, 0.2, 0.4))]
        case 2:  # Fricative, voiced or not.
            voicing = 0.35 if rng.random() < 0.4 else 0.0
            consonant = [(frames + 3, (320.0, locus, f3, voicing, float(rng.uniform(0.3, 0.7))))]
        case 3:  # Nasal.
            consonant = [(frames, (*_NASAL, 0.4, 0.0))]
        case 4:  # Glide.
            consonant = [(frames, (350.0, locus, 0.9 * f3, 0.6, 0.0))]
        case _:  # Bare vowel.
            consonant = []
    return [*((length, (*target, centre, 0.0)) for length, target in consonant), nucleus]


def _glottal_source(voice: Voice, f0_hz: Array, num_samples: int, rng: np.random.Generator) -> Array:
    """Return the derivative of Rosenberg's flow pulses of unit peak flow, `[num_samples]` at 16 kHz."""
    num_fine = num_samples * _SOURCE_OVERSAMPLING
    rate = SAMPLE_RATE_HZ * _SOURCE_OVERSAMPLING
    frame_starts = np.arange(len(f0_hz)) * _HOP * _SOURCE_OVERSAMPLING
    increments = np.interp(np.arange(num_fine), frame_starts, f0_hz) / rate
    period = np.cumsum(increments).astype(np.int64)
    num_periods = int(period[-1]) + 8
    jitter = 1 + voice.jitter * np.clip(rng.standard_normal(num_periods), -2.5, 2.5)
    # Jitter changes the length of each period, so the periods are counted again.
    phase = np.cumsum(increments * jitter[period])
    period = phase.astype(np.int64)
    shimmer = 1 + voice.shimmer * np.clip(rng.standard_normal(num_periods), -2.5, 2.5)
    phase -= period
    rise = voice.open_quotient * 0.7
    fall = voice.open_quotient - rise
    rising = pi / (2 * rise) * np.sin(pi * phase / rise)
    falling = -pi / (2 * fall) * np.sin(pi / 2 * (phase - rise) / fall)
    flow = np.where(phase < rise, rising, np.where(phase < rise + fall, falling, 0.0)) * shimmer[period]
    spectrum = rfft(flow)[: num_samples // 2 + 1] / _SOURCE_OVERSAMPLING
    return np.asarray(irfft(spectrum, num_samples))


def _resonances(formants_hz: Array, bandwidth_factor: float) -> NDArray[np.complex128]:
    """Return the response of the cascade of resonances, with unit gain at 0 Hz: `[T, F]` for formants `[T, 7]`."""
    radius = np.exp(-pi * _BANDWIDTHS * bandwidth_factor / SAMPLE_RATE_HZ)
    linear = -2 * radius * np.cos(2 * pi * formants_hz / SAMPLE_RATE_HZ)
    square = radius**2
    polynomial = np.zeros((len(formants_hz), 15))
    polynomial[:, 0] = 1.0
    for k in range(7):
        shifted = polynomial.copy()
        shifted[:, 1:] += linear[:, k, None] * polynomial[:, :-1]
        shifted[:, 2:] += square[k] * polynomial[:, :-2]
        polynomial = shifted
    return np.asarray(polynomial.sum(axis=1, keepdims=True) / rfft(polynomial, _FFT_SIZE, axis=1))


def _frames(signal: Array, num_frames: int) -> NDArray[np.complex128]:
    """Return windowed spectra `[T, F]`; the overlapping windows add up to 1.5."""
    padded = np.pad(signal, (_WINDOW // 2, _WINDOW))
    view = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][:num_frames]
    window = 0.5 - 0.5 * np.cos(2 * pi * np.arange(_WINDOW) / _WINDOW)
    return np.asarray(rfft(view * window, _FFT_SIZE, axis=1))


def _filter_source(voice: Voice, tracks: _Tracks, rng: np.random.Generator) -> Array:
    """Filter pulses and aspiration by the vocal tract, and add frication unfiltered: speech `[N]` of any level."""
    num_frames = len(tracks.f0_hz)
    num_samples = num_frames * _HOP
    pulses = _glottal_source(voice, tracks.f0_hz, num_samples, rng)
    frequencies = np.arange(_FFT_SIZE // 2 + 1) * (SAMPLE_RATE_HZ / _FFT_SIZE)
    tilt = 1 / (1 + 1j * frequencies / voice.tilt_hz)
    noise = _frames(rng.standard_normal(num_samples), num_frames)
    spectra = _frames(pulses, num_frames) * tilt + noise * voice.breath
    spectra *= _resonances(tracks.formants_hz, voice.bandwidth_factor) * tracks.voicing[:, None]
    distance = np.log((frequencies + 50.0) / tracks.frication_hz[:, None]) / 0.35
    spectra += noise * (np.exp(-0.5 * distance**2) * (tracks.frication[:, None] * 0.5))
    blocks = irfft(spectra, _FFT_SIZE, axis=1).reshape(num_frames, _FFT_SIZE // _HOP, _HOP)
    speech = np.zeros((num_frames + _FFT_SIZE // _HOP, _HOP))
    for part in range(_FFT_SIZE // _HOP):
        speech[part : part + num_frames] += blocks[:, part]
    return speech.reshape(-1)[_WINDOW // 2 :][:num_samples] / 1.5


def _record(speech: Array, session_rng: np.random.Generator, rng: np.random.Generator) -> NDArray[np.float32]:
    """Pass speech through the session's channel, add its noise, set its level, quantise to 16 bits."""
    num_samples = len(speech)
    frequencies = rfftfreq(num_samples, 1 / SAMPLE_RATE_HZ)
    octaves = np.log2((frequencies + 30.0) / 1000.0)
    ripple = np.zeros(len(frequencies))
    for cycles in (0.1, 0.2, 0.35, 0.5):
        ripple += session_rng.normal(0.0, 1.6) * np.cos(2 * pi * (cycles * octaves + session_rng.random()))
    low_hz, high_hz = session_rng.uniform(60.0, 220.0), np.exp(session_rng.uniform(log(3400.0), log(7800.0)))
    channel = 10 ** (ripple / 20) / np.sqrt(1 + (low_hz / (frequencies + 1.0)) ** 4)
    channel /= np.sqrt(1 + (frequencies / high_hz) ** 8)
    noise_slope = session_rng.uniform(-6.0, 0.0)
    hiss = 10 ** (noise_slope * np.maximum(octaves, -3.0) / 20)
    recorded = irfft(rfft(speech) * channel, num_samples)
    noise = irfft(rfft(rng.standard_normal(num_samples)) * hiss, num_samples)
    snr_db = session_rng.uniform(15.0, 32.0) + rng.normal(0.0, 1.0)
    noise *= np.sqrt(np.square(recorded).mean() / np.square(noise).mean() / 10 ** (snr_db / 10))
    recorded += noise
    level_db = session_rng.uniform(-32.0, -18.0) + rng.normal(0.0, 1.5)
    gain = 10 ** (level_db / 20) / np.sqrt(np.square(recorded).mean())
    gain = min(gain, 0.98 / np.abs(recorded).max())
    return np.asarray(np.rint(recorded * gain * 32768) / 32768, dtype=np.float32)
