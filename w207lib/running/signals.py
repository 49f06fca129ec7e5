"""Signals that end a run in good order."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager

STOPS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
"""What ends a run in good order: Ctrl-C, a scheduler, a closed ssh, a closed Windows console."""


class Stopped(KeyboardInterrupt):
    """A run was asked to end.

    Attributes:
        name: The signal's name.
        exit_status: What a shell expects of a process that ended by it.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.name = signal.Signals(number).name
        self.exit_status = 128 + number


@contextmanager
def stoppable():
    """Turn each of ``STOPS`` into ``Stopped``, once: what follows may not disturb the end.

    A signal that is ignored (as nohup does) stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def stop(number, frame):
        nonlocal asked
        if not asked:
            asked = True
            raise Stopped(number)

    numbers = [getattr(signal, name) for name in STOPS if hasattr(signal, name)]
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) in usual}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_status(stop: KeyboardInterrupt) -> int:
    """Return the exit status of a run that was stopped: 130 after Ctrl-C, 143 after SIGTERM."""
    return getattr(stop, "exit_status", 128 + signal.SIGINT)


def stop_name(stop: KeyboardInterrupt) -> str:
    """Return what stopped a run: ``Ctrl-C``, or the signal's name."""
    name = getattr(stop, "name", "SIGINT")
    return "Ctrl-C" if name == "SIGINT" else name
