"""What is told of a notebook that failed: one line, the end of its traceback, the cell."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import nbformat

from w207lib import runs

TRACEBACK_LINES = 40
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
NO_MEMORY = re.compile(r"\bOOM\b|out of memory|RESOURCE_EXHAUSTED", re.IGNORECASE)
MEMORY = (
    "Give a smaller batch_size or image_size in the profile (w207lib/config.py), or a machine "
    "with more memory, and go on with --resume."
)


def describe(error: Exception, target: Path) -> dict:
    """Say of a notebook that failed what failed, and where.

    Args:
        error: What executing it raised.
        target: The executed notebook. If its process was killed, it is told there, too.

    Returns:
        ``error`` (one line), ``traceback`` (its last lines) and ``cell`` (the number in its
        brackets, or None).
    """
    from nbclient.exceptions import DeadKernelError

    if isinstance(error, DeadKernelError):
        return _dead_kernel(target)
    lines = getattr(error, "traceback", None)
    if not isinstance(lines, list):
        lines = traceback.format_exception(error)
    return {
        "error": last_line(error), "traceback": _plain_tail("\n".join(lines)),
        "cell": getattr(error, "exec_count", None),
    }  # fmt: skip


def _dead_kernel(target: Path) -> dict:
    """Say in the executed notebook, too, that its process was killed."""
    book = nbformat.read(target, as_version=4) if target.is_file() else nbformat.v4.new_notebook()
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    begun = [cell for cell in code if cell.metadata.get("papermill", {}).get("start_time")]
    error = f"the notebook's process was killed, most likely because memory ran out. {MEMORY}"
    if begun:
        begun[-1].outputs.append(
            nbformat.v4.new_output(
                "error", ename="DeadKernelError", evalue=error, traceback=[error]
            )  # fmt: skip
        )
        with runs.replacing(target) as temporary:
            nbformat.write(book, temporary)
    source = "\n".join(f"    {line}" for line in begun[-1].source.splitlines()) if begun else ""
    told = f"{source}\nDeadKernelError: {error}".lstrip("\n")
    return {"error": error, "traceback": _plain_tail(told), "cell": len(begun) or None}


def _plain_tail(text: str) -> str:
    return "\n".join(COLOURS.sub("", text).rstrip().splitlines()[-TRACEBACK_LINES:])


def last_line(error: Exception) -> str:
    """Return an error as one line, with advice where memory ran out."""
    name, value = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", error)
    lines = [line.strip() for line in COLOURS.sub("", str(value)).splitlines() if line.strip()]
    scarce = [line for line in lines if NO_MEMORY.search(line)]
    text = f"{name}: {(scarce or lines or [''])[0]}".rstrip(": ")
    return f"{text}. {MEMORY}" if scarce or name == "MemoryError" else text
