"""VoxCeleb2 as distributed: real AAC in `.m4a`, made and converted by the real ffmpeg."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from svkit.corpora import conversion
from svkit.corpora.conversion import Conversion
from svkit.corpora.layouts import voxceleb
from svkit.corpora.request import CorpusRequest
from svkit.corpora.scan import BadFilesError, ScanOptions
from svkit.demo.synthesis import plan_corpus, render
from svkit.errors import ArtifactError, ConfigError
from svkit.store.audio_file import AudioError, read_audio
from svkit.store.locks import lock_directory, release_directory
from svkit.store.manifest import read_manifest
from svkit.store.transcode import find_ffmpeg, transcode
from tests.corpus_trees import Notes

pytestmark = pytest.mark.e2e

SPEAKERS = ("id00012", "id00015", "id09272", "id10000")


def encode(path, samples, rate=16000, *options):
    """Write AAC as VoxCeleb2 has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path.with_suffix(".wav"), samples, rate)
    command = [
        find_ffmpeg(),
        "-v",
        "error",
        "-y",
        "-i",
        path.with_suffix(".wav"),
        "-c:a",
        "aac",
        "-b:a",
        "64k",
    ]
    subprocess.run([*map(str, command), *options, str(path)], check=True)
    path.with_suffix(".wav").unlink()
    return path


@pytest.fixture(scope="module")
def speech():
    """Two seconds of a synthetic voice: float32 [32000]."""
    return render(plan_corpus()[0])[:32000]


@pytest.fixture(scope="module")
def distributed(tmp_path_factory, speech):
    """VoxCeleb2 dev in `aac/`, VoxCeleb1 test as wav; tests copy it."""
    root = tmp_path_factory.mktemp("distributed") / "VoxCeleb"
    for index, speaker in enumerate(SPEAKERS):
        for video in ("21Uxsk56VDQ", "x-_2"):
            samples = np.roll(speech, 2000 * index)
            encode(root / "voxceleb2/dev/aac" / speaker / video / "00001.m4a", samples)
    for speaker in ("id10270", "id10309"):
        for video in ("a", "b"):
            path = root / "voxceleb1/test/wav" / speaker / video / "00001.wav"
            path.parent.mkdir(parents=True)
            soundfile.write(path, speech, 16000)
    return root


@pytest.fixture
def root(distributed, tmp_path):
    return Path(shutil.copytree(distributed, tmp_path / "VoxCeleb"))


def prepare(tmp_path, root, progress=None, skip_bad=False, overwrite=False, **conversion_options):
    request = CorpusRequest(
        exp=tmp_path / "exp",
        root=root,
        valid_speakers=0,
        scan=ScanOptions(reads_samples=False, skip_bad=skip_bad, num_workers=2),
        overwrite=overwrite,
    )
    return voxceleb.run(request, progress or Notes(), conversion=Conversion(**conversion_options))


def test_aac_becomes_flac_beside_it_and_an_interrupted_conversion_goes_on(
    tmp_path, root, speech, monkeypatch
):
    real, started = conversion.transcode, []

    def interrupted(ffmpeg, source, target, rate, **options):
        started.append(target)
        if len(started) > 3:
            # As a killed process leaves it: half a file under a temporary name.
            target.parent.mkdir(parents=True, exist_ok=True)
            (target.parent / ".svkit-tmp-halfhalf.flac").write_bytes(b"fLaC half")
            raise KeyboardInterrupt
        return real(ffmpeg, source, target, rate, **options)

    monkeypatch.setattr(conversion, "transcode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, root)
    monkeypatch.setattr(conversion, "transcode", real)
    finished = {path: path.stat().st_mtime_ns for path in root.rglob("voxceleb2/dev/flac/*/*/[0-9]*.flac")}
    assert 1 <= len(finished) < 8
    progress = Notes()
    assert prepare(tmp_path, root, progress).train_speakers == 4
    task = progress.tasks["converting to flac"]
    assert task.done == task.total == 8 - len(finished)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    manifest = read_manifest(tmp_path / "exp/data/train.tsv")
    assert list(manifest.utterance_ids) == [
        f"{s}/{v}/00001.wav" for s in SPEAKERS for v in ("21Uxsk56VDQ", "x-_2")
    ]
    assert manifest.column("path")[1] == str(root / "voxceleb2/dev/flac/id00012/x-_2/00001.flac")
    assert set(manifest.sample_rates_hz) == {16000}
    assert np.all(np.abs(manifest.durations_seconds - 2.0) < 0.2)
    back = read_audio(manifest.audio_path(0))[: len(speech)]
    assert np.corrcoef(back, speech[: len(back)])[0, 1] > 0.95
    # All is there now: nothing is converted again, without ffmpeg too.
    monkeypatch.setattr(conversion, "find_ffmpeg", lambda: pytest.fail("nothing is left to convert"))
    prepare(tmp_path, root, overwrite=True)


@pytest.mark.slow
def test_a_killed_conversion_goes_on(tmp_path, root):
    """By a SIGKILL that leaves no time to tidy up, while ffmpeg's output is there but not yet checked."""
    slow, runs = tmp_path / "bin" / "ffmpeg", shlex.quote(str(tmp_path / "runs"))
    slow.parent.mkdir()
    slow.write_text(  # the fifth run and every later one hangs at its end
        f'#!/bin/sh\necho >> {runs}\n{shlex.quote(find_ffmpeg())} "$@"\ncode=$?\n'
        f"[ $(wc -l < {runs}) -gt 4 ] && sleep 600\nexit $code\n"
    )
    slow.chmod(0o755)
    command = [
        sys.executable,
        "-m",
        "svkit",
        "prepare",
        "voxceleb",
        str(root),
        "--exp",
        str(tmp_path / "exp"),
    ]
    process = subprocess.Popen(
        [*command, "--no-download-lists", "--workers", "2"],
        env={**os.environ, "PATH": f"{slow.parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    converted = "voxceleb2/dev/flac/*/*/[0-9]*.flac"
    while len(list(root.rglob(converted))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # A child that was just being started has the lock, too, and may end a moment later.
    release_directory(lock_directory(tmp_path / "exp" / "data", wait_seconds=30))
    finished = {path: path.stat().st_mtime_ns for path in root.rglob(converted)}
    assert len(finished) < 8 and not (tmp_path / "exp/data/provenance.json").exists()
    assert prepare(tmp_path, root).train_utterances == 8
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert all(len(read_audio(path)) > 30_000 for path in root.rglob(converted))


def test_wav_in_another_place_with_the_room_it_needs(tmp_path, root, monkeypatch):
    monkeypatch.setattr(conversion, "_SAMPLE_FILES", 3)
    progress = Notes()
    prepare(tmp_path, root, progress, suffix=".wav", directory=tmp_path / "converted")
    path = tmp_path / "converted" / "id09272" / "x-_2" / "00001.wav"
    assert soundfile.info(path).subtype == "PCM_16" and not list(root.rglob("voxceleb2/dev/wav"))
    assert "converting 5 more files needs about 0.3 MB in" in progress.all()
    path.unlink()
    progress = Notes()
    prepare(tmp_path, root, progress, suffix=".wav", directory=tmp_path / "converted", overwrite=True)
    assert "7 files are already converted and kept" in progress.notes and path.exists()


def test_no_room(tmp_path, root, monkeypatch):
    monkeypatch.setattr(conversion, "_SAMPLE_FILES", 2)
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(
        ArtifactError, match="converting 6 more files needs about .* 0.0 MB are free; free some"
    ):
        prepare(tmp_path, root)
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(ArtifactError, match=r"file/x/id.*cannot be written: .* \(--convert-to DIR\)"):
        prepare(tmp_path, root, directory=tmp_path / "file" / "x")


def test_broken_files_are_refused_or_left_out(tmp_path, root, speech):
    folder = root / "voxceleb2/dev/aac/id00012/21Uxsk56VDQ"
    (folder / "00002.m4a").write_bytes(b"this is no audio\n" * 20)
    cut = encode(folder / "00003.m4a", np.tile(speech, 3), 16000, "-movflags", "+faststart")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    with pytest.raises(BadFilesError) as caught:
        prepare(tmp_path, root)
    reasons = {file.utterance_id: file.reason for file in caught.value.bad_files}
    assert reasons == {
        "id00012/21Uxsk56VDQ/00002.wav": "unconvertible",
        "id00012/21Uxsk56VDQ/00003.wav": "truncated",
    }
    assert "\n" not in str(caught.value) and "6.0" in str(caught.value)
    assert prepare(tmp_path, root, skip_bad=True).train_utterances == 8


def test_without_conversion_aac_is_bad(tmp_path, root):
    with pytest.raises(BadFilesError, match="8 of 12 audio files cannot be used .*not read by libsndfile"):
        prepare(tmp_path, root, is_wanted=False)


def test_without_ffmpeg_the_message_says_how_to_get_it(tmp_path, root, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match=r"apt install ffmpeg.*pip install 'svkit\[m4a\]'") as caught:
        prepare(tmp_path, root)
    assert caught.value.exit_code == 2


def test_the_wheel_has_an_ffmpeg_and_the_systems_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "imageio_ffmpeg" in find_ffmpeg()
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    assert find_ffmpeg() == str(tmp_path / "ffmpeg")


def test_the_first_channel_at_16_khz(tmp_path, speech):
    left = resample_poly(speech, 441, 160).astype(np.float32)
    stereo = np.stack([left, np.zeros_like(left)], axis=1)
    source = encode(tmp_path / "stereo.m4a", stereo, 44100, "-b:a", "160k")
    info = transcode(find_ffmpeg(), source, tmp_path / "mono.flac", 16000)
    assert (info.sample_rate_hz, info.num_channels) == (16000, 1) and abs(info.num_samples - 32000) < 3200
    back = read_audio(tmp_path / "mono.flac")[:32000]
    assert np.corrcoef(back, speech[: len(back)])[0, 1] > 0.95


def test_equal_input_gives_equal_bytes_and_a_failure_leaves_nothing(tmp_path, speech):
    source = encode(tmp_path / "a.m4a", speech)
    for name in ("1.flac", "2.flac"):
        transcode(find_ffmpeg(), source, tmp_path / name, 16000)
    assert (tmp_path / "1.flac").read_bytes() == (tmp_path / "2.flac").read_bytes()
    (tmp_path / "b.m4a").write_bytes(b"")
    with pytest.raises(AudioError, match="b.m4a: ffmpeg cannot convert it: "):
        transcode(find_ffmpeg(), tmp_path / "b.m4a", tmp_path / "b.flac", 16000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.flac", "2.flac", "a.m4a", "b.m4a"]
