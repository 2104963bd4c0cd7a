"""Signals that ask a run to save and leave."""

import os
import signal

import pytest

from lamae.train.ranks.flags import StopSignals


@pytest.mark.parametrize("number", StopSignals.NUMBERS)
def test_the_first_signal_is_remembered_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopSignals() as signals:
        os.kill(os.getpid(), number)
        assert signals.received == number
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == number
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_ends_at_once():
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_ctrl_c_after_another_signal_waits_for_the_save():
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
