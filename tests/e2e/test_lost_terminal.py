"""A real terminal that goes away in the middle of a training: the state is saved, the same command goes on."""

import json
import multiprocessing
import os
import pty
import select
import signal
import sys
import time
from pathlib import Path

import pytest

from svkit.cli.app import main
from tests.processes import fork_server
from tests.training_experiment import prepare, set_options

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
SECONDS = 120.0


def lose_terminal(words: list[str], out: Path, nohup: Path | None = None) -> int:
    """Start svkit on a terminal of its own, take the terminal away once there is a state; return the exit code.

    As `nohup` does it where `nohup` is given: SIGHUP is ignored, and what is said goes to that file.
    """
    mine, theirs = pty.openpty()
    process = fork_server().Process(target=_on_terminal, args=(words, os.ttyname(theirs), nohup))
    process.start()
    shown, deadline = b"", time.monotonic() + SECONDS
    before = set(out.glob("resume/*/state.json"))
    while not set(out.glob("resume/*/state.json")) - before:
        assert process.is_alive() and time.monotonic() < deadline, shown.decode(errors="replace")
        if select.select([mine], [], [], 0.02)[0]:
            shown += os.read(mine, 1 << 16)
    os.close(theirs)
    os.close(mine)
    process.join(SECONDS)
    assert process.exitcode is not None
    return process.exitcode


def _on_terminal(words: list[str], terminal: str, nohup: Path | None) -> None:
    multiprocessing.set_start_method("fork", force=True)  # the default, not the one that started this process
    os.setsid()
    handle = os.open(terminal, os.O_RDWR)  # the first that the leader of a session opens is the session's
    said = handle if nohup is None else os.open(nohup, os.O_WRONLY | os.O_CREAT)
    for number, source in enumerate((handle, said, said)):
        os.dup2(source, number)
    for source in {handle, said}:
        os.close(source)
    signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    sys.argv = ["svkit", *words]
    main()


def test_a_lost_terminal_saves_the_state_unless_it_is_ignored(tmp_path: Path) -> None:
    exp, out = prepare(tmp_path / "exp"), tmp_path / "out"
    few = set_options("head.epochs=12", "save.every_steps=5")
    words = ["finetune", "--exp", str(exp), "--stage", "head", "--out", str(out), *few]
    assert lose_terminal(words, out) == 143
    states = sorted(out.glob("resume/*/state.json"))
    assert len(states) == 1 and not (out / "provenance.json").exists()
    saved_at = json.loads(states[0].read_text())["num_done"]
    assert 5 <= saved_at < 180
    again, said = lose_terminal(words, out, tmp_path / "nohup.out"), tmp_path / "nohup.out"
    assert again == 0 and (out / "provenance.json").exists()
    assert f"resuming after step {saved_at}" in said.read_text()
    logged = [json.loads(line)["step"] for line in (out / "train_log.jsonl").read_text().splitlines()]
    assert max(logged) == 180 and logged == sorted(logged)
