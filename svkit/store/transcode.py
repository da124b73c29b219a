"""Audio that libsndfile cannot read (AAC in `.m4a`), converted by ffmpeg to 16-bit flac or wav."""

import errno
import os
import re
import shutil
import subprocess
from pathlib import Path

from svkit.errors import ConfigError
from svkit.store.atomic import replacing
from svkit.store.audio_file import AudioError, AudioInfo, probe

TOLERANCE_SECONDS = 0.2
"""Allowed difference from the stated length of the input: AAC adds a frame or two (64 ms each at 16 kHz)."""
CODECS = {".flac": ("flac", "-sample_fmt", "s16"), ".wav": ("pcm_s16le",)}
_LOG_CONTEXT = re.compile(r"\[[^\]]* @ 0x[0-9a-f]+\] ?")
_DURATION = re.compile(r"Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")


def find_ffmpeg() -> str:
    """Return the path of ffmpeg: that of the system, else of the wheel imageio-ffmpeg (ConfigError: there is none)."""
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    try:
        import imageio_ffmpeg  # optional: the extra `m4a`

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            "ffmpeg is needed to convert .m4a files and was not found; install it with the system (Debian, Ubuntu:"
            " apt install ffmpeg) or as a Python wheel: pip install 'svkit[m4a]'"
        ) from error


def transcode(
    ffmpeg: str, source: Path, target: Path, sample_rate_hz: int, *, all_channels: bool = False
) -> AudioInfo:
    """Convert a file to 16 bits at a sample rate, with the first channel or all; write it atomically.

    The target is `.flac` or `.wav`. Equal input and an equal version of ffmpeg give equal bytes.

    Returns:
        The header of what was written.

    Raises:
        AudioError: the source is not audio, or the output is not as long as the header of the source states.
        ArtifactError: the target cannot be written.
    """
    picked = () if all_channels else ("-af", "pan=mono|c0=c0")
    with replacing(target) as temporary:
        command = [
            *(ffmpeg, "-nostdin", "-hide_banner", "-nostats", "-y", "-threads", "1"),
            *("-i", f"file:{source}", "-map", "0:a:0", *picked, "-ar", str(sample_rate_hz)),
            *("-map_metadata", "-1", "-bitexact", "-c:a", *CODECS[target.suffix], f"file:{temporary}"),
        ]
        done = subprocess.run(command, capture_output=True, check=False)
        log = done.stderr.decode("utf-8", "replace")
        if os.strerror(errno.ENOSPC) in log:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if done.returncode:
            raise AudioError(source, "unconvertible", f"ffmpeg cannot convert it: {_complaint(log, source)}")
        return _check_length(source, log, probe(temporary))


def _check_length(source: Path, log: str, written: AudioInfo) -> AudioInfo:
    stated = _DURATION.search(log)
    if "File ended prematurely" in log:
        detail = "truncated: ffmpeg says that the file ended prematurely; copy it again"
        raise AudioError(source, "truncated", detail)
    if stated is None or "Estimating duration" in log:
        return written  # a stream from a pipe, or one without a header, states no length
    hours, minutes, seconds = stated.groups()
    expected = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    found = written.num_samples / written.sample_rate_hz
    if abs(found - expected) > TOLERANCE_SECONDS:
        detail = f"truncated: the header says {expected:.2f} s, {found:.2f} s could be decoded"
        raise AudioError(source, "truncated", detail)
    return written


def _complaint(log: str, source: Path) -> str:
    """Return the line of ffmpeg's log that says what is wrong: the first one about the input, else the last."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    named = [line for line in lines if line.startswith("[in#") or "Error opening input" in line]
    found = named[0] if named else lines[-1] if lines else "no reason given"
    return _LOG_CONTEXT.sub("", found).replace(f"file:{source}", source.name)
