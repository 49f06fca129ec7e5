"""Locks of folders, and what processes that were killed left behind."""

from __future__ import annotations

import glob
import os
import platform
import re
import secrets
import time
import zlib
from contextlib import contextmanager
from pathlib import Path


def mark() -> str:
    """Return what stands for this process in the names of its hidden files: number, and machine."""
    return f"{os.getpid()}-{zlib.crc32(_host().encode()):08x}"


def left_behind(folder: Path, stem: str, ending: str) -> list[Path]:
    """Return the hidden ``.<stem>.<mark>ending`` in a folder whose process runs no more.

    Args:
        folder: Where to look; others may write there from machines of their own.
        stem: What the name begins with, behind its dot.
        ending: What it ends in.

    Returns:
        Those of this machine; of another's nobody here can tell. A number alone, as earlier
        versions wrote it, is taken for this machine's.
    """
    found = []
    own = mark().partition("-")[2]
    for path in folder.glob(f".{glob.escape(stem)}.*{glob.escape(ending)}"):
        process = path.name[len(stem) + 2 : len(path.name) - len(ending)]
        if named := re.fullmatch(rf"(\d+)(-{own})?", process):
            import psutil

            if not psutil.pid_exists(int(named[1])):
                found.append(path)
    return found


@contextmanager
def locked(root: Path, *, busy: str | None = None):
    """Hold a run folder for one process.

    Args:
        root: The folder; made when missing.
        busy: What to say where another holds it, if it is no run folder.

    Raises:
        RuntimeError: Another running process holds it, or one of another machine, of which
            nobody here can tell whether it runs.
    """
    path = Path(root) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    own = f"{os.getpid()} {' '.join(_birth(os.getpid()))} {_host()}"
    for _ in range(3):
        if _write_new(path, own):
            for left in path.parent.glob(".lock.*"):  # drafts of processes that were killed
                if left.name.count(".") == 3 and left in left_behind(
                    path.parent, "lock", left.suffix
                ):
                    left.unlink(missing_ok=True)
            break
        found = _read_lock(path)
        holder = _lock_holder(found)
        if holder:
            host = _lock_host(found)
            there = "" if host == _host() else f" of the machine {host}"
            text = busy or (
                f"{root} is in use by process {holder}{there}. Wait for it, or give another "
                "folder with --out."
            )
            if there:
                text += (
                    f" If process {holder}{there} runs no more, as when the machine lost power, "
                    f"remove {path} and run the same command again."
                )
            raise RuntimeError(text)
        _drop_stale(path, found)
    else:
        raise RuntimeError(f"{root} could not be locked; another process was quicker. Try again.")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _write_new(path: Path, text: str) -> bool:
    """Write a file that appears with all its text; return False where there is one already."""
    draft = path.with_name(f"{path.name}.{mark()}.{secrets.token_hex(4)}")
    try:
        draft.write_text(text)
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: the text comes a moment after the file
        try:
            with path.open("x") as file:
                file.write(text)
        except FileExistsError:
            return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _read_lock(path: Path) -> str:
    """Return a lock's text; an empty one is given time to be written."""
    text = ""
    for _ in range(5):
        try:
            text = path.read_text()
        except FileNotFoundError:
            return ""
        if text:
            return text
        time.sleep(0.05)
    return text


def _birth(process: int) -> tuple[str, str]:
    """Return when a process started: in seconds of the clock, and since the machine's start.

    One of them stays what it was when the clock is moved; which one depends on the system.
    """
    import psutil

    started = psutil.Process(process).create_time()
    return f"{started:.2f}", f"{started - psutil.boot_time():.2f}"


def _host() -> str:
    """Return this machine's name, in ASCII."""
    return platform.node().encode("ascii", "backslashreplace").decode()


def _lock_host(text: str) -> str:
    """Return the machine of a lock; of one without a name, of an earlier version, this one."""
    return text.split(" ", 3)[3] if text.count(" ") > 2 else _host()


def _lock_holder(text: str) -> int | None:
    """Return the process that wrote a lock, if it still runs, or is another machine's."""
    import psutil

    try:
        pid, *born = text.split(" ", 3)[:3]
        if _lock_host(text) != _host():
            return int(pid)
        now = _birth(int(pid))
    except psutil.AccessDenied:  # it runs, for another user
        return int(pid)
    except (ValueError, psutil.Error):
        return None
    return int(pid) if any(a == b for a, b in zip(now, born, strict=False)) else None


def _drop_stale(path: Path, text: str) -> None:
    """Remove a lock with this text; one that another process has put there since stays."""
    aside = path.with_name(f"{path.name}.{mark()}.{secrets.token_hex(4)}")
    try:
        os.replace(path, aside)
    except FileNotFoundError:
        return
    now = aside.read_text()
    if now != text:
        _write_new(path, now)
    aside.unlink()
