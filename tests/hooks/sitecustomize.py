"""Loaded by every Python that a test of kills starts: a tiny profile, and a death.

Python imports a module of this name by itself at its start, from `PYTHONPATH`. What it does is
chosen by environment variables, so that it reaches the kernels of notebooks, too.
"""

import os
import signal
import sys

from w207lib import config

config.PROFILES["tiny"] = config.Profile(
    "tiny", "tiny", image_size=16, batch_size=16, epochs=4, patience=4, tuning_trials=3,
    tuning_epochs=1,
)  # fmt: skip

CHANGES = {
    "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
}  # fmt: skip


def die_at_write(folder: str, counter: str, moment: int, *, torn: bool) -> None:
    """Count changes of files below a folder, of all processes; kill this one before number N.

    Args:
        folder: Changes elsewhere do not count.
        counter: A file that gets a byte a change.
        moment: Which change is the last not to come; 0 for none.
        torn: Whether a file that was to be opened for writing is left there empty.
    """
    counted = os.open(counter, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def watch(event, arguments):
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, str) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in CHANGES:
            path = os.fspath(arguments[0])
        else:
            return
        path = os.path.abspath(os.fsdecode(path))
        if not path.startswith(folder):
            return
        os.write(counted, b".")
        if os.fstat(counted).st_size == moment:
            if torn and event == "open":
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
            os.killpg(0, signal.SIGKILL)

    sys.addaudithook(watch)


def begin() -> None:
    """Do what the environment variables ask for."""
    if os.environ.get("TEST_COUNTER"):
        die_at_write(
            os.environ["TEST_FOLDER"], os.environ["TEST_COUNTER"],
            int(os.environ.get("TEST_MOMENT", "0")), torn=bool(os.environ.get("TEST_TORN")),
        )  # fmt: skip


begin()
