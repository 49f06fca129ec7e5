"""Starts a command, kills it and all it started at a chosen moment, and compares what comes of it.

A moment is a time after the start, or the number of a change to a file (a write, a rename, a
removal …) that then does not come. Nothing of the command survives: its kernels, which have
process groups of their own, and its workers die, too, as when a machine loses power.
"""

import contextlib
import hashlib
import io
import itertools
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
import uuid
import zipfile
from pathlib import Path
from typing import NamedTuple

import h5py
import nbformat
import pandas as pd
import psutil

ROOT = Path(__file__).resolve().parents[1]
HOOKS = Path(__file__).resolve().parent / "hooks"
MARK = "TEST_MARK"

NURSERY = """
import json, os, sys
import sitecustomize
if sys.argv[1] == "network":  # once for all: it takes longer than the commands here
    from w207lib import train, tune
    from w207lib.machine import devices
    from w207lib.nets import epochs
    devices.quiet_keras()
    import keras_tuner
    tune.SPACE.update(filters_1=[4, 8], filters_2=[4, 8], dense_layer_units=[8, 16])
from w207lib import cli
from w207lib.commands import cli_data, cli_publish, cli_run, cli_train
print("ready", flush=True)
for line in sys.stdin:
    given = json.loads(line)
    child = os.fork()
    if not child:
        os.setsid()
        os.environ.update(given["environment"])
        os.chdir(given["folder"])
        log = os.open(given["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sitecustomize.begin()
        sys.argv = ["w207", *given["words"]]
        status = 70
        try:
            status = cli.main()
        finally:
            sys.stdout.flush()
            os._exit(status)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""A process that has imported everything and done nothing; each command is a fork of it."""


class Ended(NamedTuple):
    """How a command ended: its status (None where it was killed), text, seconds and changes."""

    status: int | None
    text: str
    seconds: float
    changes: int


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return what a command of the project in ``home`` needs, its runs in ``home/runs``."""
    paths = os.pathsep.join(map(str, (HOOKS, ROOT)))
    chosen = {"PYTHONPATH": paths, "W207_HOME": str(home), "W207_RUNS": str(home / "runs")}
    return os.environ | chosen | more


class Nursery:
    """Starts commands without the seconds that imports take; a context manager.

    Args:
        network: Whether the commands need TensorFlow.
        **more: Environment variables that it starts with.
    """

    def __init__(self, *, network: bool = True, **more: str):
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY, "network" if network else ""],
            env=environment(ROOT, **more), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout.readline() == "ready\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def run(self, words, home: Path, *, after=None, at: int = 0, torn=False, **more) -> Ended:
        """Run ``w207`` with these words, and kill it where a moment is given.

        Args:
            words: Behind ``w207``.
            home: The project's folder.
            after: Seconds after the start to kill it at; None for never.
            at: Number of the change to a file below ``home`` to kill it before; 0 for never.
            torn: Whether that change, where it is the opening of a file to write, leaves it
                there, but empty.
            **more: Environment variables.
        """
        mark, log = uuid.uuid4().hex, home.with_name(f"{home.name}.log")
        counter = home.with_name(f"{home.name}.changes")
        counter.write_bytes(b"")
        more |= {MARK: mark, "TEST_FOLDER": str(home), "TEST_COUNTER": str(counter),
                 "TEST_MOMENT": str(at), "TEST_TORN": "1" if torn else ""}  # fmt: skip
        given = {"words": list(words), "folder": str(home), "log": str(log),
                 "environment": environment(home, **more)}  # fmt: skip
        began = time.monotonic()
        self.process.stdin.write(json.dumps(given) + "\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        killed = False
        while not select.select([self.process.stdout], [], [], 0.002)[0]:
            late = after is not None and time.monotonic() - began >= after
            if late or (at and counter.stat().st_size >= at):
                killed = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
                break
        status = int(self.process.stdout.readline())
        seconds = time.monotonic() - began
        killed |= status == -signal.SIGKILL
        end_marked(mark)
        return Ended(None if killed else status, log.read_text(errors="replace"), seconds,
                     counter.stat().st_size)  # fmt: skip


def end_marked(mark: str) -> None:
    """Kill every process that was started with the mark in its environment."""
    for _ in range(200):
        found = [process for process in psutil.process_iter() if _has_mark(process, mark)]
        if not found:
            return
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=5)
    raise RuntimeError("processes go on after they were killed")


def _has_mark(process: psutil.Process, mark: str) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark
    except (psutil.Error, OSError):
        return False


def moments(seconds: float, changes: int, count: int, seed: str) -> list[dict]:
    """Draw moments to kill at: half of them times, half of them writes, of these half torn.

    Args:
        seconds: What the command takes undisturbed.
        changes: How often it changes a file.
        count: How many moments.
        seed: Of the draw.
    """
    draw = random.Random(seed)
    drawn: list[dict] = []
    for number in range(count):
        # One of each equal part, so that the whole of the command is covered.
        if number % 2:
            drawn.append({"after": seconds * (number // 2 + draw.random()) / (count // 2)})
        else:
            part = changes / ((count + 1) // 2)
            at = 1 + int((number // 2 + draw.random()) * part)
            drawn.append({"at": min(at, changes), "torn": number % 4 == 0})
    draw.shuffle(drawn)
    return drawn


# --- comparing -------------------------------------------------------------------------------

TIMES = {"seconds", "time", "started", "ended", "command"}
"""Names of entries and columns that say when, where or for how long."""


def facts(folder: Path, *, leave: tuple[str, ...] = ()) -> dict[str, str]:
    """Return every file below ``folder`` with a digest of what it says, times and places left out.

    Args:
        folder: What to look at.
        leave: Names of which only the existence counts.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            hidden = path.name.startswith(".")
            said = b"" if hidden or path.name in leave else _said(path)
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(said).hexdigest()[:12]
    return found


def _said(path: Path) -> bytes:
    if path.suffix == ".json":
        return json.dumps(_timeless(json.loads(path.read_text("utf-8")))).encode()
    if path.suffix == ".csv":
        table = pd.read_csv(path, dtype=str)
        return table.drop(columns=[c for c in table if c in TIMES]).to_csv().encode()
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        return repr([(cell.source, _shown(cell)) for cell in cells]).encode()
    if path.suffix == ".jsonl":
        rows = [_timeless(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
        # A look at test whose scores a kill took is logged, and so is the one that repeats it.
        return json.dumps([row for row, _ in itertools.groupby(rows)]).encode()
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as file:
            weights = h5py.File(io.BytesIO(file.read("model.weights.h5")))
            return _arrays(weights)
    if path.suffix == ".pptx":
        with zipfile.ZipFile(path) as file:
            names = [name for name in file.namelist() if name != "docProps/core.xml"]
            return b"".join(name.encode() + file.read(name) for name in names)
    return path.read_bytes()


def _shown(cell) -> list:
    """Return what a cell shows, but for progress bars."""
    return [output.data for output in cell.get("outputs", ()) if "data" in output and not (
        "widget" in str(output.data) or "%|" in str(output.data)
    )]  # fmt: skip


def _arrays(group) -> bytes:
    said: list[bytes] = []
    group.visititems(
        lambda name, node: (
            said.append(name.encode() + node[()].tobytes())
            if isinstance(node, h5py.Dataset)
            else None
        )
    )
    return b"".join(said)


def _timeless(value):
    if isinstance(value, dict):
        return {key: _timeless(entry) for key, entry in value.items() if key not in TIMES}
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value


def differences(found: dict, expected: dict) -> list[str]:
    """Return a line for each file that is missing, too much, or says something else."""
    lines = [f"missing: {name}" for name in expected if name not in found]
    lines += [f"too much: {name}" for name in found if name not in expected]
    return lines + [
        f"differs: {name}" for name in found if name in expected and found[name] != expected[name]
    ]
