"""Results on stdout, progress on stderr, silence on other ranks."""

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from svkit.cli import console
from svkit.progress import SilentProgress


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def fake_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Clock]:
    clock = _Clock()
    monkeypatch.setattr(console, "time", clock)
    yield clock


def test_results_are_lines_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    console.result([Path("a"), Path("b c")])
    console.result("one")
    assert capsys.readouterr().out == "a\nb c\none\n"
    console.result({"checkpoint": Path("exp/prune"), "eer": 0.1}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"checkpoint": "exp/prune", "eer": 0.1}


def test_plain_progress_says_a_line_every_few_seconds(fake_clock: _Clock) -> None:
    stream = io.StringIO()
    progress = console.PlainProgress(stream, interval_seconds=5)
    with progress.task("joint", 100) as task:
        for _ in range(50):
            fake_clock.now += 0.5
            task.advance(1, loss=1.23456, stage="x")
        lines = stream.getvalue().splitlines()
        assert len(lines) == 5  # 25 s, one line each 5 s
        assert lines[0] == "joint: 10/100 (10 %), 2/s, 0:45 left, loss=1.235, stage=x"
        fake_clock.now += 1
    assert stream.getvalue().splitlines()[-1].startswith("joint: 50/100 (50 %), 1.92/s, done in 0:26")


def test_plain_progress_without_a_total(fake_clock: _Clock) -> None:
    stream = io.StringIO()
    with console.PlainProgress(stream).task("scan", None) as task:
        fake_clock.now += 6
        task.advance(1200)
    assert stream.getvalue().splitlines() == [
        "scan: 1,200, 200/s, 0:06 so far",
        "scan: 1,200, 200/s, done in 0:06",
    ]


def test_the_first_steps_say_nothing_of_the_time_left(fake_clock: _Clock) -> None:
    """The first step waits a minute for processes to start."""
    stream = io.StringIO()
    with console.PlainProgress(stream, interval_seconds=0).task("joint", 100) as task:
        fake_clock.now += 60
        for _ in range(console.STEPS_SEEN + 1):
            fake_clock.now += 1
            task.advance()
    lines = stream.getvalue().splitlines()
    assert not any("left" in line for line in lines[: console.STEPS_SEEN])
    assert " left" in lines[console.STEPS_SEEN]


def test_what_an_earlier_run_has_done_gives_no_rate(fake_clock: _Clock) -> None:
    stream = io.StringIO()
    with console.PlainProgress(stream, interval_seconds=0).task("joint", 100, 90) as task:
        for _ in range(10):
            fake_clock.now += 1
            task.advance()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "joint: 91/100 (91 %), 1/s, 0:01 so far"
    assert lines[5] == "joint: 96/100 (96 %), 1/s, 0:04 left"
    assert lines[-1] == "joint: 100/100 (100 %), 1/s, done in 0:10"


def test_the_time_left_follows_the_latest_steps(fake_clock: _Clock) -> None:
    stream = io.StringIO()
    with console.PlainProgress(stream, interval_seconds=0).task("joint", 1000) as task:
        fake_clock.now += 600
        for _ in range(200):
            fake_clock.now += 1
            task.advance()
        assert stream.getvalue().splitlines()[-1] == "joint: 200/1,000 (20 %), 1/s, 13:20 left"


def test_a_failed_task_does_not_say_done() -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError), console.PlainProgress(stream).task("scan", 3):
        raise ValueError
    assert "done" not in stream.getvalue()


def test_other_ranks_are_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    with console.progress() as progress:
        assert isinstance(progress, SilentProgress)
        progress.note("hello")
    console.result("x")
    assert capsys.readouterr() == ("", "")


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress() as progress:
        progress.note("started")
    assert capsys.readouterr() == ("", "started\n")


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with console.progress() as progress, progress.task("joint [x]", 4) as task:
        task.advance(2, loss=0.5)
        progress.note("validation [eer] 3 %")
        end = time.monotonic() + 60  # bars are drawn ten times a second
        while "loss=0.5" not in terminal.getvalue() and time.monotonic() < end:
            time.sleep(0.02)
        task.advance(2)
    shown = terminal.getvalue()
    assert "2/4" in shown and "joint [x]" in shown and "loss=0.5" in shown and "validation [eer] 3 %" in shown
    assert "joint [x]: 4 in 0:" in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3661, "1:01:01")]
)
def test_clock(seconds: float, text: str) -> None:
    assert console.clock(seconds) == text
