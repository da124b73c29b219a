"""Audio files by way of libsndfile: headers, and the samples of one channel from any position.

A recording is a file, or a stretch of an uncompressed tar file (`TarMember`): the same bytes, so the same samples.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from svkit.errors import DataError
from svkit.store.atomic import replacing
from svkit.store.files import open_handle, why_not

# A header may claim any length; memory grows only with samples that are really there.
_BLOCK_SAMPLES = 1 << 21
LOUDEST_SAMPLE = 1e6
"""120 dB over full scale: files of raw 16-bit or 24-bit counts are far below, and from 1e13 on a power spectrum leaves
float32."""
_READ_BYTES = 1 << 16
"""Of a tar file at once: libsndfile asks for far less, and every question costs a way to the server."""
_OPEN_TARS = 64
"""Tar files held open in one process."""


@dataclass(frozen=True, slots=True)
class TarMember:
    """Where a recording lies inside an uncompressed tar file."""

    tar: Path
    offset: int
    """Its first byte (after the member's header)."""
    size: int
    """In bytes."""

    def __str__(self) -> str:
        """Return the name used in messages."""
        return f"{self.tar} (bytes {self.offset} to {self.offset + self.size})"


class _Tar:
    """An open tar file; `pread` leaves no position behind that threads or processes could share."""

    def __init__(self, path: Path) -> None:
        self.handle = open_handle(path)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)


# Opening a file on a network takes longer than reading from it. One that is dropped here closes with its last reader.
_open_tar = lru_cache(maxsize=_OPEN_TARS)(_Tar)


class _Window(io.RawIOBase):
    """The bytes of a tar member as a file of their own."""

    def __init__(self, member: TarMember) -> None:
        self._tar, self._member, self._position = _open_tar(member.tar), member, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._member.size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._member.size - self._position))
        try:
            data = os.pread(self._tar.handle, wanted, self._member.offset + self._position)
        except OSError:  # libsndfile asks from C, where an exception would end as text on stderr
            data = b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioInfo:
    """What the header of an audio file says."""

    sample_rate_hz: int
    num_samples: int
    """Samples in one channel."""
    num_channels: int


class AudioError(DataError):
    """An audio file that cannot be used; `reason` is the kind of fault, for counting."""

    def __init__(self, path: Path | TarMember, reason: str, detail: str) -> None:
        """Make the one line.

        Args:
            path: the recording.
            reason: `missing`, `empty`, `unreadable`, `truncated`, `non-finite` or `too loud`.
            detail: the rest of the line.
        """
        super().__init__(f"{path}: {detail}")
        self.reason = reason
        self.detail = detail


def _open(path: Path | TarMember) -> soundfile.SoundFile:
    try:
        if isinstance(path, TarMember):
            return soundfile.SoundFile(io.BufferedReader(_Window(path), _READ_BYTES))
        return soundfile.SoundFile(open_handle(path))
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
        raise _explain(path, error) from error


def _explain(path: Path | TarMember, error: Exception, where: str = "") -> AudioError:
    file = path.tar if isinstance(path, TarMember) else path
    if isinstance(error, OSError):
        reason = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        return AudioError(path, reason, why_not(error))
    size = file.stat().st_size
    if not size:
        return AudioError(path, "empty", "empty file")
    if isinstance(path, TarMember) and size < path.offset + path.size:
        detail = f"the tar file ends after {size} bytes; has it changed since the list was made?"
        return AudioError(path, "truncated", detail)
    detail = str(getattr(error, "error_string", None) or error).strip().rstrip(".")
    return AudioError(path, "unreadable", f"not readable as audio{where}: {detail}")


def probe(path: Path | TarMember) -> AudioInfo:
    """Read the header of an audio file.

    Raises:
        AudioError: missing, empty or not audio.
    """
    with _open(path) as file:
        return _info(path, file)


def _info(path: Path | TarMember, file: soundfile.SoundFile) -> AudioInfo:
    if file.frames < 1:
        raise AudioError(path, "empty", "no samples")
    if file.samplerate < 1:
        raise AudioError(path, "unreadable", f"a sample rate of {file.samplerate} Hz")
    return AudioInfo(
        sample_rate_hz=int(file.samplerate), num_samples=int(file.frames), num_channels=int(file.channels)
    )


def examine(
    path: Path | TarMember, visit: Callable[[npt.NDArray[np.float32], int], None] | None = None
) -> tuple[AudioInfo, str]:
    """Read a whole file and check it.

    Args:
        path: the recording.
        visit: gets every block of samples of channel 0, float32 `[N]` with N at most 2^21, and their rate.

    Returns:
        Its header, and the sha256 of its rate and the samples of channel 0: equal for equal content,
        whatever the container.

    Raises:
        AudioError: missing, empty, not audio, truncated, or with samples that are not finite or absurdly large.
    """
    with _open(path) as file:
        info = _info(path, file)
        digest = hashlib.sha256(str(info.sample_rate_hz).encode())
        for block in _blocks(path, file, 0, info.num_samples, 0):
            digest.update(block.tobytes())
            if visit is not None:
                visit(block, info.sample_rate_hz)
    return info, digest.hexdigest()


def read_audio(
    path: Path | TarMember,
    start: int = 0,
    num_samples: int | None = None,
    channel: int = 0,
    sample_rate_hz: int | None = None,
) -> npt.NDArray[np.float32]:
    """Read samples of one channel at the file's own rate; only what is asked for is read.

    Args:
        path: an audio file that libsndfile knows (wav, flac, ogg, mp3, ...), or its place in a tar file.
        start: first sample.
        num_samples: how many samples (None: up to the end).
        channel: which channel of a file with several.
        sample_rate_hz: the rate the file is said to have (None: nothing is said).

    Returns:
        float32 [N] with full scale at 1.

    Raises:
        DataError: missing, not audio, truncated, of another rate, samples asked for that are not there, or
            samples that are not finite or beyond `LOUDEST_SAMPLE`.
    """
    with _open(path) as file:
        if sample_rate_hz not in (None, file.samplerate):
            raise DataError(
                f"{path}: expected {sample_rate_hz} Hz as in the manifest, found {file.samplerate} Hz"
            )
        wanted = file.frames - start if num_samples is None else num_samples
        if not 0 <= channel < file.channels:
            raise DataError(f"{path}: channel {channel} asked for, the file has {file.channels}")
        if start < 0 or wanted < 0 or start + wanted > file.frames:
            raise DataError(
                f"{path}: samples {start} to {start + wanted} asked for, the file has {file.frames};"
                " has it changed since the manifest was made?"
            )
        blocks = list(_blocks(path, file, start, wanted, channel))
    return blocks[0] if len(blocks) == 1 else np.concatenate([np.zeros(0, np.float32), *blocks])


def _blocks(
    path: Path | TarMember, file: soundfile.SoundFile, start: int, wanted: int, channel: int
) -> Iterator[npt.NDArray[np.float32]]:
    found, longest = 0, max(1, _BLOCK_SAMPLES // file.channels)
    try:
        if start:
            file.seek(start)
        while found < wanted:
            block = file.read(min(wanted - found, longest), dtype="float32", always_2d=True)
            if not len(block):
                raise AudioError(
                    path,
                    "truncated",
                    f"truncated: the header says {file.frames} samples, found {start + found}",
                )
            samples = np.ascontiguousarray(block[:, channel])
            finite = np.isfinite(samples)
            if not finite.all():
                position = start + found + int(np.argmin(finite))
                raise AudioError(path, "non-finite", f"sample {position} is not a finite number")
            if max(samples.max(), -samples.min()) > LOUDEST_SAMPLE:
                position = start + found + int(np.argmax(np.abs(samples)))
                raise AudioError(
                    path, "too loud", f"sample {position} is beyond {LOUDEST_SAMPLE:g} times full scale"
                )
            found += len(block)
            yield samples
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise _explain(path, error, f" after sample {start + found}") from error


def write_flac(path: Path, samples: npt.NDArray[np.float32], sample_rate_hz: int) -> None:
    """Write 16-bit FLAC atomically; samples beyond full scale are clipped.

    Args:
        path: where to.
        samples: float32 [N], full scale at 1.
        sample_rate_hz: their rate.
    """
    with replacing(path) as temporary:
        soundfile.write(
            temporary, np.clip(samples, -1.0, 1.0), sample_rate_hz, format="FLAC", subtype="PCM_16"
        )
