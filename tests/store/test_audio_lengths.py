"""What headers say of lengths is held against the files; files made by the real ffmpeg."""

import io
import struct
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from svkit.store import audio_file
from svkit.store.audio_bytes import TarMember
from svkit.store.audio_file import AudioError, count_samples, examine, probe, read_audio
from svkit.store.transcode import find_ffmpeg, transcode

RATE = 16_000
SECONDS = 4
TRUTH = RATE * SECONDS


def speech_like(seconds=SECONDS):
    """Sound and pauses, so that frames of variable rate differ: float32 `[N]`."""
    time = np.arange(seconds * RATE) / RATE
    tone = 0.3 * np.sin(2 * np.pi * 200 * time * (1 + 0.1 * np.sin(3 * time))) * np.sin(2 * time) ** 2
    noise = 0.02 * np.random.default_rng(0).standard_normal(len(time)) * (time % 4 > 2)
    return (tone + noise).astype(np.float32)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "source.wav"
    soundfile.write(path, speech_like(), RATE)
    return path


def ffmpeg(source, *options, loops=0):
    """Return what ffmpeg makes of the file; without a name it writes to a pipe."""
    command = [find_ffmpeg(), "-nostdin", "-v", "error", "-y", "-stream_loop", str(loops), "-i", str(source)]
    return subprocess.run([*command, *map(str, options)], capture_output=True, check=True).stdout


def in_tar(tmp_path, content):
    """Return the place of the content between two other members."""
    with tarfile.open(tmp_path / "shard.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in (("0", b"\xff\xfb" * 700), ("1", content), ("2", b"\xff\xfb" * 700)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(tmp_path / "shard.tar") as tar:
        member = tar.getmember("1")
    return TarMember(tmp_path / "shard.tar", member.offset_data, member.size)


def same_everywhere(tmp_path, name, content):
    """Read a file in all ways, also out of a tar file, and return its samples."""
    (tmp_path / name).write_bytes(content)
    found = []
    for place in (tmp_path / name, in_tar(tmp_path, content)):
        samples = read_audio(place)
        info, digest = examine(place)
        assert probe(place).num_samples == info.num_samples == len(samples)
        found.append((digest, samples))
    assert found[0][0] == found[1][0] and np.array_equal(found[0][1], found[1][1])
    return found[0][1]


XINGLESS = {
    "vbr": (("-q:a", "4"), RATE),
    "vbr 44.1 kHz": (("-q:a", "2", "-ar", "44100"), 44_100),
    "cbr": (("-b:a", "64k"), RATE),
    "cbr with tags": (("-b:a", "64k", "-metadata", "title=abc", "-write_id3v1", "1"), RATE),
    "8 kbit/s": (("-b:a", "8k", "-ar", "8000"), 8_000),
    "layer 2": (("-c:a", "mp2", "-f", "mp2"), RATE),
}


@pytest.mark.parametrize("kind", XINGLESS)
def test_an_mp3_without_a_count_has_all_its_samples(tmp_path, source, kind, capfd):
    options, rate = XINGLESS[kind]
    ffmpeg(source, *options, *(() if "mp2" in options else ("-write_xing", "0")), tmp_path / "a.mp3")
    samples = same_everywhere(tmp_path, "b.mp3", (tmp_path / "a.mp3").read_bytes())
    # Whole frames: the encoder's delay and what fills the last one are not told from audio.
    assert SECONDS * rate <= len(samples) <= SECONDS * rate + 4 * 1152
    assert capfd.readouterr().err == ""  # libmpg123 says there what it does not understand


def test_an_mp3_with_a_count_is_not_decoded_to_know_it(tmp_path, source, monkeypatch):
    ffmpeg(source, "-q:a", "4", tmp_path / "a.mp3")
    ffmpeg(source, "-q:a", "4", "-write_xing", "0", tmp_path / "b.mp3")
    monkeypatch.setattr(audio_file, "_blocks", lambda *_: pytest.fail("decoded"))
    assert probe(tmp_path / "a.mp3").num_samples == TRUTH
    with pytest.raises(pytest.fail.Exception):
        probe(tmp_path / "b.mp3")


def test_a_count_is_remembered_until_the_file_changes(tmp_path, source, monkeypatch):
    path = tmp_path / "a.mp3"
    ffmpeg(source, "-q:a", "4", "-write_xing", "0", path)
    whole = path.read_bytes()
    count = count_samples(path)
    real, decoded = audio_file._blocks, []
    monkeypatch.setattr(audio_file, "_blocks", lambda *given: decoded.append(1) or real(*given))
    assert probe(path).num_samples == count and not decoded
    path.write_bytes(whole[: len(whole) // 2])
    assert 0 < probe(path).num_samples < count and decoded


def test_mp3s_joined_or_ended_amid_a_frame_or_before_a_tag_are_read_to_the_end(tmp_path, source):
    first, second = (ffmpeg(source, *rate, "-f", "mp3", "-") for rate in (("-q:a", "4"), ("-b:a", "64k")))
    ffmpeg(source, "-q:a", "4", tmp_path / "xing.mp3")
    xing = (tmp_path / "xing.mp3").read_bytes()
    one, other = (
        len(same_everywhere(tmp_path, "a.mp3", first)),
        len(same_everywhere(tmp_path, "b.mp3", second)),
    )
    assert len(same_everywhere(tmp_path, "c.mp3", first + second)) == one + other
    for between in (b"", b"TAG" + bytes(125), b"TAG" + bytes(125) + b"ID3\x04\0\0\0\0\0\x09" + bytes(9)):
        assert len(same_everywhere(tmp_path, "d.mp3", xing + between + xing)) > 2 * TRUTH
    assert len(same_everywhere(tmp_path, "e.mp3", second[:-7])) == other - 576
    assert len(same_everywhere(tmp_path, "f.mp3", second + b"junk" * 1000)) == other


@pytest.mark.parametrize(
    "options", [("-q:a", "9"), ("-q:a", "9", "-write_xing", "0"), ("-b:a", "8k", "-ac", "2")]
)
def test_parts_of_an_mp3_are_those_of_the_whole(tmp_path, source, options):
    """Without the frames before it, a frame that takes bits from them is noise: errors up to 0.3 of full scale."""
    path = tmp_path / "a.mp3"
    ffmpeg(source, *options, path, loops=4)
    whole = read_audio(path)
    for start in np.random.default_rng(1).integers(1, len(whole) - 2000, 25):
        part = read_audio(path, int(start), 2000, length=len(whole))
        assert np.abs(part - whole[start : start + 2000]).max() < 1e-6


def test_blocks_of_an_mp3_join(tmp_path, source, monkeypatch):
    ffmpeg(source, "-q:a", "9", tmp_path / "a.mp3")
    whole = read_audio(tmp_path / "a.mp3")
    monkeypatch.setattr(audio_file, "_BLOCK_SAMPLES", 1000)
    assert np.abs(read_audio(tmp_path / "a.mp3") - whole).max() < 1e-6


PIPED = {
    "wav": ("-f", "wav"),
    "float.wav": ("-f", "wav", "-c:a", "pcm_f32le"),
    "rf64": ("-f", "wav", "-rf64", "always"),
    "flac": ("-f", "flac"),
    "aiff": ("-f", "aiff"),
    "au": ("-f", "au"),
    "w64": ("-f", "w64"),
    "caf": ("-f", "caf"),
    "ogg": ("-f", "ogg", "-c:a", "libvorbis"),
}


@pytest.mark.parametrize("kind", PIPED)
def test_what_comes_from_a_pipe_is_read_to_the_end(tmp_path, source, kind):
    samples = same_everywhere(tmp_path, f"a.{kind}", ffmpeg(source, *PIPED[kind], "-"))
    assert len(samples) == TRUTH
    tolerance = 0.1 if kind == "ogg" else 1e-4
    assert np.abs(samples - speech_like()).max() < tolerance


def wav(claimed, data, riff=None, behind=b""):
    body = struct.pack("<4s4sIHHIIHH4sI", b"WAVE", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16, b"data", claimed)
    return (
        b"RIFF"
        + struct.pack("<I", len(body + data + behind) if riff is None else riff)
        + body
        + data
        + behind
    )


DATA = np.arange(1000, dtype="<i2").tobytes()


@pytest.mark.parametrize("claimed", [0, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFF - 44])
@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF])
def test_sizes_that_a_writer_to_a_pipe_leaves(tmp_path, claimed, riff):
    samples = same_everywhere(tmp_path, "a.wav", wav(claimed, DATA, riff))
    assert np.array_equal(samples * 32768, np.arange(1000))


def test_chunks_behind_the_audio_are_no_audio(tmp_path):
    behind = b"LIST" + struct.pack("<I", 4) + b"INFO"
    assert len(same_everywhere(tmp_path, "a.wav", wav(len(DATA), DATA, behind=behind))) == 1000
    (tmp_path / "b.wav").write_bytes(wav(0, b"", behind=behind))
    with pytest.raises(AudioError, match="no samples"):
        probe(tmp_path / "b.wav")


CUT = {
    "wav": ("WAV", 44), "rf64": ("RF64", 104), "aiff": ("AIFF", 54), "au": ("AU", 24), "w64": ("W64", 104),
    "caf": ("CAF", 4096), "sph": ("NIST", 1024),
}  # fmt: skip


@pytest.mark.parametrize("kind", CUT)
def test_a_file_cut_in_half_is_named_as_cut_and_read_where_that_is_known(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, speech_like(), RATE, format=CUT[kind][0])
    whole, expected = path.read_bytes(), read_audio(path)
    path.write_bytes(whole[: len(whole) // 2])
    found = (len(whole) // 2 - CUT[kind][1]) // 2
    message = (
        rf"truncated: the header says {2 * TRUTH} bytes of audio \({TRUTH} samples\), .* \({found} samples\)"
    )
    for place in (path, in_tar(tmp_path, path.read_bytes())):
        for read in (probe, examine, read_audio, lambda place: read_audio(place, 0, 100, length=TRUTH)):
            with pytest.raises(AudioError, match=message) as caught:
                read(place)
            assert caught.value.reason == "truncated" and "--allow-cut" in str(caught.value)
        assert (
            probe(place, allow_cut=True).num_samples == examine(place, allow_cut=True)[0].num_samples == found
        )
        assert probe(place, allow_cut=True).missing.startswith("truncated: ")
        assert np.array_equal(read_audio(place, length=found), expected[:found])


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
def test_ogg_that_is_cut_or_followed_by_another_is_named_and_read_where_that_is_known(tmp_path, codec):
    path = tmp_path / "a.ogg"
    soundfile.write(path, speech_like(), RATE, format="OGG", subtype=codec)
    whole = path.read_bytes()
    assert len(same_everywhere(tmp_path, "b.ogg", whole + bytes(100))) == TRUTH
    faults = {
        "several Ogg streams": whole + soundfile_bytes(speech_like(), codec),
        "the file ends before its Ogg stream does": whole[: len(whole) * 2 // 3],
    }
    for fault, content in faults.items():
        path.write_bytes(content)
        for place in (path, in_tar(tmp_path, content)):
            for read in (probe, examine, read_audio):
                with pytest.raises(AudioError, match=rf"truncated: {fault}.* samples\); .*--allow-cut"):
                    read(place)
            left = probe(place, allow_cut=True)
            assert 0 < left.num_samples <= TRUTH and left.missing.startswith("truncated: ")
            assert len(read_audio(place, length=left.num_samples)) == left.num_samples


def soundfile_bytes(samples, codec):
    """Return an Ogg file as bytes; libsndfile draws another serial number each time."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="OGG", subtype=codec)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [("WAV", "GSM610"), ("AU", "G721_32"), ("AIFF", "DWVW_16")])
def test_parts_of_a_codec_that_cannot_seek_are_those_of_the_whole(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(audio_file, "_BLOCK_SAMPLES", 1000)
    path = tmp_path / "a.x"
    soundfile.write(path, speech_like(), RATE, format=kind[0], subtype=kind[1])
    whole = read_audio(path)
    assert np.array_equal(read_audio(path, 5555, 2345), whole[5555:7900])


def test_a_cut_mp3_is_named_by_the_bytes_that_its_header_says(tmp_path, source):
    path = tmp_path / "a.mp3"
    ffmpeg(source, "-q:a", "4", path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        AudioError, match="truncated: the header says 1[0-9]{4} bytes of audio, 5[0-9]{3} are there"
    ):
        probe(path)
    found = probe(path, allow_cut=True).num_samples
    assert 0.3 * TRUTH < found < 0.8 * TRUTH and len(read_audio(path, length=found)) == found
    with pytest.raises(AudioError, match="truncated"):
        read_audio(path, 0, 100, length=TRUTH)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_cut_flac_says_how_far_it_goes_and_is_read_so_far_where_that_is_known(tmp_path, channels):
    path = tmp_path / "a.flac"
    soundfile.write(path, np.stack([speech_like()] * channels, axis=1), RATE)
    whole, expected = path.read_bytes(), read_audio(path)
    path.write_bytes(whole[: len(whole) // 2])
    message = (
        f"truncated or damaged: the header says {TRUTH} samples, decoding fails after [0-9]+; copy it again"
    )
    for place in (path, in_tar(tmp_path, path.read_bytes())):
        for read in (examine, lambda place: read_audio(place, length=TRUTH)):
            with pytest.raises(AudioError, match=message) as caught:
                read(place)
            assert caught.value.reason == "truncated"
        info, _ = examine(place, allow_cut=True)
        assert TRUTH // 4 < info.num_samples < TRUTH and info.missing.startswith("truncated or damaged")
        found = read_audio(place, 0, info.num_samples, length=info.num_samples)
        assert np.array_equal(found, expected[: info.num_samples])
        assert len(audio_file.channel_levels_db(place)) == channels


def test_a_file_shorter_than_its_list_says_is_named_whatever_part_is_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", speech_like()[:1000], RATE)
    with pytest.raises(audio_file.DataError, match="samples 0 to 2000 asked for, the file has 1000"):
        read_audio(tmp_path / "a.wav", 0, 10, length=2000)


@pytest.mark.parametrize("name", ["a.m4a", "a.aac", "a.wav"])
def test_audio_that_libsndfile_does_not_know_comes_with_the_way_to_convert_it(tmp_path, source, name):
    ffmpeg(source, "-c:a", "aac", "-f", "ipod" if name != "a.aac" else "adts", tmp_path / name)
    for read in (probe, examine, read_audio):
        with pytest.raises(AudioError, match=f"convert it .* ffmpeg -i {name} a.flac"):
            read(tmp_path / name)


def test_no_file_stays_open(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF not audio")
    soundfile.write(tmp_path / "b.wav", speech_like()[:1000], RATE)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        with pytest.raises(AudioError):
            probe(tmp_path / "a.wav")
        read_audio(tmp_path / "b.wav")
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_channels(tmp_path):
    both = np.stack((np.zeros(8000), speech_like()[:8000]), axis=1).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", both, RATE, subtype="FLOAT")
    assert np.array_equal(read_audio(tmp_path / "a.wav", channel="mix"), both.mean(axis=1))
    assert examine(tmp_path / "a.wav", channel=1)[1] != examine(tmp_path / "a.wav")[1]
    levels = audio_file.channel_levels_db(tmp_path / "a.wav")
    assert levels[0] == -np.inf and levels[1] == pytest.approx(10 * np.log10(both[:, 1].astype(float).var()))
    for read in (probe, lambda path, channel: read_audio(path, channel=channel)):
        with pytest.raises(AudioError, match="channel 2 asked for, the file has 2"):
            read(tmp_path / "a.wav", 2)


def test_conversion_believes_no_length_that_is_not_stated(tmp_path, source):
    """AAC without a container has a length by a guess from its bit rate, what comes from a pipe none."""
    ffmpeg(source, "-c:a", "aac", "-f", "adts", tmp_path / "a.aac")
    (tmp_path / "b.webm").write_bytes(ffmpeg(source, "-c:a", "libopus", "-f", "webm", "-"))
    for name in ("a.aac", "b.webm"):
        info = transcode(find_ffmpeg(), tmp_path / name, tmp_path / "out.flac", RATE)
        assert TRUTH - 1 <= info.num_samples <= TRUTH + 2048
    (tmp_path / "c.webm").write_bytes((tmp_path / "b.webm").read_bytes()[:6000])
    with pytest.raises(AudioError, match="truncated: ffmpeg says that the file ended prematurely"):
        transcode(find_ffmpeg(), tmp_path / "c.webm", tmp_path / "other.flac", RATE)
    assert not (tmp_path / "other.flac").exists()
