import struct

import numpy as np
import pytest
import soundfile

from svkit.errors import DataError
from svkit.store.audio_file import AudioError, examine, probe, read_audio, write_flac


@pytest.fixture
def stereo(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (4000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "s.wav", samples, 8000, subtype="FLOAT")
    return tmp_path / "s.wav", samples


def test_header_and_parts_of_one_channel(stereo):
    path, samples = stereo
    info = probe(path)
    assert (info.sample_rate_hz, info.num_samples, info.num_channels) == (8000, 4000, 2)
    assert np.array_equal(read_audio(path), samples[:, 0])
    part = read_audio(path, start=100, num_samples=50, channel=1)
    assert np.array_equal(part, samples[100:150, 1]) and part.dtype == np.float32
    assert len(read_audio(path, start=4000)) == 0


def test_blocks_join(stereo, monkeypatch):
    path, samples = stereo
    monkeypatch.setattr("svkit.store.audio_file._BLOCK_SAMPLES", 333)
    assert np.array_equal(read_audio(path, 7), samples[7:, 0])


@pytest.mark.parametrize(("start", "count"), [(0, 4001), (-1, 5), (4001, None), (3999, 2)])
def test_samples_that_are_not_there(stereo, start, count):
    with pytest.raises(DataError, match="asked for, the file has 4000"):
        read_audio(stereo[0], start, count)


def test_a_file_that_is_longer_than_was_said_is_another_one(stereo):
    path, _ = stereo
    assert len(read_audio(path, 10, 5, length=4000)) == 5
    with pytest.raises(
        DataError, match="expected 3999 samples as in the manifest, found 4000; has it changed"
    ):
        read_audio(path, 10, 5, length=3999)


def test_channel_that_is_not_there(stereo):
    with pytest.raises(DataError, match="channel 2 asked for, the file has 2"):
        read_audio(stereo[0], channel=2)


def test_flac_round_trip_is_16_bit(tmp_path):
    samples = (np.arange(-3, 3) / 32768).astype(np.float32)
    write_flac(tmp_path / "d" / "a.flac", np.append(samples, [2.0, -2.0]).astype(np.float32), 16000)
    back = read_audio(tmp_path / "d" / "a.flac")
    assert np.array_equal(back[:6], samples)
    assert back[6] == 32767 / 32768 and back[7] == -1.0


@pytest.mark.parametrize(
    ("content", "reason", "message"),
    [
        (b"", "empty", "empty file"),
        (b"This is not audio but a text file.\n", "unreadable", "not readable as audio"),
        (b"RIFF\x00\x00\x00\x00WAVE", "unreadable", "not readable as audio"),
    ],
)
def test_files_that_are_not_audio(tmp_path, content, reason, message):
    path = tmp_path / "a b\u00e9.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=message) as caught:
        probe(path)
    assert caught.value.reason == reason
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        probe(tmp_path / "a.wav")
    with pytest.raises(DataError, match="is a directory"):
        read_audio(tmp_path)


def test_no_samples(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0, np.float32), 16000)
    with pytest.raises(AudioError, match="no samples") as caught:
        examine(tmp_path / "a.wav")
    assert caught.value.reason == "empty"


def test_non_finite_samples_are_refused_with_their_place(tmp_path):
    samples = np.zeros(100, np.float32)
    samples[60] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    for read in (examine, lambda path: read_audio(path, 10)):
        with pytest.raises(AudioError, match="sample 60 is not a finite number") as caught:
            read(tmp_path / "a.wav")
        assert caught.value.reason == "non-finite"
    assert len(read_audio(tmp_path / "a.wav", 0, 60)) == 60


def test_truncated_flac_is_refused(tmp_path):
    noise = np.random.default_rng(0).uniform(-1, 1, 40_000)
    soundfile.write(tmp_path / "a.flac", noise, 16000)
    data = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="truncated|not readable"):
        examine(tmp_path / "a.flac")


def test_a_header_that_claims_gigabytes_costs_no_memory(tmp_path):
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    header = (
        struct.pack("<4sI4s", b"RIFF", 2**32 - 1, b"WAVE") + form + struct.pack("<4sI", b"data", 2**32 - 40)
    )
    (tmp_path / "a.wav").write_bytes(header + b"\0" * 2000)
    try:
        samples = read_audio(tmp_path / "a.wav")
    except DataError:
        return
    assert len(samples) <= 1000


def test_content_hash_ignores_the_container_and_sees_one_sample(tmp_path):
    samples = np.round(np.random.default_rng(0).uniform(-1, 1, 500) * 32767) / 32768
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    soundfile.write(tmp_path / "b.flac", samples, 16000)
    soundfile.write(tmp_path / "c.flac", samples, 8000)
    samples[-1] += 2 / 32768
    soundfile.write(tmp_path / "d.flac", samples, 16000)
    digests = [examine(tmp_path / name)[1] for name in ("a.wav", "b.flac", "c.flac", "d.flac")]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
