"""Locks of folders, and what processes that were killed left behind."""

from __future__ import annotations

import glob
import os
import re
import secrets
import time
from contextlib import contextmanager
from pathlib import Path


def left_behind(folder: Path, stem: str, ending: str) -> list[Path]:
    """Return the hidden ``.<stem>.<process>ending`` in a folder whose process runs no more."""
    found = []
    for path in folder.glob(f".{glob.escape(stem)}.*{glob.escape(ending)}"):
        process = path.name[len(stem) + 2 : len(path.name) - len(ending)]
        if re.fullmatch(r"\d+", process):
            import psutil

            if not psutil.pid_exists(int(process)):
                found.append(path)
    return found


@contextmanager
def locked(root: Path):
    """Hold a run folder for one process.

    Raises:
        RuntimeError: Another running process holds it.
    """
    path = Path(root) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    own = f"{os.getpid()} {' '.join(_birth(os.getpid()))}"
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
            raise RuntimeError(
                f"{root} is in use by process {holder}. Wait for it, or give another "
                "folder with --out."
            )
        _drop_stale(path, found)
    else:
        raise RuntimeError(f"{root} could not be locked; another process was quicker. Try again.")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _write_new(path: Path, text: str) -> bool:
    """Write a file that appears with all its text; return False where there is one already."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
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


def _lock_holder(text: str) -> int | None:
    """Return the process that wrote a lock, if it still runs."""
    import psutil

    try:
        pid, *born = text.split()
        now = _birth(int(pid))
    except psutil.AccessDenied:  # it runs, for another user
        return int(pid)
    except (ValueError, psutil.Error):
        return None
    return int(pid) if any(a == b for a, b in zip(now, born, strict=False)) else None


def _drop_stale(path: Path, text: str) -> None:
    """Remove a lock with this text; one that another process has put there since stays."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        os.replace(path, aside)
    except FileNotFoundError:
        return
    now = aside.read_text()
    if now != text:
        _write_new(path, now)
    aside.unlink()
