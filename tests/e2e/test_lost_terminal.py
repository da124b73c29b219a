"""A real terminal that goes away in the middle of a training: the state is saved, the same command goes on."""

import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.training_experiment import prepare, set_options

pytestmark = pytest.mark.e2e
SECONDS = 120.0


def lose_terminal(words: list[str], out: Path, nohup: Path | None = None) -> subprocess.Popen[bytes]:
    """Start svkit on a terminal of its own, and take the terminal away once there is a state.

    As `nohup` does it where `nohup` is given: SIGHUP is ignored, and what is said goes to that file.
    """
    mine, theirs = pty.openpty()

    def prepare_process() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)

    said = theirs if nohup is None else os.open(nohup, os.O_WRONLY | os.O_CREAT)
    process = subprocess.Popen(
        [sys.executable, "-m", "svkit", *words],
        stdin=theirs,
        stdout=said,
        stderr=said,
        start_new_session=True,
        preexec_fn=prepare_process,
    )
    for handle in {theirs, said}:
        os.close(handle)
    shown, deadline = b"", time.monotonic() + SECONDS
    before = set(out.glob("resume/*/state.json"))
    while not set(out.glob("resume/*/state.json")) - before:
        assert process.poll() is None and time.monotonic() < deadline, shown.decode(errors="replace")
        if select.select([mine], [], [], 0.02)[0]:
            shown += os.read(mine, 1 << 16)
    os.close(mine)
    return process


def test_a_lost_terminal_saves_the_state_unless_it_is_ignored(tmp_path: Path) -> None:
    exp, out = prepare(tmp_path / "exp"), tmp_path / "out"
    few = set_options("head.epochs=12", "save.every_steps=5")
    words = ["finetune", "--exp", str(exp), "--stage", "head", "--out", str(out), *few]
    assert lose_terminal(words, out).wait(SECONDS) == 143
    states = sorted(out.glob("resume/*/state.json"))
    assert len(states) == 1 and not (out / "provenance.json").exists()
    saved_at = json.loads(states[0].read_text())["num_done"]
    assert 5 <= saved_at < 180
    again, said = lose_terminal(words, out, tmp_path / "nohup.out").wait(SECONDS), tmp_path / "nohup.out"
    assert again == 0 and (out / "provenance.json").exists()
    assert f"resuming after step {saved_at}" in said.read_text()
    logged = [json.loads(line)["step"] for line in (out / "train_log.jsonl").read_text().splitlines()]
    assert max(logged) == 180 and logged == sorted(logged)
