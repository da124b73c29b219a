"""Audio files by way of libsndfile: headers, and the samples of one channel from any position."""

import hashlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from svkit.errors import DataError
from svkit.store.atomic import replacing

# A header may claim any length; memory grows only with samples that are really there.
_BLOCK_SAMPLES = 1 << 21
LOUDEST_SAMPLE = 1e6
"""120 dB over full scale: files of raw 16-bit or 24-bit counts are far below, and from 1e13 on a power spectrum leaves
float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioInfo:
    """What the header of an audio file says."""

    sample_rate_hz: int
    num_samples: int
    """Samples in one channel."""
    num_channels: int


class AudioError(DataError):
    """An audio file that cannot be used; `reason` is the kind of fault, for counting."""

    def __init__(self, path: Path, reason: str, detail: str) -> None:
        """Make the one line.

        Args:
            path: the file.
            reason: `missing`, `empty`, `unreadable`, `truncated`, `non-finite` or `too loud`.
            detail: the rest of the line.
        """
        super().__init__(f"{path}: {detail}")
        self.reason = reason
        self.detail = detail


def _open(path: Path) -> soundfile.SoundFile:
    _refuse_special(path)
    try:
        return soundfile.SoundFile(path)
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
        raise _explain(path, error) from error


def _refuse_special(path: Path) -> None:
    """Raise AudioError for what is no file: opening a pipe would wait for a writer for ever."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return  # missing, or a name that cannot be: opening it says so
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise AudioError(path, "unreadable", "is a pipe, socket or device; expected an audio file")


def _explain(path: Path, error: Exception, where: str = "") -> AudioError:
    if not path.exists():
        return AudioError(path, "missing", "does not exist")
    if path.is_dir():
        return AudioError(path, "unreadable", "is a directory; expected an audio file")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                return AudioError(path, "empty", "empty file")
    except OSError as refusal:
        return AudioError(path, "unreadable", f"cannot be read: {refusal.strerror}")
    detail = str(getattr(error, "error_string", None) or error).strip().rstrip(".")
    return AudioError(path, "unreadable", f"not readable as audio{where}: {detail}")


def probe(path: Path) -> AudioInfo:
    """Read the header of an audio file.

    Raises:
        AudioError: missing, empty or not audio.
    """
    with _open(path) as file:
        return _info(path, file)


def _info(path: Path, file: soundfile.SoundFile) -> AudioInfo:
    if file.frames < 1:
        raise AudioError(path, "empty", "no samples")
    if file.samplerate < 1:
        raise AudioError(path, "unreadable", f"a sample rate of {file.samplerate} Hz")
    return AudioInfo(
        sample_rate_hz=int(file.samplerate), num_samples=int(file.frames), num_channels=int(file.channels)
    )


def examine(path: Path) -> tuple[AudioInfo, str]:
    """Read a whole file and check it.

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
    return info, digest.hexdigest()


def read_audio(
    path: Path,
    start: int = 0,
    num_samples: int | None = None,
    channel: int = 0,
    sample_rate_hz: int | None = None,
) -> npt.NDArray[np.float32]:
    """Read samples of one channel at the file's own rate; only what is asked for is read.

    Args:
        path: an audio file that libsndfile knows (wav, flac, ogg, mp3, ...).
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
    path: Path, file: soundfile.SoundFile, start: int, wanted: int, channel: int
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
