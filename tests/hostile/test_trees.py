"""Trees of recordings as hostile disks have them: pipes, loops, odd names, no rights, crowds, files that go away."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from svkit.config.schema import DataConfig
from svkit.corpora.layouts.folder import run
from svkit.corpora.request import CorpusRequest, CorpusResult
from svkit.corpora.scan import BadFilesError, ScanOptions
from svkit.corpora.walk import find_audio
from svkit.data.dataset import CropDataset, CropKey
from svkit.errors import DataError, SvkitError
from svkit.progress import SilentProgress
from svkit.store.audio_file import AudioError, examine, probe, read_audio
from svkit.store.manifest import COLUMNS, read_manifest, write_manifest
from tests.hostile.mutations import SOAK_FACTOR

NUM_CROWD = 100_000 if SOAK_FACTOR > 1 else 2_000
RATE_HZ = 16_000


def sound(path: Path, seed: int = 0, seconds: float = 0.05) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE_HZ))
    soundfile.write(path, wave, RATE_HZ)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Six speakers of two recordings."""
    for speaker in range(6):
        for take in range(2):
            sound(tmp_path / "audio" / f"s{speaker}" / f"{take}.wav", 10 * speaker + take)
    return tmp_path / "audio"


def prepare(tree: Path, *, skip_bad: bool = False) -> CorpusResult:
    scan = ScanOptions(min_seconds=0.01, skip_bad=skip_bad)
    exp = tree.parent / ("skipping" if skip_bad else "exp")
    return run(CorpusRequest(exp=exp, root=tree, scan=scan), SilentProgress())


def refused(tree: Path, *words: str) -> None:
    """Every file with a fault is named, and left out where that is wished."""
    with pytest.raises(BadFilesError) as error:
        prepare(tree)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    done = prepare(tree, skip_bad=True)
    assert done.train_utterances + done.valid_utterances + done.eval_utterances == 12


def test_pipes_sockets_devices_and_dangling_links_do_not_hang(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tree / "s0" / "pipe.wav")
    (tree / "s1" / "device.wav").symlink_to("/dev/zero")
    (tree / "s2" / "gone.wav").symlink_to(tree / "nothing.wav")
    (tree / "s3" / "self.wav").symlink_to(tree / "s3" / "self.wav")
    (tree / "s4" / "directory.wav").mkdir()
    monkeypatch.chdir(tree / "s5")  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.wav")
        start = time.process_time()
        refused(
            tree, "5 of 17", "s0/pipe.wav (is a pipe", "s1/device.wav (is a pipe, socket or device",
            "s2/gone.wav (does not exist", "s3/self.wav", "s5/socket.wav",
        )  # fmt: skip
    assert time.process_time() - start < 10
    for read in (probe, examine, read_audio):
        with pytest.raises(AudioError, match="is a pipe"):
            read(tree / "s0" / "pipe.wav")


def test_links_that_loop_or_point_at_each_other_end(tree: Path) -> None:
    """Ten directories with links to each other have ten factorial paths; each is entered by one link."""
    (tree / "s0" / "up").symlink_to(tree)
    (tree / "s0" / "self").symlink_to(tree / "s0" / "self")
    for number in range(10):
        (tree / "knot" / str(number)).mkdir(parents=True)
        for other in range(10):
            (tree / "knot" / str(number) / f"to-{other}").symlink_to(tree / "knot" / str(other))
        sound(tree / "knot" / str(number) / "a.wav", number)
    found = list(find_audio(tree))
    assert len(found) <= 12 + 2 * 10
    assert {(tree / name).resolve() for name in found if name.startswith("knot")} == {
        tree / "knot" / str(number) / "a.wav" for number in range(10)
    }


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("a\tb.wav", "a tab or a line end"),
        ("a\nb.wav", "a tab or a line end"),
        ("a\rb.wav", "a tab or a line end"),
    ],
)
def test_names_that_no_list_can_hold_are_refused_by_name(tree: Path, name: str, fault: str) -> None:
    sound(tree / "s0" / name, 99)
    refused(tree, repr(name)[1:-1], fault)


def test_names_that_are_not_utf_8_are_refused_by_name(tree: Path) -> None:
    shutil.copy(tree / "s0" / "0.wav", os.fsencode(tree / "s0") + b"/\xff\xfe.wav")
    refused(tree, "udcff", "not valid UTF-8")


def test_spaces_quotes_and_every_script_are_names(tree: Path) -> None:
    names = ["a b.wav", " lead.wav", "semi;colon.wav", "quo\"te'.wav", "日本語.wav", "ünï.wav", "emoji-🎙.wav",
             "-dash.wav", "%s.wav", "back\\slash.wav", "#hash.wav",
             "a=b,c.wav", "NA.wav", "e\u0301.wav"]  # fmt: skip
    for number, name in enumerate(names):
        sound(tree / "s0" / name, 100 + number)
    prepare(tree)
    data = tree.parent / "exp" / "data"
    lists = [
        read_manifest(data / f"{name}.tsv")
        for name in ("train", "valid", "eval")
        if (data / f"{name}.tsv").exists()
    ]
    paths = {manifest.audio_path(row) for manifest in lists for row in range(len(manifest))}
    ids = {name for manifest in lists for name in manifest.utterance_ids}
    assert len(ids) == 12 + len(names)
    for path in paths:
        assert read_audio(path).any()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_directory_is_an_error(tree: Path) -> None:
    (tree / "s0").chmod(0)
    try:
        with pytest.raises(DataError, match=r"s0: cannot be listed"):
            prepare(tree)
    finally:
        (tree / "s0").chmod(0o755)


def test_a_directory_that_cannot_be_listed_is_an_error(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the one above, also for root, whom no rights stop."""
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "s3":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"s3: cannot be listed: Permission denied"):
        prepare(tree)


def test_a_crowd_in_one_directory(tmp_path: Path) -> None:
    """2,000 files (100,000 in the long form) in a directory: found in order, in time proportional to their number."""
    first = sound(tmp_path / "audio" / "s0" / "first.wav").read_bytes()
    (tmp_path / "audio" / "s0" / "first.wav").unlink()
    for speaker in ("s0", "s1", "s2", "s3"):
        (tmp_path / "audio" / speaker).mkdir(exist_ok=True)
        for number in range(2 if speaker != "s0" else NUM_CROWD):
            (tmp_path / "audio" / speaker / f"{number:06d}.wav").write_bytes(first)
    start = time.process_time()
    scan = ScanOptions(min_seconds=0.01, reads_samples=False)
    (tmp_path / "eval.txt").write_text("s1\ns2\n")
    request = CorpusRequest(
        exp=tmp_path / "exp", root=tmp_path / "audio", scan=scan, eval_speakers=str(tmp_path / "eval.txt")
    )
    done = run(request, SilentProgress())
    spent = time.process_time() - start
    assert done.train_utterances + done.valid_utterances + done.eval_utterances == NUM_CROWD + 6
    assert spent < 10 + NUM_CROWD * 0.003


# ---- Between the list and its audio ---------------------------------------------------------------------------------


def manifest(path: Path, audio: str) -> Path:
    row = ("u", "s", audio, str(RATE_HZ), "800", "")
    write_manifest(path, pd.DataFrame([row, ("v", *row[1:])], columns=list(COLUMNS)))
    return path


def crop(path: Path) -> object:
    dataset = CropDataset(read_manifest(path), DataConfig(), None, seed=1)
    return dataset[CropKey(0, 0, 0, 0, 400)]


@pytest.mark.parametrize("spoil", ["gone", "pipe", "shorter", "directory", "text"])
def test_a_file_that_changes_between_scan_and_training(tmp_path: Path, spoil: str) -> None:
    audio = sound(tmp_path / "u.wav")
    listed = manifest(tmp_path / "list.tsv", "u.wav")
    assert crop(listed)
    audio.unlink()
    if spoil == "pipe":
        os.mkfifo(audio)
    elif spoil == "shorter":
        sound(audio, seconds=0.01)
    elif spoil == "directory":
        audio.mkdir()
    elif spoil == "text":
        audio.write_text("no sound " * 100)
    with pytest.raises(DataError, match=r"u\.wav: "):
        crop(listed)


@pytest.mark.parametrize("path", ["../outside.wav", "a/../../outside.wav", "a/..", "..", "./../outside.wav"])
def test_a_relative_path_does_not_leave_the_root(tmp_path: Path, path: str) -> None:
    sound(tmp_path / "outside.wav")
    (tmp_path / "lists").mkdir()
    listed = manifest(tmp_path / "lists" / "list.tsv", path)
    with pytest.raises(DataError, match=r"list\.tsv:2: path: expected a path below the root"):
        read_manifest(listed)
    with pytest.raises(DataError, match="path: expected"):
        read_manifest(listed, tmp_path)


@pytest.mark.parametrize("path", ["..hidden/a.wav", "a..b/c..wav", "/absolute/../fine.wav", "..."])
def test_dots_that_are_names_and_absolute_paths_stay(tmp_path: Path, path: str) -> None:
    assert read_manifest(manifest(tmp_path / "list.tsv", path)).column("path")[0] == path


# ---- Memory ---------------------------------------------------------------------------------------------------------

LIMITED = """
import resource, sys
from pathlib import Path
from svkit.errors import SvkitError
from svkit.store.audio_file import examine, probe, read_audio
import soundfile, numpy
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
for path in map(Path, sys.argv[1:]):
    for read in (probe, examine, read_audio):
        try:
            read(path)
            print(path.name, read.__name__, "read")
        except SvkitError as error:
            print(path.name, read.__name__, "refused", "truncated" in str(error) or "samples" in str(error))
"""


def header(channels: int, rate: int, bits: int, size: int, kind: int = 1) -> bytes:
    block = channels * bits // 8
    fields = [
        b"RIFF", (min(36 + size, 2**32 - 1)).to_bytes(4, "little"), b"WAVEfmt ", (16).to_bytes(4, "little"),
        kind.to_bytes(2, "little"), channels.to_bytes(2, "little"), rate.to_bytes(4, "little"),
        (rate * block % 2**32).to_bytes(4, "little"), (block % 2**16).to_bytes(2, "little"),
        bits.to_bytes(2, "little"), b"data", size.to_bytes(4, "little"),
    ]  # fmt: skip
    return b"".join(fields)


def rf64(size: int) -> bytes:
    """A header with 64-bit lengths."""
    ds64 = (
        b"ds64" + (28).to_bytes(4, "little") + (size + 72).to_bytes(8, "little") + size.to_bytes(8, "little")
    )
    ds64 += (size // 2).to_bytes(8, "little") + (0).to_bytes(4, "little")
    plain = header(1, RATE_HZ, 16, 0)
    return b"RF64" + b"\xff" * 4 + b"WAVE" + ds64 + plain[12:36] + b"data" + b"\xff" * 4


@pytest.mark.slow
@pytest.mark.e2e
def test_headers_that_claim_gigabytes_take_no_memory(tmp_path: Path) -> None:
    """wav, RF64, flac and au that claim 4 GB to 8 EB or 1,024 channels, in a process that may use 300 MB more."""
    (tmp_path / "4-gb.wav").write_bytes(header(1, RATE_HZ, 16, 2**32 - 40) + bytes(2000))
    (tmp_path / "float.wav").write_bytes(header(2, RATE_HZ, 64, 2**32 - 64, 3) + bytes(2000))
    (tmp_path / "channels.wav").write_bytes(header(1024, RATE_HZ, 16, 2**32 - 4096) + bytes(20_480))
    (tmp_path / "rf64.wav").write_bytes(rf64(2**62) + bytes(2000))
    (tmp_path / "au.au").write_bytes(
        b".snd" + b"".join(n.to_bytes(4, "big") for n in (24, 2**32 - 1, 3, RATE_HZ, 1)) + bytes(2000)
    )
    sound(tmp_path / "flac.flac")
    flac = bytearray((tmp_path / "flac.flac").read_bytes())
    flac[21:26] = bytes([flac[21] | 0x0F]) + b"\xff" * 4  # the number of samples: 36 bits
    (tmp_path / "flac.flac").write_bytes(flac)
    files = sorted(path for path in tmp_path.iterdir() if path.is_file())
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, files)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 3 * len(files)
    assert "MemoryError" not in done.stderr


def test_a_manifest_that_claims_more_than_its_audio_has(tmp_path: Path) -> None:
    """The number of samples of a list is not trusted either."""
    sound(tmp_path / "u.wav")
    listed = manifest(tmp_path / "list.tsv", "u.wav")
    listed.write_text(listed.read_text().replace("\t800\t", "\t999999999999999\t"))
    with pytest.raises(SvkitError, match=r"u\.wav: samples .* asked for, the file has 800"):
        crop(listed)
