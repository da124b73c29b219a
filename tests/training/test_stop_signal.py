"""SIGINT, SIGTERM and SIGHUP as requests to save and stop."""

import signal

import pytest

from svkit.models import session
from svkit.models.session import DOUBLE_SIGNAL_SECONDS, StopSignal, exit_code


@pytest.fixture(autouse=True)
def _usual_handlers():
    """What pytest was started under (nohup, the background of a shell) may ignore some."""
    numbers = (signal.SIGINT, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_a_second_signal_stops_at_once_unless_it_is_the_first_delivered_twice(monkeypatch, capfd):
    now = [100.0]
    monkeypatch.setattr(session.time, "monotonic", lambda: now[0])
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal().installed() as stop:
        assert stop.received is None
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # a launcher passes on what the terminal has sent to all
        assert stop.received == signal.SIGINT
        assert (
            capfd.readouterr().err
            == "stopping as soon as the state is saved; interrupt again to stop at once without saving\n"
        )
        now[0] += DOUBLE_SIGNAL_SECONDS + 0.1
        with pytest.raises(SystemExit) as raised:
            signal.raise_signal(signal.SIGTERM)
        assert raised.value.code == 143
        stop.received = None  # answered
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_nothing_answered_is_sent_again_to_the_handler_of_before():
    with (
        pytest.raises(KeyboardInterrupt),
        StopSignal().installed() as stop,
    ):  # as after the last step of a stage
        signal.raise_signal(signal.SIGINT)
        assert stop.received == signal.SIGINT
    with pytest.raises(ValueError, match="an error of its own"), StopSignal().installed():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("an error of its own")


def test_a_lost_terminal_is_a_request_to_save_unless_it_is_ignored():
    with pytest.raises(KeyboardInterrupt), StopSignal().installed() as stop:
        signal.raise_signal(signal.SIGHUP)
    assert stop.received == signal.SIGHUP and exit_code(stop.received) == 143
    assert [exit_code(number) for number in (signal.SIGINT, signal.SIGTERM)] == [130, 143]
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    with StopSignal().installed() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop.received is None and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
