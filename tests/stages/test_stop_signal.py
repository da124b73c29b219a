"""SIGINT and SIGTERM as requests to save and stop."""

import signal

import pytest

from svkit.stages import training
from svkit.stages.training import DOUBLE_SIGNAL_SECONDS, StopSignal


def test_a_second_signal_stops_at_once_unless_it_is_the_first_delivered_twice(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal().installed() as stop:
        assert stop.received is None
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # a launcher passes on what the terminal has sent to all
        assert stop.received == signal.SIGINT
        now[0] += DOUBLE_SIGNAL_SECONDS + 0.1
        with pytest.raises(SystemExit) as raised:
            signal.raise_signal(signal.SIGTERM)
        assert raised.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
