"""Makes recordings sound as under a condition: codecs of libsndfile (in memory) or ffmpeg, lines and rooms."""

import io
import subprocess
import zlib
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from svkit.audio.augment import reverberate
from svkit.audio.channel import TELEPHONE_BAND_HZ, clip_loudest, limit_band, lose_frames
from svkit.audio.resample import SAMPLE_RATE_HZ, resample
from svkit.audio.rooms import RoomBank
from svkit.config.conditions import CUTS
from svkit.errors import ConfigError
from svkit.store.manifest import Manifest
from svkit.store.transcode import find_ffmpeg

Wave = NDArray[np.float32]


class _Codec(NamedTuple):
    """A codec of libsndfile."""

    rate_hz: int
    format: str
    subtype: str
    level: float | None = None
    """Compression on libsndfile's scale from 0 to 1: Opus from 256 to 6 kbit/s, MP3 at 16 kHz from 160 to 8 kbit/s."""
    delay: int = 0
    """Samples that come out before the first one that went in: the delays of LAME and its decoder together."""


class _External(NamedTuple):
    """A codec of ffmpeg."""

    encoder: str
    rate_hz: int
    bit_rate: str
    container: str
    delay: int
    """As in `_Codec`, in samples at 16 kHz."""


_CODECS = {
    "alaw": _Codec(8_000, "RAW", "ALAW"),
    "ulaw": _Codec(8_000, "RAW", "ULAW"),
    "gsm": _Codec(8_000, "RAW", "GSM610"),
    "opus6k": _Codec(16_000, "OGG", "OPUS", 1.0),
    "opus16k": _Codec(16_000, "OGG", "OPUS", 0.96),
    "mp3-16k": _Codec(16_000, "MP3", "MPEG_LAYER_III", 0.95, 1105),
    "mp3-32k": _Codec(16_000, "MP3", "MPEG_LAYER_III", 0.85, 1105),
}
_EXTERNAL = {
    "amr-nb": _External("libopencore_amrnb", 8_000, "12.2k", "amr", 80),
    "amr-wb": _External("libvo_amrwbenc", 16_000, "12.65k", "amr", 95),
    "aac-24k": _External("aac", 16_000, "24k", "adts", 1024),
}
"""The delays of AMR-NB and AAC were measured; that of AMR-WB is the lookahead in its specification."""
_ROOMS = RoomBank(seed=0)


def require_condition(name: str) -> None:
    """Raise ConfigError if a condition needs a codec of ffmpeg that is missing."""
    if name not in _EXTERNAL:
        return
    encoder = _EXTERNAL[name].encoder
    try:
        ffmpeg = find_ffmpeg()
    except ConfigError as error:
        raise ConfigError(f"condition {name}: {error}") from None
    if encoder not in _encoders(ffmpeg):
        raise ConfigError(
            f"condition {name}: needs an ffmpeg with the encoder {encoder}, which {ffmpeg} lacks; put another ffmpeg"
            " first in PATH, or leave the condition out"
        )


def change(name: str, signal: Wave, rng: np.random.Generator) -> Wave:
    """Return a signal `[N]` at 16 kHz as heard under a condition of `CHANNELS`: float32 `[N]`, without a delay.

    `rng` draws the lost packets and the room. Codecs are deterministic.

    Raises:
        ConfigError: ffmpeg is needed, but is missing or fails.
    """
    if name in _CODECS or name in _EXTERNAL:
        # Scaled down if it is louder than full scale, the most that a file can store.
        scale = np.float32(max(1.0, float(np.abs(signal).max(initial=0.0))))
        scaled = signal / scale
        coded = _code(_CODECS[name], scaled) if name in _CODECS else _code_by_ffmpeg(_EXTERNAL[name], scaled)
        coded = coded[: len(signal)] * scale
        return np.pad(coded, (0, len(signal) - len(coded)))
    if name == "narrowband":
        return limit_band(signal, TELEPHONE_BAND_HZ)
    if name == "clip":
        return clip_loudest(signal, 0.05)
    if name == "far":
        return reverberate(signal, _ROOMS[int(rng.integers(len(_ROOMS)))])
    return lose_frames(signal, rng, share=0.1, burst=2.0, repeat=name == "loss10-repeat")


def changer(condition: str | None, seed: int, manifest: Manifest) -> Callable[[Wave, int], Wave] | None:
    """Return a function that changes the signal of a row; its draws depend only on seed, condition and utterance id.

    None if no sample is changed: without a condition, and for a cut, which only limits how much is read.
    """
    if condition is None or condition in CUTS:
        return None

    def changed(signal: Wave, row: int) -> Wave:
        key = zlib.crc32(f"{condition} {manifest.utterance_ids[row]}".encode())
        return change(condition, signal, np.random.default_rng([seed, key]))

    return changed


def _code(codec: _Codec, signal: Wave) -> Wave:
    settings: dict[str, object] = {} if codec.level is None else {"compression_level": codec.level}
    if codec.format == "MP3":
        settings["bitrate_mode"] = "CONSTANT"
    kind, coded = {"format": codec.format, "subtype": codec.subtype}, io.BytesIO()
    soundfile.write(coded, resample(signal, SAMPLE_RATE_HZ, codec.rate_hz), codec.rate_hz, **kind, **settings)
    coded.seek(0)
    # Raw bytes have no header with their format.
    stated = {**kind, "samplerate": codec.rate_hz, "channels": 1} if codec.format == "RAW" else {}
    heard, _ = soundfile.read(coded, dtype="float32", **stated)
    return resample(heard[codec.delay :], codec.rate_hz)


def _code_by_ffmpeg(codec: _External, signal: Wave) -> Wave:
    plain = ("-f", "f32le", "-ar", str(SAMPLE_RATE_HZ), "-ac", "1")
    rate = ("-ar", str(codec.rate_hz), "-b:a", codec.bit_rate)
    # Zeros push the last samples out of the codec, whose delay is cut off at the beginning.
    padded = np.append(signal, np.zeros(codec.delay, np.float32)).astype("<f4")
    coded = _ffmpeg(
        (*plain, "-i", "pipe:0", "-c:a", codec.encoder, *rate, "-f", codec.container), padded.tobytes()
    )
    heard = _ffmpeg(("-i", "pipe:0", *plain), coded)
    return np.frombuffer(heard, "<f4")[codec.delay :].astype(np.float32)


def _ffmpeg(options: tuple[str, ...], content: bytes) -> bytes:
    quiet = ("-nostdin", "-hide_banner", "-loglevel", "error", "-threads", "1")
    # In its own process group, so that Ctrl-C reaches only the command, which saves its state.
    done = subprocess.run(
        [find_ffmpeg(), *quiet, *options, "pipe:1"],
        input=content,
        capture_output=True,
        check=False,
        start_new_session=True,
    )
    if done.returncode or not done.stdout:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ConfigError(f"ffmpeg failed to code speech: {said[-1] if said else 'no reason given'}")
    return done.stdout


@cache
def _encoders(ffmpeg: str) -> frozenset[str]:
    listed = subprocess.run(
        [ffmpeg, "-hide_banner", "-encoders"], capture_output=True, text=True, check=False
    )
    return frozenset(words[1] for line in listed.stdout.splitlines() if len(words := line.split()) > 1)
