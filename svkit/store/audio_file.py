"""Audio files, read with libsndfile: headers, and the samples of one channel from any position.

A recording is a file, or part of an uncompressed tar file (`TarMember`). Equal bytes give equal samples.
"""

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import numpy.typing as npt
import soundfile

from svkit.errors import DataError
from svkit.store.atomic import replacing
from svkit.store.audio_bytes import OpenFile, TarMember, Window, open_tar, reader_of, stamp_of
from svkit.store.audio_header import Claim, read_claim
from svkit.store.files import why_not

# A header may claim any length. Reading in blocks uses memory only for samples that are really there.
_BLOCK_SAMPLES = 1 << 21
LOUDEST_SAMPLE = 1e6
"""120 dB above full scale. Files of raw 16-bit or 24-bit counts stay far below it; from 1e13 on, a power spectrum
overflows float32."""
_READ_BYTES = 1 << 16
"""Bytes read from a tar file at once: libsndfile asks for far fewer, and each request takes a round trip."""
CONVERTIBLE_SUFFIXES = frozenset(
    {".m4a", ".aac", ".mp4", ".wma", ".amr", ".webm", ".mka", ".ape", ".wv", ".spx"}
)
"""Suffixes of audio that libsndfile cannot read; such files are reported, never silently skipped."""
_OTHER_AUDIO = re.compile(
    rb"....ftyp|\x1aE\xdf\xa3|#!AMR|0&\xb2u|\xff[\xf0\xf1\xf8\xf9]|ADIF|MAC |wvpk", re.S
)
"""First bytes of such audio, whatever the file's name: MP4, Matroska, AMR, ASF, AAC, Monkey's Audio, WavPack."""
CUT_ADVICE = "copy it again, or use it as far as it goes: --allow-cut, or `ffmpeg -i IN OUT.flac`"
_COUNTS = 1 << 14
"""Number of files whose counted lengths a process remembers."""
_FLAC_FRAME_SAMPLES = 4096
"""Samples per channel in the FLAC frames that encoders usually write."""
_MPEG_LEAD_SAMPLES = 1 << 16
"""Samples decoded before a crop: an MP3 frame may need bits from dozens of frames before it."""
Channel = int | Literal["mix"]
"""The channel to read: a number from 0 on, or the mean of all."""
Place = Path | TarMember
"""Where a recording is."""


class _Audio(soundfile.SoundFile):  # type: ignore[misc]
    """An open recording that is read forward from one sample."""

    path: Place
    claim: Claim
    window: Window | None

    def raise_failure(self) -> None:
        """Raise the error behind missing bytes: the decoder only knows that they are missing."""
        if self.window is not None and self.window.failure is not None:
            raise self.window.failure

    def seekable(self) -> bool:
        """Return False, or each block would end with a seek, and an MP3 decoder would lack bits of earlier frames."""
        return False

    def lead_samples(self) -> int:
        """Return how many samples to decode before a crop: all of them if the codec (GSM, G.72x) cannot seek."""
        if not super().seekable() or self.subtype.startswith("DWVW"):  # DWVW wrongly claims that it can
            return int(self.frames)
        return _MPEG_LEAD_SAMPLES if self.subtype.startswith("MPEG") else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioInfo:
    """What the header of an audio file says."""

    sample_rate_hz: int
    num_samples: int
    """Samples in one channel."""
    num_channels: int
    missing: str = ""
    """What a truncated file lacks, in words; empty if it is whole."""


class AudioError(DataError):
    """An audio file that cannot be used; `reason` is the kind of fault, for counting."""

    def __init__(self, path: Place, reason: str, detail: str) -> None:
        """Make the message of the recording's place and `detail`.

        The reason is `missing`, `empty`, `unreadable`, `no such channel`, `truncated`, `non-finite` or `too loud`.
        """
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.reason = reason
        self.detail = detail


def _open(path: Place) -> _Audio:
    window = None
    try:
        if isinstance(path, TarMember):
            tar = open_tar(path)
            if tar.size < path.offset + path.size:
                raise _too_short(path, tar.size)
            read, offset, size = reader_of(tar, path), path.offset, path.size
        else:
            file = OpenFile(path)
            read, offset, size = file.read, 0, file.size
        claim = read_claim(Window(read, offset, size, Claim()).read_at, size)
        if isinstance(path, TarMember) or claim.is_corrected:
            window = Window(read, offset, size, claim)
            audio = _Audio(io.BufferedReader(window, _READ_BYTES))
        else:
            audio = _Audio(os.dup(file.handle))
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
        if window is not None and window.failure is not None:
            raise window.failure from error
        raise _explain(path, error) from error
    audio.path, audio.claim, audio.window = path, claim, window
    return audio


def _too_short(member: TarMember, size: int) -> AudioError:
    detail = f"the tar file ends after {size} bytes; has it changed since the list was made?"
    return AudioError(member, "truncated", detail)


def _explain(path: Place, error: Exception, where: str = "") -> AudioError:
    if isinstance(error, OSError):
        reason = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        return AudioError(path, reason, why_not(error))
    size = stamp_of(path)[0]
    if not size:
        return AudioError(path, "empty", "empty file")
    if isinstance(path, TarMember) and size < path.offset + path.size:
        return _too_short(path, size)
    if not where and (hint := _conversion_hint(path)):
        return AudioError(path, "unreadable", hint)
    detail = str(getattr(error, "error_string", None) or error).strip().rstrip(".")
    return AudioError(path, "unreadable", f"not readable as audio{where}: {detail}")


def _conversion_hint(path: Place) -> str:
    """Return advice about audio of a kind that libsndfile does not know; empty if it is not audio."""
    if isinstance(path, TarMember):
        head = open_tar(path).read(path.offset, min(16, path.size))
    else:
        head = OpenFile(path).read(0, 16)
    file = PurePosixPath(path.tar if isinstance(path, TarMember) else path)
    suffix = file.suffix.lower()
    if not _OTHER_AUDIO.match(head) and suffix not in CONVERTIBLE_SUFFIXES:
        return ""
    what = suffix if suffix in CONVERTIBLE_SUFFIXES else "its content (AAC or similar)"
    command = f"ffmpeg -i {file.name} {file.stem}.flac"
    return f"{what} is not read by libsndfile; convert it to wav or flac, for example with {command}"


def probe(path: Place, channel: Channel = 0, *, allow_cut: bool = False) -> AudioInfo:
    """Read the header of an audio file; if it does not give the number of samples, count them by decoding.

    `channel` is the one that will be read. `allow_cut` accepts a truncated file, whose header says that it was longer.

    Raises:
        AudioError: the file is missing, empty, not audio, without that channel, or truncated.
    """
    with _open(path) as file:
        num_samples = file.frames if file.claim.is_counted else count_samples(path)
        return _info(file, num_samples, channel, allow_cut)


def _info(file: _Audio, num_samples: int, channel: Channel, allow_cut: bool) -> AudioInfo:
    path = file.path
    if num_samples < 1:
        raise AudioError(path, "empty", "no samples")
    if file.samplerate < 1:
        raise AudioError(path, "unreadable", f"a sample rate of {file.samplerate} Hz")
    if channel != "mix" and not 0 <= channel < file.channels:
        raise AudioError(
            path, "no such channel", f"channel {channel} asked for, the file has {file.channels}, from 0 on"
        )
    missing = file.claim.missing(num_samples)
    if missing and not allow_cut:
        raise _cut(path, missing)
    return AudioInfo(
        sample_rate_hz=int(file.samplerate),
        num_samples=num_samples,
        num_channels=int(file.channels),
        missing=missing,
    )


def _cut(path: Place, missing: str) -> AudioError:
    return AudioError(path, "truncated", f"{missing}; {CUT_ADVICE}")


def count_samples(path: Place) -> int:
    """Count the samples of one channel by decoding, once until the file changes (AudioError: see `examine`)."""
    try:
        stamp = stamp_of(path)
    except OSError as error:
        raise _explain(path, error) from error
    return _count(path, stamp)


@lru_cache(maxsize=_COUNTS)
def _count(path: Place, stamp: tuple[int, int]) -> int:
    with _open(path) as file:
        return sum(len(block) for block in _blocks(file, 0, None))


def examine(
    path: Place,
    visit: Callable[[npt.NDArray[np.float32], int], None] | None = None,
    channel: Channel = 0,
    *,
    allow_cut: bool = False,
) -> tuple[AudioInfo, str]:
    """Read a whole file and check it.

    `visit` gets each block of samples of the channel, float32 `[N]` with N at most 2^21, and the rate. `allow_cut`
    accepts what is left of a truncated file.

    Returns:
        The header, and the sha256 of the rate and of the samples of the channel, which is equal for equal content in
        any container.

    Raises:
        AudioError: the file is missing, empty, not audio, without that channel or truncated, or has samples that are
            not finite or absurdly large.
    """
    found, missing = 0, ""
    with _open(path) as file:
        info = _info(file, file.frames, channel, allow_cut=True)
        digest = hashlib.sha256(str(info.sample_rate_hz).encode())
        try:
            for block in _blocks(file, 0, info.num_samples if file.claim.is_counted else None):
                samples = _one_channel(path, block, channel, found)
                found += len(samples)
                digest.update(samples.tobytes())
                if visit is not None:
                    visit(samples, info.sample_rate_hz)
        except AudioError as cut:
            if not allow_cut or not found or cut.reason != "truncated":
                raise
            missing = cut.detail.removesuffix(f"; {CUT_ADVICE}")
        info = _info(file, found, channel, allow_cut)
    return replace(info, missing=info.missing or missing), digest.hexdigest()


def channel_levels_db(path: Place, num_samples: int | None = None) -> npt.NDArray[np.float64]:
    """Return the RMS level of each channel without its mean, in dB of full scale, `[C]`; -inf for silence.

    It is measured over the first `num_samples` (None: all), or over what is left of a truncated file. A file with one
    channel is not measured: its level is given as 0.

    Raises:
        AudioError: the file is missing or not audio.
    """
    with _open(path) as file:
        if file.channels == 1:
            return np.zeros(1)
        known = file.frames if file.claim.is_counted else None
        count, total, squares = 0, np.zeros(file.channels), np.zeros(file.channels)
        try:
            for block in _blocks(file, 0, known if num_samples is None else num_samples):
                count += len(block)
                total += block.sum(axis=0, dtype=np.float64)
                squares += np.square(block, dtype=np.float64).sum(axis=0)
        except AudioError as cut:
            if not count or cut.reason != "truncated":
                raise
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = 10 * np.log10(squares / count - (total / count) ** 2)
    return np.where(np.isnan(levels), -np.inf, levels)


def read_audio(
    path: Place,
    start: int = 0,
    num_samples: int | None = None,
    channel: Channel = 0,
    sample_rate_hz: int | None = None,
    length: int | None = None,
) -> npt.NDArray[np.float32]:
    """Read samples of one channel at the file's own rate, and no more than these.

    Args:
        path: an audio file that libsndfile knows (wav, flac, ogg, mp3, ...), or its place in a tar file.
        start: first sample.
        num_samples: number of samples (None: up to the end).
        channel: the channel.
        sample_rate_hz: the rate in the list (None: not checked).
        length: the number of samples in the list (None: not checked). A truncated file is read only if the list has
            the number of samples that are left of it. A longer file is refused, because it must be another one.

    Returns:
        float32 [N] with full scale at 1.

    Raises:
        DataError: the file is missing, not audio, truncated, of another rate or too short, or has samples that are not
            finite or beyond `LOUDEST_SAMPLE`.
    """
    with _open(path) as file:
        if sample_rate_hz not in (None, file.samplerate):
            raise DataError(
                f"{path}: expected {sample_rate_hz} Hz as in the manifest, found {file.samplerate} Hz"
            )
        said = length or 0
        # A header that counts its samples is trusted; else the list is, as counting means decoding the file.
        if file.claim.is_counted:
            frames = int(file.frames)
        else:
            frames = said if said and not file.claim.claimed_bytes else count_samples(path)
        _info(file, max(1, frames), channel, allow_cut=0 < said <= frames)
        wanted = frames - start if num_samples is None else num_samples
        if said and frames > said and file.claim.is_counted and _goes_on(path, said):
            raise DataError(
                f"{path}: expected {said} samples as in the manifest, found {frames}; has it changed since?"
                " Prepare the corpus again"
            )
        if start < 0 or wanted < 0 or max(start + wanted, said) > frames:
            raise DataError(
                f"{path}: samples {start} to {max(start + wanted, said)} asked for, the file has {frames};"
                " has it changed since the manifest was made?"
            )
        blocks, found = [np.zeros(0, np.float32)], start
        for block in _blocks(file, start, wanted):
            blocks.append(_one_channel(path, block, channel, found))
            found += len(block)
    return blocks[1] if len(blocks) == 2 else np.concatenate(blocks)


def _goes_on(path: Place, place: int) -> bool:
    """Say whether a sample can be read; the header of a truncated FLAC also counts the missing ones."""
    with _open(path) as file:
        try:
            return any(True for _ in _blocks(file, place, 1))
        except AudioError:
            return False


def _blocks(
    file: _Audio, start: int, wanted: int | None, size: int | None = None
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield all channels from sample `start` on, `[N, C]`; `wanted` None: up to the end, wherever that is."""
    path, found, longest = file.path, 0, max(1, (size or _BLOCK_SAMPLES) // file.channels)
    try:
        if start:
            # Some decoders must start earlier, or a crop would differ from the same part of the whole recording.
            lead = min(start, file.lead_samples())
            if start > lead:
                file.seek(start - lead)
            for place in range(0, lead, longest):
                file.read(min(longest, lead - place), dtype="float32")
        while wanted is None or found < wanted:
            count = longest if wanted is None else min(wanted - found, longest)
            block = file.read(count, dtype="float32", always_2d=True)
            file.raise_failure()
            if not len(block):
                if wanted is None:
                    return
                said = (
                    f"header says {file.frames}" if file.claim.is_counted else f"list says {start + wanted}"
                )
                raise _cut(path, f"truncated: the {said} samples, found {start + found}")
            found += len(block)
            yield block
        return
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        file.raise_failure()
        if "lost sync" not in str(error):
            raise _explain(path, error, f" after sample {start + found}") from error
        if size:
            said = f"the header says {file.frames} samples, decoding fails after {start + found}"
            raise _cut(path, f"truncated or damaged: {said}") from error
    # An error loses the whole block, so read again in smaller blocks to get as many samples as possible.
    with _open(path) as again:
        rest = None if wanted is None else wanted - found
        yield from _blocks(again, start + found, rest, _FLAC_FRAME_SAMPLES * file.channels)


def _one_channel(
    path: Place, block: npt.NDArray[np.float32], channel: Channel, position: int
) -> npt.NDArray[np.float32]:
    """Return the samples of a channel, `[N]`; `position` is that of the first one in the file."""
    samples = np.ascontiguousarray(block.mean(axis=1) if channel == "mix" else block[:, channel])
    finite = np.isfinite(samples)
    if not finite.all():
        raise AudioError(
            path, "non-finite", f"sample {position + int(np.argmin(finite))} is not a finite number"
        )
    if max(samples.max(), -samples.min()) > LOUDEST_SAMPLE:
        loud = position + int(np.argmax(np.abs(samples)))
        raise AudioError(path, "too loud", f"sample {loud} is beyond {LOUDEST_SAMPLE:g} times full scale")
    return samples


def write_flac(path: Path, samples: npt.NDArray[np.float32], sample_rate_hz: int) -> None:
    """Write 16-bit FLAC atomically; samples `[N]` beyond full scale (1) are clipped."""
    clipped = np.clip(samples, -1.0, 1.0)
    with replacing(path) as temporary:
        soundfile.write(temporary, clipped, sample_rate_hz, format="FLAC", subtype="PCM_16")
