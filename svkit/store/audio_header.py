"""What the header of an audio file claims about its length, compared with the file.

libsndfile trusts the header. It silently reads what is left of a truncated WAV. A WAV from a pipe, whose header has no
size or the largest possible one, is empty to it or is refused. For an MP3 without a stated length it guesses one from
the size of a frame.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

Read = Callable[[int, int], bytes]
"""`read(offset, count)`: at most `count` bytes."""
_HEAD_BYTES = 4096
_MOST_CHUNKS = 256
_STRETCH = 1000
"""Factor on the size of an MPEG file. A byte has at most 48 samples, and a guess at least 0.3: none is too low."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What is wrong with the claims of a header; by default, nothing."""

    is_counted: bool = True
    """False: only decoding tells how many samples there are."""
    ogg_fault: str = ""
    """What is wrong with an Ogg file, whose container states no length; empty: nothing."""
    claimed_bytes: int = 0
    """Bytes of audio that the header claims; 0 unless fewer are there."""
    found_bytes: int = 0
    """Bytes of audio that are there."""
    patch: tuple[int, bytes] = (0, b"")
    """An offset, and the bytes to read there instead of those in the file."""
    start: int = 0
    """Where to begin reading, to pass over the container of the audio."""
    end: int | None = None
    """Where to end reading; None: with the file. The decoder would fail at half a frame or a tag after the audio."""
    stretch: int = 1
    """Factor by which the size of the file is exaggerated, so that the decoder's guess of the length is not too low."""

    @property
    def is_corrected(self) -> bool:
        """Whether libsndfile must read the file through these corrections."""
        return bool(self.patch[1] or self.start or self.stretch > 1)

    def missing(self, frames: int) -> str:
        """Say what is missing if `frames` samples per channel can be read; empty if nothing is."""
        if self.ogg_fault:
            return f"truncated: {self.ogg_fault} ({frames} samples)"
        width = self.found_bytes // max(1, frames) if self.is_counted else 0
        if self.claimed_bytes <= self.found_bytes or (width and self.claimed_bytes // width <= frames):
            return ""
        samples = (f" ({self.claimed_bytes // width} samples)", f" ({frames} samples)") if width else ("", "")
        return (
            f"truncated: the header says {self.claimed_bytes} bytes of audio{samples[0]},"
            f" {self.found_bytes} are there{samples[1]}"
        )


class _Chunks(NamedTuple):
    """Layout of a container of chunks."""

    first: int
    id_bytes: int
    size: str
    """Format of a chunk's size, as in `struct`."""
    counts_header: bool
    """A chunk's size counts its id and the size itself."""
    alignment: int
    data: bytes
    """Id of the chunk with the audio."""
    skip: int
    """Bytes before the audio in that chunk."""


_RIFF = _Chunks(12, 4, "<I", False, 2, b"data", 0)
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_CONTAINERS = {
    **dict.fromkeys((b"RIFF", b"RF64", b"BW64"), _RIFF),
    b"RIFX": _RIFF._replace(size=">I"),
    b"riff": _Chunks(40, 16, "<Q", True, 8, b"data" + _W64_TAIL, 0),
    b"caff": _Chunks(8, 4, ">Q", False, 1, b"data", 4),
    b"FORM": _Chunks(12, 4, ">I", False, 2, b"SSND", 8),
}
_MP3_IN_WAV = b"\x55\0"
_XING = re.compile(
    rb"\xff[\xe2-\xff].{4}\0+(?P<tag>Xing|Info)(?P<flags>.{4})(?P<frames>.{4})(?P<bytes>.{4})", re.S
)
_RESYNC_BYTES = 4096
"""How much junk may lie between frames; libmpg123 gives up after 1,024 bytes."""
_ID3V1_BYTES = 128
_OGG_HEAD, _OGG_PAGE = 27 + 255, 27 + 255 + 255 * 255
"""Sizes in bytes of the longest page header and of the longest page."""
_KBPS = {
    (1, 1): range(32, 449, 32),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates by version (2 includes 2.5) and layer (2 of version 2 includes 3)."""
_NIST = re.compile(rb"^(sample_count|channel_count|sample_n_bytes) -i (\d{1,18})$", re.M)


def read_claim(read: Read, size: int) -> Claim:
    """Compare the header of a file with its size in bytes."""
    head = read(0, _HEAD_BYTES)

    def read_on(offset: int, count: int) -> bytes:
        return head[offset : offset + count] if offset + count <= len(head) else read(offset, count)

    start = _behind_id3(read_on, 0)
    magic = head[:4]
    if magic in _CONTAINERS:
        return _claim_of_chunks(read_on, size, _CONTAINERS[magic])
    if magic in (b".snd", b"dns.") and len(head) >= 12:
        form = ">I" if magic == b".snd" else "<I"
        offset, claimed = struct.unpack(f"{form[0]}II", head[4:12])
        return _claim_of_size(8, form, claimed, size - offset, 0)
    if magic == b"NIST":
        facts = {name: int(value) for name, value in _NIST.findall(head)}
        samples = facts.get(b"sample_count", 0) * facts.get(b"channel_count", 1)
        claimed = samples * facts.get(b"sample_n_bytes", 0)
        return Claim(claimed_bytes=claimed, found_bytes=size - int(head[8:16].strip() or b"0"))
    if magic == b"OggS":
        return Claim(ogg_fault=_ogg_fault(read_on, size))
    if read_on(start, 4) == b"fLaC":
        number = read_on(start + 21, 5)
        if len(number) == 5 and not number[0] & 15 and not any(number[1:]):
            return Claim(is_counted=False, patch=(start + 21, bytes([number[0] | 15]) + b"\xff" * 4))
    elif start or _is_sync(head):
        return _claim_of_mpeg(read_on, start, size)
    return Claim()


def _behind_id3(read: Read, start: int) -> int:
    """Return the offset after the ID3v2 tags that begin at `start`."""
    while len(header := read(start, 10)) == 10 and header[:3] == b"ID3":
        start += 10 + sum(
            (byte & 127) << shift for byte, shift in zip(header[6:], (21, 14, 7, 0), strict=True)
        )
    return start


def _claim_of_chunks(read: Read, size: int, form: _Chunks) -> Claim:
    width = struct.calcsize(form.size)
    header_bytes = form.id_bytes + width
    position, codec, in_ds64 = form.first, b"", None
    for _ in range(_MOST_CHUNKS):
        header = read(position, header_bytes)
        if len(header) < header_bytes:
            break
        (claimed,) = struct.unpack(form.size, header[form.id_bytes :])
        claimed = max(0, claimed - form.counts_header * header_bytes)
        body = position + header_bytes
        if header[: form.id_bytes] == form.data:
            audio = body + form.skip
            if codec == _MP3_IN_WAV:
                return _claim_of_mpeg(read, audio, min(size, audio + claimed) if claimed else size)
            if in_ds64 is not None and claimed >= 2**32 - 1:
                (claimed,) = struct.unpack("<Q", read(in_ds64, 8).ljust(8, b"\0"))
                return _claim_of_size(in_ds64, "<Q", claimed, size - audio, 0)
            # If the container states the right size, then a chunk that claims to be empty really is.
            if not claimed and form.first == 12 and struct.unpack(form.size, read(4, 4))[0] + 8 == size:
                break
            extra = form.skip + form.counts_header * header_bytes
            return _claim_of_size(
                position + form.id_bytes, form.size, claimed - form.skip, size - audio, extra
            )
        if header[:4] == b"ds64":
            in_ds64 = body + 8
        if header[:4] == b"fmt ":
            codec = read(body, 2)
        position = body + claimed + -claimed % form.alignment
    return Claim()


def _claim_of_size(field: int, form: str, claimed: int, found: int, extra: int) -> Claim:
    """Compare the bytes claimed at offset `field` with those found; the number there counts `extra` others too."""
    if 0 < claimed <= found or found <= 0 or found + extra >= 1 << 8 * struct.calcsize(form):
        return Claim()
    patch = (field, struct.pack(form, found + extra))
    # A program that writes to a pipe does not know the size. It leaves 0, or the largest value (or nearly) that the
    # field can hold, or a signed one.
    is_full = claimed >= 2**62 if form[1] == "Q" else claimed > 2**30 and -claimed % 2**31 <= 2**16
    if claimed <= 0 or is_full:
        return Claim(patch=patch)
    return Claim(patch=patch, claimed_bytes=claimed, found_bytes=found)


def _ogg_fault(read: Read, size: int) -> str:
    """Say what is wrong with the pages of an Ogg file (RFC 3533): cut, or followed by another one."""
    streams: set[bytes] = set()
    position = 0
    while len(page := read(position, _OGG_HEAD)) > 26 and page[:4] == b"OggS" and page[5] & 2:
        streams.add(page[14:18])
        position += _ogg_page_bytes(page)
    tail = max(0, size - 2 * _OGG_PAGE)
    last = tail + read(tail, 2 * _OGG_PAGE).rfind(b"OggS\0")
    page = read(last, _OGG_HEAD)
    if page[14:18] not in streams:
        return "several Ogg streams in a row, of which only the first can be read"
    if len(page) < 27 or not page[5] & 4 or last + _ogg_page_bytes(page) > size:
        return "the file ends before its Ogg stream does"
    return ""


def _ogg_page_bytes(page: bytes) -> int:
    """Return the length of a page, from its first bytes."""
    return 27 + page[26] + sum(page[27 : 27 + page[26]])


def _claim_of_mpeg(read: Read, start: int, size: int) -> Claim:
    """Trust a stated number of frames only if the stated bytes are there and no audio follows them."""
    found = _XING.search(read(start, _HEAD_BYTES))
    patch, claimed, available = (0, b""), 0, 0
    if found is not None and found["flags"][3] & 1:
        claimed = int.from_bytes(found["bytes"], "big") if found["flags"][3] & 2 else 0
        available = size - start - found.start()
        behind_all = start + found.start() + claimed
        behind_all += _ID3V1_BYTES if read(behind_all, 3) == b"TAG" else 0
        behind = read(behind_all, 3) if claimed else b""
        has_tags = read(0, 3) == b"ID3"
        # Some writers count the tags before the audio as well.
        is_there = claimed <= available + (start if has_tags else 0)
        if is_there and behind != b"ID3" and not _is_sync(behind):
            return Claim(start=0 if has_tags else start)
        patch = (start + found.start("tag"), bytes(4))
    return Claim(
        is_counted=False,
        claimed_bytes=claimed,
        found_bytes=available,
        patch=patch,
        start=start,
        end=_end_of_frames(read, start, size),
        stretch=_STRETCH,
    )


def _is_sync(header: bytes) -> bool:
    return header[:1] == b"\xff" and header[1:2] >= b"\xe2"


def _frame_bytes(header: bytes) -> int:
    """Return the length of an MPEG audio frame, from its header of four bytes (ISO 11172-3, 13818-3); 0: it is none."""
    if len(header) < 4 or not _is_sync(header):
        return 0
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    index, rate_index, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or index in (0, 15) or rate_index == 3:
        return 0
    is_first = version == 3
    rate = (44_100, 48_000, 32_000)[rate_index] >> (0 if is_first else 1 if version else 2)  # MPEG 1, 2, 2.5
    kbps = _KBPS[1 if is_first else 2, layer if is_first or layer == 1 else 2][index - 1]
    if layer == 1:
        return (12_000 * kbps // rate + padding) * 4
    return (144_000 if is_first or layer == 2 else 72_000) * kbps // rate + padding


def _end_of_frames(read: Read, start: int, size: int) -> int:
    """Return where the last whole frame ends, or the size of the file if that is unclear."""
    position = end = start
    resyncs = 0
    while position < size:
        if length := _frame_bytes(read(position, 4)):
            position += length
            end = position if position <= size else end
        elif read(position, 3) == b"ID3":
            position = _behind_id3(read, position)
        elif resyncs < _MOST_CHUNKS and (step := _next_frame(read(position + 1, _RESYNC_BYTES))) is not None:
            position += 1 + step
            resyncs += 1
        elif end == start or _next_frame(read(position + 1, 1 << 20)) is not None:
            return size  # the decoder will say what is wrong
        else:
            break
    return end


def _next_frame(data: bytes) -> int | None:
    """Return where the first of two frames in a row begins."""
    for found in re.finditer(rb"\xff[\xe2-\xff]", data):
        length = _frame_bytes(data[found.start() : found.start() + 4])
        if length and _frame_bytes(data[found.start() + length : found.start() + length + 4]):
            return found.start()
    return None
