from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy.signal import fftconvolve

import svkit.data.augmenter
from svkit.audio.augment import mean_power
from svkit.config.schema import AugmentConfig
from svkit.data.augmenter import Augmenter
from svkit.data.conditions import change
from svkit.data.speakers import SpeakerIndex
from svkit.errors import ConfigError, DataError
from svkit.store.manifest import Manifest
from tests.data.conftest import Row, tone

Make = Callable[[Sequence[Row]], Manifest]
NUM = 4000
# Frequencies tell what was added: they fall on different lines of a 4000-point spectrum (4 Hz apart).
NOISE_HZ, MUSIC_HZ, SPEECH_HZ = 3000, 4000, 5000


@pytest.fixture
def material(make_manifest: Make) -> Manifest:
    rows: list[Row] = [("noise/n.wav", "noise", tone(NOISE_HZ), 16_000, "noise")]
    rows += [("music/m.wav", "music", tone(MUSIC_HZ), 16_000, "music")]
    rows += [(f"speech/{k}.wav", f"t{k}", tone(SPEECH_HZ + 100 * k), 16_000, "speech") for k in range(9)]
    return make_manifest(rows)


def build(
    config: AugmentConfig, train: Manifest, noise: Manifest | None = None, rirs: Manifest | None = None
) -> Augmenter:
    return Augmenter(config, noise=noise, rirs=rirs, train=train, speakers=SpeakerIndex(train), seed=1)


def only(kind: str, **changes: object) -> AugmentConfig:
    return AugmentConfig(
        noise_probability=1.0,
        reverb_probability=0.0,
        noise_types=(kind,),
        **changes,  # type: ignore[arg-type]
    )


def lines_hz(signal: np.ndarray) -> set[int]:
    """Frequencies of the strong lines of a signal made of tones."""
    spectrum = np.abs(np.fft.rfft(signal * np.hanning(len(signal))))
    peaks = (
        (spectrum[1:-1] > spectrum[:-2])
        & (spectrum[1:-1] >= spectrum[2:])
        & (spectrum[1:-1] > spectrum.max() / 5)
    )
    return {round((int(k) + 1) * 16_000 / len(signal) / 50) * 50 for k in np.flatnonzero(peaks)}


@pytest.mark.parametrize("published_mix", [True, False])
@pytest.mark.parametrize(
    ("kind", "lines", "snr_range"),
    [
        ("noise", {NOISE_HZ}, (5, 20)),
        ("music", {MUSIC_HZ}, (5, 20)),
        ("speech_music", {MUSIC_HZ, SPEECH_HZ}, (15, 25)),
        ("babble", {SPEECH_HZ}, (15, 25)),
    ],
)
def test_each_kind_adds_its_material_at_its_ratio(
    speakers: Manifest,
    material: Manifest,
    kind: str,
    lines: set[int],
    snr_range: tuple[float, float],
    published_mix: bool,
) -> None:
    augmenter = build(only(kind, published_mix=published_mix), speakers, material)
    signal, rng = tone(500)[:NUM], np.random.default_rng(1)
    ratios, counts = [], set()
    for _ in range(60):
        added = augmenter(signal, 0, rng).astype(np.float64) - signal
        ratios.append(10 * np.log10(mean_power(signal) / np.mean(added**2)))
        found = lines_hz(added)
        speech = {hz for hz in found if hz >= SPEECH_HZ}
        counts.add(len(speech))
        assert found - speech == lines - {SPEECH_HZ}
    voices = set(range(3, 9)) if not published_mix else set(range(1, 9)) & counts  # some are drawn twice
    assert counts == {"babble": voices, "speech_music": {1}}.get(kind, {0})
    assert min(ratios) == pytest.approx(snr_range[0], abs=1.5)
    assert max(ratios) == pytest.approx(snr_range[1], abs=1.5)
    assert snr_range[0] - 0.01 < min(ratios) < max(ratios) < snr_range[1] + 0.01


@pytest.mark.parametrize(("published_mix", "share"), [(True, 0.085), (False, 0.5)])
def test_parts_of_a_mix_keep_their_levels_or_get_equal_power(
    speakers: Manifest, make_manifest: Make, published_mix: bool, share: float
) -> None:
    rows: list[Row] = [("music/m.wav", "music", tone(MUSIC_HZ), 16_000, "music")]
    rows += [("speech/s.wav", "s", 0.305 * tone(SPEECH_HZ), 16_000, "speech")]  # 10.3 dB below the music
    augmenter = build(only("speech_music", published_mix=published_mix), speakers, make_manifest(rows))
    signal = tone(500)[:NUM]
    power = np.abs(np.fft.rfft(augmenter(signal, 0, np.random.default_rng(0)) - signal)) ** 2
    speech, music = (power[round(hz * NUM / 16_000)] for hz in (SPEECH_HZ, MUSIC_HZ))
    assert speech / (speech + music) == pytest.approx(share, rel=0.02)


def test_noise_reverberation_and_clean_come_a_third_each(speakers: Manifest, material: Manifest) -> None:
    rirs = Manifest(material.source, material.root, material.table[:1])
    augmenter = build(AugmentConfig(), speakers, material, rirs)
    assert augmenter.noise_kinds == ("noise", "music", "speech_music", "babble")
    signal, rng, counts = tone(500)[:NUM], np.random.default_rng(0), Counter[str]()
    for _ in range(600):
        found = augmenter(signal, 0, rng)
        if np.array_equal(found, signal):
            counts["clean"] += 1
        else:
            # The response is a tone of 3 kHz: what is convolved with it keeps its power exactly.
            level = mean_power(found) / mean_power(signal)
            counts["reverb" if level == pytest.approx(1.0, abs=1e-4) else "noise"] += 1
    assert all(150 < counts[name] < 250 for name in ("clean", "reverb", "noise")), counts


def test_reverberation_uses_the_response_files(speakers: Manifest, make_manifest: Make) -> None:
    response = np.zeros(400, np.float32)
    response[[30, 90, 300]] = 1.0, -0.5, 0.25
    rirs = make_manifest([("r.wav", "room", response, 16_000, "")])
    augmenter = build(AugmentConfig(noise_probability=0.0, reverb_probability=1.0), speakers, rirs=rirs)
    signal = np.random.default_rng(0).standard_normal(NUM).astype(np.float32)
    wet = fftconvolve(signal, response)[30 : 30 + NUM]
    expected = wet * np.sqrt(mean_power(signal) / mean_power(wet))
    np.testing.assert_allclose(augmenter(signal, 0, np.random.default_rng(1)), expected, atol=1e-4)


@pytest.mark.parametrize(("row", "own"), [(4, "s5"), (2, "s0"), (11, "s2")])
def test_babble_comes_from_other_training_speakers(
    speakers: Manifest, monkeypatch: pytest.MonkeyPatch, row: int, own: str
) -> None:
    augmenter = build(only("babble", allow_missing_noise=True, babble_speakers=(3, 8)), speakers)
    read: list[int] = []
    read_crop = svkit.data.augmenter.read_crop

    def note(manifest: Manifest, other: int, num_samples: int, rng: np.random.Generator) -> np.ndarray:
        read.append(other)
        return read_crop(manifest, other, num_samples, rng)

    monkeypatch.setattr(svkit.data.augmenter, "read_crop", note)
    rng, counts, seen = np.random.default_rng(0), set(), set()
    for _ in range(40):
        read.clear()
        augmenter(tone(500)[:NUM], row, rng)
        voices = [speakers.speaker_ids[other] for other in read]
        assert len(voices) == len(set(voices))
        assert own not in voices
        counts.add(len(voices))
        seen |= set(read)
    assert counts == {3, 4, 5}  # there are only five others
    assert seen == {other for other in range(12) if speakers.speaker_ids[other] != own}


def test_missing_material_is_an_error_that_says_what_to_do(speakers: Manifest, material: Manifest) -> None:
    with pytest.raises(ConfigError, match=r"'noise' needs files of category noise.*has none.*prepare musan"):
        build(AugmentConfig(), speakers)
    no_speech = Manifest(material.source, material.root, material.table[:2].reset_index(drop=True))
    with pytest.raises(
        ConfigError, match=r"speech_music.*category speech, but the noise list has noise and music"
    ):
        build(AugmentConfig(), speakers, no_speech)
    with pytest.raises(ConfigError, match=r"reverb_probability.*prepare rirs"):
        build(AugmentConfig(), speakers, material)
    build(AugmentConfig(noise_probability=0.0, reverb_probability=0.0), speakers)


def test_what_is_missing_is_left_out_where_allowed(speakers: Manifest, material: Manifest) -> None:
    allowed = AugmentConfig(allow_missing_noise=True, allow_simulated_rooms=True)
    no_speech = Manifest(material.source, material.root, material.table[:2].reset_index(drop=True))
    assert build(allowed, speakers, no_speech).noise_kinds == ("noise", "music", "babble")
    assert build(allowed, speakers).noise_kinds == ("babble",)
    alone = Manifest(speakers.source, speakers.root, speakers.table[:2])
    augmenter = build(only("noise", allow_missing_noise=True), alone)
    assert augmenter.noise_kinds == ()
    signal = tone(500)[:NUM]
    np.testing.assert_array_equal(augmenter(signal, 0, np.random.default_rng(0)), signal)


def test_a_bad_category_is_named_by_its_line(speakers: Manifest, material: Manifest) -> None:
    table = material.table.copy()
    table.loc[3, "category"] = "talk"
    with pytest.raises(
        DataError, match=r"list\.tsv:5: category: expected one of noise, music, speech, found 'talk'"
    ):
        build(AugmentConfig(), speakers, Manifest(material.source, material.root, table))
    with pytest.raises(DataError, match="category: column missing"):
        build(
            AugmentConfig(),
            speakers,
            Manifest(material.source, material.root, table.drop(columns="category")),
        )


def test_some_crops_go_through_a_codec_after_what_was_added(speakers: Manifest, material: Manifest) -> None:
    plain = build(AugmentConfig(allow_simulated_rooms=True), speakers, material)
    config = AugmentConfig(
        allow_simulated_rooms=True, condition_probability=0.5, conditions=("alaw", "narrowband")
    )
    coded = build(config, speakers, material)
    counts = Counter()
    for seed in range(60):
        crop = tone(440, seconds=0.25)
        before, after = (one(crop, 0, np.random.default_rng(seed)) for one in (plain, coded))
        assert after.shape == crop.shape
        kinds = {
            name: np.array_equal(after, change(name, before, np.random.default_rng(0)))
            for name in config.conditions or ()
        }
        counts["none" if np.array_equal(before, after) else next(name for name in kinds if kinds[name])] += 1
    assert set(counts) == {"none", "alaw", "narrowband"} and 18 < counts["none"] < 42


def test_a_condition_that_lacks_its_codec_stops_training_before_it_begins(
    speakers: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svkit.data.conditions._encoders", lambda _: frozenset())
    monkeypatch.setattr("svkit.data.conditions.find_ffmpeg", lambda: "ffmpeg")
    config = AugmentConfig(
        noise_probability=0, reverb_probability=0, condition_probability=1, conditions=("amr-nb",)
    )
    with pytest.raises(ConfigError, match="condition amr-nb: needs an ffmpeg with the encoder libopencore"):
        build(config, speakers)
