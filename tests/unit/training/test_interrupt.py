"""Signals ask training to stop, once; and how a terminal that closes differs."""

import signal

import pytest

from microgpt.training.interrupt import Interrupt

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP")


@pytest.fixture(params=[signal.SIG_DFL, signal.SIG_IGN], ids=["default", "nohup"])
def ignored(request):
    """Whether SIGHUP is ignored, which holds for the test."""
    before = signal.signal(signal.SIGHUP, request.param)
    yield request.param is signal.SIG_IGN
    assert signal.getsignal(signal.SIGHUP) is request.param
    signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_asks_to_stop_however_often_it_is_told_unless_ignored(ignored):
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert interrupt.requested == (None if ignored else "SIGHUP")


def test_a_second_signal_of_another_kind_stops_at_once():
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.requested == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
