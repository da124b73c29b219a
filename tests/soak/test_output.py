"""Disks that are full, outputs that may not be written, two commands with one output, names with spaces and accents."""

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.e2e.conftest import speech, write_audio
from tests.soak.child import Faults
from tests.soak.commands import (
    Reference,
    Running,
    Stage,
    Tally,
    compete,
    fill_the_disk,
    long,
    refuse_to_write,
)

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

Find = Callable[[str], Reference]


@pytest.mark.parametrize("name", ["extract", "score", *long("lora", "prune", "distill")])
def test_a_file_that_cannot_be_written(stages: dict[str, Stage], reference: Find, name: str) -> None:
    """A limit on the size of files (RLIMIT_FSIZE) stands for a quota: one line, exit 4, the state before is kept."""
    refuse_to_write(stages[name], reference(name), Tally())


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """Mount a tmpfs of 16 MB, as root where that is permitted."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", directory],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounting a tmpfs needs root")
@pytest.mark.parametrize("name", ["joint", *long("extract")])
def test_a_full_disk(stages: dict[str, Stage], reference: Find, name: str) -> None:
    """A tmpfs with no room left; what was saved before is there, and the run goes on when there is room again."""
    expected = reference(name)
    with small_disk(stages[name].out.parent):
        fill_the_disk(stages[name], expected, random.Random(name), Tally())


@pytest.mark.parametrize("name", ["extract", *long("prune", "score")])
def test_two_commands_with_one_output(stages: dict[str, Stage], reference: Find, name: str) -> None:
    compete(stages[name], reference(name), Tally())


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A directory that may be read, not written."""
    directory = tmp_path / "closed"
    directory.mkdir()
    directory.chmod(0o555)
    yield directory
    directory.chmod(0o755)


@pytest.mark.parametrize("name", ["distill", "extract"])
def test_an_output_that_may_not_be_written(stages: dict[str, Stage], closed: Path, name: str) -> None:
    """One line and exit 4, before the work: a new directory, and one that is there."""
    words = stages[name].arguments[:-2]
    closed.chmod(0o755)
    (closed / "old").mkdir(mode=0o555)
    closed.chmod(0o555)
    for out in (closed / "new", closed / "old"):
        ended = Running((*words, "--out", out), stages[name].log, out, Faults(is_plain_user=True)).wait()
        assert ended.code == 4 and ended.errors == [f"error: {out}: cannot be written: Permission denied"], (
            ended.log
        )


def test_an_input_that_may_not_be_read(stages: dict[str, Stage], tmp_path: Path) -> None:
    """One line: 2 for a path on the command line that cannot be opened, 4 for a file inside an artifact."""
    stage, model, manifest = stages["extract"], tmp_path / "model", tmp_path / "list.tsv"
    exp = stage.exp
    shutil.copytree(exp.parent / "teacher", model)
    shutil.copy(exp / "data" / "valid.tsv", manifest)
    for path, option, value, code in (
        (manifest, "--manifest", manifest, 2),
        (model / "model.safetensors", "--model", model, 4),
        (model, "--model", model, 2),
    ):
        before = path.stat().st_mode
        path.chmod(0)
        given = {"--model": exp.parent / "teacher", "--manifest": exp / "data" / "valid.tsv", option: value}
        words = (
            "extract",
            "--exp",
            exp,
            "--out",
            tmp_path / "out",
            *(word for pair in given.items() for word in pair),
        )
        ended = Running(words, stage.log, tmp_path / "out", Faults(is_plain_user=True)).wait()
        path.chmod(before)
        assert ended.code == code and len(ended.errors) == 1 and str(path) in ended.errors[0], ended.log
        assert not (tmp_path / "out").exists()


def test_spaces_and_accents_in_every_path(tmp_path: Path) -> None:
    """The whole chain, from a directory of recordings, two of them at 8 kHz and in stereo, to the report."""
    root, exp = tmp_path / "Stimmen der Hörer, 声" / "mit Raum", tmp_path / "Versuch 1 – früh" / "exp ü"
    for speaker in range(11):
        for take in range(3):
            write_audio(root / f"Sprecher {speaker} ß" / f"Probe {take} é.wav", speech(speaker, take, 0.6))
    narrow, two_channels = speech(0, 9, 0.6)[::2], np.stack([speech(1, 9, 0.6)] * 2, axis=1)
    soundfile.write(root / "Sprecher 0 ß" / "narrow.flac", narrow, 8_000)
    soundfile.write(root / "Sprecher 1 ß" / "stereo.wav", two_channels, 16_000)
    (root / "Sprecher 2 ß" / "notes.txt").write_text("not audio\n")
    commands = [
        ("prepare", "folder", root, "--preset", "smoke", "--min-seconds", "0.1", "--eval-speakers", 6),
        ("finetune",),
        ("prune",),
        ("distill",),
        ("finetune", "--from", exp / "distill"),
        ("extract",),
        ("score", exp / "data" / "trials" / "folder.txt"),
        ("report",),
    ]
    for words in commands:
        ended = Running((*words, "--exp", exp), tmp_path / "log", exp, Faults()).wait()
        assert ended.code == 0, f"{words[0]}: {ended.log}"
    assert (exp / "report" / "report.html").exists()
