import signal

import pytest

from w207lib.running import signals


@pytest.mark.parametrize("name", [name for name in signals.STOPS if hasattr(signal, name)])
def test_the_first_signal_alone_counts_and_afterwards_all_is_as_before(name):
    number = signal.Signals[name]
    usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    around = signal.signal(number, usual)  # these tests may themselves run under nohup
    try:
        with signals.stoppable():
            with pytest.raises(KeyboardInterrupt) as stopped:
                signal.raise_signal(number)
            assert signals.exit_status(stopped.value) == 128 + number
            signal.raise_signal(number)
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(number) == usual
    finally:
        signal.signal(number, around)
